"""Trains and evaluates one configuration, or every combination of several values:

python experiments/main.py --model=ttt4rec --dataset=ml1m
python experiments/main.py --dataset=beauty --initializer_range=0.001,0.01,0.1 --seed=0,1,2
"""

import dataclasses
import datetime
import shlex
import signal
import sys
import time
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.cli import flags, presets, sweep
from ttt4rec_jax.config import Config
from ttt4rec_jax.runs.folder import RunFolder, load_config
from ttt4rec_jax.training.interrupt import Interrupted

PURPOSE = "Trains and evaluates a sequential recommender, and leaves the result in a folder."


def run_folder(config: Config, run_dir: str, is_sweep: bool) -> RunFolder:
    """The folder that --run_dir names, or a new one named by model, data set and time."""
    if run_dir:
        return RunFolder(Path(run_dir))
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = (
        f"{config.model.model}-{Path(config.data.dataset).stem}-{'sweep-' if is_sweep else ''}{now}"
    )
    return RunFolder(Path("runs") / name)


def saved_settings(root: Path) -> dict[str, list]:
    """The flags of the run, or of the sweep, in a folder. Raises UserError if it holds none."""
    if (found := sweep.saved_flags(root)) is not None:
        return found
    sections = load_config(RunFolder(root).config).to_dict()
    return {name: [value] for section in sections.values() for name, value in section.items()}


def holds_run(root: RunFolder) -> bool:
    """Whether there is something to resume in a folder."""
    return root.config.exists() or (root.path / "sweep.json").exists()


def completed(lists: dict[str, list], given: set[str]) -> dict[str, list]:
    """The flags' values, with those of the run to resume, or of the preset, for flags that are not given.

    Resuming in a folder that holds nothing starts the run there if flags describe one: it may have
    been cut off before it wrote anything. A path alone may be mistyped, and is refused.
    """
    run_dir = lists["run_dir"][0]
    resume = lists["resume"][0]
    if resume and run_dir:
        described = given - {field.name for field in dataclasses.fields(flags.RunConfig)}
        if not described or not RunFolder(Path(run_dir)).is_free():
            return lists | {
                name: values
                for name, values in saved_settings(Path(run_dir)).items()
                if name not in given
            }
        print(f"nothing to resume in {run_dir}: starting there", flush=True)
    return presets.apply(lists, given)


def go_on(program: str, root: RunFolder, lists: dict[str, list], given: set[str]) -> str:
    """The command that goes on with a run. A run's folder keeps its settings, but not the flags that say where things lie."""
    kept = {field.name for field in dataclasses.fields(flags.RunConfig)} - {
        "preset",
        "run_dir",
        "resume",
        "dry_run",
    }
    where = [f"--{name}={lists[name][0]}" for name in lists if name in kept & given]
    return shlex.join(["python", program, "--resume", f"--run_dir={root.path}", *where])


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 a mistake or a divergence told in one line, 130 interrupted."""
    started = time.perf_counter()
    root = None
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # as Ctrl-C, also before and after training
    try:
        lists, given = flags.parse(argv, PURPOSE)
        lists = completed(lists, given)
        combinations, run = flags.settings(lists)
        root = run_folder(next(iter(combinations.values())), run.run_dir, len(combinations) > 1)
        root.check(combinations, run.resume)
        from ttt4rec_jax.cli import (
            run as runner,  # imports JAX, which a wrong flag need not wait for
        )

        runner.run(combinations, run, root, lists, started)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as interrupt:
        begun = root is not None and holds_run(root)
        again = (
            f"go on with: {go_on(argv[0], root, lists, given)}" if begun else "nothing was begun"
        )
        print(f"{str(interrupt) or 'interrupted'}; {again}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
