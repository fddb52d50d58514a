"""Checkpoints of a run: the last state (to resume) and the best parameters. The only module that knows orbax."""

import shutil
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
        self._last = ocp.CheckpointManager(folder / "last", options=ocp.CheckpointManagerOptions(max_to_keep=1))
        self._best = ocp.CheckpointManager(folder / "best", options=ocp.CheckpointManagerOptions(max_to_keep=1))

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
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_abstract(like)), progress=ocp.args.JsonRestore())
        restored = self._restore(self._last, step, args)
        return restored.state, restored.progress

    def load_best(self, like):
        """Parameters of the best epoch. `like`: parameters of the same shapes."""
        args = ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(like)))
        return self._restore(self._best, self._best.latest_step(), args).params

    def _restore(self, manager, step, args):
        try:
            return manager.restore(step, args=args)
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

    def remove_last(self) -> None:
        """Removes the train state of a run that is finished; the best parameters stay."""
        shutil.rmtree(self.folder / "last", ignore_errors=True)


def _abstract(tree):
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
