"""Histories from files and recommendations into files, a part at a time, whatever their size. Imports no JAX.

Read: .parquet, .csv, .jsonl, or "-": JSON lines from stdin. Columns `user` and `items`, the ids of
a history in order (a list; in a .csv with spaces between them); or `user` and `item`, a row a
click, the rows of a user together and in order.
Written: .parquet and .csv, a row a recommendation: user, rank, item, score, title where the data
has any, source ("model", or "popularity" for an empty history). .jsonl, or "-" for stdout: a line a
user, with lists. A file appears under its name when it is whole, or not at all.
"""

import contextlib
import csv
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep import atomic
from data_prep.settings import UserError

SUFFIXES = (".parquet", ".csv", ".jsonl")
ROWS_AT_ONCE = 8192  # of a parquet file
COLUMNS = ("user", "rank", "item", "score", "title", "source")


def suffix(flag: str, path: str) -> str:
    """How a file is read or written. Raises UserError if its name does not say."""
    found = ".jsonl" if path == "-" else Path(path).suffix.lower()
    if found not in SUFFIXES:
        raise UserError(
            f"{flag}: {path!r} is of an unknown form; expected a name in {', '.join(SUFFIXES)}, or -"
        )
    return found


class Reader:
    """Iterates over (user, ids) of a file. done, of total (None: not known) in unit: how far it has come."""

    def __init__(self, path: str):
        """Raises UserError if there is no such file."""
        self.path = path
        self.kind = suffix("--histories", path)
        self.done = 0
        self.total = None
        self.unit = "B"
        if path == "-":
            return
        if not Path(path).is_file():
            raise UserError(
                f"--histories: no file {path}; expected one of users' clicks ({', '.join(SUFFIXES)}, or -)"
            )
        self.total = os.path.getsize(path)

    def __iter__(self) -> Iterator[tuple]:
        read = {".parquet": self._parquet, ".csv": self._csv, ".jsonl": self._jsonl}[self.kind]
        rows = read()
        try:
            first = next(rows, None)
            if first is None:
                raise self._error("holds no histories")
            users = self._together if "item" in first else self._lists
            yield from users(itertools.chain([first], rows))
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error

    def _error(self, what: str) -> UserError:
        form = (
            '{"user": ..., "items": [...]} on each line'
            if self.kind == ".jsonl"
            else "columns user and items, or user and item"
        )
        return UserError(
            f"--histories: {'stdin' if self.path == '-' else self.path}: {what}; expected {form}"
        )

    def _lists(self, rows: Iterator[dict]) -> Iterator[tuple]:
        for row in rows:
            items = row["items"]
            yield row["user"], items.split() if isinstance(items, str) else items or []

    def _together(self, rows: Iterator[dict]) -> Iterator[tuple]:
        finished = (
            set()
        )  # hashes: a user's rows may stand apart by mistake, which would be two short histories
        for user, clicks in itertools.groupby(rows, lambda row: row["user"]):
            if hash(user) in finished:
                raise self._error(
                    f"the rows of user {user!r} do not stand together, sort them by user"
                )
            finished.add(hash(user))
            yield user, [row["item"] for row in clicks]

    def _lines(self) -> Iterator[str]:
        with contextlib.ExitStack() as stack:
            file = (
                sys.stdin.buffer if self.path == "-" else stack.enter_context(open(self.path, "rb"))
            )
            for number, line in enumerate(file, 1):
                self.done += len(line)
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise self._error(f"line {number} is not UTF-8 text") from error

    def _jsonl(self) -> Iterator[dict]:
        first = None
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._error(f"line {number} is no JSON ({error})") from error
            names = self._names(row) if isinstance(row, dict) else None
            first = first or names
            is_good = names and names == first and isinstance(row["user"], (str, int))
            if not is_good or isinstance(row[names[1]], list) != (names[1] == "items"):
                raise self._error(f"line {number} is {line.strip()[:60]}")
            yield {name: row[name] for name in names}

    def _csv(self) -> Iterator[dict]:
        rows = csv.DictReader(self._lines(), strict=True)
        try:
            names = self._names(rows.fieldnames or [])
            if names is None:
                raise self._error(f"has the columns {', '.join(rows.fieldnames or []) or 'none'}")
            for row in rows:
                if None in row or None in row.values():
                    raise self._error(f"line {rows.line_num} has not {len(rows.fieldnames)} fields")
                yield {name: row[name] for name in names}
        except csv.Error as error:
            raise self._error(f"at line {rows.line_num}: {error}") from error

    def _parquet(self) -> Iterator[dict]:
        import polars as pl  # not at the top: --help need not wait for it

        try:
            frame = pl.scan_parquet(self.path, glob=False)
            schema = frame.collect_schema()
            if (names := self._names(schema)) is None:
                raise self._error(f"has the columns {', '.join(schema)}")
            if schema["user"].is_nested():
                raise self._error(f"has users of type {schema['user']}")
            self.total = frame.select(pl.len()).collect().item()
            self.unit = " rows"
            for part in frame.select(names).collect_batches(chunk_size=ROWS_AT_ONCE):
                for row in part.iter_rows(named=True):
                    self.done += 1
                    yield row
        except pl.exceptions.PolarsError as error:
            raise self._error(f"cannot be read ({str(error).splitlines()[0]})") from error

    def _names(self, columns: Iterable[str]) -> tuple[str, str] | None:
        """Which of the two shapes the columns are of."""
        return next(
            (
                names
                for names in (("user", "items"), ("user", "item"))
                if set(names) <= set(columns)
            ),
            None,
        )


