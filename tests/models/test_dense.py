"""Feed-forward networks by their formulas, and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.dense import SwiGlu, TanhLayer, feed_forward


def test_swiglu_equals_its_formula():
    network = SwiGlu(8, nnx.Rngs(0), 0.5)
    w1, w2, w3 = (np.asarray(w[...]) for w in (network.w1, network.w2, network.w3))
    x = np.asarray(jax.random.normal(jax.random.key(0), (5, 8)))
    gate = x @ w1
    expected = (gate / (1 + np.exp(-gate)) * (x @ w3)) @ w2
    np.testing.assert_allclose(network(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim, hidden", [(768, 2048), (1024, 2736), (1536, 4096), (64, 176)])
def test_swiglu_is_as_wide_as_in_the_ttt_papers_code(dim, hidden):
    network = nnx.eval_shape(lambda: SwiGlu(dim, nnx.Rngs(0), 0.02))
    assert network.w1.shape == network.w3.shape == (dim, hidden)


def test_the_feed_forward_network_that_ffn_names():
    def of(ffn, std=None):
        return feed_forward(ModelConfig(model="sasrec", ffn=ffn), nnx.Rngs(0), std)

    assert of("none") is None
    np.testing.assert_allclose(jnp.std(of("gelu").w1[...]), 1 / 8, rtol=0.05)
    np.testing.assert_allclose(jnp.std(of("swiglu").w2[...]), 0.02, rtol=0.05)
    for ffn in ("gelu", "swiglu"):
        for weight in (of(ffn, 0.3).w1, of(ffn, 0.3).w2):
            np.testing.assert_allclose(jnp.std(weight[...]), 0.3, rtol=0.05)


def test_the_tanh_layer():
    layer = TanhLayer(4, nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (3, 4))
    np.testing.assert_allclose(layer(x), jnp.tanh(x @ np.asarray(layer.w[...])), rtol=1e-5)


@pytest.mark.parametrize("name", ["sasrec", "comirec_dr", "din"])
def test_xavier_draws_every_matrix_within_its_bound_and_keeps_vectors(name):
    options = {"routing": "own"} if name == "comirec_dr" else {}

    def parameters(initializer):
        config = ModelConfig(model=name, initializer=initializer, **options)
        model = models.build(config, 500, 0)
        return jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))

    for x, before in zip(parameters("xavier"), parameters("default"), strict=True):
        if x.ndim == 1:
            np.testing.assert_array_equal(x, before)
        else:
            bound = np.sqrt(6 / (x.shape[-2] + x.shape[-1]))
            assert jnp.abs(x).max() <= bound
            if x.size > 1000:
                np.testing.assert_allclose(jnp.std(x), bound / np.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("name", ["ttt4rec", "sasrec", "gru4rec", "comirec_sa"])
def test_user_tower_and_input_layer_change_what_they_should(name):
    def build(**more):
        more |= {"positions": "none"} if name == "sasrec" else {}  # they pass the input layer, too
        return models.build(ModelConfig(model=name, dim=8, max_len=4, **more), 30, 0)

    history = jnp.array([[3, 7, 1, 0]])
    length = jnp.array([3])
    plain = build()
    users = plain.encode(history, length)
    with_tower = build(user_tower="mlp", input_layer="tanh")
    # with the same table and layers, a tower that is linear at 0 and the input layer left out
    state = nnx.to_pure_dict(nnx.state(with_tower, nnx.Param))
    for key, value in nnx.to_pure_dict(nnx.state(plain, nnx.Param)).items():
        state[key] = value
    nnx.update(with_tower, state)
    with_tower.input_layer = None
    np.testing.assert_allclose(
        with_tower.encode(history, length), with_tower.user_tower(users), rtol=1e-4, atol=1e-6
    )
    both = build(user_tower="mlp", input_layer="tanh")
    both.embedding[...] = jnp.arctanh(jnp.clip(both.embedding[...], -0.9, 0.9))
    both.input_layer.w[...] = jnp.eye(8)
    one = build(user_tower="mlp", input_layer="tanh")
    one.input_layer = None
    np.testing.assert_allclose(
        both.encode(history, length), one.encode(history, length), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", ["ttt4rec", "gru4rec"])
def test_with_a_norm_as_input_layer_the_scale_of_embeddings_does_not_count(name):
    def users(scale, input_layer):
        model = models.build(
            ModelConfig(model=name, dim=8, max_len=4, input_layer=input_layer), 30, 0
        )
        model.embedding[...] *= scale
        return model.encode(jnp.array([[3, 7, 1, 0]]), jnp.array([3]))

    np.testing.assert_allclose(users(1000.0, "norm"), users(10.0, "norm"), rtol=1e-3)
    assert jnp.abs(users(1000.0, "none") / users(10.0, "none") - 1).max() > 0.1
