"""The error that users read, and what its text is made of."""

import difflib
from collections.abc import Iterable

from data_prep.text import shown


class UserError(ValueError):
    """An error that the user can correct, in one line: what was found and expected, what to do."""

    def __init__(self, text: str):
        # quoted text may hold line breaks, and characters that act on a terminal
        super().__init__(shown(" ".join(text.splitlines())))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type's name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(name: str, known: Iterable) -> str:
    """Return " (did you mean 'x'?)" for the known name closest to a misspelt one, or ""."""
    lower = {str(k).lower(): str(k) for k in known}
    matches = difflib.get_close_matches(str(name).lower(), lower, n=1)
    return f" (did you mean {lower[matches[0]]!r}?)" if matches else ""
