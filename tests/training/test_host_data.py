"""Data on the host give the batches, the losses and the ranks of data on the device."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
from helpers import SMALL, config_of, fit_run, fit_runs, run_main

from data_prep.prepare import prepare
from data_prep.settings import DataConfig
from ttt4rec_jax.data import batches
from ttt4rec_jax.data.clicks import device_clicks
from ttt4rec_jax.data.dataset import load_dataset
from ttt4rec_jax.data.examples import training_examples
from ttt4rec_jax.evaluation import evaluator, ranking
from ttt4rec_jax.parallel.sharding import DeviceMesh
from ttt4rec_jax.training import host_data, loop
from ttt4rec_jax.training.compile import compile_runs
from ttt4rec_jax.training.interrupt import Interrupted
from ttt4rec_jax.training.program import make_program

KINDS = {
    "last": (
        "ttt4rec",
        {"learning_rate": 0.001},
    ),  # Adam makes whole steps of gradients that are nought but for rounding
    "every": ("sasrec", {"targets": "every"}),
    "softmax": ("sasrec", {"targets": "every", "loss": "softmax"}),
    "sampled": (
        "gru4rec",
        {"targets": "every", "loss": "sampled_softmax", "sparse_embeddings": True},
    ),
    "by popularity": (
        "gru4rec",
        {"loss": "sampled_softmax", "training_negatives": "log_uniform", "sparse_embeddings": True},
    ),
    "fixed": ("sasrec", {"targets": "every", "fixed_negatives": True}),
    "masked": ("bert4rec", {"loss": "bce"}),
    "pairs": ("din", {}),
    "intents": ("iclrec", {"targets": "every"}),
}


def config(kind="last", **settings):
    model, own = KINDS[kind]
    settings = {"batch_size": 13, "length_buckets": 2} | own | settings
    return config_of(model, {"dim": 8, "max_len": 6}, **settings)


@pytest.fixture(scope="module")
def host_dataset(random_dataset):
    return dataclasses.replace(random_dataset, on_host=True)


def assert_same(got, expected):
    losses = [[line["loss"] for line in outcome.history] for outcome in (got, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for protocol, ranks in expected.test_ranks.items():
        # scores that differ in the last bit may change places
        moved = np.abs(got.test_ranks[protocol].greater - ranks.greater)
        assert moved.mean() < 0.1 and moved.max() <= 1, protocol
        np.testing.assert_array_equal(got.test_ranks[protocol].others, ranks.others)


@pytest.mark.parametrize("kind", ["every", "sampled"])
def test_a_run_is_that_of_data_on_the_device(kind, random_dataset, host_dataset, tmp_path):
    expected = fit_run(config(kind), random_dataset, tmp_path / "device")
    got = fit_run(config(kind), host_dataset, tmp_path / "host")
    assert_same(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_the_device_bit_for_bit(kind, random_dataset, host_dataset):
    # the step that takes a batch is the same function for both, so equal batches are equal runs
    asked = config(kind)
    there = make_program([asked], random_dataset)
    here = make_program([asked], host_dataset)
    buckets = there.training.buckets
    num_items = random_dataset.num_items
    host_steps = host_data.HostSteps(
        here.training.train_step, asked, num_items, buckets, here.mesh, 1, True
    )
    epoch = jax.jit(there.training.begin_epoch)(1)
    other = jax.jit(here.training.begin_epoch)(1)
    jax.tree.map(np.testing.assert_array_equal, other[:2], epoch[:2])
    assert set(np.asarray(epoch.bucket_S)) == set(range(len(buckets)))
    assert there.training.num_steps > 2
    make_batch = jax.jit(batches.make_batch, static_argnums=(4, 5, 6))
    for step, bucket in enumerate(np.asarray(epoch.bucket_S).tolist()):
        step_key, _ = jax.random.split(jax.random.fold_in(epoch.key_R[0], step))
        order_B = epoch.order_RxSxB[0, step, : buckets[bucket].batch_size]
        data = (there.clicks, there.training.examples, order_B, step_key)
        expected = make_batch(*data, asked, num_items, buckets[bucket].length)
        data = (here.clicks, here.training.examples, epoch.order_RxSxB, epoch.key_R)
        got = host_steps.make(bucket, *data, np.int32(step))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), got.batch, expected)


@pytest.mark.parametrize("kind", ["last", "every", "sampled", "masked"])
def test_a_part_of_a_batch_is_made_of_its_own_users_clicks_alone(kind, random_dataset):
    asked = config(kind)
    clicks = device_clicks(random_dataset)
    (examples, buckets) = training_examples(random_dataset, asked)
    order = np.arange(buckets[-1].first, buckets[-1].stop)[:12]
    rows = slice(4, 9)

    def made(clicks, rows):
        key = jax.random.key(5)
        return batches.make_batch(
            clicks, examples, order, key, asked, random_dataset.num_items, buckets[-1].length, rows
        )

    whole = made(clicks, slice(None))
    own = np.isin(
        np.arange(len(random_dataset.train_ends)), np.asarray(examples.users)[order[rows]]
    )
    hidden = np.where(np.repeat(own, np.diff(random_dataset.offsets)), clicks.items, -7)
    gaps = np.where(np.repeat(own, np.diff(clicks.gap_starts)), clicks.gaps, -7)
    assert (hidden == -7).any() and (gaps == -7).any()
    part = made(
        clicks._replace(items=jax.numpy.asarray(hidden), gaps=jax.numpy.asarray(gaps)), rows
    )
    is_shared = whole.negatives.ndim == 1
    for name, a, b in zip(whole._fields, part, whole, strict=True):
        np.testing.assert_array_equal(
            a, b if name == "negatives" and is_shared else b[rows], err_msg=name
        )


def test_ranks_are_those_of_one_dispatch(random_dataset, host_dataset, monkeypatch):
    monkeypatch.setattr(ranking, "TILE", 4)  # so that there are many batches and several dispatches
    monkeypatch.setattr(evaluator, "BATCHES_PER_DISPATCH", 3)
    asked = config("every")
    on_device = compile_runs([asked], random_dataset)
    other = compile_runs([asked], host_dataset)
    assert len(list(other.evaluate._dispatches("test"))) > 2
    params_R = on_device.program.params_R
    for name in ("validation", "test"):
        (expected,) = on_device.evaluate.of_runs(params_R, name)
        (got,) = other.evaluate.of_runs(params_R, name)
        jax.tree.map(np.testing.assert_array_equal, got, expected)


STACKED = {
    "side by side": ((0, 0.01), (1, 0.01), (0, 0.003)),  # no two of the devices divide three
    "of one seed": ((0, 0.01), (0, 0.003), (0, 0.001)),
    "a device each": ((0, 0.01), (1, 0.003)),
}


@pytest.mark.parametrize("runs", STACKED)
def test_stacked_runs_take_data_from_the_host(runs, random_dataset, host_dataset, tmp_path):
    variants = [config("every", seed=seed, learning_rate=rate) for seed, rate in STACKED[runs]]
    stacked = fit_runs(variants, host_dataset, tmp_path / "stacked")
    for r, (variant, got) in enumerate(zip(variants, stacked, strict=True)):
        assert_same(got, fit_run(variant, random_dataset, tmp_path / f"alone{r}"))


def test_a_mesh_takes_data_from_the_host(random_dataset, host_dataset, tmp_path):
    asked = config("sampled", length_buckets=1)
    mesh = DeviceMesh(4, 2)
    expected = fit_run(asked, random_dataset, tmp_path / "device", mesh=mesh)
    got = fit_run(asked, host_dataset, tmp_path / "host", mesh=mesh)
    assert_same(got, expected)


def test_a_run_is_resumed_where_its_data_are_elsewhere(
    random_dataset, host_dataset, tmp_path, monkeypatch
):
    asked = config("every", epochs=3)
    expected = fit_run(asked, random_dataset, tmp_path / "whole")
    monkeypatch.setattr(loop, "SECONDS_PER_DISPATCH", 0.0)
    monkeypatch.setattr(loop, "FIRST_DISPATCH", 2)

    def stop_in_the_second_epoch(dispatch):
        if dispatch.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"epoch 2 after step [1-9]"):
        fit_run(
            asked,
            host_dataset,
            tmp_path / "run",
            on_dispatch=stop_in_the_second_epoch,
        )
    assert_same(fit_run(asked, random_dataset, tmp_path / "run"), expected)


def test_mapped_columns_are_not_copied(tmp_path):
    folder = prepare(DataConfig(dataset="synthetic"), cache_dir=tmp_path)
    dataset = load_dataset(folder, on_host=True)
    assert isinstance(dataset.items, np.memmap) and dataset.on_host
    clicks = device_clicks(dataset, host_data.host_device())
    for name, column in (
        ("items", dataset.items),
        ("is_first", dataset.index["is_first"]),
        ("gaps", dataset.index["gaps"]),
    ):
        assert getattr(clicks, name).unsafe_buffer_pointer() == column.ctypes.data, name
    whole = load_dataset(folder)
    assert not isinstance(whole.items, np.memmap)
    for name, column in whole.index.items():
        np.testing.assert_array_equal(
            column, dataclasses.replace(whole, stored_index=None).index[name]
        )


def test_auto_keeps_on_the_host_what_would_fill_the_device(tmp_path, monkeypatch):
    np.save(tmp_path / "items.npy", np.zeros(1000, np.int32))
    assert [host_data.stays_on_host(asked, tmp_path) for asked in ("auto", "host", "device")] == [
        False,
        True,
        False,
    ]
    monkeypatch.setattr(host_data, "device_bytes", lambda: 100_000)
    assert [host_data.stays_on_host(asked, tmp_path) for asked in ("auto", "host", "device")] == [
        True,
        True,
        False,
    ]


def test_the_command_line_gives_the_same_result(environment, synthetic_run, tmp_path):
    cwd, on_device = synthetic_run
    flags = ["--dataset=synthetic", f"--run_dir={tmp_path / 'host'}", *SMALL]
    done = run_main(environment, *flags, "--data_placement=host", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "data on the host" in done.stdout and "data on the host" not in on_device.stdout
    results = [
        json.loads((folder / "result.json").read_text())
        for folder in (cwd / "run", tmp_path / "host")
    ]
    for protocol in ("sampled", "full"):
        a, b = (result["test"][protocol]["ndcg@10"] for result in results)
        assert a == pytest.approx(b, abs=0.002)
