"""Runs that share a program: their initial state, and the pure functions that train them.

No training step is compiled here.

Runs whose configurations share a program (`config.program`) are trained together, stacked along a
leading axis R and spread over the devices; a single run is the case R = 1. A run's result does not
depend on the runs it is stacked with, up to rounding.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from data_prep.settings import UserError
from ttt4rec_jax import models
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data.clicks import Clicks, device_clicks
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.data.examples import (
    Bucket,
    Examples,
    epoch_order,
    step_buckets,
    steps_of,
    training_examples,
    training_histories,
)
from ttt4rec_jax.parallel.sharding import RUNS, SHARED, Mesh, RunMesh
from ttt4rec_jax.training.host_data import host_device
from ttt4rec_jax.training.optim import optimizer
from ttt4rec_jax.training.step import (
    EpochSums,
    RunSteps,
    TrainState,
    TrainStep,
    make_run_steps,
    make_train_step,
    new_sums,
    stacked,
)

CONTEXT_SALT = 2  # folded into an epoch's key to make the key of learn_context


class Epoch(NamedTuple):
    """The steps of an epoch: their buckets [S] and examples [R, S, B], and batch keys [R].

    If the runs share their batches, the last two have a single entry for all runs.
    """

    bucket_S: jax.Array
    order_RxSxB: jax.Array
    key_R: jax.Array


@dataclasses.dataclass(frozen=True)
class Training:
    """How runs are trained.

    begin_epoch: an epoch's number -> Epoch. learn_context: (params_R, epoch) -> what the model
    learns from all histories once per epoch; None for a model that learns no context. run_steps:
    see `step.stacked`; None if the data stay on the host. draws: RUNS if each run has its own
    batches, SHARED if runs with one seed share them. runs_in_turn: the number of runs of a device
    that are trained one after another.
    """

    examples: Examples
    buckets: tuple[Bucket, ...]
    first_state: TrainState
    first_sums: EpochSums
    train_step: TrainStep
    begin_epoch: Callable[[Any], Epoch]
    learn_context: Callable[[Any, Any], Any] | None
    run_steps: RunSteps | None
    draws: PartitionSpec
    runs_in_turn: int

    @property
    def num_examples(self) -> int:
        """The number of examples in an epoch."""
        return len(self.examples.ends)

    @property
    def num_steps(self) -> int:
        """The number of steps in an epoch."""
        return sum(map(steps_of, self.buckets))


@dataclasses.dataclass(frozen=True)
class Program:
    """Runs that share a program. training: None for a model that is not trained.

    host: the CPU device, if the data stay on the host, else None.
    """

    configs: tuple[Config, ...]
    dataset: Dataset
    mesh: Mesh
    host: jax.Device | None
    graphdef: nnx.GraphDef
    params_R: Any
    clicks: Clicks
    training: Training | None

    @property
    def config(self) -> Config:
        """The settings of the first run, for those that all runs have in common."""
        return self.configs[0]

    @property
    def num_parameters(self) -> int:
        """The number of parameters of one run."""
        return sum(x.size for x in jax.tree.leaves(self.params_R)) // len(self.configs)

    @property
    def shapes(self) -> Any:
        """The shapes of one run's parameters."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.params_R)


def make_program(configs: Sequence[Config], dataset: Dataset, mesh: Mesh | None = None) -> Program:
    """Place the data on the devices, draw initial parameters, and build the training functions.

    mesh: a sharding.DeviceMesh to spread a single run over; without one, each run is on one device.
    Raises UserError if there is nothing to train on.
    """
    config = configs[0]
    mesh = mesh or RunMesh(len(configs))
    host = host_device() if dataset.on_host else None
    clicks = device_clicks(dataset, host, config.model.time)
    if host is None:
        clicks = mesh.place(clicks, SHARED)
    graphdef, params_R = initial_parameters(configs, dataset)
    mesh = mesh.for_params(params_R)
    is_trained = MODELS[config.model.model].trained
    program = Program(
        configs=tuple(configs),
        dataset=dataset,
        mesh=mesh,
        host=host,
        graphdef=graphdef,
        params_R=params_R if is_trained else mesh.place(params_R, RUNS),
        clicks=clicks,
        training=None,
    )
    return dataclasses.replace(program, training=make_training(program)) if is_trained else program


def initial_parameters(configs: Sequence[Config], dataset: Dataset) -> tuple[nnx.GraphDef, Any]:
    """Return the model's graph and its initial parameters, stacked over the runs."""
    seeds_R = np.array([config.train.seed for config in configs], np.uint32)
    ranges_R = np.array([config.model.initializer_range for config in configs], np.float32)
    w0_ranges_R = np.array([config.model.w0_range for config in configs], np.float32)
    training = models.TrainingClicks.from_dataset(dataset)
    return models.split(
        configs[0].model, dataset.num_items, seeds_R, ranges_R, w0_ranges_R, training
    )


