"""Checkpoints: a tree of arrays and the training progress, verified when they are read.

<step>/tree/              the arrays, as orbax writes them
<step>/progress/metadata  a JSON object
<step>/sha256.json        {file: digest} of all the others

No other module imports orbax.
"""

import errno
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_prep import atomic
from data_prep.files import file_digest, read_json
from data_prep.settings import UserError, first_line

logger = logging.getLogger(__name__)
PyTree: TypeAlias = Any
MAX_TO_KEEP = 2  # the newest checkpoint, and one to fall back to
ARRAY_OVERHEAD = 4096  # upper bound on the bytes written per array in addition to its values
TREE = "tree"
PROGRESS = "progress/metadata"
DIGESTS = "sha256.json"
# what orbax and json raise for damaged files
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


class Checkpoints:
    """A folder with the MAX_TO_KEEP newest checkpoints that were saved into it.

    writer: the thread that saves; None if another process does. Checkpoints that share a writer
    are saved in the order of their requests. A checkpoint is renamed to its step's number only
    when it is on disk with its digests, so that a folder of this name is always complete.
    """

    def __init__(self, folder: Path, writer: Executor | None = None):
        self.folder = folder.resolve()
        self._writer = writer
        self._pending: Future[None] | None = None

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, ascending."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        numbers = {name: int(name) for name in names if name.isascii() and name.isdecimal()}
        return sorted(number for name, number in numbers.items() if name == str(number))

    def save(self, step: int, tree: PyTree, progress: dict[str, Any] | None = None) -> None:
        """Save a tree in the background. An existing checkpoint of the same step is kept as it is.

        Raises UserError if the save before this one failed; the checkpoints before it are intact.
        """
        self.wait()
        if self._writer is not None and step not in self.steps():
            # Copy, since the next training step reuses the device's buffers.
            copies = jax.tree.map(np.array, tree)
            self._pending = self._writer.submit(self._write, step, copies, progress or {})

    def wait(self) -> None:
        """Wait until everything is on disk. Raises UserError if it could not be written."""
        pending = self._pending
        self._pending = None
        if pending is not None:
            pending.result()

    def load(
        self,
        like: PyTree,
        step: int | None = None,
        check: Callable[[dict[str, Any]], str] = lambda progress: "",
    ) -> tuple[PyTree, dict[str, Any]] | None:
        """Return (tree, progress) of the newest usable checkpoint; None if there is none at all.

        like: a tree of the same shapes, whose arrays are on the devices to restore to. step: the
        only checkpoint to consider. check: returns what is wrong with a checkpoint, given its
        progress, or "". Logs a warning for each checkpoint that is skipped. Raises UserError if
        none can be used, or if one has different shapes.
        """
        self.wait()
        steps = self.steps() if step is None else [step]
        problem = ""
        for candidate in reversed(steps):
            path = self.folder / str(candidate)
            if not (problem := self.problem(candidate)):
                try:
                    progress = read_json(path / PROGRESS)
                    if not (problem := check(progress)):
                        return self._restore(path, like), progress
                except UserError:
                    raise
                except UNREADABLE as error:
                    problem = first_line(error)
            if step is None:
                logger.warning("%s: CHECKPOINT NOT USED, %s", path, problem)
        if not steps:
            return None
        which = "no checkpoint in it can" if step is None else f"checkpoint {step} cannot"
        raise UserError(
            f"{self.folder}: {which} be used ({problem}); "
            "copy the run's folder again, or start a new run"
        )

    def problem(self, step: int) -> str:
        """Return what is wrong with a checkpoint, or "" if all of its files are intact."""
        path = self.folder / str(step)
        if not path.is_dir():
            return "it is missing"
        if not (path / DIGESTS).exists():
            logger.warning(
                "%s: has no %s (from an earlier version?), so it is not verified", path, DIGESTS
            )
            return ""
        try:
            digests = read_json(path / DIGESTS)
            if any(".." in Path(name).parts or Path(name).is_absolute() for name in digests):
                return f"{DIGESTS} names files outside the checkpoint"
            missing = [name for name in digests if not (path / name).is_file()]
            changed = [
                name
                for name, digest in digests.items()
                if name not in missing and file_digest(path / name) != digest
            ]
        except UNREADABLE as error:
            return f"{DIGESTS}: {first_line(error)}"
        problems = [f"{name} is missing" for name in missing]
        problems += [f"{name} has changed since it was written" for name in changed]
        return ", ".join(problems)

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, which training will write again."""
        for later in self.steps() if self._writer is not None else ():
            if later > step:
                atomic.remove(self.folder / str(later))

    def check_shapes(self, like: PyTree) -> None:
        """Raise UserError if the newest checkpoint with readable metadata has other shapes.

        Nothing else is read, so that `like` may be a tree of shapes that would fill any memory.
        """
        for step in reversed(self.steps()):
            path = self.folder / str(step)
            try:
                with checkpointer() as reader:
                    saved = shapes(reader.metadata(path / TREE).item_metadata.tree)
            except UNREADABLE:  # `load` says what is wrong with it
                continue
            self._compare(path, saved, like)
            return

    def _compare(self, path: Path, saved: dict[str, tuple[int, ...]], like: PyTree) -> None:
        """Raise UserError if the shapes of a checkpoint differ from like's."""
        wanted = shapes(like)
        if saved == wanted:
            return
        names = saved.keys() | wanted.keys()
        name = min(name for name in names if saved.get(name) != wanted.get(name))
        raise UserError(
            f"{self.folder}: checkpoint {path.name} does not fit the settings: {name} has shape "
            f"{saved.get(name, 'none')}, expected {wanted.get(name, 'none')}; "
            "resume with the flags of the run, or start a new run"
        )

    def _restore(self, path: Path, like: PyTree) -> PyTree:
        """Return the arrays of a checkpoint. Raises UserError if the shapes differ from like's."""
        with checkpointer() as reader:
            self._compare(path, shapes(reader.metadata(path / TREE).item_metadata.tree), like)
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return reader.restore(path / TREE, args=ocp.args.StandardRestore(abstract))

    def _write(self, step: int, tree: PyTree, progress: dict[str, Any]) -> None:
        """Write a checkpoint and remove the oldest. Raises UserError if it cannot be written."""
        try:
            if self.folder.is_dir():
                for leftover in filter(atomic.is_leftover, self.folder.iterdir()):
                    atomic.remove(leftover)  # left by a process that was killed
            with atomic.folder(self.folder / str(step)) as new:
                _fill(new, tree, progress)
            for old in self.steps()[:-MAX_TO_KEEP]:
                atomic.remove(self.folder / str(old))
        except (OSError, ValueError) as error:  # ValueError: raised by tensorstore, below orbax
            raise UserError(
                f"{self.folder}: checkpoint {step} cannot be written ({reason(error)}); earlier "
                "ones are intact; free disk space or make the folder writable, then --resume"
            ) from error


def _fill(folder: Path, tree: PyTree, progress: dict[str, Any]) -> None:
    """Write a checkpoint's files into an empty folder."""
    sizes = (x.nbytes + ARRAY_OVERHEAD for x in jax.tree.leaves(tree))
    reserve(folder / "room", sum(sizes))
    with checkpointer() as writer:
        writer.save(folder / TREE, args=ocp.args.StandardSave(tree))
    (folder / PROGRESS).parent.mkdir()
    (folder / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def reserve(path: Path, size: int) -> None:
    """Raise OSError if the disk has no room for `size` bytes.

    If the threads of orbax found the disk full, they would print tracebacks.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        path.unlink()


def checkpointer() -> ocp.Checkpointer:
    """Return orbax's reader and writer, without its barriers between processes of one run."""
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"of-{here}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def reason(error: Exception) -> str:
    """Return the system's reason why writing failed, which tensorstore wraps in a long text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
    known = map(os.strerror, numbers)
    return next((text for text in known if text in str(error)), first_line(error))


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Return {path: shape} of a tree's arrays or of their metadata.

    In a path, a field, a key and an index of the same name look alike.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x.shape
        for path, x in leaves
        if hasattr(x, "shape")
    }
