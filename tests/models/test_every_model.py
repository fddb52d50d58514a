"""What every trained model must keep: parameters in closed form, padding is inert, order is learnt, all programs lower."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import fit_run

from ttt4rec_jax import models
from ttt4rec_jax.config import MODELS, Config, EvalConfig, ModelConfig, TrainConfig
from ttt4rec_jax.training.progress import summary

D = 8
L = 6
K = 3
V = 30
FFN = 4
BLOCK = D + 4 * D * D + D + (2 * FFN * D * D + FFN * D + D)
TOWER = 2 * (D * D + D)
OF_UNIT = 36
OUT = (80, 40)
PARAMETERS = {  # in closed form, without a target tower
    "sasrec": (V + 1) * D + L * D + 2 * BLOCK + D,
    "gru4rec": (V + 1) * D + 2 * (6 * D * D + 4 * D) + D * D + D + D,
    "din": (V + 1) * D
    + (4 * D * OF_UNIT + OF_UNIT + OF_UNIT + OF_UNIT + 1)
    + (3 * D * OUT[0] + 2 * OUT[0] + OUT[0] * OUT[1] + 2 * OUT[1] + OUT[1] + 1),
    "comirec_sa": (V + 1) * D + 2 * D + L * D + 4 * D * D + 4 * D * K,
    "comirec_dr": (V + 1) * D + 2 * D + D * D,
    "bert4rec": (V + 2) * D + (L + 1) * D + 2 * BLOCK + D,
    "iclrec": (V + 2) * D + L * D + 2 * BLOCK + D,
}
TRAINED = [name for name, abilities in MODELS.items() if abilities.trained]


def settings(model: str, **more) -> ModelConfig:
    sizes = {"dim": D, "max_len": L, "target_tower": "none"}
    sizes |= (
        {"num_blocks": 2} if model in ("ttt4rec", "sasrec", "bert4rec", "iclrec", "gru4rec") else {}
    )
    sizes |= {"num_interests": K} if model.startswith("comirec") else {}
    sizes |= {"initializer_range": 0.3, "mini_batch_size": 2} if model == "ttt4rec" else {}
    sizes |= {"num_intents": 5} if model == "iclrec" else {}
    return ModelConfig(model=model, **sizes | more)


def output(model, history, length):
    """User vectors, or scores of a few candidates."""
    if hasattr(model, "encode"):
        return model.encode(history, length)
    return model.score(history, length, jnp.array([1, 8, 3]))


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("target_tower", ["mlp", "none"])
def test_parameter_count(random_dataset, name, target_tower):
    if target_tower == "mlp" and not MODELS[name].separable:
        pytest.skip("has no target tower")
    model = models.build(settings(name, target_tower=target_tower), random_dataset, 0)
    count = sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == PARAMETERS[name] + (TOWER if target_tower == "mlp" else 0)


@pytest.mark.parametrize("name", ["din", "gru4rec", "comirec_sa"])
def test_a_width_that_no_heads_divide_is_no_matter_without_heads(name):
    assert ModelConfig(model=name, dim=6).dim == 6


@pytest.mark.parametrize("name", TRAINED)
def test_padding_is_inert_and_a_click_is_not(random_dataset, name):
    model = models.build(settings(name), random_dataset, 0)
    lengths = jnp.array([3, 1])
    history = jnp.array([[3, 7, 1, 0, 0, 0], [4, 0, 0, 0, 0, 0]])
    of = nnx.jit(output)
    expected = of(model, history, lengths)
    np.testing.assert_array_equal(of(model, jnp.where(history > 0, history, 5), lengths), expected)
    assert (of(model, history.at[0, 1].set(9), lengths)[0] != expected[0]).any()


@pytest.mark.parametrize("name", [name for name in TRAINED if MODELS[name].separable])
def test_a_cosine_score_lies_within_one_over_the_temperature(random_dataset, name):
    model = models.build(settings(name, score="cosine", temperature=0.1), random_dataset, 0)
    users = model.encode(jnp.array([[3, 7, 1, 0, 0, 0]]), jnp.array([3]))
    np.testing.assert_allclose(jnp.linalg.norm(users, axis=-1), 10.0, rtol=1e-4)
    np.testing.assert_allclose(
        jnp.linalg.norm(model.item_vectors(jnp.arange(1, V + 1)), axis=-1), 1.0, rtol=1e-4
    )


@pytest.mark.parametrize("name", TRAINED)
def test_learns_an_order_that_popularity_cannot(cyclic_dataset, tmp_path, name):
    def fit(config, folder):
        outcome = fit_run(config, cyclic_dataset, tmp_path / folder)
        return summary(outcome.test_ranks)["full"]["ndcg@5"]

    sizes = (
        {"num_blocks": 1} if name in ("ttt4rec", "sasrec", "bert4rec", "iclrec", "gru4rec") else {}
    )
    config = Config(
        model=settings(name, dim=16, **sizes),
        train=TrainConfig(
            learning_rate=0.01, epochs=40, batch_size=16 if name == "bert4rec" else 64
        ),
        eval=EvalConfig(select_by="full/ndcg@5"),
    )
    floor = fit(Config(model=ModelConfig(model="popularity")), "floor")
    assert floor < 0.5 and fit(config, name) > 0.8