def make_training(program: Program) -> Training:
    """Build the training of a program's runs. Raises UserError if there are no examples."""
    config = program.config
    mesh = program.mesh
    num_items = program.dataset.num_items
    num_runs = len(program.configs)
    examples, buckets = training_examples(program.dataset, config, program.host)
    if not len(examples.ends):
        name = program.dataset.manifest["name"]
        raise UserError(
            f"--dataset: no user of {name} has two training clicks, so there is nothing to train on"
        )
    if program.host is None:
        examples = mesh.place(examples, SHARED)
    num_steps = sum(map(steps_of, buckets))
    tx = optimizer(config.train)
    train_step = make_train_step(
        program.graphdef, tx, config, num_items, config.train.epochs * num_steps
    )
    keys_R, is_shared = batch_keys(program)
    draws = SHARED if is_shared else RUNS
    runs_in_turn = 1
    run_steps = None
    if program.host is None:
        if jax.default_backend() == "cpu":
            runs_in_turn = num_runs // mesh.size
        of_one = make_run_steps(train_step, config, num_items, buckets, mesh)
        of_all = stacked(of_one, num_runs // mesh.size, is_shared, runs_in_turn > 1)
        specs = (RUNS, RUNS, SHARED, SHARED, SHARED, draws, draws, SHARED, SHARED)
        run_steps = mesh.map(of_all, specs, RUNS)
    first_context, learn_context = make_learn_context(program)
    rates_R = jnp.array([c.train.learning_rate for c in program.configs])
    opt_state_R = jax.jit(jax.vmap(tx.init))(program.params_R)
    first_state = TrainState(program.params_R, opt_state_R, rates_R, first_context)
    return Training(
        examples=examples,
        buckets=buckets,
        first_state=mesh.place(first_state, RUNS),
        first_sums=mesh.place(new_sums(config, num_runs), RUNS),
        train_step=train_step,
        begin_epoch=make_begin_epoch(keys_R, buckets),
        learn_context=learn_context,
        run_steps=run_steps,
        draws=draws,
        runs_in_turn=runs_in_turn,
    )


def batch_keys(program: Program) -> tuple[jax.Array, bool]:
    """Return the random keys of the runs' batches, and whether all runs share one.

    Runs with one seed share each batch, which is then made once for all of them.
    """
    seeds = [config.train.seed for config in program.configs]
    is_shared = len(set(seeds)) == 1
    keys = [jax.random.key(seed) for seed in (seeds[:1] if is_shared else seeds)]
    return jax.device_put(jnp.stack(keys), program.host), is_shared


def make_begin_epoch(keys_R: jax.Array, buckets: tuple[Bucket, ...]) -> Callable[[Any], Epoch]:
    """Return the pure function from an epoch's number, counted from 0, to its steps."""

    def begin_epoch(epoch: Any) -> Epoch:
        epoch_keys_R = jax.vmap(lambda key: jax.random.fold_in(key, epoch))(keys_R)
        order_keys_R, step_keys_R = jax.vmap(jax.random.split, out_axes=1)(epoch_keys_R)
        bucket_S = step_buckets(epoch, buckets)
        order = jax.vmap(lambda key: epoch_order(key, bucket_S, buckets))(order_keys_R)
        return Epoch(bucket_S, order, step_keys_R)

    return begin_epoch


def make_learn_context(program: Program) -> tuple[Any, Callable[[Any, Any], Any] | None]:
    """Return the context before the first epoch, stacked, and the function that learns it.

    For a model that learns only its parameters: an empty context, and None.
    """
    mesh = program.mesh
    graphdef = program.graphdef
    model = nnx.merge(graphdef, program.shapes)
    if not isinstance(model, models.LearnsContext):
        return (), None
    max_len = program.config.model.max_len
    histories = mesh.place(training_histories(program.dataset, max_len), SHARED)
    seeds = [config.train.seed for config in program.configs]
    keys_R = mesh.place(jnp.stack([jax.random.key(seed) for seed in seeds]), RUNS)

    def learn(params_R: Any, keys_R: jax.Array, histories: Any, epoch: Any) -> Any:
        def of_run(params: Any, key: jax.Array) -> Any:
            epoch_key = jax.random.fold_in(jax.random.fold_in(key, epoch), CONTEXT_SALT)
            return nnx.merge(graphdef, params).learn_context(histories, epoch_key)

        return jax.vmap(of_run)(params_R, keys_R)

    placed = mesh.map(learn, (RUNS, RUNS, SHARED, SHARED), RUNS)
    jitted = jax.jit(placed)

    def learn_context(params_R: Any, epoch: Any) -> Any:
        return jitted(params_R, keys_R, histories, epoch)

    num_runs = len(program.configs)
    first = jax.tree.map(lambda x: jnp.stack([x] * num_runs), model.initial_context())
    return first, learn_context
