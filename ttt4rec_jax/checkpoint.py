"""Checkpoints of a run: the last state (to resume) and the best parameters. The only module that knows orbax."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from data_prep.settings import UserError


class Checkpoints:
    """The folder checkpoints/ of a run: last/<step> with the train state and progress, best/<epoch> with parameters.

    Saves are asynchronous; a checkpoint that is not whole is never seen, since orbax renames it into place.
    """

    def __init__(self, folder: Path):
        folder = folder.resolve()
        self.folder = folder
        self._last = self._manager("last", state=ocp.StandardCheckpointHandler(), progress=ocp.JsonCheckpointHandler())
        self._best = self._manager("best", params=ocp.StandardCheckpointHandler())

    def _manager(self, name: str, **handlers) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.folder / name, options=ocp.CheckpointManagerOptions(max_to_keep=1), item_handlers=handlers
        )

    def save_last(self, step: int, state, progress: dict) -> None:
        """Saves the whole train state after `step` steps, with what else is needed to go on (JSON)."""
        if step not in self._last.all_steps():
            self._save(self._last, step, state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))

    def save_best(self, epoch: int, params) -> None:
        """Saves the parameters of the best epoch so far, in place of those before."""
        self._save(self._best, epoch, params=ocp.args.StandardSave(params))

    def _save(self, manager, step: int, **items) -> None:
        try:
            manager.save(step, args=ocp.args.Composite(**items))
        except OSError as error:
            raise UserError(
                f"{self.folder}: a checkpoint cannot be written ({error}); free some space, then --resume"
            ) from error

    def load_last(self, like):
        """(state, progress) of the last checkpoint, or None. `like`: a state of the same shapes."""
        step = self._last.latest_step()
        if step is None:
            return None
        restored = self._restore(
            self._last, step, "state", like, state=ocp.args.StandardRestore(_abstract(like)), progress=ocp.args.JsonRestore()
        )
        return restored.state, restored.progress

    def load_best(self, like):
        """Parameters of the best epoch. `like`: parameters of the same shapes."""
        args = {"params": ocp.args.StandardRestore(_abstract(like))}
        return self._restore(self._best, self._best.latest_step(), "params", like, **args).params

    def _restore(self, manager, step, name, like, **args):
        manager.wait_until_finished()
        try:
            saved, asked = shapes(manager.item_metadata(step)[name].tree), shapes(like)
            if different := sorted(saved.items() ^ asked.items()):
                path = different[0][0]
                found, expected = saved.get(path, "nothing"), asked.get(path, "nothing")
                raise UserError(
                    f"{self.folder}: checkpoint {step} is of another program: found {found} for {path}, expected {expected}; "
                    "resume with the flags of the run, or start a new run"
                )
            return manager.restore(step, args=ocp.args.Composite(**args))
        except UserError:
            raise
        except (ValueError, OSError, KeyError) as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{self.folder}: checkpoint {step} cannot be read ({line}); start a new run") from error

    def forget_best_after(self, epoch: int) -> None:
        """Removes a best checkpoint of a later epoch than the run resumes from: that epoch will be trained again."""
        for later in self._best.all_steps():
            if later > epoch:
                self._best.delete(later)

    def wait(self) -> None:
        """Returns once everything is on disk."""
        self._last.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self.wait()
        self._last.close()
        self._best.close()


def shapes(tree) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a tree's arrays, or of their metadata; a field, a key and an index are all just names."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves if hasattr(x, "shape")}


def _abstract(tree):
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
