"""Stream recommendations into files of any size. Imports no JAX."""

import contextlib
import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

from data_prep import atomic
from data_prep.settings import UserError
from ttt4rec_jax.serving.histories import FORMATS as FORMATS
from ttt4rec_jax.serving.histories import SUFFIXES as SUFFIXES
from ttt4rec_jax.serving.histories import Reader as Reader
from ttt4rec_jax.serving.histories import file_format as file_format
from ttt4rec_jax.serving.load_export import Recommendation
from ttt4rec_jax.serving.rows import as_dict, as_rows, has_return, without_formulas


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
