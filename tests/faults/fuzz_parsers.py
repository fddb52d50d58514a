"""The parsers of untrusted bytes: each a function that reads them or raises a one-line UserError.

test_fuzz.py calls them with hypothesis' inputs. With inputs guided by coverage, for some seconds:

pip install -e ".[fuzz]" && python tests/faults/fuzz_parsers.py --seconds=60 --only=config
"""

import dataclasses
import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from data_prep import readers, sources
from data_prep.settings import DataConfig, UserError, check, option
from ttt4rec_jax.cli import flags
from ttt4rec_jax.cli.command import Command, Section, exit_code
from ttt4rec_jax.config import Config
from ttt4rec_jax.pipeline import resume, sweep
from ttt4rec_jax.pipeline.combinations import combine
from ttt4rec_jax.runs import folder as run_folder
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs import read, verified
from ttt4rec_jax.serving import files, load_export, session

SUFFIXES = (".csv", ".tsv", ".inter", ".jsonl", ".csv.gz", ".jsonl.gz", ".parquet", ".txt", ".json")
SUFFIXES += (".arrow", ".csv.bz2", ".csv.xz", ".csv.zst", ".zip", ".tar", ".tar.gz")
KNOWN = ("otto", "mind:small", "diginetica", "bookcrossing", "steam")  # files of the catalogue
ITEMS = catalogue.Catalogue([1, 2, 30], None, np.ones(3, np.int64))


def told(action, *arguments, refusal=UserError) -> str:
    """Return "" if an action succeeds, or the one line of a refusal; other errors are bugs."""
    try:
        action(*arguments)
    except refusal as error:
        assert str(error) and "\n" not in str(error) and "\r" not in str(error), (
            f"not one line: {error!r}"
        )
        return str(error)
    return ""


def clicks(content: bytes, suffix: str, on_bad_rows: str = "error") -> str:
    """A user's own file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clicks{suffix}"
        path.write_bytes(content)
        scratch = Path(folder) / "scratch"
        scratch.mkdir()

        def read():
            source = sources.find(DataConfig(dataset=str(path)))
            readers.read(path, source.layout, on_bad_rows, scratch)

        return told(read)


def known(content: bytes, name: str, on_bad_rows: str = "error") -> str:
    """The file of a data set of the catalogue that holds its clicks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clicks"
        path.write_bytes(content)
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        layout = sources.CATALOGUE[name].layout
        return told(readers.read, path, layout, on_bad_rows, scratch)


