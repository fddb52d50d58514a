"""From settings to results on disk: prepare, train, judge, report. The command line's work, once its flags are right."""

import json
import os
import time
from pathlib import Path

import jax
from flax import nnx

from data_prep.prepare import prepare
from data_prep.settings import UserError
from ttt4rec_jax import models
from ttt4rec_jax.cli import result, sweep
from ttt4rec_jax.cli.flags import mesh_sizes
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data import batches
from ttt4rec_jax.data.dataset import Dataset, load_dataset
from ttt4rec_jax.parallel import processes
from ttt4rec_jax.parallel.sharding import DeviceMesh
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder, write_json
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.training import host_data, tensorboard
from ttt4rec_jax.training.trainer import DivergedError, Trainer


def keep_programs(folder: str) -> None:
    """Keeps compiled programs in a folder for the next run: "" for one in the user's cache, "none" for not at all."""
    if folder == "none":
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update(
        "jax_compilation_cache_dir",
        str(Path(folder or cache / "ttt4rec_jax" / "programs").resolve()),
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)


def run(
    combinations: dict[str, Config], where, root: RunFolder, flags: dict[str, list], started: float
) -> None:
    """Trains and judges every combination. where: flags.RunConfig; started: time.perf_counter() when the program began.

    Raises UserError, Interrupted (all saved, to be resumed).
    """
    keep_programs(where.program_cache)
    processes.start(where.coordinator, where.num_processes, where.process_id)
    if (
        len(combinations) > 1
    ):  # a CPU's cores train stacked runs better as devices of their own than together on each
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    config = next(iter(combinations.values()))
    if config.record.tensorboard:
        tensorboard.check_installed()
    mesh = device_mesh(where, len(combinations))
    prepared = prepare(config.data, where.data_dir, where.cache_dir)
    on_host = host_data.stays_on_host(where.data_placement, prepared)
    dataset = load_dataset(prepared, on_host)
    prepare_seconds = time.perf_counter() - started
    if not processes.is_first():
        if not where.dry_run:
            help_to_train(combinations, dataset, root, mesh)
        return
    counts = dataset.manifest["counts"]
    platform = f"{jax.default_backend()}, {jax.device_count()} x {jax.devices()[0].device_kind}"
    print(
        f"data      {dataset.manifest['name']}, sha256 {dataset.manifest['sha256'][:16]}, in {prepared}"
    )
    print(
        f"          {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions"
    )
    if without := dataset.users_without_negatives:
        print(
            f"          {without:,} users have training clicks on every item: they train without negatives"
        )
    print(
        f"platform  {platform}{', data on the host' * on_host}\nrun       {root.path}", flush=True
    )
    if where.dry_run:
        print(dry_run(combinations, dataset, root.path))
        return
    with root.locked():
        root.check(
            combinations, where.resume
        )  # again: another process may have begun a run here since
        items = catalogue.of_prepared(prepared, dataset)
        train_all(
            combinations, dataset, items, root, flags, prepare_seconds, started, platform, mesh
        )


def device_mesh(where, runs: int) -> DeviceMesh | None:
    """The mesh that --mesh asks for; of several processes, all their devices by default. Raises UserError."""
    if not where.mesh and jax.process_count() == 1:
        return None
    if runs > 1:  # flags.settings has refused --mesh; a cluster's processes are found here
        raise UserError(
            f"{jax.process_count()} processes train one run together, and this is a sweep of {runs}; start one process"
        )
    if jax.process_count() > 1 and not where.run_dir:
        raise UserError(
            "--run_dir: several processes train together; name a folder that all of them can read"
        )
    return DeviceMesh(*(mesh_sizes(where.mesh) if where.mesh else (jax.device_count(), 1)))


def help_to_train(
    combinations: dict[str, Config], dataset: Dataset, root: RunFolder, mesh: DeviceMesh
) -> None:
    """What a process that is not the first does: its part of the run, and nothing that is seen."""
    (config,) = combinations.values()
    Trainer([config], dataset, mesh).fit(root, [root], log=lambda line: None)


