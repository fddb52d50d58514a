"""The command experiments/main.py: train and evaluate a configuration, or a sweep. Imports no JAX.

JAX is imported once the flags are known to be right.
"""

import dataclasses
import datetime
import signal
import time
from pathlib import Path

from ttt4rec_jax.cli import flags, resume
from ttt4rec_jax.cli.command import exit_code
from ttt4rec_jax.config import Config
from ttt4rec_jax.runs.folder import RunFolder

PURPOSE = """Train and evaluate a sequential recommender, and leave the result in a folder:

python experiments/main.py --model=ttt4rec --dataset=ml1m
python experiments/main.py --dataset=beauty --initializer_range=0.001,0.01,0.1 --seed=0,1,2"""


@dataclasses.dataclass
class _Progress:
    """What an interruption has to know of the command line."""

    lists: dict[str, list] = dataclasses.field(default_factory=dict)
    given: set[str] = dataclasses.field(default_factory=set)
    root: RunFolder | None = None


def main(argv: list[str]) -> int:
    """Train as the flags say. Returns the exit code, see command.exit_code."""
    started = time.perf_counter()
    # SIGTERM is handled as Ctrl-C, before and after training too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress = _Progress()

    def how_to_resume() -> str:
        if progress.root is None or not resume.holds_run(progress.root):
            return "nothing was started"
        again = resume.command(argv[0], progress.root, progress.lists, progress.given)
        return f"resume with: {again}"

    return exit_code(lambda: _train(argv, started, progress), how_to_resume)


def _train(argv: list[str], started: float, progress: _Progress) -> None:
    lists, progress.given = flags.parse(argv, PURPOSE)
    progress.lists = resume.complete(lists, progress.given)
    combinations, run_config = flags.settings(progress.lists)
    first = next(iter(combinations.values()))
    root = run_folder(first, run_config.run_dir, is_sweep=len(combinations) > 1)
    progress.root = root
    resume.check_folder(root, combinations, run_config.resume)
    from ttt4rec_jax.cli import run  # imports JAX, which a wrong flag need not wait for

    run.run(combinations, run_config, root, progress.lists, started)


def run_folder(config: Config, run_dir: str, is_sweep: bool) -> RunFolder:
    """Return the folder that --run_dir names, or a new one named by model, data set and time."""
    if run_dir:
        return RunFolder(Path(run_dir))
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    parts = [config.model.model, Path(config.data.dataset).stem]
    parts += ["sweep", now] if is_sweep else [now]
    return RunFolder(Path("runs") / "-".join(parts))
