r"""Measure everything that a GPU or TPU may change, within eight minutes, in one command.

    python experiments/benchmarks/accelerator.py --json=FILE.json --table=FILE.md \
        [--data_dir=DIR] [--public=ttt_layer.py]

It installs and downloads nothing. Data whose archives are not in --data_dir are generated in the
shape of the real ones. Sections come in the order of their importance, and each runs in a process
of its own: one that fails is reported, and the others go on. The files are written anew after each
section. --dry runs every section on the CPU at tiny sizes, to prove that the script works.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from accelerator_settings import SECTIONS, Settings, ended
from accelerator_table import page, state
from command_line import Figures, check_names, run, write, write_json

from data_prep import sources
from data_prep.catalogue import CATALOGUE
from data_prep.settings import UserError, option
from data_prep.text import shown
from ttt4rec_jax.cli.command import DataFolders

ROOT = Path(__file__).parents[2]
LEAST_S = 5.0  # a section that has less time is left out
LOG_LINES = 30  # of a failed section, kept in the JSON
NO_DEVICE = "JAX found no GPU or TPU: these are figures of a CPU."
DRY_NOTE = (
    "A dry run on a CPU, at sizes far below those that the text names: the numbers mean nothing."
)


@dataclasses.dataclass(frozen=True)
class Section:
    """A section: the largest share of the time budget that it may take, and what it measures."""

    share: float
    about: str


# in the order of their importance; together the shares exceed 1, since most take less
MEASURED = {
    "machine": Section(0.15, "The device and the software"),
    "layer": Section(
        0.3,
        "One TTT-Linear layer, forward and backward: batches of 256 sequences of N tokens, in "
        "mini-batches of b, D = 64, 2 heads; beside attention, the projections and norm alone, and "
        "the public JAX implementation (--public)",
    ),
    "epoch": Section(0.3, "An epoch of training after compilation"),
    "sweep": Section(
        0.25,
        "An epoch of stacked runs of the paper's model on Beauty, over that of one run, and over "
        "as many of these one after the other",
    ),
    "evaluation": Section(0.2, "The ranking of all test users of Beauty, after compilation"),
    "serving": Section(
        0.2, "Recommendations on Beauty's catalogue, whole calls of the Python interface"
    ),
    "determinism": Section(
        0.3,
        "Whether an epoch of the paper's model, trained twice from one seed, gives the same bits: "
        "in one process with one program, and in two processes that compile it",
    ),
    "memory": Section(
        0.25,
        "Training, by XLA's analysis of the compiled program, and the device's peak in a process "
        "that does nothing else",
    ),
    "start": Section(0.2, "From the shell to main.py's first training step, in seconds"),
    "layer_mlp": Section(0.3, "One TTT-MLP layer, measured as in the section layer"),
    "implementations": Section(
        0.3, "The implementations of the TTT-Linear layer, measured as in the section layer"
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AcceleratorFlags(Figures, DataFolders):
    """The flags of accelerator.py."""

    table: str = option("", "Also write the figures to this file, as Markdown.")
    public: str = option(
        "",
        "File ttt/models/ttt_layer.py of github.com/test-time-training/ttt-lm-jax, to measure the "
        "public layer too; it is executed.",
    )
    budget_s: float = option(480.0, "Seconds that all sections may take together.", above=0.0)
    sections: str = option(",".join(MEASURED), "Sections to run, separated by commas.")
    dry: bool = option(False, "Tiny sizes on the CPU: prove that every section works.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("sections", self.sections, MEASURED)
        if self.public and not Path(self.public).is_file():
            raise UserError(
                f"--public: {self.public} is not a file; expected ttt/models/ttt_layer.py of "
                "github.com/test-time-training/ttt-lm-jax"
            )


Record = Callable[[dict], None]  # takes all figures so far


def measure(names: list[str], settings: Settings, budget_s: float, record: Record) -> dict:
    """Run sections until the budget is spent; return, and record after each, {name: figures}."""
    deadline = time.monotonic() + budget_s
    sections: dict[str, dict] = {}
    for name in names:
        left = deadline - time.monotonic()
        if left < LEAST_S:
            sections[name] = outcome(name, "left out: no time")
        else:
            print(f"{name} ...", file=sys.stderr, flush=True)
            limit_s = max(LEAST_S, min(left, MEASURED[name].share * budget_s))
            try:
                sections[name] = run_section(name, settings, limit_s)
            except (KeyboardInterrupt, SystemExit):
                rows = rows_of(settings.rows_file(name))
                sections[name] = outcome(name, "interrupted") | {"rows": rows}
                record(sections)
                raise
        print(f"{name}: {shown(state(sections[name]))}", file=sys.stderr, flush=True)
        record(sections)
    return sections


def outcome(name: str, status: str, seconds: float = 0.0, error: str = "") -> dict:
    """Return what became of a section, without rows."""
    about = MEASURED[name].about
    return {"about": about, "status": status, "seconds": seconds, "error": error, "rows": []}


def run_section(name: str, settings: Settings, limit_s: float) -> dict:
    """Run a section in a process of its own, for at most limit_s, and return its figures."""
    rows_file = settings.rows_file(name)
    log = Path(settings.work) / f"{name}.log"
    words = [name, str(rows_file), json.dumps(dataclasses.asdict(settings))]
    started = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(SECTIONS), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(name, settings),
            start_new_session=True,
        )
        code = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(limit_s)
        finally:
            end(process)
    seconds = time.monotonic() - started
    rows = rows_of(rows_file)
    if code is None:
        figures = outcome(name, f"cut off after its {limit_s:.0f} s", seconds)
    elif code:
        text = log.read_text(encoding="utf-8", errors="replace")
        failed = [row["failed"] for row in rows if "failed" in row]
        figures = outcome(name, "failed", seconds, (failed or [ended(code, text)])[0])
        figures["log"] = text.splitlines()[-LOG_LINES:]
    else:
        figures = outcome(name, "done", seconds)
    return figures | {"rows": [row for row in rows if "failed" not in row]}


def environment(name: str, settings: Settings) -> dict[str, str]:
    """Return the environment of a section: this one, and where it finds programs of the others.

    Nothing is shared where compilation itself is compared. In a dry run, XLA compiles quickly.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    programs = {
        "JAX_COMPILATION_CACHE_DIR": str(Path(settings.work) / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    if name == "start" or (name == "determinism" and not settings.dry):
        programs = {"JAX_COMPILATION_CACHE_DIR": ""}
    return os.environ | {"PYTHONPATH": path} | (quick if settings.dry else {}) | programs


def end(process: subprocess.Popen) -> None:
    """End a process with those that it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def rows_of(file: Path) -> list[dict]:
    """Return the rows that a section has written; the last line may be cut off."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def found_data(data_dir: str) -> dict[str, str]:
    """Return {data set: "real" if its archive is there, else "generated"}."""
    folder = sources.user_folder(data_dir, "TTT4REC_DATA_DIR", "data")
    return {
        name: "real" if sources.existing_file(CATALOGUE[name], folder) else "generated"
        for name in ("beauty", "ml1m")
    }


def commit() -> str:
    """Return the commit of the repository, and whether files differ from it; "" if unknown."""
    git = ["git", "-C", str(ROOT)]
    words = [*git, "status", "--porcelain", "--untracked-files=no"]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(words, capture_output=True, text=True)
    except OSError:
        return ""
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def described(flags: AcceleratorFlags, settings: Settings) -> dict[str, str]:
    """Return what a reader has to know of a run."""
    of_kind = {
        kind: ", ".join(name for name, found in settings.data.items() if found == kind)
        for kind in ("real", "generated")
    }
    shape = "tiny data" if flags.dry else "numbers of users, items and clicks like the real ones"
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "real data": of_kind["real"] or "none",
        "generated data": f"{of_kind['generated']} ({shape}; clicks drawn uniformly)"
        if of_kind["generated"]
        else "none",
        "public layer": flags.public or "left out, since --public was not given",
        "budget": f"{flags.budget_s:.0f} s",
    }


def note_of(dry: bool, sections: dict[str, dict]) -> str:
    """Return what a reader has to be warned of; "" for nothing."""
    if dry:
        return DRY_NOTE
    rows = sections.get("machine", {}).get("rows", ())
    platforms = [row["value"] for row in rows if row["what"] == "platform"]
    return NO_DEVICE if platforms == ["cpu"] else ""


def main(flags: AcceleratorFlags) -> None:
    """Measure, write the files after each section, and print the table."""
    data = dict.fromkeys(("beauty", "ml1m"), "generated")
    with tempfile.TemporaryDirectory() as work:
        settings = Settings(
            dry=flags.dry,
            data=data if flags.dry else found_data(flags.data_dir),
            data_dir=flags.data_dir,
            cache_dir=flags.cache_dir,
            public=os.path.abspath(flags.public) if flags.public else "",
            work=work,
            commit=commit(),
        )
        figures = {"dry": flags.dry, "about": described(flags, settings)}

        def record(sections: dict[str, dict]) -> None:
            note = note_of(flags.dry, sections)
            all_figures = figures | {"note": note, "sections": sections}
            write_json(flags.json, all_figures)
            write("table", flags.table, page(all_figures))
            if note and list(sections) == ["machine"]:
                print(note, file=sys.stderr)

        record({})  # a file that cannot be written is noticed before anything is measured
        names = list(dict.fromkeys(flags.sections.split(",")))
        sections = measure(names, settings, flags.budget_s, record)
        print(page(figures | {"note": note_of(flags.dry, sections), "sections": sections}))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(run(__doc__, AcceleratorFlags, main))
