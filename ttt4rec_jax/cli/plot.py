"""The command experiments/plot.py: draw loss and validation curves of runs. Imports no JAX."""

import dataclasses
import os
from pathlib import Path

from data_prep.settings import UserError, check, option
from data_prep.text import shown
from ttt4rec_jax.cli.command import Command, Section, exit_code
from ttt4rec_jax.metrics import AT_CUTOFFS
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder

PURPOSE = """Plot the training loss and the validation metrics of runs by epoch:

{program} runs/sasrec-0 runs/ttt4rec-0 --output=curves.png
{program} runs/my-sweep --metric=hit@10

The runs may still be training. For runs with --ttt_stats, the figure also shows statistics of
their inner learners: the inner loss, the weight change and the inner learning rate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotFlags:
    """The flags of plot.py."""

    output: str = option("curves.png", "PNG file to write.", path=True)
    metric: str = option("ndcg@10", "Validation metric to plot.", choices=AT_CUTOFFS)

    def __post_init__(self) -> None:
        check(self)
        if Path(self.output).suffix.lower() != ".png":
            raise UserError(f"--output: {self.output} is not a .png; name a PNG file")


COMMAND = Command(
    PURPOSE,
    (Section("Flags:", PlotFlags),),
    positional="RUN",
    positional_help="Folder of a run, or of a sweep for all of its combinations.",
)


def main(argv: list[str]) -> int:
    """Plot the curves. Returns the exit code; see command.exit_code."""
    return exit_code(lambda: _plot(argv))


def _plot(argv: list[str]) -> None:
    parsed = COMMAND.parse(argv)
    flags = parsed.settings(PlotFlags)
    folders = run_folders([Path(run) for run in parsed.positional])
    histories = dict(zip(short_names(folders), map(history, folders), strict=True))
    from ttt4rec_jax import plots  # imports matplotlib, a second: errors above come without it

    figure = plots.curves(histories, flags.metric)
    try:
        plots.save(figure, Path(flags.output))
    except OSError as error:
        raise UserError(
            f"--output: {flags.output} cannot be written ({error.strerror}); name another file"
        ) from error
    print(f"plotted {len(histories)} run{'s' * (len(histories) > 1)} in {shown(flags.output)}")


def run_folders(paths: list[Path]) -> list[Path]:
    """Return the runs' folders; for a sweep, those of combinations that have finished an epoch.

    Raises UserError if there are none.
    """
    runs = [
        run
        for path in paths
        for run in read.members(path)
        if not read.is_sweep(path) or RunFolder(run).metrics.exists()
    ]
    if not runs:
        raise UserError(
            f"{', '.join(map(str, paths))}: no combination has finished an epoch; "
            "name a run that has"
        )
    return list(dict.fromkeys(runs))


def history(path: Path) -> list[dict]:
    """Return the epochs of the run in a folder. Raises UserError if it has none."""
    lines = read.history(path)
    if not lines:
        raise UserError(
            f"{path}: no epoch in {RunFolder(path).metrics.name}; "
            "name a run that has finished an epoch of training"
        )
    return lines


def short_names(paths: list[Path]) -> list[str]:
    """Return each path without the parent folders that all of them share."""
    if len(paths) < 2:
        return [path.name or str(path) for path in paths]
    common = os.path.commonpath([path.resolve() for path in paths])
    return [os.path.relpath(path.resolve(), common) for path in paths]
