"""Comparing runs in Python."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.settings import UserError
from ttt4rec_jax.api.run import Run
from ttt4rec_jax.evaluation.compare import compare as compare_folders
from ttt4rec_jax.evaluation.compare_table import table
from ttt4rec_jax.metrics import PROTOCOLS, cutoffs


class Comparison:
    """Systems compared with the first by the paired test; a table when printed or shown."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as the command line's --json writes it."""
        return self._content

    def __str__(self) -> str:
        """Return the table that the command line prints."""
        return table(self._content)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return f"<pre>{html.escape(str(self))}</pre>"


def compare(*runs: Any, protocol: str = "both", top_k: Sequence[int] | None = None) -> Comparison:
    """Compare systems by the test users of their finished runs.

    Args:
        runs: Each a Run, the folder of a run, of a sweep or of a recommender that `evaluate` has
            judged, or a list of these. Runs that differ only in the seed are one system; the first
            run's system is the reference.
        protocol: "sampled", "full", "unfiltered", or "both": all that the runs have in common.
        top_k: Numbers k of the metrics of the first k items; by default 5 and 10.

    Raises UserError that says why, if the runs cannot be compared.
    """
    if protocol not in ("both", *PROTOCOLS):
        raise UserError(f"protocol: {protocol!r} is not one of both, {', '.join(PROTOCOLS)}")
    folders = [path for run in runs for path in _folders(run)]
    chosen = None if top_k is None else cutoffs(",".join(map(str, top_k)))
    return Comparison(compare_folders(folders, "" if protocol == "both" else protocol, chosen))


def _folders(run: Any) -> list[Path]:
    """Return the folders that an argument of compare names. Raises UserError."""
    if isinstance(run, Run):
        return [run.path]
    if isinstance(run, str | Path):
        return [Path(run)]
    if isinstance(run, list | tuple):
        return [path for one in run for path in _folders(one)]
    raise UserError(f"compare: {run!r} is not a Run, a folder or a list of these")
