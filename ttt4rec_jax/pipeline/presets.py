"""--preset: values of the options that are not given. Imports no JAX.

paper: Zhan, Lv, Zhang, Li (AAAI-25 student abstract): windows of 10 clicks, binary cross entropy
    with 4 negatives, Adam at 0.001, 10 epochs, 50 for ComiRec. This is the default; apart from
    ComiRec's epochs, it equals the defaults of the flags.
fair: The same, but with an equal target tower and equal early stopping for all models; see FAIR.
authors: The settings that the abstract's authors probably used; see AUTHORS.
best: The settings with the best validation metrics known for a model and data set; see BEST.
FILE.json: The settings that a search has found (search_report.py).
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.files import read_json
from data_prep.settings import UserError, first_line
from ttt4rec_jax.config import SECTIONS, options
from ttt4rec_jax.config.models import has_option
from ttt4rec_jax.config.run import sections


class Preset(NamedTuple):
    """Values of flags, the reason for them, and the test metrics that they gave."""

    values: dict[str, Any]
    why: str
    expected: str


# Ranking the full catalogue calls for a loss over (a sample of) the whole catalogue, and for scores
# whose magnitude does not depend on an item's popularity: sampled softmax with shared negatives
# (Jean et al. 2015) over cosines divided by .05 (as in HSTU's baselines, Zhai et al. 2024,
# arXiv:2402.17152). Short histories call for one block, much dropout, and steps with a constant
# number of tokens.
SHARED = {
    "targets": "every",
    "loss": "sampled_softmax",
    "num_negatives": 1024,
    "score": "cosine",
    "target_tower": "none",
    "adam_b2": 0.98,
    "select_by": "full/ndcg@10",
}
SHORT = SHARED | {"max_len": 50, "dropout": 0.5, "learning_rate": 0.002, "batch_tokens": 1024}
# TTT4Rec and SASRec are best in BSARec's block, made causal. Embeddings that are normalised learn
# fast from the first epoch on, and then a learning rate that decays to zero is better than a
# constant one; without the norm it was the other way round.
FILTER = SHORT | {
    "input_layer": "norm",
    "block": "filter",
    "num_blocks": 2,
    "schedule": "cosine",
    "epochs": 60,
}
# Found by a search for TTT4Rec on Beauty, at width 64 with 40 epochs; see BEAUTY_WHY.
SEARCHED = {"dropout": 0.387, "filter_share": 0.72, "temperature": 0.075, "learning_rate": 0.0032}
BEAUTY = FILTER | SEARCHED | {"batch_tokens": 2048, "dim": 128}
CONSTANT = SHORT | {"epochs": 120, "patience": 15}
ML1M = SHARED | {
    "max_len": 200,
    "num_blocks": 2,
    "dropout": 0.2,
    "batch_tokens": 3200,
    "epochs": 50,
    "patience": 6,
}
TTT = {"mini_batch_size": 10, "inner_learning_rate": 4.0}
# Observed on Beauty's validation set with a single seed and 8 to 16 epochs: indications only.
TTT_WHY = (
    "four times the inner learning rate of the TTT paper was a little better, a tenth of it worse; "
    "one head was worse than two or eight; an initializer_range of .1 or .005 was worse than .02; "
    "learned positions and the mamba backbone learned more slowly"
)
# Observed on Beauty's validation set with a single seed each.
BEAUTY_WHY = (
    "six options by a search for TTT4Rec (23 trials, 80 minutes), then a width of 128; two "
    "residual blocks were worse, and so was a dropout of .6"
)
BEST: dict[tuple[str, str], Preset] = {
    ("ttt4rec", "beauty"): Preset(
        BEAUTY | TTT | {"num_heads": 4},
        f"{BEAUTY_WHY}; heads as wide as in the search, which validation does not tell from two "
        f"heads; {TTT_WHY}",
        "test 1:99 HR@10 .5045, NDCG@10 .3590; full .1011 / .0609 "
        "(mean of seeds 0, 1, 2; about 20 min each)",
    ),
    ("sasrec", "beauty"): Preset(
        BEAUTY,
        "the same recipe, for which no search was made",
        "test 1:99 HR@10 .5140, NDCG@10 .3660; full .1030 / .0620 "
        "(mean of seeds 0 and 2; 10 to 16 min each)",
    ),
    ("ttt4rec", "s3rec:Toys_and_Games"): Preset(
        FILTER | TTT,
        "Beauty's recipe before the search",
        "test 1:99 HR@10 .4869, NDCG@10 .3438; full .1042 / .0645 "
        "(mean of seeds 0, 1, 2; 11 to 15 min)",
    ),
    ("sasrec", "s3rec:Toys_and_Games"): Preset(
        FILTER,
        "Beauty's recipe before the search",
        "test 1:99 HR@10 .4818, NDCG@10 .3404; full .1017 / .0622 "
        "(mean of seeds 0, 1, 2; 9 to 14 min)",
    ),
    ("ttt4rec", "s3rec:Sports_and_Outdoors"): Preset(
        FILTER | TTT,
        "Beauty's recipe before the search",
        "test 1:99 HR@10 .4844, NDCG@10 .3170; full .0559 / .0324 (seed 0; 42 min)",
    ),
    ("sasrec", "s3rec:Sports_and_Outdoors"): Preset(
        FILTER,
        "Beauty's recipe before the search",
        "test 1:99 HR@10 .4883, NDCG@10 .3192; full .0549 / .0320 (seed 0; 29 min)",
    ),
    ("ttt4rec", "s3rec:LastFM"): Preset(
        FILTER | TTT | {"max_len": 200},
        "Beauty's recipe before the search; with 50 clicks, validation was lower",
        "test 1:99 HR@10 .5422, NDCG@10 .3237; full .0780 / .0442 (seed 0; 12 min)",
    ),
    ("sasrec", "s3rec:LastFM"): Preset(
        FILTER | {"max_len": 200},
        "the length that is better for TTT4Rec on validation",
        "test 1:99 HR@10 .5248, NDCG@10 .3116; full .0789 / .0429 (seed 0; 7 min)",
    ),
    ("gru4rec", "beauty"): Preset(
        CONSTANT | {"epochs": 60, "patience": 8},
        "the same recipe",
        "test 1:99 HR@10 .4845, NDCG@10 .3318; full .0753 / .0433 (seed 0, epoch 39)",
    ),
    ("bert4rec", "beauty"): Preset(
        CONSTANT
        | {
            "targets": "masked",
            "mask_probability": 0.4,
            "mask_last_probability": 0.3,
            "epochs": 100,
        },
        "the same recipe; sequences are short, so more items are masked, "
        "more often only the last one",
        "test 1:99 HR@10 .5012, NDCG@10 .3375; full .0606 / .0320 "
        "(seed 0, epoch 99 of 100; 21 min)",
    ),
    ("iclrec", "beauty"): Preset(
        CONSTANT,
        "the same recipe; weights, intents and temperature as in the authors' code",
        "test 1:99 HR@10 .4989, NDCG@10 .3512; full .0935 / .0558 "
        "(seed 0, epoch 83; 43 min on a busy core)",
    ),
    ("ttt4rec", "ml1m"): Preset(
        ML1M | TTT,
        "as on Beauty, where it was tuned",
        "test full HR@10 .3145, NDCG@10 .1810; 1:99 .8113 / .6170 "
        "(mean of seeds 0, 1, 2; 33 to 59 min)",
    ),
    ("sasrec", "ml1m"): Preset(
        ML1M,
        "the same recipe",
        "test full HR@10 .3103, NDCG@10 .1780; 1:99 .8054 / .6130 "
        "(mean of seeds 0, 1, 2; 42 min to 2 h)",
    ),
}


# The abstract's own code is not public. Its protocol is, point by point, that of public code of its
# authors' group (github.com/HelloZicky/DUET and LSC4Rec), from which these values are taken: width
# 32 and 4 heads; 1024 rows of (history, one candidate) a step, so 205 positives with their 4
# negatives; 10 epochs; a tanh layer on the embedded clicks, a two-layer tanh network on the user
# vector and on the candidate, and Xavier's initial values in SASRec and GRU4Rec.
#
# Inferred, because no public code shows it: ComiRec, which the group's code lacks, has the same
# layers, and scores every candidate by its own best interest (--interest_rule's default), since
# that code scores one row at a time; TTT4Rec has the feed-forward network and the initial values of
# ttt-lm-pytorch, the PyTorch code of the TTT paper. ComiRec's 50 epochs are the abstract's.
#
# Not copied: that code chooses the epoch on the test set, lets the positive win ties, keeps a
# user's held-out items out of the training negatives, and does not shuffle. DUET reads its
# negatives from a file, the same ones in each epoch, as --fixed_negatives does. The blocks stay
# this project's (pre-norm, with RMSNorm), and DIN has its width, batches and initial values only.
AUTHORS = {
    "dim": 32,
    "num_heads": 4,
    "batch_size": 205,
    "epochs": 10,
    "target_tower": "mlp",
    "input_layer": "tanh",
    "user_tower": "mlp",
    "initializer": "xavier",
}
AUTHORS_TTT = {"input_layer": "none", "user_tower": "none"} | {
    "ffn": "swiglu",
    "initializer_reach": "pytorch",
}


# What makes the paper's settings fair: every model that can have TTT4Rec's target tower has it, and
# every model trains until 5 epochs bring no improvement on validation, so that none is cut off
# while it still rises. No value is tuned for a model. BERT4Rec trains every position of a window at
# once; one of its epochs has a fifth of the steps of the others on Beauty.
FAIR = {"target_tower": "mlp", "epochs": 200, "patience": 5}
FAIR_BERT4REC = {"epochs": 1000, "patience": 25}


def fair(model: str) -> dict[str, Any]:
    """Return the values of --preset=fair for the options that a model has."""
    chosen = FAIR | (FAIR_BERT4REC if model == "bert4rec" else {})
    return {name: value for name, value in chosen.items() if has_option(model, name)}


def authors(model: str) -> dict[str, Any]:
    """Return the values of --preset=authors for the options that a model has."""
    chosen = AUTHORS | (AUTHORS_TTT if model in options.TTT else {})
    chosen |= {"epochs": 50} if model in options.COMIREC else {}
    return {name: value for name, value in chosen.items() if has_option(model, name)}


def values(preset: str, model: str, dataset: str) -> dict[str, Any]:
    """Return the values that a preset gives to flags.

    Raises UserError if --preset=best has none for this model and data set. An unknown preset gives
    none; the check of the settings reports it.
    """
    if preset == "paper":
        return {"epochs": 50} if model.startswith("comirec") else {}
    if preset == "fair":
        return fair(model)
    if preset == "authors":
        return authors(model)
    if preset.endswith(".json"):
        return of_file(Path(preset), model)
    if preset != "best":
        return {}
    best = BEST.get((model, dataset))
    if best is None:
        known = ", ".join(f"{m} on {d}" for m, d in BEST)
        raise UserError(
            f"--preset=best: has no values for --model={model} on --dataset={dataset}, only for "
            f"{known}; leave it out, or choose one of these"
        )
    return best.values


def of_file(path: Path, model: str) -> dict[str, Any]:
    """Return the values in a file that a search has written. Raises UserError."""
    try:
        content = read_json(path)
        values = dict(content["values"])
        found = content["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--preset: {path} is no file of a search ({first_line(error)}); name one that "
            "search --preset_out has written"
        ) from error
    if found != model:
        raise UserError(f"--preset: {path} is for --model={found}, found --model={model}")
    known = {f.name for part in sections(model).values() for f in dataclasses.fields(part)}
    if unknown := sorted(values.keys() - known):
        raise UserError(f"--preset: {path} has the unknown option {unknown[0]!r}; remove it")
    return values


def apply(lists: dict[str, list], given: set[str]) -> dict[str, list]:
    """Return the flags' values, in which the preset gives those of flags that are not given."""
    preset = values(lists["preset"][0], lists["model"][0], lists["dataset"][0])
    return lists | {name: [value] for name, value in preset.items() if name not in given}


def check_swept(lists: dict[str, list], given: set[str]) -> None:
    """Raise UserError if the preset gives swept models different values of an option not given.

    So too if models that are told the time of the request would share a table with others. lists,
    given: as in `apply`.
    """
    if "request" in lists["time"] and len(lists["time"]) > 1:
        raise UserError(
            "--time: request cannot be swept together with other values, since its metrics are not "
            "comparable with theirs; give it in a sweep of its own"
        )
    models = lists["model"]
    if len(models) == 1:
        return
    preset = lists["preset"][0]
    dataset = lists["dataset"][0]
    defaults = {f.name: f.default for part in SECTIONS.values() for f in dataclasses.fields(part)}
    chosen = {}
    for model in models:
        of_model = values(preset, model, dataset)
        chosen[model] = {name: value for name, value in of_model.items() if name not in given}
    first = models[0]
    for model in models[1:]:
        for name in [*chosen[first], *chosen[model]]:
            a = chosen[first].get(name, defaults[name])
            b = chosen[model].get(name, defaults[name])
            if a != b:
                raise UserError(
                    f"--{name}: --preset={preset} gives {a} to {first} and {b} to {model}; "
                    f"give --{name} for all"
                )
