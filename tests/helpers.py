"""What several test files use: small configurations, runs and data made in memory or on disk."""

import collections
import dataclasses
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from flax import nnx

from data_prep.index import is_training
from data_prep.settings import DataConfig, UserError
from ttt4rec_jax import models
from ttt4rec_jax.config import MODELS, Config, ModelConfig, TrainConfig, program
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.data.dataset import Dataset, Targets
from ttt4rec_jax.metrics import Ranks, summarise
from ttt4rec_jax.paper import jobs as reproduce
from ttt4rec_jax.pipeline import result as report
from ttt4rec_jax.runs.checkpoint import Checkpoints
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.serving.recommender import Recommender
from ttt4rec_jax.training import fit
from ttt4rec_jax.training.compile import Executables, compile_runs
from ttt4rec_jax.training.optim import optimizer
from ttt4rec_jax.training.program import make_program
from ttt4rec_jax.training.progress import Outcome
from ttt4rec_jax.training.step import TrainState, make_train_step

# --- data sets in memory


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


# --- training/test_fit.py


def small_config(model=None, **train):
    sizes = {"dim": 8, "max_len": 4}
    if "model" not in (model or {}):
        sizes |= {"mini_batch_size": 2, "initializer_range": 0.3}
    return Config(
        model=ModelConfig(**sizes | (model or {})),
        train=TrainConfig(**{"batch_size": 64, "learning_rate": 0.01, "epochs": 2} | train),
    )


CACHED: collections.OrderedDict = collections.OrderedDict()
MOST_CACHED = 6  # compiled programs in memory


def compiled(configs, dataset, mesh=None) -> Executables:
    """The executables of some runs; compiled once for all settings that do not change them."""

    def shared(config):
        train = config.train
        if train.schedule != "cosine":
            train = dataclasses.replace(train, epochs=1, patience=0)
        return program(dataclasses.replace(config, train=train)), config.record

    seeds = len({config.train.seed for config in configs})
    key = (*map(shared, configs), seeds == 1, id(dataset), mesh and (mesh.data, mesh.model))
    if key not in CACHED:
        CACHED[key] = compile_runs(configs, dataset, mesh)
        if len(CACHED) > MOST_CACHED:
            CACHED.popitem(last=False)
        return CACHED[key]
    CACHED.move_to_end(key)
    return CACHED[key].for_program(make_program(configs, dataset, mesh))


def fit_runs(configs, dataset, folder, executables=None, mesh=None, **options) -> list:
    """The outcomes of runs, trained in folder/0, folder/1, ...; of one in the folder itself."""
    group = RunFolder(folder)
    names = [""] if len(configs) == 1 else map(str, range(len(configs)))
    folders = [RunFolder(folder / name) for name in names]
    for config, run_folder in zip(configs, folders, strict=True):
        run_folder.create(config)
    executables = executables or compiled(configs, dataset, mesh)
    return fit.fit(executables, group, folders, **{"log": lambda line: None} | options)


def fit_run(config, dataset, folder, executables=None, mesh=None, **options):
    """The outcome of one run."""
    (outcome,) = fit_runs([config], dataset, folder, executables, mesh, **options)
    return outcome


def last_state(executables, folder):
    training = executables.program.training
    checkpoints = Checkpoints(RunFolder(folder).last)
    (state, _), _ = checkpoints.load((training.first_state, training.first_sums))
    return state


def without_times(history):
    return [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in history]


ROOT = Path(__file__).parents[1]


# --- training/test_optim.py


RATE = 0.1
DECAY = 0.05


NUM_TOY_ITEMS = 9


def batch_of(history, target, negatives):
    history, target, negatives = (jnp.asarray(x, jnp.int32) for x in (history, target, negatives))
    return Batch(history, (history > 0).sum(1), target, jnp.ones(target.shape), negatives)


def random_batch(rng, size, items, length=4):
    """Histories of different lengths, targets and negatives among the given items."""
    histories = rng.choice(items, (size, length)) * (
        np.arange(length) < rng.integers(1, length + 1, (size, 1))
    )
    return batch_of(histories, rng.choice(items, size), rng.choice(items, (size, 3)))


def state_of(tx, params):
    return TrainState(params, tx.init(params), jnp.asarray(RATE))


def toy_step(tx):
    """A train step whose loss is quadratic in what is looked up, with a known gradient."""

    def step(state, batch, key):
        def loss_of(params):
            used = jnp.concatenate(
                [batch.history.reshape(-1), batch.target.reshape(-1), batch.negatives.reshape(-1)]
            )
            return (
                0.5 * (jnp.square(params["embedding"][used]).sum(-1) * (used > 0)).sum()
                + params["bias"]
            )

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        directions, opt_state = tx.update(grads, state.opt_state, state.params)
        return TrainState(
            jax.tree.map(lambda p, d: p - RATE * d, state.params, directions),
            opt_state,
            state.learning_rate,
        ), loss

    return step


