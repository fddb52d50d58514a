"""Data that stay on the host give the batches, the losses and the ranks of data that lie on the device."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from data_prep.prepare import prepare
from data_prep.settings import DataConfig
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.data import batches
from ttt4rec_jax.data.dataset import load_dataset
from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.parallel.sharding import DeviceMesh
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training import host_data
from ttt4rec_jax.training import trainer as train
from ttt4rec_jax.training.interrupt import Interrupted
from ttt4rec_jax.training.trainer import Trainer

MAIN = Path(__file__).parents[2] / "experiments" / "main.py"
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
    "masked": ("bert4rec", {"loss": "bce"}),
    "pairs": ("din", {}),
    "intents": ("iclrec", {"targets": "every"}),
}


def config(kind="last", **settings):
    model, own = KINDS[kind]
    options = (
        {"num_intents": 3}
        if model == "iclrec"
        else {"mini_batch_size": 2}
        if model == "ttt4rec"
        else {}
    )
    shared = {"batch_size": 13, "num_negatives": 3, "learning_rate": 0.01, "epochs": 2}
    return Config(
        model=ModelConfig(model=model, dim=8, max_len=6, dropout=0.2, **options),
        train=TrainConfig(**shared | own | settings),
    )


def on_host(dataset):
    return dataclasses.replace(dataset, on_host=True)


def fit(configs, dataset, folder, mesh=None):
    folders = [RunFolder(folder / str(r)) for r in range(len(configs))]
    for c, of_run in zip(configs, folders, strict=True):
        of_run.create(c)
    trainer = Trainer(configs, dataset, mesh)
    group = folders[0] if len(configs) == 1 else RunFolder(folder)
    return trainer.fit(group, folders, log=lambda line: None)


def assert_same(got, expected):
    losses = [[line["loss"] for line in outcome.history] for outcome in (got, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for protocol, ranks in expected.test_ranks.items():
        # scores that differ in the last bit may change places
        moved = np.abs(got.test_ranks[protocol].greater - ranks.greater)
        assert moved.mean() < 0.1 and moved.max() <= 1, protocol
        np.testing.assert_array_equal(got.test_ranks[protocol].others, ranks.others)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_that_of_data_on_the_device(kind, random_dataset, tmp_path):
    (expected,) = fit([config(kind)], random_dataset, tmp_path / "device")
    (got,) = fit([config(kind)], on_host(random_dataset), tmp_path / "host")
    assert_same(got, expected)


@pytest.mark.parametrize("kind", ["last", "every", "masked"])
def test_batches_are_those_of_the_device_bit_for_bit(kind, random_dataset):
    there, here = (
        Trainer([config(kind)], dataset) for dataset in (random_dataset, on_host(random_dataset))
    )
    of, order, key = there.begin_epoch(1)
    jax.tree.map(np.testing.assert_array_equal, here.begin_epoch(1)[:2], (of, order))
    assert len(set(np.asarray(of))) == len(there.buckets) and there.steps > 2
    for step, bucket in enumerate(np.asarray(of)):
        step_key, _ = jax.random.split(jax.random.fold_in(key[0], step))
        order_B = order[0, step, : there.buckets[bucket].batch_size]
        length = there.buckets[bucket].length
        arguments = (
            there.clicks,
            there.examples,
            order_B,
            step_key,
            there.configs[0],
            random_dataset.num_items,
            length,
        )
        expected = batches.make_batch(*arguments)
        got = here.run_steps.make(
            int(bucket), here.clicks, here.examples, *here.begin_epoch(1)[1:], np.int32(step)
        )
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), got.batch, expected)


@pytest.mark.parametrize("kind", ["last", "every", "sampled", "masked"])
def test_a_part_of_a_batch_is_made_of_its_own_users_clicks_alone(kind, random_dataset):
    asked = config(kind)
    clicks = batches.device_clicks(random_dataset)
    (examples, buckets) = batches.training_examples(random_dataset, asked)
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


def test_ranks_are_those_of_one_dispatch(random_dataset, monkeypatch):
    monkeypatch.setattr(ranking, "TILE", 4)  # so that there are many batches and several dispatches
    monkeypatch.setattr(ranking, "BATCHES_AT_ONCE", 3)
    trainer, other = (
        Trainer([config("every")], dataset) for dataset in (random_dataset, on_host(random_dataset))
    )
    assert len(list(other.evaluate._dispatches("test"))) > 2
    for name in ("validation", "test"):
        (expected,), (got,) = (
            t.evaluate.of_runs(t.first_state.params, name) for t in (trainer, other)
        )
        jax.tree.map(np.testing.assert_array_equal, got, expected)


STACKED = {
    "side by side": ((0, 0.01), (1, 0.01), (0, 0.003)),  # no two of the devices divide three
    "of one seed": ((0, 0.01), (0, 0.003), (0, 0.001)),
    "a device each": ((0, 0.01), (1, 0.003)),
}


@pytest.mark.parametrize("runs", STACKED)
def test_stacked_runs_take_data_from_the_host(runs, random_dataset, tmp_path):
    variants = [config("every", seed=seed, learning_rate=rate) for seed, rate in STACKED[runs]]
    alone = [fit([c], random_dataset, tmp_path / f"alone{r}")[0] for r, c in enumerate(variants)]
    for got, expected in zip(
        fit(variants, on_host(random_dataset), tmp_path / "stacked"), alone, strict=True
    ):
        assert_same(got, expected)


@pytest.mark.parametrize("kind", ["every", "sampled"])
def test_a_mesh_takes_data_from_the_host(kind, random_dataset, tmp_path):
    (expected,) = fit([config(kind)], random_dataset, tmp_path / "device")
    (got,) = fit([config(kind)], on_host(random_dataset), tmp_path / "host", DeviceMesh(4, 2))
    assert_same(got, expected)


def test_a_run_goes_on_where_its_data_lie_elsewhere(random_dataset, tmp_path, monkeypatch):
    asked = config("every", batch_size=4, epochs=3)
    folder = RunFolder(tmp_path / "run")
    (expected,) = fit([asked], random_dataset, tmp_path / "whole")
    folder.create(asked)
    monkeypatch.setattr(train, "SECONDS_PER_DISPATCH", 0.0)
    monkeypatch.setattr(train, "FIRST_DISPATCH", 2)
    seen = []

    class StopInTheSecondEpoch(train.StopRequest):
        @property
        def asked(self):
            seen.append(1)
            return len(seen) > 12

        @asked.setter
        def asked(self, value):
            pass

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=r"after step [1-9]"):
        patch.setattr(train, "StopRequest", StopInTheSecondEpoch)
        Trainer([asked], on_host(random_dataset)).fit(folder, [folder], log=lambda line: None)
    (got,) = Trainer([asked], random_dataset).fit(folder, [folder], log=lambda line: None)
    assert_same(got, expected)


def test_mapped_columns_are_not_copied(tmp_path):
    folder = prepare(DataConfig(dataset="synthetic"), cache_dir=tmp_path)
    dataset = load_dataset(folder, on_host=True)
    assert isinstance(dataset.items, np.memmap) and dataset.on_host
    clicks = batches.device_clicks(dataset, host_data.host_device())
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


def test_the_command_line_gives_the_same_result(environment, tmp_path):
    flags = ["--dataset=synthetic", "--model=sasrec", "--targets=every", "--epochs=2", "--dim=8"]
    for placement in ("device", "host"):
        command = [
            sys.executable,
            str(MAIN),
            *flags,
            f"--run_dir={tmp_path / placement}",
            f"--data_placement={placement}",
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert ("data on the host" in done.stdout) == (placement == "host")
    results = [
        json.loads((tmp_path / placement / "result.json").read_text())
        for placement in ("device", "host")
    ]
    for protocol in ("sampled", "full"):
        a, b = (result["test"][protocol]["ndcg@10"] for result in results)
        assert a == pytest.approx(b, abs=0.002)
