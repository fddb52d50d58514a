"""Several processes that train one run together: started, told apart, kept in step.

All run the same program on the same flags; the first alone writes the run's folder, which all can
read.
"""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_prep.settings import UserError


def start(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the processes that flags name, or a cluster that JAX detects; before any device is used. Raises UserError."""
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, num_processes, process_id)
        elif is_one_of_several(os.environ):
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f"--coordinator: the processes could not be joined ({line}); start all with the same flags"
        ) from error


def is_one_of_several(environment) -> bool:
    """Whether Slurm, Cloud TPU or Kubernetes has started this process beside others, as jax.distributed detects them."""
    # a step's nodes are named by srun alone: a program that a batch script starts by itself is
    # alone, whatever it has
    slurm = "SLURM_STEP_NODELIST" in environment and environment.get("SLURM_NTASKS", "1") != "1"
    tpu = len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    kubernetes = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    return slurm or tpu or kubernetes


def is_first() -> bool:
    """Whether this process is the one that writes and tells."""
    return jax.process_index() == 0


def agree(asked_to_stop: bool, steps: int, after) -> tuple[bool, int]:
    """(whether any process was asked to stop, the first process's number of steps), the same in every process.

    after: arrays to wait for: a program that talks to other processes must not run beside another.
    """
    if jax.process_count() == 1:
        return asked_to_stop, steps
    jax.block_until_ready(after)
    told = multihost_utils.process_allgather(np.array([asked_to_stop, steps], np.int32))
    return bool(told[:, 0].any()), int(told[0, 1])


def wait_for_all(name: str) -> None:
    """Returns once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