def steps_of(dataset, model, **train):
    """The training step, dense and with --sparse_embeddings, and the first state."""
    shape = (
        {"dim": 8, "max_len": 4, "mini_batch_size": 2}
        if model == "ttt4rec"
        else {"dim": 8, "max_len": 4}
    )
    config = ModelConfig(model=model, **shape)
    graphdef, params = models.split(
        config, dataset.num_items, np.zeros(1, np.uint32), *np.full((2, 1), 0.3, np.float32)
    )
    params = jax.tree.map(lambda x: x[0], params)
    found = []
    for sparse in (False, True):
        settings = Config(model=config, train=TrainConfig(sparse_embeddings=sparse, **train))
        tx = optimizer(settings.train)
        found.append(jax.jit(make_train_step(graphdef, tx, settings, dataset.num_items)))
    return *found, state_of(tx, params)._replace(learning_rate=jnp.asarray(0.01))


# --- test_plots.py


def epoch_lines(epochs, full=True, start=0.1):
    """Lines of a metrics.jsonl."""
    lines = []
    for epoch in range(1, epochs + 1):
        figures = {
            f"{m}@{k}": start + 0.01 * epoch + k / 1000
            for m in ("ndcg", "hit")
            for k in (5, 10, 20)
        }
        validation = {"sampled": figures} | (
            {"full": {n: v / 10 for n, v in figures.items()}} if full else {}
        )
        lines.append({"epoch": epoch, "loss": 3 / epoch, "validation": validation, "seconds": 1.0})
    return lines


# --- paper/test_reproduction.py


NUM_JOB_USERS = 400


def skill(config, good) -> float:
    """How good a simulated run is; good: {model: shift}."""
    model = config.model
    name = "ttt_mlp" if model.inner == "mlp" else model.model
    off_range = abs(np.log10(model.initializer_range / 0.03)) ** 2 if name == "ttt4rec" else 0.0
    between = 0.3 * (model.mini_batch_size in (2, 5))
    return good.get(name, 2.0) - 0.3 * off_range - between


def make_finished_job(job, output, good, seed_effect=0.02):
    """Leaves what a finished job leaves."""
    users = np.arange(NUM_JOB_USERS)
    for name, folder in job.folders(output).items():
        config = job.combinations[name]
        key = [
            config.train.seed,
            int(1000 * config.model.initializer_range),
            config.model.mini_batch_size,
            len(job.name),
        ]
        rng = np.random.default_rng(key)
        difficulty = np.random.default_rng(9).normal(0, 1.5, NUM_JOB_USERS)
        shift = skill(config, good)
        ranks = {
            p: simulated_ranks(rng, NUM_JOB_USERS, shift, seed_effect, difficulty)
            for p in ("sampled", "full")
        }
        figures = {p: summarise(r) for p, r in ranks.items()}
        epochs = config.train.epochs if config.model.model not in reproduce.BASELINES else 0
        slow = config.model.model.startswith("comirec")
        history = []
        for epoch in range(1, epochs + 1):
            share = 1 - np.exp(-epoch / (0.2 * epochs)) if slow else 0.97
            line = {
                p: {m: v * share if "@" in m and "ci" not in m else v for m, v in f.items()}
                for p, f in figures.items()
            }
            history.append({"epoch": epoch, "loss": 1 / epoch, "validation": line, "seconds": 2.0})
        folder.create(config)
        folder.write_metrics(history)
        result = {
            "model": config.model.model,
            "config": config.to_dict(),
            "dataset": {
                "name": config.data.dataset,
                "users": NUM_JOB_USERS,
                "items": 100,
                "interactions": 9 * NUM_JOB_USERS,
                "sha256": "ab" * 32,
            },
            "protocol": {
                n: f"{n} of {config.data.dataset}"
                for n in ("split", "training", "selection", "sampled", "full", "ties")
            },
            "platform": "cpu, 1 x cpu",
            "parameters": 1000,
            "best_epoch": epochs,
            "validation": figures,
            "test": figures,
            "seconds": {"total": 10.0},
        }
        folder.write_result(result, ranks, users)


# --- evaluation/test_compare.py


def simulated_ranks(rng, users: int, shift: float, seed_effect: float, difficulty) -> Ranks:
    """Ranks among 99, by the users' difficulty, the training's luck, and chance."""
    score = shift + rng.normal(0, seed_effect) - difficulty + rng.normal(0, 1, users)
    greater = np.floor(100 / (1 + np.exp(score))).astype(int).clip(0, 99)
    return Ranks(greater, np.zeros(users, int), np.full(users, 99))


