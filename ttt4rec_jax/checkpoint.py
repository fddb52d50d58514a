"""Checkpoints: a tree of arrays and what else is needed to go on. The only module that knows orbax."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from data_prep.settings import UserError


class Checkpoints:
    """A folder that keeps the newest of what is saved in it: <step>/ with a tree of arrays and a JSON object.

    Saves are asynchronous; a checkpoint that is not whole is never seen, since orbax renames it into place.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        handlers = {"tree": ocp.StandardCheckpointHandler(), "progress": ocp.JsonCheckpointHandler()}
        options = ocp.CheckpointManagerOptions(max_to_keep=1)
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(self, step: int, tree, progress: dict | None = None) -> None:
        """Saves a tree in place of those before; one that is there for this step already is left alone."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(tree=ocp.args.StandardSave(tree), progress=ocp.args.JsonSave(progress or {}))
        try:
            self._manager.save(step, args=args)
        except OSError as error:
            text = f"{self.folder}: a checkpoint cannot be written ({error}); free some space, then --resume"
            raise UserError(text) from error

    def load(self, like):
        """(tree, progress) of the newest checkpoint, or None. `like`: a tree of the same shapes.

        Raises UserError if the shapes are others, or the files cannot be read.
        """
        self.wait()
        step = self._manager.latest_step()
        if step is None:
            return None
        try:
            saved, asked = shapes(self._manager.item_metadata(step)["tree"].tree), shapes(like)
            if saved == asked:
                abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
                args = ocp.args.Composite(tree=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
                restored = self._manager.restore(step, args=args)
                return restored.tree, restored.progress
        except (ValueError, OSError, KeyError, AttributeError) as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{self.folder}: checkpoint {step} cannot be read ({line}); start a new run") from error
        path = min(path for path in saved.keys() | asked.keys() if saved.get(path) != asked.get(path))
        found, expected = saved.get(path, "nothing"), asked.get(path, "nothing")
        raise UserError(
            f"{self.folder}: checkpoint {step} is of another program: found {found} for {path}, expected {expected}; "
            "resume with the flags of the run, or start a new run"
        )

    def forget_after(self, step: int) -> None:
        """Removes checkpoints of later steps than training resumes from: they will be made again."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    def wait(self) -> None:
        """Returns once everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self._manager.close()


def shapes(tree) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a tree's arrays, or of their metadata; a field, a key and an index are all just names."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves if hasattr(x, "shape")}
