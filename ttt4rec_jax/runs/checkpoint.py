"""Checkpoints: a tree of arrays and what else is needed to go on, verified when read. The only module that knows orbax.

<step>/tree/              the arrays, as orbax writes them
<step>/progress/metadata  a JSON object
<step>/sha256.json        {file: digest} of all the others
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_prep.files import file_digest, sync
from data_prep.settings import UserError, first_line

logger = logging.getLogger(__name__)
KEPT = 2  # the newest, and one to fall back to
PART = ".part"  # how the name of a checkpoint that is not whole ends
OF_EACH_ARRAY = 4096  # bytes that are written beside an array's own, at most
TREE = "tree"
PROGRESS = "progress/metadata"
DIGESTS = "sha256.json"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what orbax and json raise for damaged files


class Checkpoints:
    """A folder that keeps the KEPT newest of what is saved in it. writer: the thread that saves; None: another process saves.

    A checkpoint is filled under another name, synced, and renamed when its digests are in it: what
    bears a step's name is whole. Those that share a writer are saved in the order that they are
    asked for.
    """

    def __init__(self, folder: Path, writer: Executor | None = None):
        self.folder = folder.resolve()
        self._writer = writer
        self._pending: Future | None = None

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, ascending."""
        names = (path.name for path in self.folder.iterdir()) if self.folder.is_dir() else ()
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def save(self, step: int, tree, progress: dict | None = None) -> None:
        """Saves a tree beside those before, in the background; one that is there for this step already is left alone.

        Raises UserError if it cannot, or the save before it could not, be written; what was there
        is intact.
        """
        self.wait()
        if self._writer is not None and step not in self.steps():
            # copies, since the device's buffers are given to the next step
            self._pending = self._writer.submit(self._write, step, jax.tree.map(np.array, tree), progress or {})

    def wait(self) -> None:
        """Returns once everything is on disk. Raises UserError if it could not be written."""
        pending = self._pending
        self._pending = None
        if pending is not None:
            pending.result()

    def load(self, like, step: int | None = None, check: Callable[[dict], str] = lambda progress: ""):
        """(tree, progress) of the newest checkpoint that is whole, or of `step` alone; None if there are none at all.

        like: a tree of the same shapes, each array on the device where it is wanted. check: what
        speaks against a checkpoint by its progress, "" if nothing. Logs a warning for each that is
        passed over. Raises UserError if none can be used, or one is of other shapes.
        """
        self.wait()
        steps = self.steps() if step is None else [step]
        problem = ""
        for candidate in reversed(steps):
            path = self.folder / str(candidate)
            if not (problem := self.problem(candidate)):
                try:
                    progress = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
                    if not (problem := check(progress)):
                        return self._restored(path, like), progress
                except UserError:
                    raise
                except UNREADABLE as error:
                    problem = first_line(error)
            if step is None:
                logger.warning("%s: CHECKPOINT NOT USED, %s", path, problem)
        if not steps:
            return None
        which = "no checkpoint in it can" if step is None else f"checkpoint {step} cannot"
        raise UserError(f"{self.folder}: {which} be used ({problem}); copy the run's folder anew, or start a new run")

    def problem(self, step: int) -> str:
        """What is wrong with a step's checkpoint, "" if nothing: every file is there with the content that was written."""
        path = self.folder / str(step)
        if not path.is_dir():
            return "it is missing"
        if not (path / DIGESTS).exists():
            logger.warning("%s: has no %s (of an earlier version?), so it is not verified", path, DIGESTS)
            return ""
        try:
            digests = json.loads((path / DIGESTS).read_text(encoding="utf-8"))
            missing = [name for name in digests if not (path / name).is_file()]
            changed = [name for name, digest in digests.items() if name not in missing and file_digest(path / name) != digest]
        except UNREADABLE as error:
            return f"{DIGESTS}: {first_line(error)}"
        found = [f"{name} is missing" for name in missing] + [f"{name} is not as it was written" for name in changed]
        return ", ".join(found)

    def forget_after(self, step: int) -> None:
        """Removes checkpoints of later steps than training resumes from: they will be made again."""
        for later in self.steps() if self._writer is not None else ():
            if later > step:
                shutil.rmtree(self.folder / str(later))

    def _restored(self, path: Path, like):
        with checkpointer() as reader:
            saved = shapes(reader.metadata(path / TREE).item_metadata.tree)
            asked = shapes(like)
            if saved == asked:
                abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
                return reader.restore(path / TREE, args=ocp.args.StandardRestore(abstract))
        name = min(name for name in saved.keys() | asked.keys() if saved.get(name) != asked.get(name))
        found = saved.get(name, "nothing")
        expected = asked.get(name, "nothing")
        raise UserError(
            f"{self.folder}: checkpoint {path.name} is of another program: found {found} for {name}, expected {expected}; "
            "resume with the flags of the run, or start a new run"
        )

    def _write(self, step: int, tree, progress: dict) -> None:
        part = self.folder / f"{step}{PART}"
        try:
            for left in self.folder.glob(f"*{PART}"):  # by a process that was killed
                shutil.rmtree(left)
            part.mkdir(parents=True)
            reserve(part / "room", sum(x.nbytes + OF_EACH_ARRAY for x in jax.tree.leaves(tree)))
            with checkpointer() as writer:
                writer.save(part / TREE, args=ocp.args.StandardSave(tree))
            (part / PROGRESS).parent.mkdir()
            (part / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
            files = sorted(path for path in part.rglob("*") if path.is_file())
            digests = {path.relative_to(part).as_posix(): file_digest(path) for path in files}
            (part / DIGESTS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
            for path in (*part.rglob("*"), part):
                sync(path)
            os.rename(part, self.folder / str(step))
            sync(self.folder)
            for old in self.steps()[:-KEPT]:
                shutil.rmtree(self.folder / str(old))
        except (OSError, ValueError) as error:  # ValueError: tensorstore's, from below orbax
            shutil.rmtree(part, ignore_errors=True)
            text = f"checkpoint {step} cannot be written ({reason(error)}); those before it are intact"
            raise UserError(f"{self.folder}: {text}; make room or make it writable, then --resume") from error


def reserve(path: Path, size: int) -> None:
    """Asks for room on the disk. Raises OSError if there is not so much; orbax's threads would tell it in many lines."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        path.unlink()


def checkpointer() -> ocp.Checkpointer:
    """Orbax's reader and writer, which asks nothing of other processes that train the same run."""
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"of-{here}")
    return ocp.Checkpointer(ocp.StandardCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def reason(error: Exception) -> str:
    """Why something could not be written: the system's own words, also where tensorstore reports them at length."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO))
    return next((text for text in known if text in str(error)), first_line(error))


def shapes(tree) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a tree's arrays, or of their metadata; a field, a key and an index are all just names."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves if hasattr(x, "shape")}
