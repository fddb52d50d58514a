"""--preset: values of the options that are not given. Imports no JAX.

paper: Zhan, Lv, Zhang, Li (AAAI-25 student abstract): windows of 10 clicks, binary cross entropy
    with 4 negatives, Adam at 0.001, 10 epochs, 50 for ComiRec. This is the default; apart from
    ComiRec's epochs, it equals the defaults of the flags.
fair: The same, but with an equal target tower and equal early stopping for all models; see FAIR.
authors: The settings that the abstract's authors probably used; see AUTHORS.
best: The settings with the best validation metrics known for a model and data set; see best.py.
FILE.json: The settings that a search has found (search_report.py).
"""

import dataclasses
from pathlib import Path
from typing import Any

from data_prep.files import read_json
from data_prep.settings import UserError, first_line
from ttt4rec_jax.config import SECTIONS, options
from ttt4rec_jax.config.models import has_option
from ttt4rec_jax.config.run import sections
from ttt4rec_jax.pipeline.best import BEST

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
