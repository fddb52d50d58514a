"""Presets name only flags that exist, make a valid run, and yield to flags that are given."""

import pytest

from data_prep.settings import UserError
from ttt4rec_jax.cli import flags
from ttt4rec_jax.config import MODELS
from ttt4rec_jax.pipeline import presets
from ttt4rec_jax.pipeline.combinations import combine


def lists(*argv):
    values, given = flags.parse(["main.py", *argv], "purpose")
    return presets.apply(values, given)


def test_the_papers_preset_is_the_default_but_for_comirecs_epochs():
    plain, _ = flags.parse(["main.py"], "purpose")
    assert lists() == plain
    assert lists("--model=comirec_sa")["epochs"] == [50]
    assert lists("--model=din")["epochs"] == [10]


@pytest.mark.parametrize("model, dataset", presets.BEST)
def test_the_best_presets_make_a_run(model, dataset):
    values = lists("--preset=best", f"--model={model}", f"--dataset={dataset}")
    combinations, _ = combine(values)
    (config,) = combinations.values()
    preset = presets.BEST[model, dataset]
    for name, value in preset.values.items():
        assert values[name] == [value]
        sections = (config.model, config.train, config.eval)
        assert [getattr(s, name) for s in sections if hasattr(s, name)] == [value]
    assert preset.why and preset.expected


def test_a_flag_that_is_given_goes_before_a_preset():
    model, dataset = next(iter(presets.BEST))
    argv = [f"--model={model}", f"--dataset={dataset}", "--dropout=0.1,0.2", "--epochs=3"]
    values = lists("--preset=best", *argv)
    assert values["dropout"] == [0.1, 0.2]
    assert values["epochs"] == [3]


def test_a_preset_that_does_not_exist_names_those_that_do():
    message = "--preset=best: has no values for --model=popularity on --dataset=ml1m"
    with pytest.raises(UserError, match=message):
        lists("--preset=best", "--model=popularity", "--dataset=ml1m")


@pytest.mark.parametrize("model", [name for name, model in MODELS.items() if model.trained])
def test_the_authors_preset_gives_each_model_what_it_has(model):
    values = lists("--preset=authors", f"--model={model}")
    combinations, _ = combine(values)
    (config,) = combinations.values()
    assert (config.model.dim, config.train.batch_size) == (32, 205)
    assert config.train.epochs == (50 if model.startswith("comirec") else 10)
    assert config.model.target_tower == ("mlp" if MODELS[model].is_two_tower else "none")
    own = config.model.ffn, config.model.initializer_reach, config.model.user_tower
    if model == "ttt4rec":
        assert (config.model.num_heads, *own) == (4, "swiglu", "pytorch", "none")
    else:
        assert config.model.initializer == "xavier"
    if model.startswith("comirec"):
        assert config.model.interest_rule == "own"
        assert config.model.user_tower == config.model.target_tower == "mlp"


def test_the_fair_preset_gives_every_model_the_same_tower_and_stopping():
    for model in [name for name, model in MODELS.items() if model.trained]:
        combinations, _ = combine(lists("--preset=fair", f"--model={model}"))
        (config,) = combinations.values()
        assert config.model.target_tower == ("mlp" if MODELS[model].is_two_tower else "none")
        assert (
            config.train.patience * 40
            == config.train.epochs
            == (1000 if model == "bert4rec" else 200)
        )
        assert config.model.dim == 64  # the paper preset's


@pytest.mark.parametrize("argv", [["--ffn"], ["--noffn"], ["--ffn", "--epochs=1"]])
def test_ffn_without_a_value_says_what_to_write(argv):
    with pytest.raises(UserError, match=r"--ffn=gelu, .* --ffn=swiglu or, .* --ffn=none"):
        flags.parse(["main.py", *argv], "purpose")


def test_ffn_with_a_value_may_be_two_words():
    values, _ = flags.parse(["main.py", "--ffn", "none,swiglu"], "purpose")
    assert values["ffn"] == ["none", "swiglu"]
