"""The command experiments/plot.py: draw runs and their results. Imports no JAX."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.settings import UserError, check, option
from data_prep.text import shown
from ttt4rec_jax.cli.command import Command, Section, exit_code
from ttt4rec_jax.evaluation.listed import known_metrics
from ttt4rec_jax.evaluation.segments import GROUPS
from ttt4rec_jax.metrics import AT_CUTOFFS, chosen_ranks, hit_curve, taking_part
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder

if TYPE_CHECKING:
    import numpy as np

PURPOSE = """Plot runs side by side: their curves by epoch, or their results on the test set:

{program} runs/sasrec-0 runs/ttt4rec-0 --output=curves.png
{program} runs/my-sweep --metric=hit@10
{program} runs/als runs/ttt4rec-0 --kind=metrics

curves: the training loss and the validation metrics by epoch. metrics: the test metrics with their
95% intervals. ranks: the share of targets among the first r candidates. segments: a test metric of
runs with --segments, by segment. All but curves take recommenders that the command evaluate has
judged, too.

For curves, the runs may still be training. For runs with --ttt_stats, they also show statistics of
the inner learners: the inner loss, the weight change and the inner learning rate."""


def history(path: Path) -> list[dict]:
    """Return the epochs of the run in a folder. Raises UserError if it has none."""
    lines = read.history(path)
    if not lines:
        raise UserError(
            f"{path}: no epoch in {RunFolder(path).metrics.name}; "
            "name a run that has finished an epoch of training"
        )
    return lines


def metrics(path: Path) -> dict[str, dict[str, float]]:
    """Return the test metrics of the run in a folder, by protocol. Raises UserError."""
    return read.read(path).result["test"]


def segments(path: Path) -> dict[str, dict]:
    """Return the metrics by segment of the run in a folder. Raises UserError if it has none."""
    found = read.read(path).result.get("segments")
    if not found:
        raise UserError(f"{path}: its result has no segments; train or evaluate with --segments")
    return found


def ranks(path: Path) -> dict[str, "np.ndarray"]:
    """Return the share of targets among the first r candidates of the run in a folder.

    It ends with the longest list where the ranks are those of lists. Raises UserError.
    """
    run = read.read(path)
    found = {}
    for protocol, of_protocol in run.ranks.items():
        last = int(of_protocol.others.max()) + 1
        if not known_metrics(run, protocol, ["mrr"]):
            last = int(run.listed[protocol].max())
        found[protocol] = hit_curve(chosen_ranks(of_protocol, taking_part(of_protocol)), last)
    return found


KINDS: dict[str, Callable[[Path], Any]] = {
    "curves": history,
    "metrics": metrics,
    "ranks": ranks,
    "segments": segments,
}
METRICS = (*AT_CUTOFFS, "mrr")  # of --kind=metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotFlags:
    """The flags of plot.py."""

    kind: str = option("curves", "What to plot.", choices=tuple(KINDS))
    output: str = option("", "PNG file to write; default: curves.png, metrics.png, ...", path=True)
    metric: str = option(
        "ndcg@10", "Metric of curves (on validation) and segments (on test).", choices=AT_CUTOFFS
    )

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "output", self.output or f"{self.kind}.png")
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
    folders = run_folders([Path(run) for run in parsed.positional], flags.kind)
    runs = dict(zip(short_names(folders), map(KINDS[flags.kind], folders), strict=True))
    from ttt4rec_jax import plots  # imports matplotlib, a second: errors above come without it

    if flags.kind == "curves":
        figure = plots.curves(runs, flags.metric)
    elif flags.kind == "metrics":
        figure = plots.intervals(runs, METRICS)
    elif flags.kind == "ranks":
        figure = plots.rank_distributions(runs)
    else:
        figure = plots.segments(runs, flags.metric, GROUPS)
    try:
        plots.save(figure, Path(flags.output))
    except OSError as error:
        raise UserError(
            f"--output: {flags.output} cannot be written ({error.strerror}); name another file"
        ) from error
    print(f"plotted {len(runs)} run{'s' * (len(runs) > 1)} in {shown(flags.output)}")


def run_folders(paths: list[Path], kind: str = "curves") -> list[Path]:
    """Return the runs' folders; for a sweep, those of combinations that have what is plotted.

    Raises UserError if there are none.
    """
    runs = [
        run
        for path in paths
        for run in read.members(path)
        if not read.is_sweep(path) or _has(run, kind)
    ]
    if not runs:
        raise UserError(
            f"{', '.join(map(str, paths))}: no combination has finished "
            f"{'an epoch' if kind == 'curves' else 'its training'}; "
            "name a run that has"
        )
    return list(dict.fromkeys(runs))


def _has(path: Path, kind: str) -> bool:
    """Return whether a combination of a sweep has what is plotted."""
    folder = RunFolder(path)
    return (folder.metrics if kind == "curves" else folder.result).exists()


def short_names(paths: list[Path]) -> list[str]:
    """Return each path without the parent folders that all of them share."""
    if len(paths) < 2:
        return [path.name or str(path) for path in paths]
    common = os.path.commonpath([path.resolve() for path in paths])
    return [os.path.relpath(path.resolve(), common) for path in paths]
