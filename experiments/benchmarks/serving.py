"""What a recommendation costs: a click of a live session after few and many others, many sessions at once, all users.

    python experiments/benchmarks/serving.py --run=runs/ttt --reread=runs/sasrec --data_dir=DIR
    [--json=FILE]

Times are of whole calls of the Python interface, ids in and ids out, after compilation. Programs
that are compared take turns.
--reread: a run of a model without a state, whose sessions read their last max_len clicks again.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from timing import machine

from data_prep.prepare import prepare
from ttt4rec_jax import Recommender
from ttt4rec_jax.data.dataset import load_dataset
from ttt4rec_jax.runs.folder import RunFolder, load_config

FEW = 10
MANY = 10_000
K = 10


def clicker(rec: Recommender, clicks: int, rng) -> Callable:
    """One more click of a session that has made so many, and its recommendations."""
    ids = rec.items.ids
    session = rec.open_session([ids[i] for i in rng.integers(0, len(ids), clicks)])
    coming = itertools.cycle([ids[i] for i in rng.integers(0, len(ids), 4096)])

    def click():
        session.observe(next(coming))
        return session.recommend(K)

    return click


def medians(programs: dict, repeats: int) -> dict[str, float]:
    """Median milliseconds of each program, called in turns."""
    seconds = {name: [] for name in programs}
    for turn in range(repeats + 20):
        for name, program in programs.items():
            started = time.perf_counter()
            program()
            if turn >= 20:
                seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}


def rate(function, count: int, repeats: int) -> float:
    """How many of `count` that a call of the function does are done in a second: the median call."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return count / float(np.median(times))


def test_histories(run: Path, data_dir: str) -> list[list]:
    """What test users clicked before their last click, in the data's own ids."""
    prepared = prepare(load_config(RunFolder(run).config).data, data_dir, "")
    dataset = load_dataset(prepared)
    ids = Recommender.load(run, data_dir).items.ids
    starts = dataset.offsets[dataset.test.users]
    ends = dataset.test.positions
    return [
        [ids[i - 1] for i in dataset.items[start:end]]
        for start, end in zip(starts, ends, strict=True)
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--reread", type=Path)
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--sessions", type=int, default=1024, help="observed at once")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    rng = np.random.default_rng(0)
    rec = Recommender.load(args.run, args.data_dir)
    programs = {f"click after {n:,}": clicker(rec, n, rng) for n in (FEW, MANY)}
    if args.reread:
        programs[f"click after {MANY:,}, reread"] = clicker(
            Recommender.load(args.reread, args.data_dir), MANY, rng
        )
    figures = {f"{name}, ms": ms for name, ms in medians(programs, args.repeats).items()}
    figures["ratio of many to few"] = (
        figures[f"click after {MANY:,}, ms"] / figures[f"click after {FEW:,}, ms"]
    )

    ids = rec.items.ids
    sessions = [rec.open_session() for _ in range(args.sessions)]
    clicks = [ids[i] for i in rng.integers(0, len(ids), args.sessions)]
    figures["clicks/s, observed together"] = rate(
        lambda: rec.observe_many(sessions, clicks), args.sessions, 15
    )
    figures["top 10/s of sessions"] = rate(
        lambda: rec.recommend_many(sessions, K), args.sessions, 15
    )
    figures["click and top 10/s"] = rate(
        lambda: rec.observe_many(sessions, clicks, K), args.sessions, 15
    )

    histories = test_histories(args.run, args.data_dir)
    figures["users"] = len(histories)
    figures["all users' top 10, s"] = len(histories) / rate(
        lambda: rec.recommend(histories, K), len(histories), 5
    )
    print(before)
    for name, value in figures.items():
        print(f"{name:32} {value:12,.3f}")
    print(f"load at the end {machine()['load']}")
    if args.json:
        args.json.write_text(json.dumps({"machine": before, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
