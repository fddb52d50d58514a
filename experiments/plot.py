"""Draws loss and validation curves of one or many runs, finished or not, by epoch:

python experiments/plot.py runs/sasrec-0 runs/ttt4rec-0 --output=curves.png
python experiments/plot.py runs/my-sweep --metric=hit@10

Runs of --ttt_stats also have what their inner learners do drawn: inner loss, weight change, inner
learning rate.
"""

import os
import sys
from pathlib import Path
from typing import Any

from data_prep.settings import UserError
from ttt4rec_jax.cli.parser import Parser
from ttt4rec_jax.metrics import AT_CUTOFFS
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder


def folders(paths: list[Path]) -> list[Path]:
    """Return the runs' folders, a sweep replaced by its combinations that have finished an epoch.

    Raises UserError if there is none.
    """
    runs = [
        run
        for path in paths
        for run in read.members(path)
        if not read.is_sweep(path) or RunFolder(run).metrics.exists()
    ]
    if not runs:
        raise UserError(
            f"{', '.join(map(str, paths))}: no combination has finished an epoch; "
            "name a run that has"
        )
    return list(dict.fromkeys(runs))


def history(path: Path) -> list[dict[str, Any]]:
    """Return the epochs of a run. Raises UserError if it has none."""
    lines = read.history(path)
    if not lines:
        raise UserError(
            f"{path}: no epoch in {RunFolder(path).metrics.name}; name a trained run "
            "that has finished an epoch"
        )
    return lines


def names(paths: list[Path]) -> list[str]:
    """Return each path without the folders that all of them share."""
    if len(paths) < 2:
        return [path.name or str(path) for path in paths]
    common = os.path.commonpath([path.resolve() for path in paths])
    return [os.path.relpath(path.resolve(), common) for path in paths]


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 a mistake told in one line."""
    parser = Parser(argv[0], __doc__)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="folder of a run, or of a sweep: all its combinations",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("curves.png"),
        help="PNG to write (curves.png)",
    )
    parser.add_argument(
        "--metric", choices=AT_CUTOFFS, default="ndcg@10", help="validation figure (ndcg@10)"
    )
    try:
        asked = parser.parse_args(argv[1:])
        if asked.output.suffix.lower() != ".png":
            raise UserError(f"--output: {asked.output} is no .png; name a PNG file")
        paths = folders(asked.runs)
        histories = dict(zip(names(paths), map(history, paths), strict=True))
        from ttt4rec_jax import (
            plots,  # matplotlib takes a second, which a mistake need not wait for
        )

        try:
            plots.save(plots.curves(histories, asked.metric), asked.output)
        except OSError as error:
            raise UserError(
                f"--output: {asked.output} cannot be written ({error.strerror}); name another file"
            ) from error
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(histories)} run{'s' * (len(histories) > 1)} drawn in {asked.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
