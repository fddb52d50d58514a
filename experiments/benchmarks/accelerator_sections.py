"""What accelerator.py measures. Each section runs in a process of its own, started as

    python experiments/benchmarks/accelerator_sections.py SECTION ROWS_FILE SETTINGS_AS_JSON

A section appends each row to ROWS_FILE as a line of JSON as soon as it is measured, so that a
process that crashes or is stopped loses nothing that it has measured. A process that fails adds the
line {"failed": reason}.

Importing this module takes no device: sections that start processes leave it to them.
"""

import functools
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import evaluation
import jax
import numpy as np
import serving
import start
from accelerator_layer import of_cells, of_implementations
from accelerator_settings import Emit, Settings, emit_to, memory_stats, reason
from accelerator_training import equal, of_determinism, of_epochs, of_memory, of_sweep, peak
from flax import nnx
from timing import machine

from ttt4rec_jax import Recommender, models
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.runs.items import Catalogue

# --- the machine


def of_machine(settings: Settings, emit: Emit) -> None:
    """Describe the device and the software."""
    devices = jax.devices()
    client = devices[0].client
    facts = {
        "platform": jax.default_backend(),
        "device kind": devices[0].device_kind,
        "devices": len(devices),
        "driver and runtime": " ".join(str(client.platform_version).split()),
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "Python": platform.python_version(),
        "git commit": settings.commit or "unknown",
        "CPU cores": machine()["cpus"],
        "load": machine()["load"],
        "default matmul precision": jax.config.jax_default_matmul_precision or "JAX's default",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") or "none",
    }
    stats = memory_stats()
    facts |= {f"memory_stats: {name}": value for name, value in stats.items()}
    if not stats:
        facts["memory_stats"] = "none on this device"
    for name, value in facts.items():
        emit({"what": name, "value": value})


# --- evaluation and serving


def of_evaluation(settings: Settings, emit: Emit) -> None:
    """Measure the ranking of Beauty's test users."""
    sizes = settings.sizes
    model = ModelConfig(max_len=50, dim=sizes.dim)
    for row in evaluation.measure(settings.dataset("beauty"), model, sizes.repeats):
        row.pop("process_mb")  # of the host
        emit(row | {"data": settings.data["beauty"]})


def of_serving(settings: Settings, emit: Emit) -> None:
    """Measure clicks, sessions and the recommendations for all users, with untrained models."""
    sizes = settings.sizes
    dataset = settings.dataset("beauty")
    rng = np.random.default_rng(0)
    recommender = untrained(ModelConfig(max_len=50, dim=sizes.dim), dataset)
    reread = untrained(ModelConfig(model="sasrec", max_len=50, dim=sizes.dim), dataset)
    histories = serving.histories_of(dataset, recommender.items.ids)
    clicks = functools.partial(serving.measure_clicks, reread=reread, many=sizes.clicks)
    for name, measure in {
        "clicks": lambda: clicks(recommender, repeats=20 * sizes.repeats, rng=rng),
        "sessions": lambda: serving.measure_sessions(recommender, sizes.sessions, rng),
        "users": lambda: serving.measure_users(recommender, histories),
    }.items():
        try:
            for figure, value in measure().items():
                emit({"figure": figure, "value": value})
        except Exception as error:
            emit({"figure": name, "error": reason(error)})


def untrained(model: ModelConfig, dataset: Dataset) -> Recommender:
    """Return a recommender with initial parameters, whose values make no difference to the cost."""
    graphdef, params = nnx.split(models.build(model, dataset.num_items, 0), nnx.Param)
    ids = list(range(1, dataset.num_items + 1))
    clicks = np.bincount(dataset.items, minlength=len(ids) + 1)[1:]
    items = Catalogue(ids, None, clicks)
    return Recommender(model, graphdef, nnx.to_pure_dict(params), items)


def of_start(settings: Settings, emit: Emit) -> None:
    """Measure starts of main.py, each a process."""
    sizes = settings.sizes
    data = "ml1m" if settings.data["ml1m"] == "real" else "synthetic"
    flags = [f"--dataset={data}", f"--cache_dir={settings.cache_dir}", *sizes.main_flags]
    if settings.data_dir:
        flags.append(f"--data_dir={settings.data_dir}")
    with tempfile.TemporaryDirectory(dir=settings.work) as folder:
        for row in start.measure(Path(folder), flags, sizes.starts):
            emit({"start": row.pop("start"), "data": data} | row)


# The first group are the sections of accelerator.py; the second, tasks that sections start.
TASKS = {
    "machine": of_machine,
    "layer": functools.partial(of_cells, inner="linear"),
    "epoch": of_epochs,
    "sweep": of_sweep,
    "evaluation": of_evaluation,
    "serving": of_serving,
    "determinism": of_determinism,
    "memory": of_memory,
    "start": of_start,
    "layer_mlp": functools.partial(of_cells, inner="mlp"),
    "implementations": of_implementations,
} | {"peak": peak, "equal": equal}


def main(argv: Sequence[str]) -> int:
    """Run a task. argv: as the module says, and the task's own arguments. Returns the exit code."""
    task, file, settings, *arguments = argv
    emit = emit_to(file)
    try:
        TASKS[task](Settings(**json.loads(settings)), emit, *arguments)
    except Exception as error:
        traceback.print_exc()
        emit({"failed": reason(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
