"""Several processes that train one run: start, identify and synchronise them.

All processes run the same program with the same flags. Only the first one writes the run folder,
which all of them can read.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_prep.settings import UserError


def start(coordinator: str, num_processes: int, process_id: int) -> None:
    """Join the processes that the flags name, or a cluster that JAX detects.

    Call it before any device is used. Raises UserError if the processes cannot be joined.
    """
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, num_processes, process_id)
        elif is_one_of_several(os.environ):
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f"--coordinator: the processes could not be joined ({line}); "
            "start all of them with the same flags"
        ) from error


def is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Return whether Slurm, Cloud TPU or Kubernetes started this process as one of several.

    The criteria are those of jax.distributed.
    """
    # Only srun sets the nodes of a step: a program that a batch script starts directly is a single
    # process, whatever the allocation of the job.
    slurm = "SLURM_STEP_NODELIST" in environment and environment.get("SLURM_NTASKS", "1") != "1"
    tpu = len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    kubernetes = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    return slurm or tpu or kubernetes


def is_primary() -> bool:
    """Return whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def sync_stop(is_stopping: bool, steps: int, after: Any) -> tuple[bool, int]:
    """Return whether any process was asked to stop, and the first process's number of steps.

    Both are the same in every process. after: arrays to wait for first, since two programs that
    exchange data between processes must not run at the same time.
    """
    if jax.process_count() == 1:
        return is_stopping, steps
    jax.block_until_ready(after)
    all_values = multihost_utils.process_allgather(np.array([is_stopping, steps], np.int32))
    return bool(all_values[:, 0].any()), int(all_values[0, 1])


def barrier(name: str) -> None:
    """Wait until every process has reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
