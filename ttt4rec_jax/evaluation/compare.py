"""Finished runs -> systems -> every system against the first, by paired.py's test; and how that looks. Imports no JAX.

A system is a configuration; its runs differ in the seed alone. A system that is not trained has no
seeds to vary. With one
seed of a trained system nothing is known of other trainings: the interval is then one over users
alone, and says so.

Whether runs may be compared: result.json's dataset.sha256 is the digest of all prepared arrays,
evaluation targets and negatives among them (data_prep.store.content_digest): equal hashes mean
equal evaluation sets,
whatever flags asked for them.
"""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.config import MODELS, OPTIONS, Config
from ttt4rec_jax.evaluation.paired_test import difference, holm
from ttt4rec_jax.metrics import Ranks, per_target
from ttt4rec_jax.runs.folder import RunFolder

METRICS = ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "mrr")
PROTOCOLS = ("sampled", "full")
SAME_TEXTS = (
    "split",
    *PROTOCOLS,
    "ties",
)  # of result.json's protocol; training and selection may differ


# Reading runs


@dataclasses.dataclass(frozen=True)
class Run:
    """What a finished run left."""

    path: Path
    config: Config
    result: dict
    users: np.ndarray
    ranks: dict[str, Ranks]


def folders(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """The folders of the runs, a sweep's combinations in the place of its own, and a warning for each that has no result.

    A folder named twice counts once. Raises UserError.
    """
    found = []
    warnings = []
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"{path}: {'not a folder' if path.exists() else 'not there'}; name the folder of a run or a sweep"
            )
        runs = [path]
        if (path / "sweep.json").exists():
            members = sorted(config.parent for config in path.glob("*/config.json"))
            runs = [member for member in members if RunFolder(member).result.exists()]
            warnings += [
                f"{m} has no result and is left out{_failure(m)}" for m in members if m not in runs
            ]
            if not runs:
                raise UserError(
                    f"{path}: a sweep with no finished combination; finish it with --resume --run_dir={path}"
                )
        found += runs
    return list({path.resolve(): path for path in found}.values()), warnings


def _failure(path: Path) -> str:
    try:
        return f" (failed: {json.loads(RunFolder(path).error.read_text())['error']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read(path: Path) -> Run:
    """The run in a folder. Raises UserError if it is unfinished, damaged or of another version."""
    folder = RunFolder(path)
    if not folder.result.exists():
        holds = "its run has not finished" if folder.config.exists() else "it holds no run"
        raise UserError(
            f"{path}: no {folder.result.name}, {holds}; name the folder of a finished run"
        )
    try:
        result = json.loads(folder.result.read_text(encoding="utf-8"))
        config = Config.from_dict(result["config"])
        data = result["dataset"]
        texts = [result["protocol"][name] for name in SAME_TEXTS]
        sizes = [data[name] for name in ("users", "items", "interactions")]
        if not (isinstance(data["sha256"], str) and all(isinstance(text, str) for text in texts)):
            raise TypeError("a hash or a protocol that is no text")
        if not all(isinstance(size, int) for size in sizes):
            raise TypeError("counts that are no whole numbers")
        figures = {
            p: {m: float(test[m]) for m in METRICS}
            for p, test in result["test"].items()
            if p in PROTOCOLS
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder.result}: not the result of a run of this version ({error!r}); train it again"
        ) from error
    users, ranks = _read_ranks(folder.ranks)
    for protocol, values in ((p, _metrics(r)) for p, r in ranks.items()):
        for metric in METRICS:
            there = figures.get(protocol, {}).get(metric, math.nan)
            here = float(values[metric].mean())
            if not math.isclose(there, here, rel_tol=1e-6, abs_tol=1e-9):
                place = f"{folder.result}: test {protocol}/{metric} is {there}, by {folder.ranks.name} it is {here}"
                raise UserError(f"{place}; the files are damaged, or not of one run")
    return Run(path, config, result, users, ranks)


