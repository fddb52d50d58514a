"""--ttt_stats: values against loops over tokens and heads, training unchanged, what is recorded."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import compiled, fit_run, fit_runs, last_state, small_config, without_times

from data_prep.settings import UserError
from ttt4rec_jax import models
from ttt4rec_jax.config import Config, ModelConfig, RecordConfig, check_resumable, program
from ttt4rec_jax.plots import inner_means
from ttt4rec_jax.training import ttt_stats
from ttt4rec_jax.ttt.inner import INNER_LEARNERS, Norm, inner_loss
from ttt4rec_jax.ttt.layer import Ranges, TttConfig, TttLayer
from ttt4rec_jax.ttt.rope import deinterleave, rotate
from ttt4rec_jax.ttt.stats import layer_stats

LENGTHS = [7, 3, 0, 5]
STATS = {
    "loss_before",
    "loss_after",
    "weight_change",
    "rate",
    "rate_min",
    "rate_max",
    "slot_scale",
    "step",
}


def shaken(module):
    """The module with noise on every parameter, so that none is at a special value."""
    noise = iter(jax.random.split(jax.random.key(5), 200))
    nnx.update(
        module,
        jax.tree.map(
            lambda p: p + 0.2 * jax.random.normal(next(noise), p.shape),
            nnx.state(module, nnx.Param),
        ),
    )
    return module


def by_hand(layer, x_BxLxD, lengths):
    """Return `layer_stats` by plain gradient descent on each token's inner loss, token by token."""
    learner = INNER_LEARNERS[layer.config.inner]
    b = layer.config.mini_batch_size
    heads = layer.config.num_heads
    F = layer.config.dim // heads
    scale = [max(1 / (i + 1) + float(layer.token_index_offset[...][i]), 0) for i in range(b)]
    loss_and_grad = jax.jit(jax.value_and_grad(lambda w, *rest: inner_loss(learner, w, *rest)))
    stats = {name: np.zeros(heads) for name in STATS} | {"rate_min": np.full(heads, np.inf)}
    tokens = sum(lengths)
    for h in range(heads):
        own = slice(h * F, (h + 1) * F)
        norm = Norm(layer.inner_norm_scale[...][h], layer.inner_norm_bias[...][h])
        first = jax.tree.map(
            lambda w, h=h: w[...][h], layer.fast_weights, is_leaf=lambda w: isinstance(w, nnx.Param)
        )
        for x_LxD, length in zip(x_BxLxD, lengths, strict=True):
            start = seen = first
            so_far = jax.tree.map(jnp.zeros_like, first)
            for t in range(length):
                slot = t % b
                x = x_LxD[t]
                if slot == 0:
                    start = seen
                    so_far = jax.tree.map(jnp.zeros_like, first)
                key = (x @ layer.theta_k[...])[own]
                value = (x @ layer.theta_v[...])[own]
                turned = rotate(
                    deinterleave(key[None], 1), np.array([slot]), layer.config.rope_theta
                )[0]
                key = jnp.stack(jnp.split(turned, 2), 1).reshape(-1)  # interleaved again
                gate = jax.nn.sigmoid(
                    x @ layer.lr_gate_kernel[...][h, :, 0] + layer.lr_gate_bias[...][h, 0]
                )
                rate = float(layer.config.inner_learning_rate / F * gate)
                before, gradient = loss_and_grad(start, norm, key, value)
                so_far = jax.tree.map(lambda s, g, rate=rate: s + rate * g, so_far, gradient)
                seen = jax.tree.map(lambda w, g, s=scale[slot]: w - s * g, start, so_far)
                after = inner_loss(learner, seen, norm, key, value)
                for name, value in {
                    "loss_before": before,
                    "loss_after": after,
                    "rate": rate,
                    "slot_scale": scale[slot],
                    "step": rate * scale[slot],
                }.items():
                    stats[name][h] += value / tokens
                stats["rate_min"][h] = min(stats["rate_min"][h], rate)
                stats["rate_max"][h] = max(stats["rate_max"][h], rate)
            if length:
                moved, size = (
                    np.concatenate([np.ravel(m) for m, _ in maps])
                    for maps in (jax.tree.map(jnp.subtract, seen, first), first)
                )
                stats["weight_change"][h] += (
                    np.linalg.norm(moved) / np.linalg.norm(size) / sum(n > 0 for n in lengths)
                )
    return stats


