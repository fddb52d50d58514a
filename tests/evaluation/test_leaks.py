"""Leaks of the evaluation that no other test is about; docs/leaks.md lists all."""

import numpy as np
import polars as pl

import ttt4rec_jax as t4r
from ttt4rec_jax.evaluation.scorer import rank_by_scorer
from ttt4rec_jax.metrics import summarise


def test_a_scorer_that_favours_a_place_gets_the_chance_level(cyclic_dataset):
    """Whichever place it favours: the target is at none of them more often."""
    for place in (0, -1, 4):

        def score(histories, candidates, place=place):
            scores = np.zeros(candidates.shape)
            scores[:, place] = 1
            return scores

        ranks = rank_by_scorer(score, cyclic_dataset, "test", 5, 16)["sampled"]
        share = summarise(ranks, (1,))["hit@1"]
        assert abs(share - 0.1) < 0.09  # of 10 candidates, 120 users: three standard errors
        assert (ranks.greater + ranks.ties).max() == 9


def test_without_repeats_no_target_was_clicked_before(tmp_path):
    rng = np.random.default_rng(0)
    clicks = pl.DataFrame(
        {"user": np.repeat(np.arange(40), 15), "item": rng.integers(0, 30, 600), "time": range(600)}
    )

    def repeated(dedup):
        options = {"user_core": 1, "item_core": 1, "eval_negatives": 3, "dedup": dedup}
        dataset = t4r.prepare(clicks, cache_dir=tmp_path, **options).dataset
        return [
            dataset.items[position] in dataset.items[dataset.offsets[user] : position]
            for position, user in zip(dataset.test.positions, dataset.test.users, strict=True)
        ]

    assert any(repeated("none"))
    assert not any(repeated("all"))
