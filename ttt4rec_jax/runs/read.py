"""Read the files of a run: its result and ranks, its epochs, or why it failed. Imports no JAX.

result.json's dataset.sha256 is the digest of all prepared arrays, including evaluation targets and
negatives (data_prep.store.content_digest): runs with equal digests have equal evaluation sets.
"""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.files import parse_json, read_json
from data_prep.settings import UserError, first_line
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.config.judged import JudgedConfig
from ttt4rec_jax.metrics import (
    COMPARED_METRICS,
    PROTOCOLS,
    USUAL_PROTOCOLS,
    Ranks,
    per_target,
)
from ttt4rec_jax.runs import verified
from ttt4rec_jax.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

# the entries of result.json's "protocol" in which comparable runs must agree, "" for absent ones
EVALUATION_TEXTS = ("split", *PROTOCOLS, "ties", "request")
COUNTS = ("users", "items", "interactions")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, or a recommender from elsewhere that was judged on the same data."""

    path: Path
    config: Config | JudgedConfig
    result: dict[str, Any]  # the content of result.json
    users: np.ndarray  # of the test targets, ascending [T]
    ranks: dict[str, Ranks]  # of the test targets, by protocol
    # by protocol, where the ranks are those of lists: their lengths [T] (evaluation/lists.py)
    listed: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed of the training; for a recommender from elsewhere, the one that was named."""
        return self.config.seed if isinstance(self.config, JudgedConfig) else self.config.train.seed

    @property
    def is_trained(self) -> bool:
        """Whether another seed may give another result; that is assumed of any from elsewhere."""
        return isinstance(self.config, JudgedConfig) or MODELS[self.config.model.model].trained


def is_sweep(path: Path) -> bool:
    """Return whether a folder is a sweep's, with a folder for each of its combinations."""
    return (path / "sweep.json").exists()


def members(path: Path) -> list[Path]:
    """Return the folders of a sweep's combinations, by name; for a single run its own folder.

    Raises UserError if there is no such folder.
    """
    if not path.is_dir():
        problem = "not a folder" if path.exists() else "not there"
        raise UserError(f"{path}: {problem}; name the folder of a run or a sweep")
    if not is_sweep(path):
        return [path]
    return sorted(config.parent for config in path.glob("*/config.json"))


