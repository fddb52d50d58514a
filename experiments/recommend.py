"""Recommend with a finished run: to all users of a file, to one user, or click by click.

python experiments/recommend.py --run=runs/x --histories=users.parquet --k=10 --output=top.parquet
python experiments/recommend.py --run=runs/x --user=42
python experiments/recommend.py --run=runs/x --interactive
"""

import argparse
import os
import sys

from data_prep.settings import UserError
from ttt4rec_jax.cli import recommend
from ttt4rec_jax.cli.parser import Parser, add_run, check_run
from ttt4rec_jax.serving.files import FORMATS

DESCRIPTION = f"""Recommend with the best parameters of a run, from its folder alone (only --user
without --histories also reads the run's data). Give --histories and --output, or --user, or
--interactive.

{FORMATS}"""


def parser(program: str) -> Parser:
    """Return the parser of the command line."""
    parser = Parser(program, DESCRIPTION)
    add_run(parser)
    add = parser.add_argument
    add(
        "--histories",
        metavar="FILE",
        default="",
        help="users' clicks, .parquet, .csv, .jsonl, or - for stdin",
    )
    add(
        "--output",
        metavar="FILE",
        default="",
        help="file to write, .parquet, .csv, .jsonl, or - for stdout",
    )
    add(
        "--user", metavar="ID", default="", help="print the history and recommendations of one user"
    )
    add(
        "--interactive",
        action="store_true",
        help="ask for clicks one by one and print how the list moves",
    )
    add("--k", type=int, default=10, help="items to recommend (default: 10)")
    add(
        "--unknown",
        choices=("error", "skip"),
        default="error",
        help="what to do with clicks on items that the run's data does not have",
    )
    add("--include_seen", action="store_true", help="also recommend items of the history")
    add("--exclude", metavar="ID,ID", default="", help="items never to recommend")
    add("--include_only", metavar="ID,ID", default="", help="the only items to recommend")
    add(
        "--whole_history",
        action="store_true",
        help="read histories from their first click on, as a session does",
    )
    add("--program_cache", default="", help="folder of compiled programs; none: keep none")
    return parser


def check(args: argparse.Namespace) -> None:
    """Raise UserError for flags that exclude each other, before anything is imported or read."""
    check_run(args)
    if args.output and (not args.histories or args.user or args.interactive):
        raise UserError("--output: goes with --histories alone; leave out --user and --interactive")
    if args.interactive and (args.histories or args.whole_history):
        raise UserError(
            "--interactive: asks for the clicks itself; leave out --histories and --whole_history"
        )
    if not (args.output or args.user or args.interactive):
        raise UserError("nothing to do; give --histories and --output, or --user, or --interactive")


def main(argv: list[str]) -> int:
    """Return the exit code: 0 success, 2 a mistake (one line on stderr), 130 interrupted."""
    try:
        args = parser(argv[0]).parse_args(argv[1:])
        check(args)
        recommend.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