def _read_ranks(path: Path) -> tuple[np.ndarray, dict[str, Ranks]]:
    """(users [T] ascending, {protocol: their ranks}) of a test_ranks.parquet. Raises UserError."""
    import polars as pl  # not at the top: --help need not wait for it

    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = (
            f"cannot be read ({' '.join(str(error).split())[:100]})"
            if path.exists()
            else "not there"
        )
        raise UserError(f"{path}: {reason}; train the run again") from error
    columns = {p: [f"{p}_{field}" for field in Ranks._fields] for p in PROTOCOLS}
    columns = {p: names for p, names in columns.items() if set(names) <= set(table.columns)}
    if "user" not in table.columns or not columns:
        raise UserError(
            f"{path}: columns {', '.join(table.columns)}, expected user, sampled_greater, ...; train the run again"
        )
    table = table.select("user", *itertools.chain.from_iterable(columns.values())).sort("user")
    not_whole = [name for name, kind in table.schema.items() if not kind.is_integer()]
    if not_whole or sum(table.null_count().row(0)):
        raise UserError(
            f"{path}: {', '.join(not_whole) or 'a value'} is no whole number; train the run again"
        )
    ranks = {
        p: Ranks(*(table[name].to_numpy().astype(np.int64) for name in names))
        for p, names in columns.items()
    }
    if any(
        (np.minimum(r.greater, r.ties) < 0).any() or (r.greater + r.ties > r.others).any()
        for r in ranks.values()
    ):
        raise UserError(
            f"{path}: ranks that cannot be (below 0, or beyond the number of candidates); train the run again"
        )
    if len(table) < 2 or table["user"].n_unique() < len(table):
        raise UserError(
            f"{path}: {len(table)} rows of {table['user'].n_unique()} users, expected at least 2, one row each"
        )
    return table["user"].to_numpy(), ranks


def _metrics(ranks: Ranks) -> dict[str, np.ndarray]:
    values = per_target(ranks)
    return {name: values[name] for name in METRICS}


# Which runs are one system, and which may be compared


def check_comparable(runs: list[Run], protocols: tuple[str, ...]) -> None:
    """Raises UserError naming the first thing by which two runs are not of one evaluation."""
    first = runs[0]
    for other in runs[1:]:
        both = f"{first.path} and {other.path} cannot be compared"
        hashes = [run.result["dataset"]["sha256"] for run in (first, other)]
        if hashes[0] != hashes[1]:
            a, b = (dataclasses.asdict(run.config.data) for run in (first, other))
            why = "".join(
                f"--{name}={a[name]} against {b[name]}, " for name in a if a[name] != b[name]
            )
            raise UserError(
                f"{both}: data differ, {why}sha256 {hashes[0][:16]} against {hashes[1][:16]}"
            )
        for name in SAME_TEXTS:
            a, b = (run.result["protocol"][name] for run in (first, other))
            if a != b and (name not in PROTOCOLS or name in protocols):
                raise UserError(f"{both}: protocol {name!r} is {a!r} against {b!r}")
        if not np.array_equal(first.users, other.users):
            user = min(set(first.users.tolist()) ^ set(other.users.tolist()))
            only = first.path if user in first.users else other.path
            sizes = f"{len(first.users):,} against {len(other.users):,}"
            raise UserError(f"{both}: test users differ, {sizes}; user {user} is in {only} alone")
        for protocol in protocols:
            a, b = (run.ranks[protocol].others for run in (first, other))
            if (differ := np.flatnonzero(a != b)).size:
                user = first.users[differ[0]]
                counts = f"{a[differ[0]]:,} against {b[differ[0]]:,}"
                raise UserError(
                    f"{both}: {protocol} candidates of user {user} are {counts} beside the target"
                )


def common_protocols(runs: list[Run], asked: str = "") -> tuple[str, ...]:
    """The protocols that all runs have; `asked` alone, if it is not "". Raises UserError."""
    for run in runs:
        if asked and asked not in run.ranks:
            raise UserError(f"--protocol={asked}: {run.path} has {', '.join(run.ranks)} only")
    found = tuple(
        p for p in PROTOCOLS if (not asked or p == asked) and all(p in run.ranks for run in runs)
    )
    if not found:
        each = ", ".join(f"{run.path} {'+'.join(run.ranks)}" for run in runs)
        raise UserError(f"the runs cannot be compared: no protocol is common to all ({each})")
    return found


@dataclasses.dataclass(frozen=True)
class System:
    """Runs of one configuration, a seed each."""

    name: str
    settings: dict
    runs: list[Run]

    @property
    def model(self) -> str:
        return self.settings["model"]

    @property
    def seeds(self) -> list[int]:
        return [run.config.train.seed for run in self.runs]

    @property
    def one_training(self) -> bool:
        """Whether there is a training of which only one outcome is known."""
        return MODELS[self.model].trained and len(self.runs) == 1


def settings(config: Config) -> dict:
    """The flags that make a system what it is: neither data nor seed, nor an option of other models."""
    model = config.model.model
    owners = {"model": (model,)} | OPTIONS
    everybody = (
        (model,) if MODELS[model].trained else ()
    )  # what all models have is for training: width, dropout, ...
    found = {
        k: v
        for k, v in dataclasses.asdict(config.model).items()
        if model in owners.get(k, everybody)
    }
    if MODELS[model].trained:
        found |= dataclasses.asdict(config.train) | dataclasses.asdict(config.eval)
        del found["seed"]
    return found


