r"""Measure wall time and peak memory of data preparation, from raw archive to prepared folder.

    python experiments/benchmarks/preparation.py --data_dir=../shared/data \
        --electronics --csv_rows=20000000 --json=prepare.json

Each run is a separate process with an empty cache folder, so that imports, parsing, filters,
negatives and the syncing of files are all included; the raw file is probably in the page cache. The
generated data sets have the size of real ones: Electronics with review texts (its k-core removes
almost nothing), and a CSV file of ratings like that of MovieLens-20M.
"""

import dataclasses
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from command_line import Figures, run
from processes import ROOT, Watched, load_average, watch

from data_prep.settings import UserError, option

REAL = {"ml1m": "ml-1m.zip", "beauty": "reviews_Beauty_5.json.gz"}
WORDS = "the of and good product cable works great price bought this very well sound"
PREPARE = """
import json, sys
from data_prep.prepare import prepare
from data_prep.settings import DataConfig
folder = prepare(DataConfig(dataset=sys.argv[1]), data_dir=sys.argv[2], cache_dir=sys.argv[3])
print(json.dumps(json.loads((folder / "manifest.json").read_text())["counts"]))
"""


def generate_electronics(path: Path) -> None:
    """Write 1,689,188 reviews of 60 words by 192,403 users of 63,001 items, at least 5 of each."""
    import numpy as np

    users = 192_403
    items = 63_001
    reviews = 1_689_188
    rng = np.random.default_rng(0)
    weights = rng.pareto(1.2, users) + 0.01
    counts = 5 + rng.multinomial(reviews - 5 * users, weights / weights.sum())
    popularity = 1 / np.arange(1, items + 1) ** 0.7
    item = rng.choice(items, reviews, p=popularity / popularity.sum())
    item[rng.permutation(reviews)[: 5 * items]] = np.repeat(np.arange(items), 5)
    seconds = rng.integers(900_000_000, 1_400_000_000, reviews) // 86_400 * 86_400
    words = WORDS.split()
    texts = [" ".join(rng.choice(words, 60)) for _ in range(500)]
    rows = zip(
        np.repeat(np.arange(users), counts).tolist(), item.tolist(), seconds.tolist(), strict=True
    )
    with gzip.open(path, "wt", compresslevel=3) as file:
        for n, (u, i, t) in enumerate(rows):
            file.write(
                f'{{"reviewerID": "A{u:010d}", "asin": "B{i:08d}", "reviewerName": "someone", '
                f'"helpful": [0, 0], "reviewText": "{texts[n % 500]}", "overall": 5.0, '
                f'"summary": "Great", "unixReviewTime": {t}, "reviewTime": "06 2, 2013"}}\n'
            )


def generate_csv(path: Path, rows: int) -> None:
    """Write unsorted ratings by up to 138,000 users of 27,000 items."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    users = (rng.beta(0.5, 3, rows) * 138_000).astype(int)
    items = (rng.beta(0.4, 4, rows) * 27_000).astype(int)
    times = rng.integers(800_000_000, 1_500_000_000, rows)
    frame = pl.DataFrame(
        {"user": users, "item": items, "rating": np.full(rows, 4.5), "timestamp": times}
    )
    frame.write_csv(path)


def measure(dataset: str, data_dir: Path, scratch: Path) -> Watched:
    """Prepare once, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        done = watch([sys.executable, "-c", PREPARE, dataset, str(data_dir), cache])
    if done.code:
        raise SystemExit(f"{dataset}: the preparation failed\n{done.output}")
    return done


def report(name: str, dataset: str, data_dir: Path, repeats: int, scratch: Path) -> dict:
    """Prepare `repeats` times; return the medians as a row of the table."""
    runs = [measure(dataset, data_dir, scratch) for _ in range(repeats)]
    counts = json.loads(runs[0].output.splitlines()[-1])
    row = {
        "data": name,
        "seconds": round(statistics.median(run.seconds for run in runs), 2),
        "fastest": round(min(run.seconds for run in runs), 2),
        "cpu_seconds": round(statistics.median(run.cpu_seconds for run in runs), 2),
        "peak_mb": round(statistics.median(run.peak_mb for run in runs)),
        **{count: counts[count] for count in ("users", "items", "interactions")},
        "load": load_average(),
    }
    print(row, flush=True)
    return row


def generate(path: Path, *flags: str) -> None:
    """Write a generated file in a process of its own: a child's peak starts at its parent's."""
    command = [sys.executable, __file__, f"--generate={path}", *flags]
    subprocess.run(command, cwd=ROOT, check=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparationFlags(Figures):
    """The flags of preparation.py."""

    data_dir: str = option("", "Folder of the real archives; default: TTT4REC_DATA_DIR.")
    electronics: bool = option(False, "Generate and prepare Electronics in full size as well.")
    csv_rows: int = option(
        0, "Generate and prepare a CSV file of this many rows as well; 0: none.", low=0
    )
    repeats: int = option(3, "Preparations of each data set.", low=1)
    generate: str = option(
        "", "Only write generated data there: --csv_rows rows, or Electronics. Used by the command."
    )


def main(flags: PreparationFlags) -> None:
    if flags.generate:
        path = Path(flags.generate)
        if flags.csv_rows:
            generate_csv(path, flags.csv_rows)
        else:
            generate_electronics(path)
        return
    data_dir = Path(flags.data_dir or os.environ.get("TTT4REC_DATA_DIR", ""))
    rows = []
    with tempfile.TemporaryDirectory(prefix="preparation-") as folder:
        scratch = Path(folder)
        for name, file in REAL.items():
            if (data_dir / file).exists():
                rows.append(report(name, name, data_dir, flags.repeats, scratch))
            else:
                print(f"{name}: no {file} in --data_dir={data_dir}")
        if flags.electronics:
            generate(scratch / "reviews_Electronics_5.json.gz")
            rows.append(report("electronics", "electronics", scratch, flags.repeats, scratch))
        if flags.csv_rows:
            path = scratch / "clicks.csv"
            generate(path, f"--csv_rows={flags.csv_rows}")
            rows.append(report("csv", str(path), scratch, flags.repeats, scratch))
    if not rows:
        raise UserError("--data_dir: no archive is there, and nothing is to be generated")
    # imports JAX: not at the top, since a child's peak memory starts at its parent's
    from timing import machine, show

    show(rows, machine(), flags.json)


if __name__ == "__main__":
    sys.exit(run(__doc__, PreparationFlags, main))