def read(path: Path) -> Run:
    """Return the run in a folder, verified.

    Raises UserError if it is unfinished, damaged, or of another version.
    """
    folder = RunFolder(path)
    content = result(path)
    config = settings(folder, content)
    try:
        metrics = _check_content(content, isinstance(config, JudgedConfig))
    except UserError as error:
        raise UserError(f"{folder.result}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _other_version(folder.result, error) from error
    users, ranks, listed = _read_ranks(folder.ranks)
    for protocol, ranks_T in ranks.items():
        values = per_target(ranks_T)
        known = metrics.get(protocol, {})
        for metric in known if protocol in listed and known else COMPARED_METRICS:
            written = known.get(metric, math.nan)
            computed = float(values[metric].mean())
            if not math.isclose(written, computed, rel_tol=1e-6, abs_tol=1e-9):
                raise UserError(
                    f"{folder.result}: test {protocol}/{metric} is {written}, but "
                    f"{folder.ranks.name} gives {computed}; "
                    "the files are damaged, or belong to different runs"
                )
    return Run(path, config, content, users, ranks, listed)


def result(path: Path) -> dict[str, Any]:
    """Return the content of a run's result.json. Raises UserError if there is none."""
    folder = RunFolder(path)
    if not folder.result.exists():
        state = "its run has not finished" if folder.config.exists() else "it holds no run"
        raise UserError(
            f"{path}: no {folder.result.name}, {state}; name the folder of a finished run"
        )
    try:
        content = verified.load_json(folder.result)
        if not isinstance(content, dict):
            raise TypeError("not a JSON object")
    except UserError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise _other_version(folder.result, error) from error
    return content


def settings(folder: RunFolder, content: dict[str, Any]) -> Config | JudgedConfig:
    """Return the settings in the content of a run's result.json. Raises UserError."""
    try:
        kind = JudgedConfig if "judged" in content["config"] else Config
        return kind.from_dict(content["config"])
    except UserError as error:
        raise UserError(f"{folder.result}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _other_version(folder.result, error) from error


def data_digest(path: Path) -> str:
    """Return the digest of the data that a run was started on; "" if nothing says it.

    A config.json of an earlier version does not. Raises UserError if a file is damaged.
    """
    folder = RunFolder(path)
    for file in filter(Path.exists, (folder.config, folder.result)):
        try:
            digest = verified.load_json(file)["dataset"]["sha256"]
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(digest, str):
            return digest
    return ""


def history(path: Path) -> list[dict[str, Any]]:
    """Return the epochs of a run, finished or not: the lines of metrics.jsonl, [] if it has none.

    Raises UserError if they cannot be read.
    """
    file = RunFolder(path).metrics
    try:
        lines = [parse_json(line) for line in verified.read(file).splitlines()]
        if any(not {"epoch", "loss", "validation"} <= line.keys() for line in lines):
            raise ValueError("a line without epoch, loss or validation")
    except FileNotFoundError:
        return []
    except UserError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); train the run again") from error
    return lines


def failure(path: Path) -> str:
    """Return why a run failed, as its error.json says; "" if it has none."""
    try:
        return str(read_json(RunFolder(path).error)["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _other_version(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: not the result of a run of this version ({error!r}); train the run again"
    )


def _check_content(content: dict[str, Any], is_judged: bool) -> dict[str, dict[str, float]]:
    """Return a result's test metrics {protocol: {metric: value}}.

    Those of a judged recommender may lack metrics, which its lists do not determine.

    Raises KeyError, TypeError, ValueError or AttributeError if something is missing from it.
    """
    data = content["dataset"]
    texts = [content["protocol"][name] for name in ("split", *USUAL_PROTOCOLS, "ties")]
    if not (isinstance(data["sha256"], str) and all(isinstance(text, str) for text in texts)):
        raise TypeError("a digest or a protocol is not text")
    if not all(isinstance(data[name], int) for name in COUNTS):
        raise TypeError("a count is not a whole number")
    return {
        protocol: {
            metric: float(test[metric])
            for metric in COMPARED_METRICS
            if metric in test or not is_judged
        }
        for protocol, test in content["test"].items()
        if protocol in PROTOCOLS
    }


def _read_ranks(
    path: Path,
) -> tuple[np.ndarray, dict[str, Ranks], dict[str, np.ndarray]]:
    """Return what a test_ranks.parquet holds: users [T] ascending, and by protocol the ranks, and
    the lengths of the lists if the ranks are those of lists.

    Raises UserError.
    """
    again = "train the run again"
    table = _read_table(path)
    fields = {p: [f"{p}_{field}" for field in Ranks._fields] for p in PROTOCOLS}
    columns = {p: names for p, names in fields.items() if set(names) <= set(table.columns)}
    if "user" not in table.columns or not columns:
        listed = ", ".join(table.columns)
        raise UserError(f"{path}: columns {listed}, expected user, sampled_greater, ...; {again}")
    of_lists = {p: f"{p}_listed" for p in columns if f"{p}_listed" in table.columns}
    names = itertools.chain(*columns.values(), of_lists.values())
    table = table.select("user", *names).sort("user")
    not_whole = [name for name, kind in table.schema.items() if not kind.is_integer()]
    if not_whole or sum(table.null_count().row(0)):
        raise UserError(
            f"{path}: {', '.join(not_whole) or 'a value'} is not a whole number; {again}"
        )
    ranks = {
        p: Ranks(*(table[name].to_numpy().astype(np.int64) for name in names))
        for p, names in columns.items()
    }
    lengths = {p: table[name].to_numpy().astype(np.int64) for p, name in of_lists.items()}
    are_lengths = all((of_protocol >= 0).all() for of_protocol in lengths.values())
    if not (are_lengths and all(map(_are_possible, ranks.values()))):
        raise UserError(
            f"{path}: impossible ranks (below 0, or above the number of candidates); {again}"
        )
    users = table["user"].n_unique()
    if len(table) < 2 or users < len(table):
        raise UserError(
            f"{path}: {len(table)} rows of {users} users; expected at least 2 users, one row each"
        )
    return table["user"].to_numpy(), ranks, lengths


def _read_table(path: Path) -> "pl.DataFrame":
    try:
        return verified.load_table(path)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: not there; train the run again") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}); train the run again"
        ) from error


def _are_possible(ranks: Ranks) -> bool:
    negative = np.minimum(ranks.greater, ranks.ties) < 0
    beyond = ranks.greater + ranks.ties > ranks.others
    return not (negative | beyond).any()