def make_finished_run(path, model="ttt4rec", seed=0, shift=2.0, users=300, change=None, **flags):
    """A run folder with simulated ranks. change: of (result, columns), before they are written."""
    values = {
        "data": DataConfig(dataset="synthetic"),
        "model": {},
        "train": {"seed": seed},
        "eval": {},
    }
    for flag, value in flags.items():
        section = next(
            s
            for s in ("model", "train", "eval")
            if flag in getattr(Config(), s).__dataclass_fields__
        )
        values[section][flag] = value
    default = Config()
    config = Config(
        data=values["data"],
        model=dataclasses.replace(
            default.model, target_tower="auto", model=model, **values["model"]
        ),
        train=dataclasses.replace(default.train, targets="auto", **values["train"]),
        eval=dataclasses.replace(default.eval, **values["eval"]),
    )
    rng = np.random.default_rng([seed, int(1000 * shift), len(model)])
    difficulty = np.random.default_rng(9).normal(0, 1.5, users)
    ranks = {
        name: simulated_ranks(rng, users, shift, 0.1, difficulty) for name in ("sampled", "full")
    }
    counts = {
        "users": users,
        "items": 100,
        "interactions": 9 * users,
        "validation": users,
        "test": users,
    }
    manifest = {"name": "synthetic", "counts": counts, "sha256": "ab" * 32}
    validation = {name: summarise(r) for name, r in ranks.items()}
    outcome = Outcome(
        [], 1, 1000, validation, ranks, {"compile": 0.0, "epochs": [], "evaluate": 0.0}
    )
    folder = RunFolder(path)
    folder.create(config)
    folder.write_result(
        report.result(config, manifest, outcome, {}, "cpu"), ranks, np.arange(users)
    )
    if change:
        result = json.loads(folder.result.read_text())
        columns = pl.read_parquet(folder.ranks).to_dict(as_series=False)
        change(result, columns)
        folder.result.write_text(json.dumps(result))
        pl.DataFrame(columns).write_parquet(folder.ranks)
    return path


# --- experiments/test_main.py


SMALL = ["--dim=16", "--epochs=2", "--batch_size=128", "--learning_rate=0.005"]
# For runs whose speed and bits are not compared with those of other processes: XLA compiles a third
# faster.
QUICK_TO_COMPILE = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
OPTIMIZED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}  # for bits, speed and real data


def run_main(environment, *flags, cwd, **options):
    command = [sys.executable, str(ROOT / "experiments" / "main.py"), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=600, **options
    )


# --- serving/test_recommender.py


D = 8
L = 6
V = 30


STREAMS = {
    "b1": {"mini_batch_size": 1},
    "b4": {"mini_batch_size": 4, "num_blocks": 2, "ffn": "none"},
    "b10": {"mini_batch_size": 10, "score": "cosine"},
    "mlp": {"mini_batch_size": 4, "inner": "mlp"},
    "mamba": {"mini_batch_size": 4, "backbone": "mamba"},
}


def serving_config(model: str, **more) -> ModelConfig:
    sizes = {"dim": D, "max_len": L}
    sizes |= {"initializer_range": 0.3} if model == "ttt4rec" else {}
    sizes |= {"num_intents": 5} if model == "iclrec" else {}
    return ModelConfig(model=model, **sizes | more)


def split_model(config: ModelConfig, dataset):
    """(graphdef, params) of a model whose embeddings are wide enough to tell scores apart."""
    training = models.TrainingClicks.from_dataset(dataset)
    model = models.build(config, dataset.num_items, 0, training=training)
    graphdef, params = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(params)
    if "embedding" in params:
        params["embedding"] = params["embedding"] * 20
    return graphdef, params


def catalogue_of(dataset, titles=None) -> Catalogue:
    """Ids are hundreds of the items' numbers, so that none is taken for the other."""
    trained = is_training(dataset.offsets, dataset.train_ends)
    clicks = np.bincount(dataset.items[trained], minlength=dataset.num_items + 1)[1:]
    return Catalogue([100 * i for i in range(1, dataset.num_items + 1)], titles, clicks)


def make_recommender(config: ModelConfig, dataset, titles=None) -> Recommender:
    return Recommender(config, *split_model(config, dataset), catalogue_of(dataset, titles))


def assert_same_lists(a, b, rtol=2e-4):
    """Two recommendations agree, but for items whose scores rounding may swap."""
    assert a.source == b.source
    np.testing.assert_allclose(a.scores, b.scores, rtol=rtol, atol=rtol)
    assert set(a.ids) == set(b.ids)
    for x, y, score in zip(a.ids, b.ids, a.scores, strict=True):
        assert x == y or np.isclose(
            score, dict(zip(b.ids, b.scores, strict=True))[x], rtol=rtol, atol=rtol
        )


# --- data_prep/test_readers.py


CLICK_ROWS = [("u1", "a", 30), ("u2", "b", 10), ("u1", "c", 20)]


