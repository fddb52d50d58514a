"""The public JAX implementation of the TTT layer, read from a file that the user has fetched.

The file is ttt/models/ttt_layer.py of https://github.com/test-time-training/ttt-lm-jax, which is
no part of this repository. What it imports of its own package concerns meshes and checkpointing of
gradients, and is replaced here.
"""

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from layer import Program, gradient_program

LEARNERS = {"linear": "TTTLinearBase", "mlp": "TTTMLPBase"}
HELPERS = "ttt.infra.jax_utils"


def load(path: str) -> types.ModuleType:
    """Return the public module. Raises ImportError if the file cannot be read."""
    spec = importlib.util.spec_from_file_location("public_ttt_layer", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module: Any = importlib.util.module_from_spec(spec)
    with _stubs():
        spec.loader.exec_module(module)
    module.jnp = _older_numpy()
    return module


@contextmanager
def _stubs() -> Iterator[None]:
    """Let the module import its helpers while it is loaded."""
    helpers: Any = types.ModuleType(HELPERS)
    helpers.with_sharding_constraint = lambda x, *_: x
    helpers.get_gradient_checkpoint_policy = lambda *_: None
    stubs = {name: types.ModuleType(name) for name in ("ttt", "ttt.infra")} | {HELPERS: helpers}
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _older_numpy() -> types.ModuleType:
    """Return jax.numpy with the argument names of `clip` that it had when the file was written."""
    module: Any = types.ModuleType("jax.numpy")
    module.__dict__.update(vars(jnp))

    def clip(x, a_min=None, a_max=None):
        return jnp.clip(x, min=a_min, max=a_max)

    module.clip = clip
    return module


def program(
    public: types.ModuleType, x: jax.Array, num_heads: int, mini_batch_size: int, inner: str
) -> Program:
    """Return the public layer's compiled forward and backward pass, as layer.program does ours."""
    batch, length, dim = x.shape
    config = types.SimpleNamespace(
        hidden_size=dim,
        num_attention_heads=num_heads,
        mini_batch_size=mini_batch_size,
        max_sequence_length=length,
        rope_theta=10_000.0,
        initializer_range=0.02,
        ttt_base_lr=1.0,
        output_ttt_stats=False,
        remat_mini_batch_group_size=1,
        remat_conv="",
        conv_width=4,
    )
    kind = getattr(public, LEARNERS[inner])
    layer = kind(config, dtype=jnp.float32, param_dtype=jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    params = jax.jit(layer.init)(jax.random.key(2), x, position_ids=positions)

    def outputs(params, x, positions):
        return layer.apply(params, x, position_ids=positions)[0]

    return gradient_program(outputs, params, x, positions)
