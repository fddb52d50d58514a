"""Every trained model: parameters in closed form, inert padding, an order that it must learn."""

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
    """Return user vectors, or scores of a few candidates."""
    if isinstance(model, models.TwoTower):
        return model.encode(history, length)
    return model.score(history, length, jnp.array([1, 8, 3]))


@pytest.mark.parametrize(
    "name, target_tower",
    [(name, "none") for name in PARAMETERS]
    + [(name, "mlp") for name in PARAMETERS if MODELS[name].is_two_tower],
)
def test_parameter_count(name, target_tower):
    config = settings(name, target_tower=target_tower)
    model = nnx.eval_shape(lambda: models.build(config, V, 0))
    count = sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == PARAMETERS[name] + (TOWER if target_tower == "mlp" else 0)


SWIGLU = 3 * D * 32 + D  # width 8/3 D, rounded up to a multiple of 16, and the norm before it
MORE = {  # options: how many parameters they add
    ("sasrec", ("ffn", "none")): -2 * (2 * FFN * D * D + FFN * D + D + D),
    ("sasrec", ("ffn", "swiglu")): 2 * (SWIGLU - (2 * FFN * D * D + FFN * D + D + D)),
    ("sasrec", ("block", "filter")): 2 * (D + D),  # a norm and the gains
    ("bert4rec", ("user_tower", "mlp")): TOWER,
    ("gru4rec", ("input_layer", "tanh")): D * D + D,
    ("sasrec", ("input_layer", "norm")): D,
    ("comirec_sa", ("input_layer", "tanh")): D * D + D,
    ("comirec_dr", ("user_tower", "mlp")): TOWER,
    ("comirec_dr", ("routing", "own")): (L * K - 1) * D * D,
    ("comirec_dr", ("interest_rule", "soft")): 0,
    ("din", ("din_attention", "unnormalized")): 0,
    ("din", ("initializer", "xavier")): 0,
}


@pytest.mark.parametrize("name, option", MORE)
def test_parameters_that_an_option_adds(name, option):
    model = nnx.eval_shape(lambda: models.build(settings(name, **dict([option])), V, 0))
    count = sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == PARAMETERS[name] + MORE[name, option]


@pytest.mark.parametrize("name", ["din", "gru4rec", "comirec_sa"])
def test_without_heads_any_width_is_valid(name):
    assert ModelConfig(model=name, dim=6).dim == 6


@pytest.mark.parametrize("name", TRAINED)
def test_padding_is_inert_and_a_click_is_not(name):
    model = models.build(settings(name), V, 0)
    lengths = jnp.array([3, 1])
    history = jnp.array([[3, 7, 1, 0, 0, 0], [4, 0, 0, 0, 0, 0]])
    of = nnx.jit(output)
    expected = of(model, history, lengths)
    np.testing.assert_array_equal(of(model, jnp.where(history > 0, history, 5), lengths), expected)
    assert (of(model, history.at[0, 1].set(9), lengths)[0] != expected[0]).any()


@pytest.mark.parametrize("name", [name for name in TRAINED if MODELS[name].is_two_tower])
def test_a_cosine_score_is_at_most_one_over_the_temperature(name):
    model = models.build(settings(name, score="cosine", temperature=0.1), V, 0)
    users = nnx.jit(output)(model, jnp.array([[3, 7, 1, 0, 0, 0]]), jnp.array([3]))
    np.testing.assert_allclose(jnp.linalg.norm(users, axis=-1), 10.0, rtol=1e-4)
    np.testing.assert_allclose(
        jnp.linalg.norm(model.item_vectors(jnp.arange(1, V + 1)), axis=-1), 1.0, rtol=1e-4
    )


def test_models_have_the_interface_that_their_capabilities_promise(random_dataset):
    training = models.TrainingClicks.from_dataset(random_dataset)
    for name, capabilities in MODELS.items():
        model = models.build(settings(name), V, 0, training=training)
        assert isinstance(model, models.TwoTower) == capabilities.is_two_tower
        assert isinstance(model, models.PairScorer) == (not capabilities.is_two_tower)
        is_iclrec = name == "iclrec"
        assert isinstance(model, models.HasAuxiliaryLoss) == is_iclrec
        assert isinstance(model, models.LearnsContext) == is_iclrec
        assert isinstance(model, models.StreamingModel) == (name == "ttt4rec")
        has_table = capabilities.is_two_tower and capabilities.trained
        assert isinstance(model, models.HasItemTable) == has_table


@pytest.mark.parametrize("name", models.UNTRAINED)
def test_a_model_without_training_needs_the_training_clicks(name):
    with pytest.raises(ValueError, match=rf"{name} is not trained: .* needs the training clicks"):
        models.build(ModelConfig(model=name), V, 0)


@pytest.fixture(scope="module")
def ndcg_of(cyclic_dataset, tmp_path_factory):
    """Train a configuration on the cyclic data set: return its full NDCG@5 on the test set."""

    def fit(config):
        outcome = fit_run(config, cyclic_dataset, tmp_path_factory.mktemp("runs") / "run")
        return summary(outcome.test_ranks)["full"]["ndcg@5"]

    return fit


def test_popularity_cannot_learn_an_order(ndcg_of):
    assert ndcg_of(Config(model=ModelConfig(model="popularity"))) < 0.5


@pytest.mark.parametrize("name", TRAINED)
def test_learns_an_order_that_popularity_cannot(ndcg_of, name):
    has_blocks = name in ("ttt4rec", "sasrec", "bert4rec", "iclrec", "gru4rec")
    config = Config(
        model=settings(name, dim=16, **({"num_blocks": 1} if has_blocks else {})),
        train=TrainConfig(
            learning_rate=0.01,
            epochs=25,
            batch_size=16 if name == "bert4rec" else 64,
            length_buckets=1,  # one program; other tests cover several lengths
        ),
        eval=EvalConfig(select_by="full/ndcg@5"),
    )
    assert ndcg_of(config) > 0.8
