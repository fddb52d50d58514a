"""Trains and evaluates one configuration: python experiments/main.py --model=ttt4rec --dataset=ml1m"""

import datetime
import sys
import time
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax import flags
from ttt4rec_jax.config import Config
from ttt4rec_jax.interrupt import Interrupted
from ttt4rec_jax.run_folder import RunFolder, load_config

PURPOSE = "Trains and evaluates a sequential recommender, and leaves the result in a folder."


def run_folder(config: Config, run: flags.RunConfig) -> RunFolder:
    """The folder that --run_dir names, or a new one named by model, data set and time."""
    if run.run_dir:
        return RunFolder(Path(run.run_dir))
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return RunFolder(Path("runs") / f"{config.model.model}-{Path(config.data.dataset).stem}-{now}")


def train_and_judge(config: Config, run: flags.RunConfig, folder: RunFolder, started: float) -> None:
    """The work, once the flags are known to be right. JAX is imported here, so that a wrong flag need not wait for it."""
    from data_prep.prepare import prepare

    prepared = prepare(config.data, run.data_dir, run.cache_dir)
    prepare_seconds = time.perf_counter() - started

    import jax

    from ttt4rec_jax import data, report
    from ttt4rec_jax.train import Trainer

    dataset = data.load(prepared)
    counts = dataset.manifest["counts"]
    platform = f"{jax.default_backend()}, {jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"data      {dataset.manifest['name']}, sha256 {dataset.manifest['sha256'][:16]}, in {prepared}")
    print(f"          {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions")
    print(f"platform  {platform}\nrun       {folder.path}", flush=True)
    folder.create(config)
    trainer = Trainer([config], dataset)
    print(
        f"model     {config.model.model}, {trainer.num_parameters:,} parameters, {trainer.count:,} training examples an epoch"
    )
    print(f"          compiled in {trainer.compile_seconds:.1f} s", flush=True)
    (outcome,) = trainer.fit(folder, [folder])
    seconds = {"prepare": prepare_seconds, "total": time.perf_counter() - started}
    result = report.result(config, dataset.manifest, outcome, seconds, platform)
    folder.write_result(result, outcome.test_ranks, dataset.test.users)
    print(f"\n{report.table(result)}\nleft in    {folder.path}", flush=True)


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 a mistake or a divergence told in one line, 130 interrupted."""
    started = time.perf_counter()
    folder = None
    try:
        values, given = flags.parse(argv, PURPOSE)
        saved = load_config(RunFolder(Path(values["run_dir"])).config) if values["resume"] and values["run_dir"] else None
        config, run = flags.settings(values, given, saved)
        folder = run_folder(config, run)
        folder.check(config, run.resume)
        train_and_judge(config, run, folder, started)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as interrupt:
        resume = f"; go on with: python {argv[0]} --resume --run_dir={folder.path}" if folder and folder.config.exists() else ""
        print(f"{str(interrupt) or 'interrupted'}{resume}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
