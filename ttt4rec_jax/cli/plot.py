"""The command experiments/plot.py: draw loss and validation curves of runs. Imports no JAX."""

import dataclasses
import json
import os
from pathlib import Path

from data_prep.settings import UserError, check, option
from ttt4rec_jax.cli.command import Command, Section, exit_code
from ttt4rec_jax.runs.folder import RunFolder

PURPOSE = """Draw the loss and validation curves of runs, finished or not, by epoch:

python experiments/plot.py runs/sasrec-0 runs/ttt4rec-0 --output=curves.png
python experiments/plot.py runs/my-sweep --metric=hit@10

For runs with --ttt_stats, also draw what their inner learners do: inner loss, weight change, inner
learning rate."""
METRICS = tuple(f"{name}@{k}" for k in (5, 10, 20) for name in ("ndcg", "hit"))
FIELDS = {"epoch", "loss", "validation"}  # that each line of metrics.jsonl must have


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotFlags:
    """The flags of plot.py."""

    output: str = option("curves.png", "PNG file to write.")
    metric: str = option("ndcg@10", "Validation metric to draw.", choices=METRICS)

    def __post_init__(self) -> None:
        check(self)
        if Path(self.output).suffix.lower() != ".png":
            raise UserError(f"--output: {self.output} is not a .png; name a PNG file")


COMMAND = Command(
    PURPOSE,
    (Section("Flags:", PlotFlags),),
    positional="RUN",
    positional_help="Folder of a run, or of a sweep, which stands for all of its combinations.",
)


def main(argv: list[str]) -> int:
    """Draw the curves. Returns the exit code, see command.exit_code."""
    return exit_code(lambda: _plot(argv))


def _plot(argv: list[str]) -> None:
    parsed = COMMAND.parse(argv)
    flags = parsed.settings(PlotFlags)
    folders = run_folders([Path(run) for run in parsed.positional])
    histories = dict(zip(short_names(folders), map(history, folders), strict=True))
    from ttt4rec_jax import plots  # matplotlib takes a second, which a mistake need not wait for

    figure = plots.curves(histories, flags.metric)
    try:
        plots.save(figure, Path(flags.output))
    except OSError as error:
        raise UserError(
            f"--output: {flags.output} cannot be written ({error.strerror}); name another file"
        ) from error
    print(f"{len(histories)} run{'s' * (len(histories) > 1)} drawn in {flags.output}")


def run_folders(paths: list[Path]) -> list[Path]:
    """Return the runs' folders, a sweep replaced by its combinations. Raises UserError."""
    folders = []
    for path in paths:
        if not path.is_dir():
            problem = "not a folder" if path.exists() else "not there"
            raise UserError(f"{path}: {problem}; name the folder of a run or a sweep")
        if (path / "sweep.json").exists():
            folders += sorted(file.parent for file in path.glob("*/metrics.jsonl"))
        else:
            folders.append(path)
    if not folders:
        raise UserError(
            f"{', '.join(map(str, paths))}: no combination has finished an epoch; "
            "name a run that has"
        )
    return list(dict.fromkeys(folders))


def history(path: Path) -> list[dict]:
    """Return the epochs of the run in a folder. Raises UserError if it has none."""
    file = RunFolder(path).metrics
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if not all(line.keys() >= FIELDS for line in lines):
            raise ValueError("a line without epoch, loss or validation")
    except FileNotFoundError:
        lines = []
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); train the run again") from error
    if not lines:
        raise UserError(
            f"{path}: no epoch in {file.name}; name a run of a trained model that has finished one"
        )
    return lines


def short_names(paths: list[Path]) -> list[str]:
    """Return each path without the folders that all of them share."""
    if len(paths) < 2:
        return [path.name or str(path) for path in paths]
    common = os.path.commonpath([path.resolve() for path in paths])
    return [os.path.relpath(path.resolve(), common) for path in paths]
