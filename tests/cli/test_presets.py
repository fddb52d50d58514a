"""Presets: only flags that exist, values that make a run, and the command line goes before them."""

import pytest

from data_prep.settings import UserError
from ttt4rec_jax.cli import flags, presets


def lists(*argv):
    found, given = flags.parse(["main.py", *argv], "purpose")
    return presets.apply(found, given)


def test_the_papers_preset_is_the_default_but_for_comirecs_epochs():
    plain, _ = flags.parse(["main.py"], "purpose")
    assert lists() == plain
    assert lists("--model=comirec_sa")["epochs"] == [50] and lists("--model=din")["epochs"] == [10]


@pytest.mark.parametrize("model, dataset", presets.BEST)
def test_the_best_presets_make_a_run(model, dataset):
    found = lists("--preset=best", f"--model={model}", f"--dataset={dataset}")
    (config,), _ = (
        x if not isinstance(x, dict) else list(x.values()) for x in flags.settings(found)
    )
    preset = presets.BEST[model, dataset]
    for name, value in preset.values.items():
        assert found[name] == [value]
        assert value == next(
            getattr(part, name)
            for part in (config.model, config.train, config.eval)
            if hasattr(part, name)
        )
    assert preset.why and preset.expected


def test_a_flag_that_is_given_goes_before_a_preset():
    model, dataset = next(iter(presets.BEST))
    found = lists(
        "--preset=best",
        f"--model={model}",
        f"--dataset={dataset}",
        "--dropout=0.1,0.2",
        "--epochs=3",
    )
    assert found["dropout"] == [0.1, 0.2] and found["epochs"] == [3]


def test_an_unknown_best_names_those_that_there_are():
    with pytest.raises(
        UserError, match="--preset=best: there is none for --model=popularity on --dataset=ml1m"
    ):
        lists("--preset=best", "--model=popularity", "--dataset=ml1m")