def movies(content: bytes) -> str:
    """An archive of the catalogue."""
    source = sources.CATALOGUE["ml1m"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ml-1m.zip"
        path.write_bytes(content)
        scratch = Path(folder) / "scratch"
        scratch.mkdir()

        def read():
            readers.read_titles(path, source.titles)
            readers.read(path, source.layout, "skip", scratch)

        return told(read)


def histories(content: bytes, suffix: str) -> str:
    """A file of histories to recommend to, and the items that they name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"histories{suffix}"
        path.write_bytes(content)
        reader = files.Reader(str(path), reads_times=b"time" in content)
        return told(lambda: [ITEMS.encode([history.items]) for history in reader])


def session_bytes(content: bytes) -> str:
    """A session as bytes, with any header under a check that holds."""
    like = np.zeros(4, np.float32)
    blobs = [content]
    for body in (content, session.MAGIC + content):
        blobs.append(body + session.check_bytes(body))
    return "; ".join(told(session.from_bytes, blob, "model", like, 8, 2) for blob in blobs)


def settings_of_run(content: bytes) -> str:
    """A config.json."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_bytes(content)
        return told(run_folder.load_config, path)


def run_folder_of(content: bytes, name: str) -> str:
    """Any other file of a run's folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        actions = {
            "catalogue.parquet": lambda: catalogue.read(path),
            "training_clicks.npz": lambda: catalogue.training_clicks(path),
            "metrics.jsonl": lambda: read.history(path.parent),
            "result.json": lambda: read.read(path.parent),
            "test_ranks.parquet": lambda: read._read_ranks(path),
            "sweep.json": lambda: sweep.saved_flags(path.parent),
            "sha256.json": lambda: verified.digests(path.parent),
        }
        return told(actions[name])


RUN_FILES = ("catalogue.parquet", "training_clicks.npz", "metrics.jsonl", "result.json")
RUN_FILES += ("test_ranks.parquet", "sweep.json", "sha256.json")


def export_folder(files: dict[str, bytes], manifest: dict | None = None) -> str:
    """A folder of an export; files, manifest: what is not as it should be."""
    arrays = io.BytesIO()
    np.savez(arrays, embedding=np.zeros((2, 2), np.float32))
    whole = {
        "arrays.npz": arrays.getvalue(),
        "items.jsonl": b'{"id": 1, "clicks": 2}\n{"id": 2, "clicks": 3}\n',
        "top_k.jax_export": b"no program",
    } | files
    content = {
        "format": load_export.FORMAT,
        "format_version": load_export.VERSION,
        "items": 2,
        "k": 2,
        "model": {"max_len": 5},
        "platforms": ["cpu", "cuda", "tpu"],
        "calling_convention_version": 10,
        "written_by": {"jax": "0.0"},
        "programs": {"top_k": {"file": "top_k.jax_export"}},
        "files": {n: hashlib.sha256(x).hexdigest() for n, x in whole.items() if n in OF_EXPORT},
    } | (manifest or {})
    with tempfile.TemporaryDirectory() as folder:
        for name, x in ({"manifest.json": json.dumps(content).encode()} | whole).items():
            (Path(folder) / name).write_bytes(x)
        return told(load_export.load_export, folder, refusal=load_export.ExportError)


OF_EXPORT = ("arrays.npz", "items.jsonl", "top_k.jax_export")


def export_fields(content: bytes) -> str:
    """A manifest in which some fields are what JSON text says."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    return export_folder({}, fields) if isinstance(fields, dict) else ""


def arguments(argv: list[str]) -> str:
    """The flags of main.py, up to where it imports JAX."""

    def parse():
        lists, given = flags.parse(["main.py", *argv], "purpose")
        combine(resume.complete(lists, given, print))

    return told(parse)


def flag_lines(content: bytes) -> str:
    """Flags of the command line, one a line."""
    lines = content.decode("utf-8", "replace").replace("\0", "").splitlines()
    unused = ("help", "resume", "run_dir")
    return arguments([f"--{line}" for line in lines if not line.startswith(unused)])


def target(function, *arguments):
    return lambda content: function(content, *arguments)


TARGETS = {
    "parsers": [
        *(target(clicks, suffix, mode) for suffix in SUFFIXES for mode in ("error", "skip")),
        *(target(known, name, mode) for name in KNOWN for mode in ("error", "skip")),
        movies,
        *(target(histories, suffix) for suffix in files.SUFFIXES),
    ],
    "session": [session_bytes],
    "config": [settings_of_run],
    "run": [target(run_folder_of, name) for name in RUN_FILES],
    "flags": [flag_lines],
    "export": [
        lambda content: export_folder({"manifest.json": content}),
        export_fields,
        *(lambda content, name=name: export_folder({name: content}) for name in OF_EXPORT),
    ],
}


def one(content: bytes, only: str = "") -> None:
    """One input for one of the parsers: the first byte says which."""
    chosen = [x for name, all_ in TARGETS.items() if only in ("", name) for x in all_]
    chosen[(content[0] if content else 0) % len(chosen)](content[1:])


def seeds() -> list[bytes]:
    """Inputs that are almost right, to begin with."""
    lines = b"user,item,time\n1,2,3\n1,3,4\n"
    texts = [
        lines,
        lines.replace(b",", b"\t"),
        b'{"user": 1, "item": 2, "time": 3}\n',
        b'{"user": 1, "items": [1, 2]}\n',
    ]
    texts += [
        b'{"session": 1, "events": [{"aid": 2, "ts": 3, "type": "clicks"}]}\n',
        b"1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n",
        b"sessionId;userId;itemId;timeframe;eventdate\n1;NA;2;3;2016-05-09\n",
    ]
    texts += [
        b"user,items\n1,1 2\n",
        b"dim=16\nseed=0,1\nlearning_rate=0.1:1:3:log\n",
        b'{"version": 1, "model": "model"}',
    ]
    texts.append(json.dumps(Config().to_dict()).encode())
    texts += [b'{"items": 3, "files": {"../x": ""}, "programs": {"a": {"file": "/b"}}}']
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, items=np.ones(3, np.int32), offsets=np.array([0, 1, 3]))
        texts.append(file.getvalue())
    table = pl.DataFrame({"id": [1, 2], "clicks": [3, 4], "user": [1, 2], "items": [[1], [2]]})
    file = io.BytesIO()
    table.write_parquet(file)
    texts.append(file.getvalue())
    texts.append(session.to_bytes("model", np.zeros(4, np.float32), np.zeros(2, np.uint8), 3))
    most = max(map(len, TARGETS.values()))
    return [bytes([kind]) + text for kind in range(most) for text in texts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuzzFlags:
    """The flags of fuzz_parsers.py."""

    seconds: int = option(60, "How long to search for inputs that break a parser.", low=1)
    only: str = option("", "Which parsers; all if empty.", choices=("", *TARGETS))

    def __post_init__(self) -> None:
        check(self)


COMMAND = Command(__doc__, (Section("Flags:", FuzzFlags),))


def main(argv: list[str]) -> int:
    """Search until the time is over; the first bug ends the process. Returns the exit code."""
    return exit_code(lambda: _fuzz(argv[0], COMMAND.parse(argv).settings(FuzzFlags)))


def _fuzz(program: str, asked: FuzzFlags) -> None:
    import atheris

    limits = [f"-max_total_time={asked.seconds}", "-max_len=4096", "-timeout=60"]
    with tempfile.TemporaryDirectory() as corpus:
        for number, content in enumerate(seeds()):
            (Path(corpus) / str(number)).write_bytes(content)
        atheris.instrument_all()
        atheris.Setup([program, corpus, *limits], lambda content: one(content, asked.only))
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
