"""The command reproduce: the paper's Table 1, Figure 2 and Figure 3 as a report."""

import dataclasses
import sys
from pathlib import Path

from data_prep.settings import UserError, check, option
from data_prep.text import shown, shown_lines
from ttt4rec_jax.cli.command import Command, DataFolders, Section, exit_code
from ttt4rec_jax.paper import driver, jobs

PURPOSE = """Reproduce the paper's Table 1, Figure 2 and Figure 3: train the runs, write a report:

{program} --table1 --figure2 --figure3 --datasets=beauty,ml1m --seeds=3
{program} --quick                     # few epochs with one seed, on Beauty
{program} --output=runs/reproduction  # resumes the runs that are not finished

If --output already holds a reproduction, flags that are not given keep its values."""
MAIN = [sys.executable, "-m", "ttt4rec_jax", "train"]
DEFAULT_OUTPUT = Path("runs") / "reproduction"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceFlags(DataFolders):
    """The flags of reproduce.py."""

    table1: bool = option(
        False, "Reproduce Table 1; if none of the three parts is given, all are reproduced."
    )
    figure2: bool = option(False, "Reproduce Figure 2.")
    figure3: bool = option(False, "Reproduce Figure 3.")
    datasets: str = option(
        ",".join(jobs.DATASETS), "Data sets, separated by commas; with --quick: beauty."
    )
    seeds: int = option(
        3,
        "Number of runs of each model, with the seeds 0, 1, ...; with --quick: 1.",
        low=1,
        high=100,
    )
    quick: bool = option(
        False, "Train for few epochs, as a test; every page of the report says so."
    )
    jobs: int = option(
        1, "Number of processes that train in parallel, each on its own cores.", low=1, high=64
    )
    output: str = option(
        "",
        "Folder of the runs and the report; default: runs/reproduction, or "
        "runs/reproduction-quick.",
        path=True,
    )
    report_only: bool = option(
        False, "Train nothing; write the report from the runs that are finished."
    )
    dry_run: bool = option(False, "List the runs; train and write nothing.")

    def __post_init__(self) -> None:
        check(self)


COMMAND = Command(
    PURPOSE,
    (
        Section("Parts:", ReproduceFlags, ("table1", "figure2", "figure3")),
        Section("Data and training:", ReproduceFlags, ("datasets", "seeds", "quick")),
        Section(
            "Where to run:",
            ReproduceFlags,
            ("jobs", "output", "report_only", "dry_run", "data_dir", "cache_dir"),
        ),
    ),
)


def plan_of(flags: ReproduceFlags, given: set[str]) -> jobs.Plan:
    """Return the plan that the flags describe. Raises UserError.

    Flags that are not given have their values in the plan saved in the folder; its parts are kept.
    """
    default = f"{DEFAULT_OUTPUT}-quick" if flags.quick else DEFAULT_OUTPUT
    output = Path(flags.output or default)
    saved = jobs.saved_plan(output)
    quick = flags.quick or saved.get("quick", False)
    if saved and quick != saved["quick"]:
        raise UserError(f"--output: {output} holds runs without --quick; name another folder")
    parts = {part for part in jobs.PARTS if getattr(flags, part)} | set(saved.get("parts", ()))
    datasets = ("beauty",) if quick else jobs.DATASETS
    seeds = 1 if quick else flags.seeds
    return jobs.Plan(
        output=output,
        parts=tuple(part for part in jobs.PARTS if part in parts) or jobs.PARTS,
        datasets=tuple(flags.datasets.split(","))
        if "datasets" in given
        else saved.get("datasets", datasets),
        seeds=flags.seeds if "seeds" in given else saved.get("seeds", seeds),
        quick=quick,
    )


def listing(plan: jobs.Plan) -> str:
    """Return a line per run of a plan: whether it is finished, and the flags of main.py."""
    lines = []
    waiting = 0
    for job in jobs.jobs(plan):
        is_finished = job.is_finished(plan.output)
        waiting += not is_finished
        state = "finished" if is_finished else "to train"
        lines.append(f"{state:<9} {job.name:<28} {' '.join(job.flags)}")
    return "\n".join([*lines, f"{waiting} of {len(lines)} jobs to train, in {plan.output}"])


def train(plan: jobs.Plan, flags: ReproduceFlags) -> None:
    """Train the runs of a plan that are not finished. Raises Interrupted, UserError."""
    jobs.save_plan(plan)
    folders = {"data_dir": flags.data_dir, "cache_dir": flags.cache_dir}
    more_flags = [f"--{name}={value}" for name, value in folders.items() if value]
    driver.run_all(
        plan, MAIN, more_flags, flags.jobs, log=lambda line: print(shown_lines(line), flush=True)
    )


def main(argv: list[str]) -> int:
    """Train and report. Returns the exit code; see command.exit_code."""
    return exit_code(lambda: _reproduce(argv), lambda: "run the same command to resume")


def _reproduce(argv: list[str]) -> None:
    parsed = COMMAND.parse(argv)
    flags = parsed.settings(ReproduceFlags)
    plan = plan_of(flags, parsed.given)
    if flags.dry_run:
        print(shown_lines(listing(plan)))
        return
    if not flags.report_only:
        train(plan, flags)
    elif not plan.output.is_dir():
        raise UserError(
            f"--report_only: {plan.output} does not exist; "
            "name the folder of a reproduction with --output"
        )
    # imports matplotlib and polars: a wrong flag is reported before
    from ttt4rec_jax.paper import report

    print(shown(f"wrote the report: {', '.join(map(str, report.write(plan)))}"))
