"""Trains and evaluates one configuration, or every combination of several values:

python experiments/main.py --model=ttt4rec --dataset=ml1m
python experiments/main.py --dataset=beauty --initializer_range=0.001,0.01,0.1 --seed=0,1,2
"""

import datetime
import sys
import time
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax import flags, presets, sweep
from ttt4rec_jax.config import Config
from ttt4rec_jax.interrupt import Interrupted
from ttt4rec_jax.run_folder import RunFolder, load_config

PURPOSE = "Trains and evaluates a sequential recommender, and leaves the result in a folder."


def run_folder(config: Config, run_dir: str, is_sweep: bool) -> RunFolder:
    """The folder that --run_dir names, or a new one named by model, data set and time."""
    if run_dir:
        return RunFolder(Path(run_dir))
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{config.model.model}-{Path(config.data.dataset).stem}-{'sweep-' if is_sweep else ''}{now}"
    return RunFolder(Path("runs") / name)


def saved_settings(root: Path) -> dict[str, list]:
    """The flags of the run, or of the sweep, in a folder. Raises UserError if it holds none."""
    if (found := sweep.saved_flags(root)) is not None:
        return found
    sections = load_config(RunFolder(root).config).to_dict()
    return {name: [value] for section in sections.values() for name, value in section.items()}


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 a mistake or a divergence told in one line, 130 interrupted."""
    started, root = time.perf_counter(), None
    try:
        lists, given = flags.parse(argv, PURPOSE)
        run_dir, resume = lists["run_dir"][0], lists["resume"][0]
        if resume and run_dir:
            lists |= {name: values for name, values in saved_settings(Path(run_dir)).items() if name not in given}
        else:
            lists = presets.apply(lists, given)
        combinations, run = flags.settings(lists)
        root = run_folder(next(iter(combinations.values())), run.run_dir, len(combinations) > 1)
        root.check(combinations, run.resume)
        from ttt4rec_jax import runner  # imports JAX, which a wrong flag need not wait for

        runner.run(combinations, run, root, lists, started)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as interrupt:
        resume = f"; go on with: python {argv[0]} --resume --run_dir={root.path}" if root and root.path.exists() else ""
        print(f"{str(interrupt) or 'interrupted'}{resume}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
