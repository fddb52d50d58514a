"""What the sections of accelerator.py share: sizes, settings, rows, and processes of their own.

Importing this module imports no JAX.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from generated import SHAPES, generated_like

from data_prep.prepare import prepare
from data_prep.settings import DataConfig
from ttt4rec_jax.data.dataset import Dataset, load_dataset

SECTIONS = Path(__file__).with_name("accelerator_sections.py")
MB = 1e6
DRY_SHAPE = {"items": 50, "users": 60, "fewest": 5, "median": 1.5, "sigma": 0.5}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the measurements are.

    cells: lengths and mini-batch sizes of a layer; batch_size and dim: its input's. repeats: of
    what takes milliseconds; epochs and starts: of what takes seconds. stacked: numbers of runs.
    cases: of epoch.py; model: settings that replace those of the cases. xla_flags: those under
    which equal trainings are compared. clicks: of a long session. main_flags: flags of main.py when
    it is started.
    """

    cells: tuple[tuple[int, int], ...] = ((10, 1), (10, 10), (50, 1), (50, 50), (200, 1), (200, 10))
    batch_size: int = 256
    dim: int = 64
    repeats: int = 15
    epochs: int = 3
    starts: int = 2
    cases: tuple[str, ...] = ("beauty-sasrec", "beauty-ttt-b1", "beauty-ttt-bN", "ml1m-paper")
    stacked: tuple[int, ...] = (1, 8, 32)
    xla_flags: tuple[str, ...] = (
        "",
        "--xla_gpu_deterministic_ops=true",
        "--xla_gpu_exclude_nondeterministic_ops=true",
    )
    model: dict = dataclasses.field(default_factory=dict)
    clicks: int = 10_000
    sessions: int = 1024
    main_flags: tuple[str, ...] = ()


FULL = Sizes()
DRY = Sizes(
    cells=((4, 2),),
    batch_size=2,
    dim=8,
    repeats=1,
    epochs=1,
    starts=1,
    cases=("beauty-ttt-b1", "ml1m-paper"),
    stacked=(1, 3),
    xla_flags=("--xla_gpu_deterministic_ops=true",),
    model={"dim": 8, "num_blocks": 1},
    clicks=30,
    sessions=4,
    main_flags=("--model=sasrec", "--dim=8", "--epochs=1"),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What accelerator.py tells each section.

    data: {data set: "real" or "generated"}. public: the public layer's file, "" for none. work: a
    folder for temporary files. commit: that of the repository, "" if unknown.
    """

    dry: bool
    data: dict[str, str]
    data_dir: str
    cache_dir: str
    public: str
    work: str
    commit: str

    @property
    def sizes(self) -> Sizes:
        """The sizes of the measurements."""
        return DRY if self.dry else FULL

    def rows_file(self, section: str) -> Path:
        """Return the file to which a section appends its rows."""
        return Path(self.work) / f"{section}.rows"

    def dataset(self, name: str) -> Dataset:
        """Return a data set, real or generated in its shape."""
        if self.data[name] == "real":
            return load_dataset(prepare(DataConfig(dataset=name), self.data_dir, self.cache_dir))
        return generated_like(SHAPES[name]._replace(**DRY_SHAPE) if self.dry else SHAPES[name])


Emit = Callable[[dict], None]  # takes a row


def emit_to(file: str) -> Emit:
    """Return the function that appends a row to a file."""

    def emit(row: dict) -> None:
        with open(file, "a", encoding="utf-8") as rows:
            rows.write(json.dumps(row, default=float) + "\n")

    return emit


def alone(task: str, settings: Settings, *arguments: str, **environment: str) -> dict:
    """Return the last row that a task emits in a process of its own, or {"error": reason}."""
    with tempfile.TemporaryDirectory(dir=settings.work) as folder:
        file = Path(folder) / "rows"
        words = [sys.executable, SECTIONS, task, file, json.dumps(dataclasses.asdict(settings))]
        done = subprocess.run(
            [*map(str, words), *arguments],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            errors="replace",
        )
        rows = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    last = json.loads(rows[-1]) if rows else {}
    if not done.returncode and last:
        return last
    return {"error": last.get("failed") or ended(done.returncode, done.stderr)}


def ended(code: int, log: str) -> str:
    """Return how a process ended, in one line with the last one of its log."""
    lines = log.strip().splitlines()
    return f"the process ended with {code}: {lines[-1] if lines else 'it printed nothing'}"[:300]


def reason(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, subprocess.CalledProcessError):
        return ended(error.returncode, str(error.stderr or ""))
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def megabytes(size: int | None) -> float | None:
    """Return bytes as megabytes."""
    return None if size is None else size / MB


def memory_stats() -> dict[str, Any]:
    """Return what the first device says of its memory; {} if it says nothing."""
    import jax

    try:
        return jax.devices()[0].memory_stats() or {}
    except (AttributeError, NotImplementedError, RuntimeError):
        return {}
