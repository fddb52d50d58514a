"""Read objects from files of JSON lines, one JSON array, or dicts as Python writes them."""

import ast
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.archives import open_text, readable
from data_prep.settings import UserError

CHUNK = 1 << 20  # characters of an array that are read at a time
LONGEST = 1 << 26  # characters of one object in an array
FEW = 1000  # objects that are looked at to find the keys
SPACE = " \t\r\n"


def style_of(path: Path) -> str:
    """Return how a file holds objects: lines, array or python."""
    with readable(path), open_text(path) as stream:
        first = stream.readline(CHUNK).removeprefix(b"\xef\xbb\xbf").strip()
    if first.startswith(b"["):
        return "array" if first == b"[" or first[1:].lstrip().startswith((b"{", b"]")) else "lines"
    if isinstance(_read(first.decode("utf-8", "replace"), "lines"), str) and isinstance(
        _read(first.decode("utf-8", "replace"), "python"), dict
    ):
        return "python"
    return "lines"


def objects(stream: io.BufferedIOBase, style: str) -> Iterator[tuple[int, Any]]:
    """Yield each line's number, and its object or, as a text, the problem with it.

    Of an array: each element's number.
    """
    if style == "array":
        yield from _elements(stream)
        return
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            yield number, "not UTF-8 text"
            continue
        content = _read(text, style)
        if not isinstance(content, dict | str):
            content = f"a {type(content).__name__}, expected a JSON object"
        yield number, content


def _read(text: str, style: str) -> Any:
    """Return the content of a line, or a text about the problem with it."""
    try:
        content = json.loads(text) if style == "lines" else ast.literal_eval(text.strip())
    except (ValueError, RecursionError, SyntaxError, MemoryError, TypeError) as error:
        name = "JSON" if style == "lines" else "a Python dict"
        return f"not {name} ({error})"
    return "a str, expected a JSON object" if isinstance(content, str) else content


def _elements(stream: io.BufferedIOBase) -> Iterator[tuple[int, Any]]:
    """Yield the number and content of each element of an array, a part of the file at a time."""
    binary: Any = stream
    text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape")
    decoder = json.JSONDecoder()
    buffer = text.read(CHUNK).lstrip(SPACE)[1:]
    for number in itertools.count(1):
        buffer = buffer.lstrip(SPACE + ("," if number > 1 else ""))
        while True:
            try:
                content, end = decoder.raw_decode(buffer)
                if end < len(buffer):  # otherwise a number may go on
                    break
                problem = "the array does not end"
            except (ValueError, RecursionError) as error:
                if buffer.startswith("]"):
                    return
                problem = str(error)
            more = text.read(max(CHUNK, len(buffer))) if len(buffer) < LONGEST else ""
            if not more:
                yield number, f"not JSON ({problem})"
                return
            buffer = (buffer + more).lstrip(SPACE)
        buffer = buffer[end:]
        is_object = isinstance(content, dict)
        yield number, content if is_object else f"a {type(content).__name__}, expected an object"


def samples(
    path: Path, style: str, label: str, key: str = ""
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return {key: values as text} of the first objects of a file, and their own keys.

    key: that of the events that each object holds, "" if it is one. Raise UserError. Bad lines are
    left out: rows.py reports them.
    """
    names: dict[str, list[str]] = {}
    own: dict[str, None] = {}
    with readable(path), open_text(path) as stream:
        for _, content in itertools.islice(objects(stream, style), FEW):
            if not isinstance(content, dict):
                continue
            own |= dict.fromkeys(content)
            for event in events(content, key):
                for name, value in event.items() if isinstance(event, dict) else ():
                    names.setdefault(name, []).append(as_text(value) or "")
    if names:
        return names, tuple(own)
    raise UserError(
        f"{label}: holds no JSON object in its first 1000 lines; expected one per line, or one "
        "array of objects, in UTF-8"
    )


def events(content: dict[str, Any] | str, key: str) -> Iterator[dict[str, Any] | str]:
    """Yield what an object holds under a key, each with the object's other keys.

    Without a key it is the object itself; a text is the problem with it or with one of them.
    """
    if not key or isinstance(content, str):
        yield content
        return
    held = content.pop(key, None)
    if not isinstance(held, list):
        yield f"no list {key!r}"
        return
    for event in held:
        yield content | event if isinstance(event, dict) else f"a {key!r} that is no object"


def as_text(value: object) -> str | None:
    """Return a value as polars writes it in a text column; None for null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    try:
        return json.dumps(value)
    except (TypeError, ValueError):  # what only Python writes, such as a set
        return str(value)
