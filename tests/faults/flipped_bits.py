"""Read small Parquet files with a flipped bit, in a process of its own, which may abort:

python tests/faults/flipped_bits.py FIRST COUNT

Prints the number of each case before it is read, FIRST .. COUNT - 1; a case is always the same.
test_fuzz.py starts it again after the case at which it aborted.
"""

import io
import random
import sys

import polars as pl
from fuzz_parsers import clicks, histories

MODES = ("error", "skip")


def parquet(**columns) -> bytes:
    """Return a Parquet file of columns."""
    file = io.BytesIO()
    pl.DataFrame(columns).write_parquet(file)
    return file.getvalue()


def flipped(content: bytes, case: random.Random) -> bytes:
    """Return content with one bit changed."""
    changed = bytearray(content)
    changed[case.randrange(len(content))] ^= 1 << case.randrange(8)
    return bytes(changed)


def main(first: int, count: int) -> None:
    """Read the cases; any error but a refusal in one line ends the process with a traceback."""
    lists = parquet(user=["a", "b"], items=[[1, 2, 30], [2]])
    rows = parquet(user=[1, 1, 2], item=[1, 2, 3], time=[1, 2, 3])
    for number in range(first, count):
        print(number, flush=True)
        case = random.Random(number)
        histories(flipped(lists, case), ".parquet")
        clicks(flipped(rows, case), ".parquet", case.choice(MODES))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
