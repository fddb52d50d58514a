"""What each model can do. Imports no JAX."""

from typing import NamedTuple


class Capabilities(NamedTuple):
    """What a model supports, so that impossible settings are refused before JAX is imported."""

    # The values of --targets that it supports; targets=auto means the first one.
    targets: tuple[str, ...]
    # Whether it has parameters to train; a baseline has none.
    trained: bool = True
    # Whether a score is the dot product of a user vector and an item vector (a two-tower model).
    is_two_tower: bool = True
    # The values that target_tower=auto and positions=auto stand for.
    target_tower: str = "none"
    positions: str = "none"
    # Whether --sparse_embeddings supports it: item ids only index rows of the table "embedding",
    # so that optim.sparse_rows may renumber them.
    sparse: bool = True


# Causal models: no output depends on a later click, so one pass can train every position.
CAUSAL = ("last", "every")
WINDOW = ("last",)
MODELS = {
    "ttt4rec": Capabilities(CAUSAL, target_tower="mlp"),
    "sasrec": Capabilities(CAUSAL, positions="learned"),
    "gru4rec": Capabilities(CAUSAL),
    "din": Capabilities(WINDOW, is_two_tower=False),
    "comirec_sa": Capabilities(WINDOW),
    "comirec_dr": Capabilities(WINDOW),
    "bert4rec": Capabilities(("masked", "last"), positions="learned", sparse=False),
    "iclrec": Capabilities(CAUSAL, positions="learned", sparse=False),
    "popularity": Capabilities(WINDOW, trained=False, sparse=False),
    "itemknn": Capabilities(WINDOW, trained=False, is_two_tower=False, sparse=False),
}
