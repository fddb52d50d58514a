"""Resume a run: whether its folder allows it, and with which settings. Imports no JAX."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data_prep.settings import UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.pipeline import presets, sweep
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder, load_config


def check_folder(root: RunFolder, combinations: dict[str, Config], is_resuming: bool) -> None:
    """Raise UserError if these runs cannot be written into the folder.

    Without --resume, the folder must be free. With it, each run in it must have been started with
    the same settings and have finished at most the epochs that are now requested.
    """
    root.check(combinations, is_resuming)
    if not is_resuming:
        return
    for name, config in combinations.items():
        folder = RunFolder(root.path / name)
        finished = folder.epochs_logged()
        epochs = config.train.epochs
        if finished > epochs:
            raise UserError(
                f"--resume: {folder.path} has {finished} finished epochs, but --epochs={epochs}; "
                f"give --epochs={finished} or more, or start a new run in another --run_dir"
            )


def check_data(root: RunFolder, combinations: Iterable[str], sha256: str) -> None:
    """Raise UserError if a run in the folder was started on other data than those of this digest.

    combinations: names of folders in this one.
    """
    for name in combinations:
        folder = RunFolder(root.path / name)
        before = read.data_digest(folder.path)
        if before and before != sha256:
            raise UserError(
                f"--resume: {folder.path} was started on data with sha256 {before[:16]}, found "
                f"{sha256[:16]}; give the data that it was started on, or start a new run in "
                "another --run_dir"
            )


def saved_settings(root: Path) -> dict[str, list]:
    """Return the flags of the run or sweep in a folder. Raises UserError if it holds none."""
    saved = sweep.saved_flags(root)
    if saved is not None:
        return saved
    sections = load_config(RunFolder(root).config).to_dict()
    return {name: [value] for section in sections.values() for name, value in section.items()}


def holds_run(root: RunFolder) -> bool:
    """Return whether a folder holds a run or a sweep that can be resumed."""
    return root.config.exists() or (root.path / "sweep.json").exists()


def complete(lists: dict[str, list], given: set[str], log: Callable[[str], Any]) -> dict[str, list]:
    """Return the flags' values; those not given are those of the resumed run, or of the preset.

    --resume in a free folder starts a new run there if other flags describe it, since the run may
    have been stopped before it wrote anything. With nothing but a path, which may be mistyped, it
    is refused.
    """
    run_dir = lists["run_dir"][0]
    if lists["resume"][0] and run_dir:
        described = given - {field.name for field in dataclasses.fields(RunConfig)}
        if not described or not RunFolder(Path(run_dir)).is_free():
            saved = saved_settings(Path(run_dir))
            return lists | {name: saved[name] for name in saved if name not in given}
        log(f"nothing to resume in {run_dir}: starting there")
    return presets.apply(lists, given)
