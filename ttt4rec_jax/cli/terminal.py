"""What every command does to its streams before it prints. Imports no JAX."""

import codecs
import contextlib
import logging
import os
import sys

from data_prep.text import shown_lines

STAND_INS = {"±": "+-"}  # all that this program itself prints beyond ASCII
ERRORS = "ttt4rec_jax"  # the name of the error handler `stand_in`


def stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace what a stream's encoding lacks by ASCII: "+-" for "±", otherwise an escape."""
    if not isinstance(error, UnicodeEncodeError):
        return codecs.backslashreplace_errors(error)
    if (text := STAND_INS.get(error.object[error.start])) is not None:
        return text, error.start + 1
    escaped, _ = codecs.backslashreplace_errors(
        UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    )
    return escaped, error.start + 1


class Record(logging.LogRecord):
    """A log record whose text cannot act on the terminal, whichever handler prints it."""

    def getMessage(self) -> str:
        """Return the message with control characters escaped."""
        return shown_lines(super().getMessage())


def open_closed_streams() -> None:
    """Give a closed stdin, stdout or stderr the null device.

    Otherwise the next file that is opened would take its descriptor, and receive what a library
    prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115, lives on
            setattr(sys, name, stream)


def prepare_streams() -> None:
    """Make stdin, stdout, stderr and the log usable, whatever their encoding and their text."""
    codecs.register_error(ERRORS, stand_in)
    open_closed_streams()
    for name in ("stdin", "stdout", "stderr"):
        with contextlib.suppress(AttributeError):  # a stream of a test or a notebook
            getattr(sys, name).reconfigure(errors=ERRORS)
    logging.setLogRecordFactory(Record)


def discard_output() -> None:
    """Point stdout at the null device, so that flushing what it buffers raises no second error."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
