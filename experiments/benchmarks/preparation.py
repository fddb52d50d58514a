"""Measure wall time and peak memory of data preparation, from raw archive to prepared folder.

    python experiments/benchmarks/preparation.py --data_dir ../shared/data \
        --electronics --csv_rows 20000000 --json prepare.json

Each run is a separate process with an empty cache folder, so that imports, parsing, filters,
negatives and the syncing of files are all included; the raw file is probably in the page cache. The
generated data sets have the size of real ones: Electronics with review texts (its k-core removes
almost nothing), and a CSV file of ratings like that of MovieLens-20M.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
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


def measure(dataset: str, data_dir: Path, scratch: Path) -> dict:
    """Prepare once; return the seconds, peak memory and counts of the process."""
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        begin = time.perf_counter()
        command = [sys.executable, "-c", PREPARE, dataset, str(data_dir), cache]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert process.stderr
        output = process.stdout.read()
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{dataset}: the preparation failed\n{errors}")
    scale = 1 if platform.system() == "Darwin" else 1024
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * scale,
        "counts": output,
    }


def report(name: str, dataset: str, data_dir: Path, repeats: int, scratch: Path) -> dict:
    """Prepare `repeats` times; print and return the medians."""
    runs = [measure(dataset, data_dir, scratch) for _ in range(repeats)]
    result = {
        "name": name,
        "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
        "fastest_seconds": round(min(run["seconds"] for run in runs), 2),
        "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in runs), 2),
        "peak_rss_mb": round(statistics.median(run["peak"] for run in runs) / 1e6),
        "repeats": repeats,
        "counts": json.loads(runs[0]["counts"]),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    print(
        f"{name:>12}: {result['seconds']:6.2f} s (fastest {result['fastest_seconds']:.2f}, "
        f"cpu {result['cpu_seconds']:.2f}), peak {result['peak_rss_mb']} MB, "
        f"{result['counts']['interactions']:,} clicks, load {result['load_average'][0]}",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_dir",
        default=os.environ.get("TTT4REC_DATA_DIR", ""),
        help="folder of the real archives",
    )
    parser.add_argument(
        "--electronics",
        action="store_true",
        help="generate and prepare Electronics in full size as well",
    )
    parser.add_argument(
        "--csv_rows",
        type=int,
        default=0,
        help="generate and prepare a CSV file of this many rows as well",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    # in a separate process, since a child process inherits its parent's peak memory
    parser.add_argument("--generate", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.generate:
        path = Path(args.generate)
        return generate_csv(path, args.csv_rows) if args.csv_rows else generate_electronics(path)

    results = []
    with tempfile.TemporaryDirectory(prefix="preparation-") as folder:
        scratch = Path(folder)
        for name, file in REAL.items():
            if (Path(args.data_dir) / file).exists():
                results.append(report(name, name, Path(args.data_dir), args.repeats, scratch))
            else:
                print(f"{name:>12}: no {file} in --data_dir={args.data_dir}")
        if args.electronics:
            generate(scratch / "reviews_Electronics_5.json.gz")
            results.append(report("electronics", "electronics", scratch, args.repeats, scratch))
        if args.csv_rows:
            generate(scratch / "clicks.csv", "--csv_rows", str(args.csv_rows))
            results.append(
                report("csv", str(scratch / "clicks.csv"), scratch, args.repeats, scratch)
            )
    if args.json:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        args.json.write_text(
            json.dumps(
                {"cpus": cpus, "python": platform.python_version(), "results": results}, indent=2
            )
            + "\n"
        )


def generate(path: Path, *arguments: str) -> None:
    """Generate a file in a separate process."""
    subprocess.run(
        [sys.executable, __file__, "--generate", str(path), *arguments], cwd=ROOT, check=True
    )


if __name__ == "__main__":
    main()