class Writer:
    """Writes recommendations of users, in parts; a context in which an error leaves no file."""

    def __init__(self, path: str):
        """Raises UserError if it cannot be written there."""
        self.path = Path(path)
        self.kind = suffix("--output", path)
        self.is_stdout = path == "-"
        if not self.is_stdout and (self.path.is_dir() or not os.access(self.path.parent, os.W_OK)):
            raise UserError(
                f"--output: {path} cannot be written; name a file in a folder that is there"
            )
        self._parts = []

    def __enter__(self):
        if self.is_stdout:
            self._file = sys.stdout
            return self
        self._cleanup = contextlib.ExitStack()
        self._scratch = self._cleanup.enter_context(atomic.staging(self.path))
        self._whole = self._scratch / f"whole{self.kind}"
        self._file = (
            None
            if self.kind == ".parquet"
            else open(self._whole, "w", encoding="utf-8", newline="")
        )
        return self

    def write(self, users: list, found: list) -> None:
        """Adds the recommendations (recommend.Recommendation) of some users."""
        try:
            if self.kind == ".jsonl":
                self._file.writelines(
                    json.dumps(as_dict(*pair), ensure_ascii=False) + "\n"
                    for pair in zip(users, found, strict=True)
                )
            else:
                self._write_rows(as_rows(users, found))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(
                f"--output: {self.path} cannot be written ({error.strerror})"
            ) from error

    def _write_rows(self, columns: dict[str, list]) -> None:
        if self.kind == ".parquet":
            self._write_part(columns)
            return
        rows = csv.writer(self._file, lineterminator="\n")
        if not self._parts:
            rows.writerow(columns)
        self._parts.append(None)
        rows.writerows(zip(*columns.values(), strict=True))

    def _write_part(self, columns: dict[str, list]) -> None:
        import polars as pl

        is_number = all(isinstance(user, int) for user in columns["user"])
        if not is_number:
            columns = columns | {"user": [str(user) for user in columns["user"]]}
        types = {"rank": pl.Int32, "score": pl.Float32} | (
            {"title": pl.String} if "title" in columns else {}
        )
        self._parts.append(self._scratch / f"{len(self._parts):06}.parquet")
        pl.DataFrame(columns, schema_overrides=types, strict=False).write_parquet(self._parts[-1])

    def __exit__(self, kind, error, trace) -> None:
        if self.is_stdout:
            sys.stdout.flush()
            return
        with self._cleanup:
            try:
                if self._file:
                    self._file.close()
                if kind is None:
                    if self._parts and self.kind == ".parquet":
                        self._join()
                    atomic.move(self._whole, self.path)
            except OSError as error:
                raise UserError(
                    f"--output: {self.path} cannot be written ({error.strerror})"
                ) from error

    def _join(self) -> None:
        import polars as pl

        # relaxed: a part without rows has columns of no type, and users may be numbers in one part
        # and text in another
        parts = [pl.scan_parquet(part) for part in self._parts]
        pl.concat(parts, how="vertical_relaxed").sink_parquet(self._whole)


def as_dict(user, found) -> dict:
    """A line of JSON."""
    titles = {} if found.titles is None else {"titles": found.titles}
    return {
        "user": user,
        "items": found.ids,
        "scores": found.scores.tolist(),
        **titles,
        "source": found.source,
    }


def as_rows(users: list, found: list) -> dict[str, list]:
    """Columns, a row a recommendation."""
    counts = [len(one.ids) for one in found]
    columns = {
        "user": [user for user, count in zip(users, counts, strict=True) for _ in range(count)],
        "rank": [rank for count in counts for rank in range(1, count + 1)],
        "item": [id for one in found for id in one.ids],
        "score": [score for one in found for score in one.scores.tolist()],
        "title": [title for one in found for title in one.titles or ()],
        "source": [
            one.source for one, count in zip(found, counts, strict=True) for _ in range(count)
        ],
    }
    if found and found[0].titles is None:
        del columns["title"]
    return columns
