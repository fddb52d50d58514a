"""The parsers of untrusted bytes: each a function that reads them or raises a one-line UserError.

test_fuzz.py calls them with hypothesis' inputs. With inputs guided by coverage, for some seconds:

pip install -e ".[fuzz]" && python tests/faults/fuzz_parsers.py --seconds=60
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from data_prep import readers, sources
from data_prep.settings import DataConfig, UserError, check, option
from ttt4rec_jax.cli import flags
from ttt4rec_jax.cli.command import Command, Section, exit_code
from ttt4rec_jax.config import Config
from ttt4rec_jax.pipeline import resume
from ttt4rec_jax.pipeline.combinations import combine
from ttt4rec_jax.runs import folder as run_folder
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.serving import files

SUFFIXES = (".csv", ".tsv", ".inter", ".jsonl", ".csv.gz", ".jsonl.gz", ".parquet", ".txt", ".json")
SUFFIXES += (".arrow", ".csv.bz2", ".csv.xz", ".csv.zst", ".zip")
ITEMS = catalogue.Catalogue([1, 2, 30], None, np.ones(3, np.int64))


def told(action, *arguments) -> str:
    """Return "" if an action succeeds, or the one line of a UserError; other errors are bugs."""
    try:
        action(*arguments)
    except UserError as error:
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
        return told(lambda: [ITEMS.encode([items]) for _, items in files.Reader(str(path))])


def session_bytes(content: bytes) -> str:
    """A session as bytes, with any header under a check that holds."""
    from ttt4rec_jax.serving import session

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


def arguments(argv: list[str]) -> str:
    """The flags of main.py, up to where it imports JAX."""

    def parse():
        lists, given = flags.parse(["main.py", *argv], "purpose")
        combine(resume.complete(lists, given, print))

    return told(parse)


def one(content: bytes) -> None:
    """One input for all of them: the first byte says for which."""
    kind = content[:1]
    rest = content[1:]
    choice = kind[0] if kind else 0
    text = rest.decode("utf-8", "replace").replace("\0", "")
    targets = [
        *(
            lambda suffix=suffix: clicks(rest, suffix, "skip" if choice & 128 else "error")
            for suffix in SUFFIXES
        ),
        lambda: movies(rest),
        *(lambda suffix=suffix: histories(rest, suffix) for suffix in files.SUFFIXES),
        lambda: session_bytes(rest),
        lambda: settings_of_run(rest),
        lambda: arguments(
            [
                f"--{line}"
                for line in text.splitlines()
                if not line.startswith(("help", "resume", "run_dir"))
            ]
        ),
    ]
    targets[choice % len(targets)]()


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
        b"user,items\n1,1 2\n",
        b"dim=16\nseed=0,1\nlearning_rate=0.1:1:3:log\n",
        b'{"version": 1, "model": "model"}',
    ]
    texts.append(json.dumps(Config().to_dict()).encode())
    return [bytes([kind]) + text for kind in range(14) for text in texts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuzzFlags:
    """The flags of fuzz_parsers.py."""

    seconds: int = option(60, "How long to search for inputs that break a parser.", low=1)

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
        atheris.Setup([program, corpus, *limits], one)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