def systems(runs: list[Run]) -> list[System]:
    """The runs grouped by settings, in the order given. Raises UserError for fewer than two, or a seed that is there twice.

    A name is the model, if models differ, and the flags that differ among systems of that model.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(settings(run.config).items()), []).append(run)
    for members in groups.values():
        by_seed: dict[int, Run] = {}
        for run in members:
            if (same := by_seed.setdefault(run.config.train.seed, run)) is not run:
                raise UserError(
                    f"{same.path} and {run.path} are the same settings and seed {run.config.train.seed}; name one"
                )
    found = [dict(key) for key in groups]
    if len(found) < 2:
        what = (
            f"{len(runs)} seeds of one configuration ({found[0]['model']})"
            if len(runs) > 1
            else "only one run"
        )
        raise UserError(
            f"nothing to compare: {', '.join(str(run.path) for run in runs)}: {what}; name runs of two or more"
        )
    several = len({one["model"] for one in found}) > 1

    def name(one):
        peers = [other for other in found if other["model"] == one["model"]]
        flags = [f"{k}={v}" for k, v in one.items() if any(other[k] != v for other in peers)]
        return ",".join([one["model"]] * several + flags)

    return [
        System(name(one), one, members) for one, members in zip(found, groups.values(), strict=True)
    ]


def cautions(compared: list[System]) -> list[str]:
    """What the reader of a comparison should know of the systems' trainings."""
    trained = [s for s in compared if MODELS[s.model].trained]
    found = []
    for what, flags in {
        "epochs were chosen differently": ["select_by"],
        "training budgets differ": ["epochs", "patience"],
    }.items():
        names: dict[str, list[str]] = {}
        for s in trained:
            names.setdefault(" ".join(f"--{flag}={s.settings[flag]}" for flag in flags), []).append(
                s.name
            )
        if len(names) > 1:
            texts = [f"{text} for {' and '.join(of)}" for text, of in names.items()]
            found.append(f"{what}: {'; '.join(texts)}")
    return found


# The comparison, and how it looks


def comparison(compared: list[System], protocols: tuple[str, ...], warnings: list[str]) -> dict:
    """What --json writes: every system against the first, by each metric of each protocol."""
    first = compared[0]
    run = compared[0].runs[0]
    results = {}
    for protocol in protocols:
        by_run = {s.name: [_metrics(run.ranks[protocol]) for run in s.runs] for s in compared}
        x = {
            name: {m: np.stack([values[m] for values in all_runs]) for m in METRICS}
            for name, all_runs in by_run.items()
        }
        means = {name: {m: float(x[name][m].mean()) for m in METRICS} for name in x}
        spread = {
            s.name: {m: float(x[s.name][m].mean(1).std(ddof=1)) for m in METRICS}
            for s in compared
            if len(s.runs) > 1
        }
        differences: dict[str, dict] = {s.name: {} for s in compared[1:]}
        for m in METRICS:
            found = {
                s.name: difference(x[first.name][m], x[s.name][m], over_seeds(first, s))
                for s in compared[1:]
            }
            for (name, one), p_holm in zip(
                found.items(), holm([one.p for one in found.values()]), strict=True
            ):
                relative = (
                    100 * one.difference / means[first.name][m] if means[first.name][m] else None
                )
                differences[name][m] = one._asdict() | {
                    "relative_percent": relative,
                    "p_holm": p_holm,
                }
        results[protocol] = {"means": means, "std_over_seeds": spread, "differences": differences}
    return {
        "dataset": run.result["dataset"],
        "test_users": len(run.users),
        "protocol": {
            name: run.result["protocol"][name]
            for name in SAME_TEXTS
            if name not in PROTOCOLS or name in protocols
        },
        "reference": first.name,
        "systems": {
            s.name: {
                "model": s.model,
                "seeds": s.seeds,
                "runs": [str(r.path) for r in s.runs],
                "settings": s.settings,
                "trained": MODELS[s.model].trained,
                "interval_over": ""
                if s is first
                else "users and seeds"
                if over_seeds(first, s)
                else "users alone",
            }
            for s in compared
        },
        "method": _method(compared),
        "warnings": warnings + cautions(compared),
        "results": results,
    }


def over_seeds(one: System, other: System) -> bool:
    """Whether two systems' intervals can speak of other trainings too."""
    return not (one.one_training or other.one_training)


