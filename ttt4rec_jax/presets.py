"""Values that flags have where the command line names none: --preset. Imports no JAX.

paper   Zhan, Lv, Zhang, Li (AAAI-25 student abstract): windows of 10 clicks, binary cross entropy with 4 negatives, Adam at
        0.001, 10 epochs, ComiRec 50. The default; apart from ComiRec's epochs it is the flags' own defaults.
best    What was found to do best on validation, for each model and data set; see BEST.
"""

from typing import NamedTuple

from data_prep.settings import UserError


class Preset(NamedTuple):
    """Flags' values, where they come from, and what to expect: test figures and training time on two CPU cores."""

    values: dict
    why: str
    expected: str


# Full-catalogue ranking wants a loss over (a sample of) the whole catalogue, and scores whose size item popularity cannot
# drive: sampled softmax with shared negatives (Jean et al. 2015) over cosines divided by .05 (as in HSTU's baselines, Zhai et
# al. 2024, arXiv:2402.17152). Short histories want one block, much dropout, and steps of like size in tokens.
SHARED = {
    "targets": "every",
    "loss": "sampled_softmax",
    "num_negatives": 1024,
    "score": "cosine",
    "target_tower": "none",
    "adam_b2": 0.98,
    "select_by": "full/ndcg@10",
}
BEAUTY = SHARED | {
    "max_len": 50,
    "dropout": 0.5,
    "learning_rate": 0.002,
    "batch_tokens": 1024,
    "epochs": 80,
    "patience": 8,
}
ML1M = SHARED | {
    "max_len": 200,
    "num_blocks": 2,
    "dropout": 0.2,
    "batch_tokens": 3200,
    "epochs": 50,
    "patience": 6,
}
BEST: dict[tuple[str, str], Preset] = {}


def values(preset: str, model: str, dataset: str) -> dict:
    """The values that a preset gives to flags. Raises UserError if there is none for this model and data set."""
    if preset == "paper":
        return {"epochs": 50} if model.startswith("comirec") else {}
    if preset != "best":  # a wrong name, which the settings' own check tells of
        return {}
    found = BEST.get((model, dataset))
    if found is None:
        able = ", ".join(f"{m} on {d}" for m, d in BEST)
        raise UserError(f"--preset=best: there is none for --model={model} on --dataset={dataset}; there are: {able}")
    return found.values


def apply(lists: dict[str, list], given: set[str]) -> dict[str, list]:
    """The flags' values with those of the preset where the command line names none."""
    preset = values(lists["preset"][0], lists["model"][0], lists["dataset"][0])
    return lists | {name: [value] for name, value in preset.items() if name not in given}
