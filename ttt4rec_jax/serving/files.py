"""Stream histories from files and recommendations into files of any size. Imports no JAX."""

import contextlib
import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from data_prep import atomic
from data_prep.settings import UserError, first_line
from ttt4rec_jax.serving.load_export import Recommendation
from ttt4rec_jax.serving.rows import as_dict, as_rows, has_return, without_formulas

FORMATS = """\
Histories are read from a .parquet, .csv or .jsonl file, or as JSON lines from stdin (-). The
columns are either user and items, the list of a user's item ids in order (in a .csv separated by
spaces), or user and item, one row per click; then the clicks of a user must be in order, in
adjacent rows.

Recommendations are written to a .parquet or .csv file with one row per recommended item: user,
rank, item, score, title (if the data has titles) and source ("model", or "popularity" for an empty
history); or to a .jsonl file or stdout (-) with one line per user, which holds lists. The file
appears under its name only when it is complete."""
SUFFIXES = (".parquet", ".csv", ".jsonl")
BATCH_ROWS = 8192  # rows of a Parquet file that are read at a time


def file_format(flag: str, path: str) -> str:
    """Return the suffix that determines a file's format. Raise UserError for an unknown one."""
    suffix = ".jsonl" if path == "-" else Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{flag}: {path!r} has an unknown format; "
            f"expected a name in {', '.join(SUFFIXES)}, or -"
        )
    return suffix


class Reader:
    """Iterate over the (user, ids) of a file.

    done, total, unit: the progress, in bytes or rows; total is None if it is unknown.
    """

    def __init__(self, path: str):
        """Raise UserError if there is no such file."""
        self.path = path
        self.kind = file_format("--histories", path)
        self.done = 0
        self.total: int | None = None
        self.unit = "B"
        if path == "-":
            return
        if not Path(path).is_file():
            raise UserError(
                f"--histories: no file {path}; "
                f"expected a {', '.join(SUFFIXES)} file of histories, or -"
            )
        self.total = os.path.getsize(path)

    def __iter__(self) -> Iterator[tuple]:
        read = {".parquet": self._parquet, ".csv": self._csv, ".jsonl": self._jsonl}[self.kind]
        rows = read()
        try:
            first = next(rows, None)
            if first is None:
                raise self._error("holds no histories")
            histories = self._grouped if "item" in first else self._lists
            yield from histories(itertools.chain([first], rows))
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error

    def _error(self, what: str) -> UserError:
        name = "stdin" if self.path == "-" else self.path
        expected = (
            '{"user": ..., "items": [...]} on each line'
            if self.kind == ".jsonl"
            else "columns user and items, or user and item"
        )
        return UserError(f"--histories: {name}: {what}; expected {expected}")

    def _lists(self, rows: Iterator[dict]) -> Iterator[tuple]:
        for row in rows:
            items = row["items"]
            yield row["user"], items.split() if isinstance(items, str) else items or []

    def _grouped(self, rows: Iterator[dict]) -> Iterator[tuple]:
        # remembers users (by hash), since rows that are not adjacent would become several histories
        finished = set()
        for user, clicks in itertools.groupby(rows, lambda row: row["user"]):
            if hash(user) in finished:
                raise self._error(f"the rows of user {user!r} are not adjacent; sort them by user")
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
                raise self._error(f"line {number} is not JSON ({error})") from error
            names = self._names(row) if isinstance(row, dict) else None
            first = first or names
            if (
                names is None
                or names != first
                or not isinstance(row["user"], (str, int))
                or isinstance(row[names[1]], list) != (names[1] == "items")
            ):
                raise self._error(f"line {number} is {line.strip()[:60]}")
            yield {name: row[name] for name in names}

    def _csv(self) -> Iterator[dict]:
        rows = csv.DictReader(self._lines(), strict=True)
        try:
            columns = rows.fieldnames or []
            names = self._names(columns)
            if names is None:
                raise self._error(f"has the columns {', '.join(columns) or 'none'}")
            for row in rows:
                if None in row or None in row.values():
                    raise self._error(f"line {rows.line_num} does not have {len(columns)} fields")
                yield {name: row[name] for name in names}
        except csv.Error as error:
            raise self._error(f"at line {rows.line_num}: {error}") from error

    def _parquet(self) -> Iterator[dict]:
        import polars as pl  # imported late, so that --help is fast

        try:
            frame = pl.scan_parquet(self.path, glob=False)
            schema = frame.collect_schema()
            if (names := self._names(schema)) is None:
                raise self._error(f"has the columns {', '.join(schema)}")
            if schema["user"].is_nested():
                raise self._error(f"has users of type {schema['user']}")
            self.total = frame.select(pl.len()).collect().item()
            self.unit = " rows"
            for part in frame.select(names).collect_batches(chunk_size=BATCH_ROWS):
                for row in part.iter_rows(named=True):
                    self.done += 1
                    yield row
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise self._error(f"cannot be read ({first_line(error)})") from error

    def _names(self, columns: Iterable[str]) -> tuple[str, str] | None:
        """Return the two columns that hold the histories; None if there are none."""
        for names in (("user", "items"), ("user", "item")):
            if set(names) <= set(columns):
                return names
        return None