def train_all(
    combinations: dict[str, Config],
    dataset: Dataset,
    items: Catalogue,
    root: RunFolder,
    flags,
    prepare_seconds,
    started,
    platform,
    mesh: DeviceMesh | None = None,
) -> None:
    """Trains every combination that has no result yet, and leaves results and, of several, their table in the folder."""
    folders = {name: RunFolder(root.path / name) for name in combinations}
    config = next(iter(combinations.values()))
    is_sweep = list(combinations) != [""]
    select_by = config.eval.select_by
    results = {}
    if is_sweep:  # first, so that --resume knows the sweep wherever it is cut off
        sweep.write(root.path, flags, [], select_by)
        results = {name: found for name, folder in folders.items() if (found := finished(folder))}
    for name, folder in folders.items():
        folder.create(combinations[name])
        catalogue.leave(folder, items, dataset, MODELS[combinations[name].model.model].trained)
    waiting = {name: config for name, config in combinations.items() if name not in results}
    programs = sweep.groups(waiting, sweep.begun(root.path, combinations))
    for number, group in enumerate(programs):
        if is_sweep:
            print(
                f"\nprogram {number + 1} of {len(programs)}: {len(group)} combinations trained together",
                flush=True,
            )
        for name, outcome in train_group(group, dataset, root.path, folders, mesh).items():
            if name in results:
                continue
            seconds = {"prepare": prepare_seconds, "total": time.perf_counter() - started}
            if isinstance(outcome, DivergedError):
                results[name] = {"error": str(outcome)}
                write_json(folders[name].error, results[name])
                continue
            results[name] = result.result(
                combinations[name], dataset.manifest, outcome, seconds, platform
            )
            folders[name].write_result(results[name], outcome.test_ranks, dataset.test.users)
            if not is_sweep:
                print(f"\n{result.table(results[name])}")
    if is_sweep:
        rows = sweep.rows(results, select_by)
        sweep.write(root.path, flags, rows, select_by)
        sweep.draw(root.path, flags, rows, select_by)
        print(f"\n{sweep.table(rows, select_by)}")
        if all(row["error"] for row in rows):
            raise UserError(f"no combination has a result; see {root.path / 'sweep.json'}")
    print(f"left in    {root.path}", flush=True)


def dry_run(combinations: dict[str, Config], dataset: Dataset, root: Path) -> str:
    """What `run` would train in this folder, in lines; compiles and writes nothing."""
    waiting = {
        name: config
        for name, config in combinations.items()
        if not finished(RunFolder(root / name))
    }
    programs = sweep.groups(waiting)
    return sweep.plan(
        programs,
        [size(next(iter(g.values())), dataset) for g in programs],
        len(combinations) - len(waiting),
    )


def size(config: Config, dataset: Dataset) -> tuple[int, int, int]:
    """(examples of an epoch, its steps, the model's parameters)."""
    training = models.TrainingClicks.from_dataset(dataset)
    module = nnx.eval_shape(
        lambda: models.build(config.model, dataset.num_items, 0, training=training)
    )
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(module, nnx.Param)))
    if not MODELS[config.model.model].trained:
        return 0, 0, parameters
    examples, buckets = batches.training_examples(dataset, config)
    return len(examples.ends), sum(map(batches.steps_of, buckets)), parameters


def train_group(
    group: dict[str, Config],
    dataset: Dataset,
    root: Path,
    folders: dict[str, RunFolder],
    mesh: DeviceMesh | None = None,
) -> dict:
    """{name: Outcome or DivergedError} of combinations that share a program."""
    trainer = Trainer(list(group.values()), dataset, mesh)
    config = next(iter(group.values()))
    examples = f"{trainer.count:,} training examples an epoch"
    details = f", TTT layers as {trainer.ttt_impl}" if trainer.ttt_impl else ""
    print(
        f"model     {config.model.model}, {trainer.num_parameters:,} parameters, {examples}{details}"
    )
    print(f"          compiled in {trainer.compile_seconds:.1f} s", flush=True)
    try:
        outcomes = trainer.fit(sweep.begin(root, list(group)), [folders[name] for name in group])
    except DivergedError as error:
        if list(group) == [""]:
            raise
        outcomes = [error] * len(group)
    return dict(zip(group, outcomes, strict=True))


def finished(folder: RunFolder) -> dict | None:
    """The result, or the error, that a combination's folder holds already."""
    for path in (folder.result, folder.error):
        if path.exists():
            return json.loads(path.read_text())
    return None
