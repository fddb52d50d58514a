"""Training and evaluation lower for GPU and TPU too: nothing that only XLA's CPU accepts."""

import jax
import pytest

from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.training.compile import make_evaluator
from ttt4rec_jax.training.program import make_program

PLATFORMS = ("cpu", "cuda", "tpu")
CASES = {
    "paper": ({}, {"length_buckets": 2}, 1),
    "chunked, stacked": ({"ttt_impl": "chunked"}, {}, 2),
    "scan, dropout": ({"ttt_impl": "scan", "dropout": 0.1}, {"targets": "every"}, 1),
    "mlp, stacked": ({"inner": "mlp"}, {"targets": "every", "loss": "softmax"}, 2),
    "sasrec, sparse": (
        {"model": "sasrec"},
        {"targets": "every", "loss": "sampled_softmax", "sparse_embeddings": True},
        1,
    ),
    "mamba, cosine": (
        {"backbone": "mamba", "score": "cosine"},
        {"targets": "every", "schedule": "cosine"},
        1,
    ),
    "gru4rec": ({"model": "gru4rec"}, {"targets": "every", "batch_tokens": 12}, 1),
    "din": ({"model": "din"}, {}, 1),
    "comirec_dr": ({"model": "comirec_dr"}, {}, 1),
    "bert4rec": ({"model": "bert4rec"}, {}, 1),
    "iclrec, stacked": (
        {"model": "iclrec", "num_intents": 4, "dropout": 0.1},
        {"targets": "every"},
        2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_training_and_evaluation_lower_for_every_platform(random_dataset, case, monkeypatch):
    model, train, runs = CASES[case]
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(
        jax, "default_backend", lambda: "gpu"
    )  # where stacked runs train side by side
    shape = {"dim": 8, "max_len": 6} | ({} if "model" in model else {"mini_batch_size": 2})
    train = {"batch_size": 4, "length_buckets": 1} | train
    configs = [
        Config(model=ModelConfig(**shape | model), train=TrainConfig(seed=seed, **train))
        for seed in range(runs)
    ]
    program = make_program(configs, random_dataset)  # nothing is compiled for this machine
    training = program.training
    bucket_S, order, key = training.begin_epoch(0)

    def epoch(state, sums, clicks, examples, bucket_S, order, key_data, first, stop):
        key = jax.random.wrap_key_data(key_data)  # jax.export takes no typed keys
        return training.run_steps(state, sums, clicks, examples, bucket_S, order, key, first, stop)

    data = (training.first_state, training.first_sums, program.clicks, training.examples)
    evaluate = make_evaluator(program)
    one_run = jax.tree.map(lambda x: x[0], program.params_R)
    for function, arguments in (
        (epoch, (*data, bucket_S, order, jax.random.key_data(key), 0, 1)),
        (evaluate.rank, (one_run, program.clicks, evaluate.targets["test"])),
    ):
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
        assert exported.platforms == PLATFORMS
        assert "callback" not in exported.mlir_module(), "no call back to the host in the hot path"
