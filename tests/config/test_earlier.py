"""Settings of earlier versions mean what they meant; settings that do not fit are refused."""

import json

import pytest

from data_prep.settings import UserError
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.pipeline import sweep

NEW = (
    "initializer_reach",
    "interest_rule",
    "routing",
    "din_attention",
    "input_layer",
    "user_tower",
    "initializer",
)


def earlier(model, ffn):
    """A config.json of a version without the options of this one."""
    content = Config(model=ModelConfig(model=model)).to_dict()
    for name in NEW:
        del content["model"][name]
    for name in ("training_negatives", "fixed_negatives", "precision"):
        del content["train"][name]
    content["model"]["ffn"] = ffn
    return json.loads(json.dumps(content))


@pytest.mark.parametrize("ffn, now", [(True, "gelu"), (False, "none")])
def test_a_feed_forward_network_was_gelu_or_none(ffn, now):
    assert Config.from_dict(earlier("sasrec", ffn)).model.ffn == now


@pytest.mark.parametrize("model", ["comirec_sa", "comirec_dr"])
def test_comirec_was_trained_by_the_nearest_interest_and_a_shared_map(model):
    config = Config.from_dict(earlier(model, True)).model
    assert (config.interest_rule, config.routing) == ("nearest", "shared")


def test_din_was_not_normalized():
    assert Config.from_dict(earlier("din", True)).model.din_attention == "unnormalized"
    assert Config(model=ModelConfig(model="din")).model.din_attention == "softmax"


@pytest.mark.parametrize("model", ["ttt4rec", "sasrec", "bert4rec", "gru4rec", "popularity"])
def test_other_models_were_what_their_defaults_are(model):
    assert Config.from_dict(earlier(model, True)) == Config(model=ModelConfig(model=model))


def test_what_this_version_saves_it_reads_as_it_is():
    for model in (ModelConfig(model="din"), ModelConfig(model="comirec_dr", interest_rule="own")):
        config = Config(model=model)
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_flags_of_an_earlier_sweep(tmp_path):
    flags = {"model": ["comirec_sa"], "ffn": [True, False], "dim": [8, 16]}
    (tmp_path / "sweep.json").write_text(json.dumps({"flags": flags}))
    saved = sweep.saved_flags(tmp_path)
    assert saved == flags | {"ffn": ["gelu", "none"], "interest_rule": ["nearest"]}


@pytest.mark.parametrize("ffn", [True, False, "true", "False"])
def test_a_truth_value_of_ffn_names_what_to_write(ffn):
    with pytest.raises(UserError, match=r"--ffn: found .* expected gelu .* swiglu or none"):
        ModelConfig(ffn=ffn)


def test_negatives_that_a_loss_does_not_take():
    with pytest.raises(UserError, match=r"--training_negatives=log_uniform: .* found --loss=bce"):
        TrainConfig(training_negatives="log_uniform")
    with pytest.raises(UserError, match=r"--fixed_negatives: .* found --loss=sampled_softmax"):
        TrainConfig(fixed_negatives=True, loss="sampled_softmax")
