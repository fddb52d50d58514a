"""Reproduces the paper's Table 1, Figure 2 and Figure 3 as report.md and report.html, from nothing but the data:

python experiments/reproduce.py --table1 --figure2 --figure3 --datasets=beauty,ml1m --seeds=3
python experiments/reproduce.py --quick                       # few epochs of one seed, on Beauty
python experiments/reproduce.py --output=runs/reproduction    # goes on with what is not finished
"""

import argparse
import sys
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.cli.parser import Parser
from ttt4rec_jax.paper import driver
from ttt4rec_jax.paper import jobs as reproduce
from ttt4rec_jax.training.interrupt import Interrupted

MAIN = Path(__file__).with_name("main.py")


def parser(program: str) -> Parser:
    found = Parser(program, __doc__)
    for part in reproduce.PARTS:
        found.add_argument(
            f"--{part}", action="store_true", help="this part (none named: all three)"
        )
    found.add_argument(
        "--datasets", metavar="A,B", help=f"{','.join(reproduce.DATASETS)} (with --quick: beauty)"
    )
    found.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="trainings of each model, seeds 0 to N - 1 (3; with --quick 1)",
    )
    found.add_argument("--quick", action="store_true", help="few epochs, said on every page")
    found.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        default=1,
        help="processes at a time, each on its share of cores (1)",
    )
    found.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of runs and report (runs/reproduction[-quick])",
    )
    found.add_argument(
        "--data_dir", metavar="DIR", default="", help="folder of the archives, as main.py's"
    )
    found.add_argument(
        "--cache_dir", metavar="DIR", default="", help="folder of prepared data, as main.py's"
    )
    found.add_argument(
        "--report_only", action="store_true", help="train nothing: the report of what is finished"
    )
    found.add_argument(
        "--dry_run", action="store_true", help="list the runs, train and write nothing"
    )
    return found


def plan_of(asked: argparse.Namespace) -> reproduce.Plan:
    """What the flags ask for; those not given are as in the folder's own plan, whose parts are kept. Raises UserError."""
    output = asked.output or Path("runs") / (
        "reproduction-quick" if asked.quick else "reproduction"
    )
    saved = reproduce.saved_plan(output)
    quick = asked.quick or saved.get("quick", False)
    if saved and quick != saved["quick"]:
        raise UserError(f"--output: {output} holds runs without --quick; name another folder")
    parts = {part for part in reproduce.PARTS if getattr(asked, part)} | set(saved.get("parts", ()))
    datasets = tuple(asked.datasets.split(",")) if asked.datasets else ()
    return reproduce.Plan(
        output=output,
        parts=tuple(part for part in reproduce.PARTS if part in parts) or reproduce.PARTS,
        datasets=datasets
        or saved.get("datasets")
        or (("beauty",) if quick else reproduce.DATASETS),
        seeds=asked.seeds if asked.seeds is not None else saved.get("seeds") or (1 if quick else 3),
        quick=quick,
    )


def listing(plan: reproduce.Plan) -> str:
    """The runs of a plan, a line each: finished or not, and main.py's flags."""
    jobs = reproduce.jobs(plan)
    states = [(job, "finished" if job.is_finished(plan.output) else "to train") for job in jobs]
    lines = [f"{state:<9} {job.name:<28} {' '.join(job.flags)}" for job, state in states]
    waiting = sum(state == "to train" for _, state in states)
    return "\n".join([*lines, f"{waiting} of {len(jobs)} to train, in {plan.output}"])


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 a mistake told in one line, 130 interrupted."""
    try:
        asked = parser(argv[0]).parse_args(argv[1:])
        plan = plan_of(asked)
        if not 1 <= asked.jobs <= 64:
            raise UserError(f"--jobs: {asked.jobs} is out of range, expected 1 to 64")
        if asked.dry_run:
            print(listing(plan))
            return 0
        if not asked.report_only:
            reproduce.save_plan(plan)
            more = [
                f"--{name}={value}"
                for name in ("data_dir", "cache_dir")
                if (value := getattr(asked, name))
            ]
            driver.run_all(plan, MAIN, more, asked.jobs, log=lambda line: print(line, flush=True))
        elif not plan.output.is_dir():
            raise UserError(
                f"--report_only: {plan.output} is not there; name the folder of a reproduction with --output"
            )
        from ttt4rec_jax.paper import (
            report,  # brings matplotlib and polars, which a mistake need not wait for
        )

        print(f"report in {', '.join(map(str, report.write(plan)))}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as interrupt:
        print(f"{str(interrupt) or 'interrupted'}; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
