"""A finished run in Python: its history and metrics, its model, its recommender."""

import functools
import html
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from flax import nnx

from data_prep import atomic
from data_prep.settings import UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.config.judged import JudgedConfig
from ttt4rec_jax.pipeline import result as results
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.load import load_run, provide
from ttt4rec_jax.serving.export import export_run
from ttt4rec_jax.serving.recommender import Recommender

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run:
    """A finished run, read from its folder.

    path: the folder. config: the settings. result: the content of result.json.
    """

    def __init__(self, path: str | Path, temporary: tempfile.TemporaryDirectory | None = None):
        """temporary: the folder that holds `path`, if it is to be removed with this object."""
        self.path = Path(path)
        if read.is_sweep(self.path):
            raise UserError(f"{path}: a sweep; name the folder of one of its combinations")
        self._temporary = temporary
        finished = read.read(self.path)
        if isinstance(finished.config, JudgedConfig):
            raise UserError(
                f"{path}: a recommender from elsewhere, without a model; name the folder of "
                "a run, or give this one to compare"
            )
        self.config: Config = finished.config
        self.result: dict[str, Any] = finished.result

    @property
    def test(self) -> dict[str, dict[str, float]]:
        """The test metrics by protocol: `test["full"]["ndcg@10"]`, `test["sampled"]["hit@10"]`."""
        return self.result["test"]

    @property
    def validation(self) -> dict[str, dict[str, float]]:
        """The validation metrics of the best epoch, by protocol."""
        return self.result["validation"]

    @property
    def best_epoch(self) -> int:
        """The epoch that validation chose, from 1; 0 for a model that is not trained."""
        return self.result["best_epoch"]

    @functools.cached_property
    def history(self) -> list[dict[str, Any]]:
        """The epochs in order: number, loss, validation metrics, seconds."""
        return read.history(self.path)

    @property
    def history_table(self) -> pl.DataFrame:
        """The epochs as a table, with a column for each metric, such as "sampled/ndcg@10"."""
        rows = []
        for line in self.history:
            row = {name: line[name] for name in ("epoch", "loss", "seconds")}
            for protocol, metrics in line["validation"].items():
                row |= {f"{protocol}/{name}": value for name, value in metrics.items()}
            rows.append(row)
        return pl.DataFrame(rows)

    def plot(self, metric: str = "ndcg@10") -> "Figure":
        """Return a figure of the loss and of a validation metric by epoch. Raises UserError."""
        if not self.history:
            raise UserError(f"plot: {self.config.model.model} is not trained, so it has no epochs")
        from ttt4rec_jax import plots  # matplotlib takes a second to import

        return plots.curves({self.config.model.model: self.history}, metric)

    def recommender(self) -> Recommender:
        """Return a Recommender of the best parameters. It needs the folder no longer."""
        return Recommender.load(self.path)

    def model(self) -> nnx.Module:
        """Return the Flax module with the best parameters."""
        _, graphdef, params, _ = load_run(self.path)
        return nnx.merge(graphdef, params)

    def save(self, folder: str | Path) -> "Run":
        """Copy the run into a new folder, and return the run there. Raises UserError."""
        folder = Path(folder)
        if not RunFolder(folder).is_free():
            raise UserError(f"save: {folder} exists and is not empty; name another folder")
        if found := atomic.foreign(self.path):
            raise UserError(f"save: nothing is copied from a folder with {found}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with atomic.folder(folder, replace=True) as new:
                shutil.copytree(self.path, new, dirs_exist_ok=True)
        except OSError as error:
            raise UserError(
                f"save: {folder} cannot be written ({error.strerror or error}); name another folder"
            ) from error
        return Run(folder)

    def export(self, folder: str | Path, k: int = 100) -> dict[str, Any]:
        """Write an export that serves without this package, and return its manifest.

        k: the largest number of items that a request can ask for. While programs are lowered,
        jax_traceback_in_locations_limit is 0, so that they name no files of this machine. Raises
        UserError.
        """
        return export_run(self.path, folder, k)

    def __str__(self) -> str:
        """Return the table that closes a run on the command line."""
        return results.table(self.result)

    def __repr__(self) -> str:
        """Return the run in one line."""
        test = self.test
        figures = ", ".join(f"{p} NDCG@10 {test[p]['ndcg@10']:.4f}" for p in test)
        return f"Run({self.result['model']} on {self.result['dataset']['name']}: test {figures})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return f"<pre>{html.escape(str(self))}</pre>"


def load(run_dir: str | Path, *, model: Any = None, inner: Any = None) -> Run:
    """Return the finished run in a folder, also one that the command line has left.

    model, inner: the class, or "module:Class", of a model of your own, and the inner learner: a
    folder alone does not decide which code is imported. Raises UserError.
    """
    provide(Path(run_dir), model, inner)
    return Run(run_dir)
