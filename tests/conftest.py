"""Small data sets in memory, a run of main.py, and how tests compile."""

import functools
import os

import hypothesis
import jax
import numpy as np
import pytest
from helpers import (
    QUICK_TO_COMPILE,
    QUICK_XLA,
    SMALL,
    make_dataset,
    registries_restored,
    run_main,
)
from jax._src import compiler

from ttt4rec_jax.data.dataset import Dataset

# machines are shared, so that the time of one example says nothing
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

# variants that a change rarely breaks alone: .ci/run leaves them out, `pytest -m slow` runs them
SLOW = (
    *(
        f"test_learns_an_order_that_popularity_cannot[{name}]"
        for name in ("ttt4rec", "din", "bert4rec", "comirec_sa", "comirec_dr")
    ),
    *(
        f"test_eight_devices_give_the_figures_of_one[{name}]"
        for name in ("gru4rec", "bert4rec", "comirec_dr")
    ),
    "test_gradients_of_mamba_are_finite_and_the_same_in_every_implementation[1-linear-impls0]",
    "test_gradients_of_mamba_are_finite_and_the_same_in_every_implementation[1-mlp-impls1]",
    "test_stacked_runs_yield_what_each_yields_alone[mixed, side by side]",
    "test_stacked_runs_take_data_from_the_host[a device each]",
    "test_a_run_is_that_of_data_on_the_device[sampled]",
    "test_a_benchmark_runs[layer-flags0]",
    "test_a_benchmark_runs[catalogue-flags2]",
    "test_a_session_equals_the_whole_history[b4]",
    "test_kills_lose_and_repeat_nothing[redis]",
)


# files of few tests that take long: they come first, so that no process waits for them at the end
LONG_FILES = (
    "test_kills.py",
    "test_server.py",
    "test_processes.py",
    "test_main.py",
    "test_optim.py",
    "test_recommend_real.py",
    "test_real_data.py",
    "test_layer.py",
)


def pytest_collection_modifyitems(items):
    """Mark the slow variants, and sort the files that take long to the front."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    for item in items:
        if item.nodeid.endswith(SLOW):
            item.add_marker(pytest.mark.slow)


def compile_quickly(get_options):
    """Return JAX's function of XLA's options with QUICK_XLA added where XLA optimizes little.

    XLA_FLAGS would say the same for the whole process, and for tests marked `optimized` too.
    """

    @functools.wraps(get_options)
    def with_quick_xla(*args, env_options_overrides=None, **options):
        quick = QUICK_XLA if jax.config.read("jax_disable_most_optimizations") else {}
        overrides = quick | dict(env_options_overrides or {})
        return get_options(*args, env_options_overrides=overrides, **options)

    return with_quick_xla


def pytest_configure(config):
    """Spend less on compilation, which is most of what these tests cost.

    Compiled programs are kept between tests and runs, and XLA optimizes little, except in tests
    marked `optimized`.
    """
    compiler.get_compile_options = compile_quickly(compiler.get_compile_options)
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax_programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_disable_most_optimizations", True)
    # stacked runs are spread over the devices, and test_mesh.py uses all of them
    jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Forget compiled functions after each file: they would fill gigabytes over a whole run."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def registered():
    """Forget the models and inner learners that a file registers."""
    with registries_restored():
        yield


@pytest.fixture(autouse=True)
def optimizations(request):
    """Let XLA optimize fully in a test that is about bits, memory or speed, or on real data."""
    is_optimized = any(map(request.node.get_closest_marker, ("optimized", "realdata")))
    jax.config.update("jax_disable_most_optimizations", not is_optimized)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


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
        **QUICK_TO_COMPILE,
    }


@pytest.fixture(scope="session")
def synthetic_run(environment, tmp_path_factory):
    """(a folder, the finished process of main.py that left the run "run" in it)."""
    cwd = tmp_path_factory.mktemp("work")
    flags = ["--dataset=synthetic", "--run_dir=run", *SMALL]
    return cwd, run_main(environment, *flags, cwd=cwd)


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
