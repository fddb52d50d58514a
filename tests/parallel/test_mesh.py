"""A run on eight (virtual) devices: one device's results, and no device sees the whole table."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from helpers import compiled, config_of, fit_run

from data_prep.settings import UserError
from ttt4rec_jax.config import MODELS, Config, EvalConfig, ModelConfig
from ttt4rec_jax.config.execution import mesh_sizes
from ttt4rec_jax.parallel.sharding import RUNS, SHARED, DeviceMesh

COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
)
TRAINED = [name for name, abilities in MODELS.items() if abilities.trained]
OF_MODEL = {
    "ttt4rec": {"targets": "every", "loss": "softmax"},
    "sasrec": {"targets": "every", "loss": "sampled_softmax"},
    "gru4rec": {"targets": "every", "loss": "gbce"},
    "iclrec": {
        "targets": "every",
        "loss": "softmax",
        "batch_size": 16,
    },  # its views are drawn for a batch as it is filled up
    "bert4rec": {"loss": "softmax"},
    "comirec_dr": {"loss": "sampled_softmax"},
}


def config(model, **settings):
    sizes = {"dim": 12, "max_len": 4}  # no multiple of the width is a number of items
    # 14 rows do not divide by four: the rest is filled up
    return config_of(model, sizes, **{"batch_size": 14, "length_buckets": 1} | settings)


@pytest.fixture(scope="module")
def mesh():
    return DeviceMesh(4, 2)


# comirec_sa lies on a mesh as comirec_dr does
@pytest.mark.parametrize("model", [name for name in TRAINED if name != "comirec_sa"])
def test_eight_devices_give_the_figures_of_one(model, random_dataset, tmp_path, mesh):
    asked = config(model, epochs=1, **OF_MODEL.get(model, {}))
    alone = fit_run(asked, random_dataset, tmp_path / "one")
    got = fit_run(asked, random_dataset, tmp_path / "eight", mesh=mesh)
    losses = [[line["loss"] for line in outcome.history] for outcome in (got, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for protocol, ranks in got.test_ranks.items():
        # scores that differ in the last bit may change places
        moved = np.abs(ranks.greater - alone.test_ranks[protocol].greater)
        assert moved.mean() < 0.1 and moved.max() <= 1, protocol
        np.testing.assert_array_equal(ranks.others, alone.test_ranks[protocol].others)


def test_a_run_goes_on_from_another_mesh(random_dataset, tmp_path, mesh):
    asked = config("sasrec", targets="every", loss="softmax")
    whole = fit_run(asked, random_dataset, tmp_path / "whole")
    first_epoch = config("sasrec", targets="every", loss="softmax", epochs=1)
    fit_run(first_epoch, random_dataset, tmp_path / "run", mesh=mesh)
    got = fit_run(asked, random_dataset, tmp_path / "run")
    np.testing.assert_allclose(got.history[1]["loss"], whole.history[1]["loss"], rtol=1e-5)
    back = fit_run(asked, random_dataset, tmp_path / "run", mesh=DeviceMesh(2, 4))
    assert [line["loss"] for line in back.history] == [line["loss"] for line in got.history]


@pytest.mark.optimized
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_no_device_gathers_the_table(sparse, random_dataset, mesh):
    loss = "sampled_softmax" if sparse else "softmax"
    asked = config("sasrec", targets="every", loss=loss, sparse_embeddings=sparse)
    executables = compiled([asked], random_dataset, mesh)
    rows = random_dataset.num_items + 1
    rows += -rows % mesh.model
    table = executables.program.training.first_state.params["embedding"]
    assert table.shape[1] == rows and {s.data.shape[1] for s in table.addressable_shards} == {
        rows // mesh.model
    }
    for program in (executables.run_steps, *executables.evaluate.compiled.values()):
        hlo = program.as_text()
        sent = [match[1] for line in hlo.splitlines() if (match := COLLECTIVE.search(line))]
        assert sent
        for shape in re.findall(r"f32\[([\d,]+)\]", " ".join(sent)):
            # a sum is as good as a gathering where all rows but one device's are zero
            assert not {rows, rows - 1, rows - 2} & set(map(int, shape.split(","))), shape


def test_ranks_on_a_mesh_are_those_of_one_device(random_dataset, tmp_path, mesh):
    asked = config("sasrec", targets="every", loss="softmax")
    asked = dataclasses.replace(asked, eval=EvalConfig(filter_seen=False))
    executables = compiled([asked], random_dataset, mesh)
    placed = executables.program.mesh
    params_R = placed.gather(executables.program.training.first_state.params)
    alone = compiled([asked], random_dataset).evaluate
    one = jax.tree.map(lambda x: x[0], params_R)
    expected = alone(one, "test")
    (got,) = executables.evaluate.of_runs(placed.place(params_R, RUNS), "test")
    assert set(expected) == {"sampled", "full", "unfiltered"}
    for protocol in expected:
        np.testing.assert_array_equal(got[protocol].others, expected[protocol].others)
        assert np.abs(got[protocol].greater - expected[protocol].greater).max() <= 1


def test_what_leaves_a_mesh_has_the_rows_that_entered(mesh):
    tree = {"embedding": np.arange(30.0).reshape(1, 15, 2), "norm": np.ones((1, 3))}
    mesh = DeviceMesh(1, 8).for_params(tree)
    placed = mesh.place(tree, RUNS)
    assert placed["embedding"].shape == (1, 16, 2)
    jax.tree.map(np.testing.assert_array_equal, mesh.gather(placed), tree)
    assert mesh.place(tree, SHARED)["embedding"].shape == (1, 15, 2)


@pytest.mark.parametrize("model", ["popularity", "itemknn"])
def test_a_model_without_training_is_evaluated_on_a_mesh(model, random_dataset, tmp_path, mesh):
    asked = Config(model=ModelConfig(model=model))
    got = fit_run(asked, random_dataset, tmp_path / "mesh", mesh=mesh)
    alone = fit_run(asked, random_dataset, tmp_path / "one")
    assert got.validation == alone.validation
    np.testing.assert_array_equal(got.test_lists, alone.test_lists)
    assert got.test_lists.shape[1] == 20 and got.test_lists[:, :10].all()


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match="--mesh=data:3,model:5 takes 15 devices, found 8"):
        DeviceMesh(3, 5)


@pytest.mark.parametrize("text", ["data", "rows:2", "data:0", "data:4;model:2", "model:x"])
def test_a_mistaken_mesh_is_refused(text):
    with pytest.raises(UserError, match=r"--mesh: .* expected data:4, model:2 or data:4,model:2"):
        mesh_sizes(text)


def test_mesh_sizes():
    assert mesh_sizes("") == (1, 1)
    assert mesh_sizes("model:2") == (1, 2)
    assert mesh_sizes("data:4,model:2") == (4, 2)
