"""Measure recommendations: a click of a live session, many sessions at once, all test users.

python experiments/benchmarks/serving.py --run=runs/ttt --reread=runs/sasrec --data_dir=DIR

The times are those of whole calls of the Python interface, from ids to ids, after compilation.
Programs that are compared take turns.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from command_line import Figures, run, write_json
from timing import machine

from data_prep.prepare import prepare
from data_prep.settings import option
from ttt4rec_jax import Recommender
from ttt4rec_jax.cli.command import FinishedRun
from ttt4rec_jax.data.dataset import Dataset, load_dataset
from ttt4rec_jax.runs.folder import RunFolder, load_config

FEW = 10
MANY = 10_000
K = 10
WARM_UP = 20  # calls that are not measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingFlags(Figures, FinishedRun):
    """The flags of serving.py; --run names a run of a model with a state."""

    reread: str = option("", "Folder of a run of a model without a state, to compare with.")
    sessions: int = option(1024, "Sessions handled at once.", low=1)
    repeats: int = option(300, "Clicks that are measured.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_run()


def clicker(
    recommender: Recommender, num_clicks: int, rng: np.random.Generator, calls: int = 1
) -> Callable:
    """Return a function that adds a click to a session of num_clicks and recommends.

    calls: 2 for `observe` and `recommend` in turn.
    """
    ids = recommender.items.ids
    session = recommender.open_session([ids[i] for i in rng.integers(0, len(ids), num_clicks)])
    next_ids = itertools.cycle([ids[i] for i in rng.integers(0, len(ids), 4096)])

    def in_one_call():
        return session.observe_and_recommend(next(next_ids), K)

    def in_two_calls():
        session.observe(next(next_ids))
        return session.recommend(K)

    return in_one_call if calls == 1 else in_two_calls


def medians(programs: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each program; they are called in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + WARM_UP):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}


def rate(function: Callable, count: int, repeats: int) -> float:
    """Return the median rate per second of a function that handles `count` items per call."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return count / float(np.median(times))


def test_histories(run_dir: Path, data_dir: str, cache_dir: str) -> list[list]:
    """Return the clicks of each test user before the last one, as ids of the data."""
    prepared = prepare(load_config(RunFolder(run_dir).config).data, data_dir, cache_dir)
    ids = Recommender.load(run_dir, data_dir, cache_dir).items.ids
    return histories_of(load_dataset(prepared), ids)


def histories_of(dataset: Dataset, ids: Sequence) -> list[list]:
    """Return what `test_histories` does. ids: those of the items 1, 2, ..."""
    starts = dataset.offsets[dataset.test.users]
    ends = dataset.test.positions
    return [
        [ids[i - 1] for i in dataset.items[start:end]]
        for start, end in zip(starts, ends, strict=True)
    ]


def measure_clicks(
    recommender: Recommender,
    reread: Recommender | None,
    repeats: int,
    rng: np.random.Generator,
    many: int = MANY,
) -> dict[str, float]:
    """Return the milliseconds of a click and its recommendations after few and many other clicks.

    reread: a model without a state, whose sessions read their last max_len clicks again.
    """
    programs = {f"click after {n:,}": clicker(recommender, n, rng) for n in (FEW, many)}
    programs[f"click after {FEW:,}, two calls"] = clicker(recommender, FEW, rng, 2)
    if reread:
        programs[f"click after {many:,}, reread"] = clicker(reread, many, rng)
    results = {f"{name}, ms": ms for name, ms in medians(programs, repeats).items()}
    few = results[f"click after {FEW:,}, ms"]
    results["ratio of many to few"] = results[f"click after {many:,}, ms"] / few
    return results


def measure_sessions(
    recommender: Recommender, num_sessions: int, rng: np.random.Generator
) -> dict[str, float]:
    """Return clicks and recommendations per second of many sessions handled together."""
    ids = recommender.items.ids
    sessions = [recommender.open_session() for _ in range(num_sessions)]
    clicks = [ids[i] for i in rng.integers(0, len(ids), num_sessions)]
    functions = {
        "clicks/s, observed together": lambda: recommender.observe_many(sessions, clicks),
        "top 10/s of sessions": lambda: recommender.recommend_many(sessions, K),
        "click and top 10/s": lambda: recommender.observe_many(sessions, clicks, K),
    }
    return {name: rate(function, num_sessions, 15) for name, function in functions.items()}


def measure_users(recommender: Recommender, histories: list[list]) -> dict[str, float]:
    """Return the time in seconds of the recommendations for all test users."""
    per_second = rate(lambda: recommender.recommend(histories, K), len(histories), 5)
    return {"users": len(histories), "all users' top 10, s": len(histories) / per_second}


def main(flags: ServingFlags) -> None:
    folders = flags.data_dir, flags.cache_dir
    before = machine()
    rng = np.random.default_rng(0)
    recommender = Recommender.load(flags.run, *folders)
    reread = Recommender.load(flags.reread, *folders) if flags.reread else None
    results = measure_clicks(recommender, reread, flags.repeats, rng)
    results |= measure_sessions(recommender, flags.sessions, rng)
    results |= measure_users(recommender, test_histories(Path(flags.run), *folders))
    print(before)
    for name, value in results.items():
        print(f"{name:32} {value:12,.3f}")
    print(f"load at the end {machine()['load']}")
    write_json(flags.json, {"machine": before, "figures": results})


if __name__ == "__main__":
    sys.exit(run(__doc__, ServingFlags, main))
