"""The command experiments/main.py: train and evaluate a configuration, or a sweep. Imports no JAX.

JAX is imported after the flags have been checked.
"""

import dataclasses
import datetime
import shlex
import signal
import time
from pathlib import Path

from data_prep.catalogue import table
from data_prep.text import shown, shown_lines
from ttt4rec_jax.cli import flags
from ttt4rec_jax.cli.command import exit_code, invocation
from ttt4rec_jax.cli.surroundings import start_jax
from ttt4rec_jax.config import Config
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.pipeline import resume, windows
from ttt4rec_jax.pipeline.combinations import combine
from ttt4rec_jax.runs.folder import RunFolder

PURPOSE = """Train and evaluate a sequential recommender, or a sweep over several settings:

{program} --model=ttt4rec --dataset=ml1m
{program} --model=sasrec --dataset=clicks.csv --epochs=20 --run_dir=runs/my-run
{program} --dataset=beauty --initializer_range=0.001,0.01,0.1 --seed=0,1,2
{program} --resume --run_dir=runs/my-run
{program} --dataset=list

The last one prints the data sets that are known by name. The run's folder receives the settings,
checkpoints, the metrics of each epoch and the test result.

Flags of the sections Model and Training may list several values, as in 0.01,0.1 or sasrec,ttt4rec;
every combination of them is trained. Numeric flags also accept ranges: lo:hi:n gives n equally
spaced values, lo:hi:n:log gives n logarithmically spaced values; whole numbers are rounded."""

LIST = "list"  # the value of --dataset that asks for the names of all data sets
# Flags that the command to resume a run need not repeat.
NOT_REPEATED = {"preset", "run_dir", "resume", "dry_run"}


@dataclasses.dataclass
class _Progress:
    """The command line as far as it has been read, for the advice after an interruption."""

    lists: dict[str, list] = dataclasses.field(default_factory=dict)
    given: set[str] = dataclasses.field(default_factory=set)
    root: RunFolder | None = None


def main(argv: list[str]) -> int:
    """Train as the flags say. Returns the exit code; see command.exit_code."""
    started = time.perf_counter()
    # Handle SIGTERM like Ctrl-C, also before and after training.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress = _Progress()

    def how_to_resume() -> str:
        if progress.root is None or not resume.holds_run(progress.root):
            return "nothing was started"
        again = resume_command(argv[0], progress.root, progress.lists, progress.given)
        return f"resume with: {again}"

    prints_only = "--dry_run" in argv or f"--dataset={LIST}" in argv
    return exit_code(
        lambda: _train(argv, started, progress), None if prints_only else how_to_resume
    )


def _train(argv: list[str], started: float, progress: _Progress) -> None:
    lists, progress.given = flags.parse(argv, PURPOSE)
    if lists["dataset"] == [LIST]:
        print(shown_lines(table.listing()), flush=True)
        return
    progress.lists = windows.expanded(resume.complete(lists, progress.given, _print))
    combinations, run_config = combine(progress.lists)
    first = next(iter(combinations.values()))
    root = run_folder(first, run_config.run_dir, is_sweep=len(combinations) > 1)
    progress.root = root
    resume.check_folder(root, combinations, run_config.resume)
    start_jax()  # a wrong flag is reported before
    from ttt4rec_jax.cli import run

    run.run(combinations, run_config, root, progress.lists, started)


def run_folder(config: Config, run_dir: str, is_sweep: bool) -> RunFolder:
    """Return the folder of --run_dir, or a new one named after the model, data set and time."""
    if run_dir:
        return RunFolder(Path(run_dir))
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = Path(config.data.dataset).stem[:40].replace(":", "-")
    parts = [config.model.model[:40], name]
    parts += ["sweep", now] if is_sweep else [now]
    return RunFolder(Path("runs") / "-".join(parts))


def resume_command(program: str, root: RunFolder, lists: dict[str, list], given: set[str]) -> str:
    """Return the command that resumes a run.

    It repeats only the flags that name folders and devices: the run's folder holds its settings.
    """
    run_flags = {field.name for field in dataclasses.fields(RunConfig)} - NOT_REPEATED
    where = [f"--{name}={lists[name][0]}" for name in lists if name in run_flags & given]
    # Code outside this package is imported only if the command names it.
    for name in ("model", "inner"):
        if any(":" in value for value in lists[name]):
            where.append(f"--{name}={','.join(lists[name])}")
    return shlex.join([*invocation(program), "--resume", f"--run_dir={root.path}", *where])


def _print(line: str) -> None:
    print(shown(line), flush=True)
