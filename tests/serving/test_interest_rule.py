"""A model that scores softly does so in evaluation, recommendations and exports alike."""

import numpy as np
import pytest
from helpers import L, V, make_recommender, serving_config, split_model

from ttt4rec_jax.serving import export, load_export
from ttt4rec_jax.serving.load_export import windows

HISTORIES = [[100, 300], [700, 100, 900]]


@pytest.mark.parametrize("rule", ["soft", "own"])
def test_recommendations_and_exports_score_by_the_models_rule(random_dataset, tmp_path, rule):
    config = serving_config("comirec_sa", interest_rule=rule)
    recommender = make_recommender(config, random_dataset)
    graphdef, params = split_model(config, random_dataset)
    export.export_model(config, graphdef, params, recommender.items, tmp_path / "export")
    exported = load_export.load_export(tmp_path / "export")
    history_BxL, length_B = windows([exported.to_items(h) for h in HISTORIES], L)
    user_BxKxD = np.asarray(recommender.engine.encode(params, history_BxL, length_B))
    item_VxD = np.asarray(exported.arrays["item_vectors"]).reshape(-1, user_BxKxD.shape[-1])[:V]
    products_BxKxV = user_BxKxD @ item_VxD.T
    expected_BxV = products_BxKxV.max(1)
    if rule == "soft":
        weights = np.exp(products_BxKxV - expected_BxV[:, None])
        expected_BxV = (weights * products_BxKxV).sum(1) / weights.sum(1)
        assert np.abs(expected_BxV - products_BxKxV.max(1)).max() > 1e-3
    ids = [100 * i for i in range(1, V + 1)]
    np.testing.assert_allclose(
        exported.score(HISTORIES, [ids] * 2), expected_BxV, rtol=1e-4, atol=1e-5
    )
    recommended = recommender.recommend(HISTORIES, k=V, exclude_seen=False)
    for row, (best, of_export) in enumerate(
        zip(recommended, exported.recommend(HISTORIES, k=V, exclude_seen=False), strict=True)
    ):
        expected = [expected_BxV[row][ids.index(id)] for id in best.ids]
        np.testing.assert_allclose(best.scores, expected, rtol=1e-4, atol=1e-5)
        assert best.ids == of_export.ids
