"""Load an export with jax, numpy and flatbuffers alone; a copy of this package lies in each export.

    from load_export import load_export

    model = load_export("model/")
    model.recommend([["1193", "661"]], k=10)            # ids and scores, seen items excluded
    model.score([["1193", "661"]], [["914", "3408"]])
    session = model.open_session()                      # TTT4Rec: a state of fixed size per user
    session.observe("1193")
    session.recommend(k=10)

A model that was trained with --time needs the times of clicks too (times.py):

    model.recommend([["1193"]], times=[[1_700_000_000]], at=1_700_000_060)  # at: --time=request
    session.observe("1193", time=1_700_000_000)

The folder:
    manifest.json         versions, the model's settings, its data, and descriptions of what follows
    arrays.npz            parameters and item vectors [tiles, 512, D]; item i is row i - 1 of the
                          vectors reshaped to [tiles * 512, D]
    items.jsonl           line i: id, title and training clicks of item i, counted from 1
    PROGRAM.jax_export    functions (arrays, *arguments) -> results, for jax.export.deserialize;
                          the batch size B and the number of candidates C may have any value
      encode              history [B, L], length [B] -> user vectors [B, K, D], one per interest
      score               history, length, candidates [B, C] -> scores [B, C], computed as for the
                          sampled negatives of the evaluation
      top_k               history, length, blocked [B, W] -> scores [B, k], items [B, k], computed
                          as for the full catalogue of the evaluation
      session_step        memory [B, S], click [B] -> memory [B, S]. "memory" is the recurrent state
                          of a session; arrays.npz has the initial one as "first_memory"
      session_top_k       memory [B, S], blocked [B, W] -> scores [B, k], items [B, k]
An item scores its best product with an interest; if the model's interest_rule is soft, their sum
weighted by softmax. Models that score pairs (DIN, ItemKNN) have no encode, others without recurrent
state no session programs. A history holds item numbers: the last L clicks, zero-padded at the
right. "blocked" is a bit mask over items, item 1 in the lowest bit of byte 0; set bits exclude.
Item 0 is padding: it scores -inf, fills a top k of fewer items, and leaves a state unchanged.

With --time, a number in a history stands for a click with time gaps: item + (V + 1) * (before +
G * after) of V items. `before` is the code of the gap to the user's previous click, `after` that
to the next one or, for the last click, to the request; both are 0 if there is no such gap, and
`after` is always 0 with --time=gaps. The code of a gap is the number of entries of the manifest's
"gap_seconds" that do not exceed its whole seconds; G is the number of these entries plus 1.
"""

from pathlib import Path

# Relative imports, since a copy of this package has no parent.
from .batches import MAX_BATCH, next_power_of_two, pad_rows, set_bits, windows
from .folder import (
    FORMAT,
    UNREADABLE,
    VERSION,
    VERSION_WITH_TIMES,
    ExportError,
    first_line,
    read_arrays,
    read_manifest,
    sha256,
)
from .model import ExportedModel, Recommendation, Session
from .times import Clock, TimedClicks

__all__ = [
    "FORMAT",
    "MAX_BATCH",
    "UNREADABLE",
    "VERSION",
    "VERSION_WITH_TIMES",
    "Clock",
    "ExportError",
    "ExportedModel",
    "Recommendation",
    "Session",
    "TimedClicks",
    "load_export",
    "next_power_of_two",
    "pad_rows",
    "read_arrays",
    "set_bits",
    "sha256",
    "windows",
]


def load_export(folder: str | Path) -> ExportedModel:
    """Verify every file of an export and load the model. Raise ExportError."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        return ExportedModel(folder, manifest)
    except ExportError:
        raise
    except UNREADABLE as error:
        raise ExportError(f"{folder}: damaged ({first_line(error)}); copy it again") from error
