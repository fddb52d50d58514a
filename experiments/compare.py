"""Compares systems by the test users of their finished runs, paired, over one training seed or several:

python experiments/compare.py runs/sasrec-0 runs/sasrec-1 runs/sasrec-2 runs/ttt4rec-0
runs/ttt4rec-1 runs/ttt4rec-2 python experiments/compare.py runs/my-sweep --protocol=full
--json=comparison.json
"""

import sys
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.cli.parser import Parser
from ttt4rec_jax.evaluation.compare import compare
from ttt4rec_jax.evaluation.compare_table import table
from ttt4rec_jax.metrics import PROTOCOLS
from ttt4rec_jax.runs.folder import write_json

DESCRIPTION = """Compares systems by the test users of their finished runs. Runs whose settings differ in the seed alone are
one system; the first run's system is the reference, and every other is compared with it: difference of the
means, 95% interval, relative difference and p. Users are paired; with two or more seeds of each system,
intervals speak of other trainings as well (how, and why so: the docstring of ttt4rec_jax/compare.py)."""


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 a mistake told in one line."""
    parser = Parser(argv[0], DESCRIPTION)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="folder of a run, or of a sweep: all its combinations",
    )
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="", help="one evaluation alone (default: both)"
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the comparison there as well"
    )
    try:
        asked = parser.parse_args(argv[1:])
        found = compare(asked.runs, asked.protocol)
        if asked.json:
            try:
                write_json(asked.json, found)
            except OSError as error:
                raise UserError(
                    f"--json: {asked.json} cannot be written ({error.strerror}); name another file"
                ) from error
        print(table(found))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