class Writer:
    """Write recommendations in parts; a context manager that leaves no file after an error."""

    def __init__(self, path: str, csv_escape: bool = False):
        """Raise UserError if the file cannot be written there.

        csv_escape: whether a CSV file has ' before text that a spreadsheet takes for a formula.
        """
        self.csv_escape = csv_escape
        self.path = Path(path)
        self.kind = file_format("--output", path)
        self.is_stdout = path == "-"
        if not self.is_stdout and (self.path.is_dir() or not os.access(self.path.parent, os.W_OK)):
            raise UserError(
                f"--output: {path} cannot be written; name a file in a folder that exists"
            )
        self._parts: list[Any] = []

    def __enter__(self) -> "Writer":
        if self.is_stdout:
            self._file = sys.stdout
            # JSON is UTF-8 whatever the terminal is, with the escapes of JSON for lone surrogates
            if isinstance(self._file, io.TextIOWrapper):
                self._file.reconfigure(encoding="utf-8", errors="backslashreplace")
            return self
        self._cleanup = contextlib.ExitStack()
        try:
            self._scratch = self._cleanup.enter_context(atomic.staging(self.path))
        except OSError as error:
            raise UserError(
                f"--output: {self.path} cannot be written ({error.strerror})"
            ) from error
        self._whole = self._scratch / f"whole{self.kind}"
        self._file = (
            None
            if self.kind == ".parquet"
            else open(self._whole, "w", encoding="utf-8", errors="backslashreplace", newline="")
        )
        return self

    def write(self, users: list, recommendations: list[Recommendation]) -> None:
        """Add one recommendation per user."""
        try:
            if self.kind == ".jsonl":
                self._file.writelines(
                    json.dumps(as_dict(*pair), ensure_ascii=False) + "\n"
                    for pair in zip(users, recommendations, strict=True)
                )
            else:
                self._write_rows(as_rows(users, recommendations))
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
        # Python 3.11 quotes no carriage return that is not part of the lineterminator.
        quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if has_return(columns) else csv.QUOTE_MINIMAL
        rows = csv.writer(self._file, lineterminator="\n", quoting=quoting)
        if not self._parts:
            rows.writerow(columns)
        self._parts.append(None)
        content = zip(*columns.values(), strict=True)
        rows.writerows(map(without_formulas, content) if self.csv_escape else content)

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

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.is_stdout:
            sys.stdout.flush()
            return
        with self._cleanup:
            try:
                if self._file:
                    self._file.close()
                if kind is None:
                    if self.kind == ".parquet":
                        if not self._parts:
                            self._write_part(as_rows([], []))
                        self._join()
                    atomic.move(self._whole, self.path)
            except OSError as error:
                raise UserError(
                    f"--output: {self.path} cannot be written ({error.strerror})"
                ) from error

    def _join(self) -> None:
        import polars as pl

        # relaxed, since a part without rows has untyped columns, and users may be numbers in one
        # part and text in another
        parts = [pl.scan_parquet(part) for part in self._parts]
        pl.concat(parts, how="vertical_relaxed").sink_parquet(self._whole)
