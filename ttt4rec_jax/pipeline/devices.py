"""Set up JAX for a command: compilation cache, processes, devices and their mesh."""

import logging
import os

import jax

from data_prep.settings import UserError
from data_prep.sources import user_folder
from ttt4rec_jax.config.execution import RunConfig, mesh_sizes
from ttt4rec_jax.parallel import processes
from ttt4rec_jax.parallel.backend import check_backend
from ttt4rec_jax.parallel.sharding import DeviceMesh

logger = logging.getLogger(__name__)
MIN_COMPILE_SECONDS = 0.02  # programs that compile faster are not cached


def enable_compilation_cache(folder: str) -> None:
    """Cache compiled programs in a folder for later runs.

    folder: the value of --program_cache: "" for the user's cache directory, "none" for no cache.
    """
    if folder == "none":
        return
    path = user_folder(folder, "", "programs").resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_usable = os.access(path, os.R_OK | os.W_OK)
        reason = "" if is_usable else "not writable"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason and folder:
        raise UserError(
            f"--program_cache: {folder} cannot be used ({reason}); name another folder, or none"
        )
    if reason:
        logger.warning("%s: %s; programs are compiled without this cache", path, reason)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def start_devices(run_config: RunConfig, num_runs: int) -> DeviceMesh | None:
    """Set up JAX for some runs, before any device is used; return the mesh of a single run, if any.

    Raises UserError.
    """
    enable_compilation_cache(run_config.program_cache)
    processes.start(run_config.coordinator, run_config.num_processes, run_config.process_id)
    if num_runs > 1:
        # On a CPU, stacked runs train faster on one device per core than on one device in all.
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    return device_mesh(run_config, num_runs)


def platform() -> str:
    """Return the devices that JAX found, in words."""
    return f"{jax.default_backend()}, {jax.device_count()} x {jax.devices()[0].device_kind}"


def device_mesh(run_config: RunConfig, num_runs: int) -> DeviceMesh | None:
    """Return the mesh of --mesh; by default, all devices of several processes. Raises UserError."""
    check_backend()
    if not run_config.mesh and jax.process_count() == 1:
        return None
    # combinations.combine refuses --mesh for a sweep; this refuses a cluster's processes.
    if num_runs > 1:
        raise UserError(
            f"{jax.process_count()} processes train a single run together, but this is a sweep of "
            f"{num_runs} runs; start one process"
        )
    if jax.process_count() > 1 and not run_config.run_dir:
        raise UserError(
            "--run_dir: several processes train together; name a folder that all of them can read"
        )
    if run_config.mesh:
        return DeviceMesh(*mesh_sizes(run_config.mesh))
    return DeviceMesh(jax.device_count(), 1)
