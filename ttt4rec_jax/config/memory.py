"""What an allocation that the machine cannot give means, in one line. Imports no JAX."""

import contextlib
from collections.abc import Iterator

from data_prep.settings import UserError, first_line

LOWER = (
    "lower --batch_size, --max_len or --dim, leave out rare items (--item_core), or keep the data "
    "off the device by --data_placement=host"
)


def out_of_memory(error: Exception) -> str | None:
    """Return what was asked for and what lowers it, None if an error is none of memory."""
    text = str(error)
    is_xla = type(error).__name__ in ("XlaRuntimeError", "JaxRuntimeError")
    if isinstance(error, MemoryError) or (
        is_xla and ("RESOURCE_EXHAUSTED" in text or "ut of memory" in text or "bad_alloc" in text)
    ):
        return f"out of memory ({first_line(error)[:300]}); {LOWER}"
    return None


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Raise UserError in the place of an error of memory."""
    try:
        yield
    except Exception as error:
        if line := out_of_memory(error):
            raise UserError(line) from error
        raise