def _method(compared: list[System]) -> list[str]:
    """In lines, what was computed."""
    first = compared[0]
    others = compared[1:]
    lines = [
        "difference of the means over users and seeds; 95% interval and two-sided p by Student's t, users paired"
    ]
    if any(over_seeds(first, s) for s in others):
        lines.append(
            "over users and seeds: also the variance between trainings of each system (Satterthwaite's df)"
        )
    if single := [s.name for s in compared if s.one_training]:
        lines.append(
            f"over users alone: one seed of {', '.join(single)}, so nothing is said of how other trainings would end"
        )
    if len(others) > 1:
        lines.append(
            f"p is Holm's over the {len(others)} comparisons of a metric; intervals are each of one comparison"
        )
    return lines


def table(found: dict) -> str:
    """A comparison in lines: what was compared and how, then means and differences of each protocol."""
    data = found["dataset"]
    names = list(found["systems"])
    size = (
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions"
    )
    lines = [
        f"data       {data['name']}: {size}, sha256 {data['sha256'][:16]}",
        f"test       {found['test_users']:,} users, {found['protocol']['split']}, ties {found['protocol']['ties']}",
    ]
    width = max(map(len, names))
    for name, system in found["systems"].items():
        seeds = f"seed{'s' * (len(system['seeds']) > 1)} {', '.join(map(str, system['seeds']))}"
        about = [seeds if system["trained"] else "not trained", *_apart(found["systems"], name)]
        about += ["the reference"] * (name == found["reference"])
        lines.append(f"system     {name:<{width}}  {'; '.join(about)}")
    lines += [f"{'method' * (not i):<10} {line}" for i, line in enumerate(found["method"])]
    lines += [f"warning    {line}" for line in found["warnings"]]
    p_label = "p, Holm" if len(names) > 2 else "p"
    for protocol, result in found["results"].items():
        lines += [
            "",
            f"{protocol}: {found['protocol'][protocol]}",
            *_means_table(result["means"], width),
        ]
        for name, by_metric in result["differences"].items():
            over = found["systems"][name]["interval_over"]
            lines += [
                "",
                f"{name} - {found['reference']}, over {over}",
                *_difference_table(by_metric, p_label),
            ]
    return "\n".join(lines)


def _apart(by_name: dict, name: str) -> list[str]:
    """The flags of a system, not in its name, in which another system that has them differs."""
    mine = by_name[name]["settings"]
    others = [system["settings"] for system in by_name.values()]
    apart = [
        k
        for k in mine
        if k != "model" and any(other.get(k, mine[k]) != mine[k] for other in others)
    ]
    texts = [text for text in (f"{k}={mine[k]}" for k in apart) if text not in name.split(",")]
    return [" ".join(texts)] if texts else []


def _label(metric: str) -> str:
    return metric.upper().replace("HIT", "HR")


def _means_table(means: dict, width: int) -> list[str]:
    """A row a system; * marks the best of a column."""
    title = "mean (* best)"
    best = {m: max(row[m] for row in means.values()) for m in METRICS}
    width = max(width, len(title))
    lines = [f"{title:<{width}}" + "".join(f"{_label(m):>10} " for m in METRICS)]
    for name, row in means.items():
        lines.append(
            f"{name:<{width}}"
            + "".join(f"{row[m]:>10.4f}{'*' if row[m] == best[m] else ' '}" for m in METRICS)
        )
    return [line.rstrip() for line in lines]


def _difference_table(by_metric: dict, p_label: str) -> list[str]:
    """A row a metric."""
    lines = [f"{'':<9}{'difference':>11}  {'95% interval':>18}  {'relative':>9}  {p_label:>8}"]
    for metric, one in by_metric.items():
        interval = f"[{one['low']:+.4f}, {one['high']:+.4f}]"
        relative = "-" if one["relative_percent"] is None else f"{one['relative_percent']:+.1f}%"
        p = "< 0.0001" if one["p_holm"] < 1e-4 else f"{one['p_holm']:.4f}"
        lines.append(
            f"{_label(metric):<9}{one['difference']:>+11.4f}  {interval:>18}  {relative:>9}  {p:>8}"
        )
    return lines


def compare(paths: list[Path], protocol: str = "") -> dict:
    """The comparison of the runs in these folders; protocol: one alone, or "" for all they have. Raises UserError."""
    members, warnings = folders(paths)
    runs = [read(path) for path in members]
    protocols = common_protocols(runs, protocol)
    check_comparable(runs, protocols)
    return comparison(systems(runs), protocols, warnings)
