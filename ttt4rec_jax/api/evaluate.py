"""Evaluating anything that scores candidates, and the lists of any recommender, in Python."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from flax import nnx

from data_prep.settings import UserError
from ttt4rec_jax.api.data import Data, Source, as_data
from ttt4rec_jax.api.run import Run
from ttt4rec_jax.config.judged import JudgedConfig
from ttt4rec_jax.data.clicks import device_clicks
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.evaluation.evaluator import Evaluator, NonFiniteScoresError
from ttt4rec_jax.evaluation.scorer import rank_by_scorer
from ttt4rec_jax.metrics import CUTOFFS, Ranks, cutoffs, summarise
from ttt4rec_jax.models import PairScorer, TwoTower
from ttt4rec_jax.pipeline import judged

logger = logging.getLogger(__name__)
SPLITS = ("test", "validation")


class Evaluation(dict[str, dict[str, float]]):
    """Metrics by protocol, {"sampled": {...}, "full": {...}}.

    notes: what was found in lists and scores, in sentences. bounds: {protocol: {k: bounds}} of the
    metrics that short lists do not determine, which are lower bounds. more: of the test set, what
    result.json has beside: beyond_accuracy, segments, and test_by_item (warm and cold targets).
    """

    notes: tuple[str, ...] = ()
    bounds: Mapping[str, Any] = MappingProxyType({})
    more: Mapping[str, Any] = MappingProxyType({})


def evaluate(
    scorer: Any = None,
    data: Data | Source = None,
    *,
    recommendations: Any = None,
    scores: Any = None,
    split: str = "test",
    max_len: int | None = None,
    batch_size: int = 256,
    top_k: Sequence[int] | None = None,
    segments: bool = False,
    categories: Any = None,
    run_dir: str | Path | None = None,
    name: str = "",
    seed: int = 0,
) -> Evaluation:
    """Return the metrics of a scorer by both protocols, or of a recommender's lists and scores.

    Args:
        scorer: A Run; a Flax module with the interface of ttt4rec_jax.models; or a function
            scores = f(histories, candidates). histories [B, L] int32 holds the items that each user
            clicked before the target, the last L of them, padded with 0 at the right; candidates
            [B, C] int32; scores [B, C], anything that NumPy reads. Items are the numbers of
            data.items.
        data: Prepared data, or what prepare takes.
        recommendations: Instead of a scorer, lists of any recommender: a DataFrame or a file with
            user, item, and rank or score, by the ids of the data. They give the protocol "full".
        scores: Instead of a scorer, a DataFrame or a file with user, item and score of the pairs
            that `candidates` returns. They give the protocol "sampled".
        split: "test" or "validation".
        max_len: L; by default that of the Run, or 50.
        batch_size: The number of users in a call of a function, fewer for a large catalogue.
        top_k: Numbers k of the metrics of the first k items, beside 5, 10 and 20.
        segments: Whether to give the test metrics by segment, too.
        categories: A DataFrame or a file of items and their categories, for the diversity of lists.
        run_dir: A new folder for result.json and test_ranks.parquet, which `compare` reads.
        name, seed: The recommender's name in run_dir, and the seed of its training.

    Raises UserError if the scorer's scores have another shape or are NaN, if a Run was trained on
    other data, or if lists or scores cannot be read or cover too little.
    """
    _check_arguments(scorer, recommendations, scores, split, run_dir)
    if data is None:
        raise UserError("data: missing; give prepared data, a name, a path or a DataFrame")
    data = as_data(data)
    chosen = CUTOFFS if top_k is None else cutoffs(",".join(map(str, top_k)))
    if scorer is None:
        found = judged.judge(
            data.folder, data.dataset, recommendations, scores, split, top_k=chosen
        )
    else:
        ranks, lists = _rank(scorer, data.dataset, split, max_len, batch_size, max(chosen))
        found = judged.Judgement(ranks, {}, {}, (), lists)
    values, bounds = judged.metrics(found, chosen)
    if split == "validation" and top_k is None and scorer is not None:
        # as training reports it
        values = {protocol: summarise(of_protocol) for protocol, of_protocol in found.ranks.items()}
    if run_dir is not None:
        config = JudgedConfig(data=data.config, name=name or "a scorer", seed=seed)
        content = judged.result(
            config, data.folder, data.dataset, found, chosen, segments, categories
        )
        judged.write(Path(run_dir), content, found, data.dataset)
    for note in found.notes:
        logger.info("%s", note)
    result = Evaluation(values)
    result.notes = found.notes
    result.bounds = bounds
    if split == "test":
        test = judged.held_out(data.folder, data.dataset, categories)
        result.more = test.entries(found.ranks, found.items, chosen, segments, found.listed)
    return result


def _check_arguments(
    scorer: Any, recommendations: Any, scores: Any, split: str, run_dir: str | Path | None
) -> None:
    """Raise UserError if arguments of `evaluate` cannot be combined."""
    if split not in SPLITS:
        raise UserError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    if run_dir is not None and split != "test":
        raise UserError("run_dir: a result is of the test set; leave split or run_dir out")
    has_tables = recommendations is not None or scores is not None
    if has_tables == (scorer is not None):
        problem = "both are given" if has_tables else "nothing is given"
        raise UserError(
            f"scorer, recommendations, scores: {problem}; give a scorer, or the lists or scores "
            "of a recommender"
        )


def _rank(
    scorer: Any, dataset: Dataset, split: str, max_len: int | None, batch_size: int, k: int
) -> tuple[dict[str, Ranks], np.ndarray | None]:
    """Return the ranks by a scorer, and lists of the k best items [T, k] by a module.

    Raises UserError.
    """
    if isinstance(scorer, Run):
        _check_data(scorer, dataset)
        max_len = max_len or scorer.config.model.max_len
        scorer = scorer.model()
    max_len = 50 if max_len is None else max_len
    if max_len < 1 or batch_size < 1:
        raise UserError(f"max_len, batch_size: found {max_len}, {batch_size}, expected at least 1")
    if isinstance(scorer, nnx.Module):
        return _rank_module(scorer, dataset, split, max_len, k)
    if callable(scorer):
        return rank_by_scorer(scorer, dataset, split, max_len, batch_size), None
    raise UserError(
        f"scorer: {scorer!r} is not a Run, a Flax module or a function of (histories, candidates)"
    )


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
    module: nnx.Module, dataset: Dataset, split: str, max_len: int, k: int
) -> tuple[dict[str, Ranks], np.ndarray | None]:
    """Return the ranks and lists by a module of this package's interface. Raises UserError."""
    if not isinstance(module, TwoTower | PairScorer):
        raise UserError(
            f"scorer: {type(module).__name__} has neither encode and item_vectors nor score; "
            "give it the methods of ttt4rec_jax.models.interface, or give a function"
        )
    graphdef, params = nnx.split(module)
    evaluator = Evaluator(
        graphdef,
        nnx.to_pure_dict(params),
        dataset,
        device_clicks(dataset, time=getattr(module, "reads_times", "none")),
        max_len,
        list_length=k,
    )
    params_R = jax.tree.map(lambda x: x[None], nnx.to_pure_dict(params))
    (ranked,) = evaluator.of_runs_with_lists(params_R, split)
    if isinstance(ranked, NonFiniteScoresError):
        raise UserError(f"scorer: {ranked}") from ranked
    return ranked