@pytest.mark.parametrize(
    "inner, mini_batch_size", [("linear", 1), ("linear", 4), ("mlp", 4), ("linear", 10)]
)
def test_statistics_are_those_of_gradient_descent_by_hand(inner, mini_batch_size):
    layer_config = TttConfig(
        dim=8, num_heads=2, mini_batch_size=mini_batch_size, inner=inner, inner_learning_rate=2.0
    )
    layer = shaken(TttLayer(layer_config, nnx.Rngs(0), Ranges(0.5, 0.3)))
    x_BxLxD = jax.random.normal(jax.random.key(3), (4, 7, 8))
    stats = jax.jit(lambda x: layer_stats(layer, x, jnp.array(LENGTHS)))
    got = stats(x_BxLxD)
    expected = by_hand(layer, x_BxLxD, LENGTHS)
    assert got.keys() == expected.keys() == STATS
    for name in STATS:
        np.testing.assert_allclose(got[name], expected[name], rtol=2e-4, err_msg=name)
    assert (got["rate_min"] < got["rate"]).all() and (got["rate"] < got["rate_max"]).all(), (
        "the rates are learned per token"
    )
    is_valid = (jnp.arange(7) < jnp.array(LENGTHS)[:, None])[..., None]
    jax.tree.map(np.testing.assert_array_equal, stats(jnp.where(is_valid, x_BxLxD, jnp.nan)), got)


@pytest.mark.parametrize(
    "settings",
    [{"backbone": "mamba", "inner": "mlp"}, {"positions": "learned", "block": "filter"}],
    ids=lambda s: "-".join(s),
)
def test_a_models_blocks_read_what_they_read_when_it_encodes(random_dataset, settings):
    config = ModelConfig(
        dim=8, max_len=6, num_blocks=2, mini_batch_size=4, initializer_range=0.3, **settings
    )
    model = shaken(models.build(config, random_dataset.num_items, 0))
    graphdef, params = nnx.split(model, nnx.Param)
    histories = tuple(map(jnp.asarray, ttt_stats.sample(random_dataset, 6)))

    @jax.jit
    def both(params):
        """Return the statistics, and those of what reaches each layer when the model encodes."""
        model = nnx.merge(graphdef, params)
        seen = []
        got = ttt_stats.model_stats(model, *histories)
        for block in model.blocks:

            def mixer(x, length, last_only, layer=block.mixer):
                seen.append(layer_stats(layer, x, length))
                return layer(x, length, last_only)

            block.mixer = mixer
        model.encode(*histories, every=True)
        return got, seen

    got, expected = both(params)
    assert len(got) == len(expected) == 2
    for block, of_encoding in zip(got, expected, strict=True):
        for name in STATS:
            np.testing.assert_allclose(block[name], of_encoding[name], rtol=1e-4, err_msg=name)
            assert block[name].shape == (2,)
    assert not np.allclose(got[0]["loss_before"], got[1]["loss_before"])


def test_the_sample_is_the_validation_histories(random_dataset, monkeypatch):
    history_BxL, length_B = ttt_stats.sample(random_dataset, 4)
    targets = random_dataset.validation
    assert len(history_BxL) == len(targets.positions), "all of a small set"
    for history, length, position, user in zip(
        history_BxL, length_B, targets.positions, targets.users, strict=True
    ):
        before = random_dataset.items[random_dataset.offsets[user] : position][-4:]
        assert history.tolist() == [*before, *[0] * (4 - len(before))] and length == len(before)
    monkeypatch.setattr(ttt_stats, "SAMPLE", 5)
    fewer, _ = ttt_stats.sample(random_dataset, 4)
    assert (
        len(fewer) == 5
        and (fewer[0] == history_BxL[0]).all()
        and (fewer[-1] == history_BxL[-1]).all()
    )