def as_lines(separator, header, rows=CLICK_ROWS):
    """Return a header and rows as the text of a CSV file without quotes."""
    return "".join(separator.join(map(str, row)) + "\n" for row in [header, *rows])


def as_json(rows=CLICK_ROWS, keys=("user", "item", "time")):
    """Return rows as the text of a file of JSON lines."""
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)


def as_parquet(frame):
    """Return a table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def rows_of(clicks):
    """Return clicks that were read as rows (user, item, time), with ids as text."""
    return clicks.table.with_columns(pl.col("user", "item").cast(pl.String)).rows()


def error_of(function, *args, **kwargs):
    """Return the message, of one line, of the UserError that a call must raise."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- data_prep/test_prepare.py


def random_clicks(seed=0, users=30, items=25, clicks=600):
    """Return unsorted clicks (user, item, time) with integer ids and many equal times."""
    rng = np.random.default_rng(seed)
    columns = (
        rng.integers(1, users, clicks),
        rng.integers(1, items, clicks) * 7,
        rng.integers(0, 40, clicks),
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))


def write_csv(path, rows):
    """Write clicks with a header; return the path."""
    path.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    return path


def contents(folder):
    """Return the bytes of each file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- experiments/: commands tried in one process


TRY_COMMANDS = """
import contextlib, importlib, io, json, sys
sys.path.insert(0, sys.argv[1])
main = importlib.import_module(sys.argv[2]).main
outcomes = []
for flags in json.loads(sys.argv[3]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([f"experiments/{sys.argv[2]}.py", *flags])
    outcomes.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([outcomes, sorted(sys.modules)]))
"""


def try_mistakes(command: str, mistakes, cwd, environment=None) -> dict[str, list]:
    """Return {flags: [exit code, stdout, stderr]} of a command of experiments/, such as "main".

    All mistakes are tried in one process, in which none of them may import JAX.
    """
    listed = json.dumps([flags.split() for flags in mistakes])
    program = [sys.executable, "-c", TRY_COMMANDS, str(ROOT / "experiments"), command, listed]
    done = subprocess.run(
        program, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    outcomes, modules = json.loads(done.stdout)
    assert not {"jax", "flax"} & set(modules)
    return dict(zip(mistakes, outcomes, strict=True))


def assert_one_line(outcome: list, message: str) -> None:
    """The outcome of try_mistakes is exit code 2 and one line on stderr that holds `message`."""
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert message in err


# --- serving and commands

# name of a case: the options of the model that it begins with
SERVING_CASES = {name: {} for name in MODELS if name != "ttt4rec"} | {
    f"ttt4rec {name}": options for name, options in STREAMS.items()
}


def load_script(name: str):
    """Return the module of a script in experiments/."""
    spec = importlib.util.spec_from_file_location(
        f"experiments_{name}", ROOT / "experiments" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN_COMMANDS = """
import contextlib, importlib.util, io, json, sys

spec = importlib.util.spec_from_file_location("script", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
results = []
for flags in json.loads(sys.argv[2]):
    out = io.StringIO()
    err = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = script.main([sys.argv[1], *flags])
        except SystemExit as exit:
            code = exit.code
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([results, sorted(sys.modules)]))
"""


def run_commands(script: str, commands: list[list[str]], environment, cwd):
    """Run a script of experiments/ several times in one new process.

    Return the [exit code, stdout, stderr] of each command, and the modules that were imported.
    """
    path = str(ROOT / "experiments" / f"{script}.py")
    done = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, path, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    results, modules = json.loads(done.stdout)
    return results, set(modules)


def run_script(script: str, environment, *flags, cwd, **options):
    """Run a script of experiments/ in a process of its own."""
    command = [sys.executable, str(ROOT / "experiments" / f"{script}.py"), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=600, **options
    )


HISTORIES = {"ann": [3, 7, 3], "bob": [], "cid": [12]}


def write_histories(folder: Path) -> None:
    """Write HISTORIES in every format; files with one row per click do not contain bob."""
    lists = pl.DataFrame(
        {"user": list(HISTORIES), "items": list(HISTORIES.values())},
        schema_overrides={"items": pl.List(pl.Int64)},
    )
    lists.write_parquet(folder / "lists.parquet")
    lists.write_ndjson(folder / "lists.jsonl")
    (folder / "lists.csv").write_text(
        "\ufeffnote,user,items\r\n"
        + "".join(f'"a,\nb",{u},{" ".join(map(str, c))}\n' for u, c in HISTORIES.items())
    )
    rows = lists.explode("items").drop_nulls().rename({"items": "item"})
    rows.write_parquet(folder / "rows.parquet")
    rows.write_csv(folder / "rows.csv")
    rows.write_ndjson(folder / "rows.jsonl")
