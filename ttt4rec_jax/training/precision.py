"""--precision: the matrix products of a training step in float32 or in bfloat16."""

import contextlib
from typing import Any

import jax

from ttt4rec_jax.config.training import TrainConfig

# The algorithm that rounds the operands of float32 products to bfloat16 and sums in float32. As
# JAX's default while a step is traced it reaches every product, those of the backward pass and of
# custom models included, except where the code asks for precision="highest". Products inside the
# inner loop of TTT layers are rounded, too; losses stay close (docs/training.md). JAX's own setting
# "bfloat16" would be TF32 on a GPU.
BFLOAT16 = "BF16_BF16_F32"
LEAST_CAPABILITY = 8  # of NVIDIA GPUs; XLA refuses the algorithm on older ones


def obstacle() -> str:
    """Return why this machine's devices do not multiply in bfloat16, "" if they do."""
    if jax.default_backend() == "cpu":
        return "it is for GPUs and TPUs, and XLA ignores it on a CPU"
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    major = capability.partition(".")[0]
    if major.isdecimal() and int(major) < LEAST_CAPABILITY:
        return f"this GPU has compute capability {capability}, and {LEAST_CAPABILITY}.0 is needed"
    return ""


def used(train: TrainConfig) -> str:
    """Return the precision of a run's products on these devices: float32 or bfloat16."""
    return "float32" if obstacle() else train.precision


def notice(train: TrainConfig) -> str:
    """Return one line that says why --precision is not followed, "" if it is."""
    if used(train) == train.precision:
        return ""
    return f"--precision={train.precision}: {obstacle()}; training goes on in float32"


def products(train: TrainConfig) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a training step is traced."""
    if used(train) == "bfloat16":
        return jax.default_matmul_precision(BFLOAT16)
    return contextlib.nullcontext()  # as JAX is set, so that the program is what it always was
