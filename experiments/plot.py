"""Draws loss and validation curves of one or many runs, finished or not, by epoch:

python experiments/plot.py runs/sasrec-0 runs/ttt4rec-0 --output=curves.png
python experiments/plot.py runs/my-sweep --metric=hit@10

Runs of --ttt_stats also have what their inner learners do drawn: inner loss, weight change, inner
learning rate.
"""

import json
import os
import sys
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.cli.parser import Parser
from ttt4rec_jax.runs.folder import RunFolder

METRICS = tuple(f"{name}@{k}" for k in (5, 10, 20) for name in ("ndcg", "hit"))


def folders(paths: list[Path]) -> list[Path]:
    """The runs' folders, a sweep's combinations in the place of its own. Raises UserError."""
    found = []
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"{path}: {'not a folder' if path.exists() else 'not there'}; name the folder of a run or a sweep"
            )
        if (path / "sweep.json").exists():
            found += sorted(p.parent for p in path.glob("*/metrics.jsonl"))
        else:
            found.append(path)
    if not found:
        raise UserError(
            f"{', '.join(map(str, paths))}: no combination has finished an epoch; name a run that has"
        )
    return list(dict.fromkeys(found))


def history(path: Path) -> list[dict]:
    """The epochs of a run. Raises UserError if it has none."""
    file = RunFolder(path).metrics
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if any(not {"epoch", "loss", "validation"} <= line.keys() for line in lines):
            raise ValueError("a line without epoch, loss or validation")
    except FileNotFoundError:
        lines = []
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); train the run again") from error
    if not lines:
        raise UserError(
            f"{path}: no epoch in {file.name}; a model without training has none, and a run gets one an epoch"
        )
    return lines


def names(paths: list[Path]) -> list[str]:
    """Each path without the folders that all share."""
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
        "--metric", choices=METRICS, default="ndcg@10", help="validation figure (ndcg@10)"
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