def test_a_statistic_that_is_not_finite_is_null(random_dataset):
    zero = np.zeros(1, np.float32)
    graphdef, params = models.split(
        small_config().model, random_dataset.num_items, zero.astype(np.uint32), zero, zero
    )
    (block,) = ttt_stats.TttStats(graphdef, random_dataset, 4, "none")(
        jax.tree.map(lambda x: x[0], params)
    )
    assert block["weight_change"] == [None, None], "W_0 is 0"
    assert block["loss_before"] == block["loss_after"] == [0.0, 0.0] and block["rate"] == [
        0.125,
        0.125,
    ], "1 / F * sigmoid(0)"
    means = inner_means([block])
    assert np.isnan(means["weight_change"]) and means["rate"] == 0.125


@pytest.fixture(scope="module")
def recorded(random_dataset, tmp_path_factory):
    """Return (folder, [without, with] statistics: executables and outcome) of the same run."""
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for name in ("without", "with"):
        config = dataclasses.replace(
            small_config({"num_blocks": 2}), record=RecordConfig(ttt_stats=name == "with")
        )
        executables = compiled([config], random_dataset)
        runs.append((executables, fit_run(config, random_dataset, folder / name, executables)))
    return folder, runs


def test_training_is_bit_equal_with_and_without(recorded):
    folder, ((executables, without), (recording, with_stats)) = recorded
    assert [line.keys() - {"ttt_stats"} for line in with_stats.history] == [
        line.keys() for line in without.history
    ]
    bare = [{k: v for k, v in line.items() if k != "ttt_stats"} for line in with_stats.history]
    assert (
        without_times(bare) == without_times(without.history)
        and with_stats.best_epoch == without.best_epoch
    )
    assert with_stats.validation == without.validation
    states = last_state(executables, folder / "without"), last_state(recording, folder / "with")
    jax.tree.map(np.testing.assert_array_equal, *states)
    jax.tree.map(np.testing.assert_array_equal, without.test_ranks, with_stats.test_ranks)


def test_an_epochs_line_holds_the_statistics_of_its_parameters(recorded):
    folder, (_, (executables, outcome)) = recorded
    lines = [
        json.loads(line) for line in (folder / "with" / "metrics.jsonl").read_text().splitlines()
    ]
    assert lines == outcome.history
    for line in lines:
        assert [set(block) for block in line["ttt_stats"]] == [STATS] * 2
        assert all(len(values) == 2 for block in line["ttt_stats"] for values in block.values())
    last = executables.program.mesh.unstack(last_state(executables, folder / "with").params, 0)
    assert lines[-1]["ttt_stats"] == executables.ttt_stats(last) != lines[0]["ttt_stats"]


def test_stacked_runs_have_their_own_statistics(random_dataset, tmp_path, recorded):
    _, (_, (_, alone)) = recorded
    configs = [
        dataclasses.replace(
            small_config({"num_blocks": 2, "initializer_range": r}),
            record=RecordConfig(ttt_stats=True),
        )
        for r in (0.3, 0.1)
    ]
    first, second = fit_runs(configs, random_dataset, tmp_path)
    for line, expected in zip(first.history, alone.history, strict=True):
        for name in STATS:
            assert inner_means(line["ttt_stats"])[name] == pytest.approx(
                inner_means(expected["ttt_stats"])[name], rel=0.01
            )
    assert second.history[-1]["ttt_stats"] != first.history[-1]["ttt_stats"]


def test_what_is_recorded_may_change_on_resume(recorded, random_dataset):
    folder, _ = recorded
    with_stats, without = (
        Config.load(folder / name / "config.json") for name in ("with", "without")
    )
    assert with_stats.record.ttt_stats and not without.record.ttt_stats, (
        "and flags not given keep the run's value"
    )
    check_resumable(with_stats, without)
    assert with_stats == without and program(with_stats) == program(without)
    saved = json.loads((folder / "with" / "config.json").read_text())
    del saved["record"]
    assert Config.from_dict(saved) == without, "a run of an earlier version"


def test_a_model_without_ttt_layers_is_refused():
    with pytest.raises(
        UserError, match=r"--ttt_stats: --model=sasrec has no TTT layers; .* --model=ttt4rec$"
    ):
        Config(model=ModelConfig(model="sasrec"), record=RecordConfig(ttt_stats=True))
