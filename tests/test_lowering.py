"""The whole training step and evaluation lower for GPU and TPU too: nothing that only XLA's CPU accepts."""

import jax
import jax.numpy as jnp
import pytest

from ttt4rec_jax import data, models
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.evaluate import Evaluator
from ttt4rec_jax.optim import optimizer
from ttt4rec_jax.train_step import TrainState, make_run_steps, make_train_step, new_sums

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("train", [{}, {"targets": "every", "loss": "sampled_softmax"}], ids=["paper", "every"])
@pytest.mark.parametrize(
    "model", [{}, {"inner": "mlp", "ffn": True}, {"ttt_impl": "scan", "dropout": 0.1}], ids=["dual", "mlp", "scan"]
)
def test_training_and_evaluation_lower_for_every_platform(random_dataset, model, train):
    config = Config(model=ModelConfig(dim=8, max_len=6, mini_batch_size=2, **model), train=TrainConfig(batch_size=4, **train))
    clicks = data.device_clicks(random_dataset)
    examples, buckets = data.training_examples(random_dataset, config)
    graphdef, params = models.split(config.model, random_dataset, 0)
    tx, key = optimizer(config.train), jax.random.key(0)
    run_steps = make_run_steps(
        make_train_step(graphdef, tx, config, random_dataset.num_items), config, random_dataset.num_items
    )
    order = data.epoch_order(key, 0, buckets, 4)
    state = TrainState(params, tx.init(params), jnp.zeros((), jnp.int32))
    evaluator = Evaluator(graphdef, params, random_dataset, clicks, config.model.max_len)
    for function, arguments in (
        (run_steps, (state, new_sums(), clicks, examples, order, jax.random.key_data(key), 0, 1)),
        (evaluator.rank, (params, clicks, evaluator.targets["test"])),
    ):
        if function is run_steps:  # jax.export takes no typed keys

            def program(state, sums, clicks, examples, order, key_data, first, stop):
                return run_steps(state, sums, clicks, examples, order, jax.random.wrap_key_data(key_data), first, stop)
        else:
            program = function
        exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(*arguments)
        assert exported.platforms == PLATFORMS
        assert "callback" not in exported.mlir_module(), "no call back to the host in the hot path"
