"""Evaluating anything that scores candidates, in Python."""

from typing import Any

from flax import nnx

from data_prep.settings import UserError
from ttt4rec_jax.api.data import Data, Source, as_data
from ttt4rec_jax.api.run import Run
from ttt4rec_jax.data.batches import device_clicks
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.evaluation.evaluator import Evaluator, NonFiniteScoresError
from ttt4rec_jax.evaluation.scorer import rank_by_scorer
from ttt4rec_jax.metrics import Ranks, summarise
from ttt4rec_jax.models import PairScorer, TwoTower

SPLITS = ("test", "validation")


def evaluate(
    scorer: Any,
    data: Data | Source,
    *,
    split: str = "test",
    max_len: int | None = None,
    batch_size: int = 256,
) -> dict[str, dict[str, float]]:
    """Return the metrics of both protocols, {"sampled": {...}, "full": {...}}.

    Args:
        scorer: A Run; a Flax module with the interface of ttt4rec_jax.models; or a function
            scores = f(histories, candidates). histories [B, L] int32 holds the items that each user
            clicked before the target, the last L of them, padded with 0 at the right; candidates
            [B, C] int32; scores [B, C], anything that NumPy reads. Items are the numbers of
            data.items.
        split: "test" or "validation".
        max_len: L; by default that of the Run, or 50.
        batch_size: The number of users in a call of a function, fewer for a large catalogue.

    Raises UserError if the scorer's scores have another shape or are NaN, or if a Run was trained
    on other data.
    """
    if split not in SPLITS:
        raise UserError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    data = as_data(data)
    dataset = data.dataset
    if isinstance(scorer, Run):
        _check_data(scorer, dataset)
        max_len = max_len or scorer.config.model.max_len
        scorer = scorer.model()
    max_len = 50 if max_len is None else max_len
    if max_len < 1 or batch_size < 1:
        raise UserError(f"max_len, batch_size: found {max_len}, {batch_size}, expected at least 1")
    if isinstance(scorer, nnx.Module):
        ranks = _rank_module(scorer, dataset, split, max_len)
    elif callable(scorer):
        ranks = rank_by_scorer(scorer, dataset, split, max_len, batch_size)
    else:
        raise UserError(
            f"scorer: {scorer!r} is not a Run, a Flax module or a function of "
            "(histories, candidates)"
        )
    return {protocol: summarise(of_protocol) for protocol, of_protocol in ranks.items()}


def _check_data(run: Run, dataset: Dataset) -> None:
    """Raise UserError unless a run was trained on these data."""
    trained = run.result["dataset"]["sha256"]
    given = dataset.manifest["sha256"]
    if trained != given:
        raise UserError(
            f"data: sha256 {given[:16]}, but the run was trained on {trained[:16]}; "
            "prepare the data as for the run"
        )


def _rank_module(
    module: nnx.Module, dataset: Dataset, split: str, max_len: int
) -> dict[str, Ranks]:
    """Return the ranks by a module of this package's interface. Raises UserError."""
    if not isinstance(module, TwoTower | PairScorer):
        raise UserError(
            f"scorer: {type(module).__name__} has neither encode and item_vectors nor score; "
            "give it the methods of ttt4rec_jax.models.interface, or give a function"
        )
    graphdef, params = nnx.split(module)
    evaluator = Evaluator(
        graphdef, nnx.to_pure_dict(params), dataset, device_clicks(dataset), max_len
    )
    try:
        return evaluator(nnx.to_pure_dict(params), split)
    except NonFiniteScoresError as error:
        raise UserError(f"scorer: {error}") from error
