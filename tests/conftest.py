"""Small data sets made in memory, for every test that needs one."""

import functools
import os

import jax
import numpy as np
import pytest
from helpers import QUICK_TO_COMPILE, SMALL, run_main

from ttt4rec_jax.data.dataset import Dataset, Targets


def pytest_configure(config):
    """Spend less on compilation, which is most of what these tests cost.

    Compiled programs are kept between tests and runs, and XLA optimizes little, except in tests
    marked `optimized`.
    """
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax_programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_disable_most_optimizations", True)
    # stacked runs are spread over the devices, and test_mesh.py uses all of them
    jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True)
def optimizations(request):
    """Let XLA optimize fully in a test that is about bits, memory or speed, or on real data."""
    is_optimized = any(map(request.node.get_closest_marker, ("optimized", "realdata")))
    jax.config.update("jax_disable_most_optimizations", not is_optimized)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def make_dataset(
    sequences: list[list[int]], num_items: int, num_negatives: int = 5, seed: int = 0
) -> Dataset:
    """A leave-one-out data set of users' item sequences; users of under three clicks only train."""
    rng = np.random.default_rng(seed)
    counts = np.array([len(s) for s in sequences])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    users = np.flatnonzero(counts >= 3)
    train_ends = np.where(counts >= 3, offsets[1:] - 2, offsets[1:])

    def targets(back):
        free = [np.setdiff1d(np.arange(1, num_items + 1), sequences[u]) for u in users]
        negatives = np.stack([rng.choice(f, num_negatives, replace=False) for f in free]).astype(
            np.int32
        )
        return Targets(
            (offsets[users + 1] - back).astype(np.int32), users.astype(np.int32), negatives
        )

    counts = {"users": len(sequences), "items": num_items, "interactions": int(offsets[-1])}
    manifest = {"name": "test", "counts": counts, "sha256": "0" * 64}
    items = np.concatenate(sequences).astype(np.int32)
    return Dataset(manifest, items, offsets, train_ends, targets(2), targets(1))


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment of a command: cache folders of this test run, which all workers share."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "caches"
    folder.mkdir(exist_ok=True)
    return os.environ | {
        "TTT4REC_CACHE_DIR": str(folder / "prepared"),
        "XDG_CACHE_HOME": str(folder),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }


@pytest.fixture(scope="session")
def synthetic_run(environment, tmp_path_factory):
    """(a folder, the finished process of main.py that left the run "run" in it)."""
    cwd = tmp_path_factory.mktemp("work")
    flags = ["--dataset=synthetic", "--run_dir=run", *SMALL]
    return cwd, run_main(environment | QUICK_TO_COMPILE, *flags, cwd=cwd)


@pytest.fixture(scope="session")
def random_dataset() -> Dataset:
    """40 users with 1 to 14 clicks on 30 items, repeats included."""
    rng = np.random.default_rng(1)
    return make_dataset([rng.integers(1, 31, rng.integers(1, 15)).tolist() for _ in range(40)], 30)


@pytest.fixture(scope="session")
def cyclic_dataset() -> Dataset:
    """Users who walk round a ring of 24 items, each from a random item.

    The order of the clicks determines the next one, popularity says nothing.
    """
    rng = np.random.default_rng(2)
    starts = rng.integers(0, 24, 120)
    return make_dataset(
        [((s + np.arange(rng.integers(6, 12))) % 24 + 1).tolist() for s in starts],
        24,
        num_negatives=9,
    )


@pytest.fixture(scope="session")
def recommender_of(random_dataset):
    """Return a function from a case of helpers.SERVING_CASES to its Recommender, made only once."""
    from helpers import SERVING_CASES, make_recommender, serving_config

    @functools.cache
    def make(case: str):
        config = serving_config(case.split()[0], **SERVING_CASES[case])
        titles = [f"title {i}" for i in range(1, 31)] if case == "sasrec" else None
        return make_recommender(config, random_dataset, titles)

    return make
