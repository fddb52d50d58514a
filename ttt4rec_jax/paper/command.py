"""The command reproduce: the paper's Table 1, Figure 2 and Figure 3 as a report."""

import dataclasses
import sys
from pathlib import Path

from data_prep.settings import UserError, check, option
from data_prep.text import shown, shown_lines
from ttt4rec_jax.cli.command import Command, DataFolders, Section, exit_code
from ttt4rec_jax.paper import driver, jobs, ledger

PURPOSE = """Reproduce the paper's Table 1, Figure 2 and Figure 3: train the runs, write a report:

{program} --table1 --figure2 --figure3 --datasets=beauty,ml1m --jobs=2
{program} --quick                     # few epochs with one seed, on Beauty
{program} --output=runs/reproduction  # resumes the runs that are not finished

Everything is trained under two presets: fair, with an equal target tower and equal early stopping
for all models, and authors, with what the paper's authors probably used. results.jsonl, a line for
each finished job, is what the report is written from; a job that it has is not trained again.

If --output already holds a reproduction, flags that are not given keep its values."""
MAIN = [sys.executable, "-m", "ttt4rec_jax", "sweep"]
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
    presets: str = option(",".join(jobs.PRESETS), "Presets, separated by commas.")
    seeds: int = option(
        0,
        "Number of runs of each model, with the seeds 0, 1, ...; 0: 5 on beauty, 3 on the others; "
        "with --quick: 1.",
        low=0,
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
    pages: str = option(
        "",
        "Markdown pages, separated by commas, whose tables are written again: those between "
        "<!-- reproduction: ndcg --> (or claims) and <!-- end -->.",
    )
    dry_run: bool = option(False, "List the runs; train and write nothing.")

    def __post_init__(self) -> None:
        check(self)


COMMAND = Command(
    PURPOSE,
    (
        Section("Parts:", ReproduceFlags, ("table1", "figure2", "figure3")),
        Section("Data and training:", ReproduceFlags, ("datasets", "presets", "seeds", "quick")),
        Section(
            "Where to run:",
            ReproduceFlags,
            ("jobs", "output", "report_only", "pages", "dry_run", "data_dir", "cache_dir"),
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
    presets = tuple(flags.presets.split(","))
    return jobs.Plan(
        output=output,
        presets=presets if "presets" in given else saved.get("presets", presets),
        parts=tuple(part for part in jobs.PARTS if part in parts) or jobs.PARTS,
        datasets=tuple(flags.datasets.split(","))
        if "datasets" in given
        else saved.get("datasets", datasets),
        seeds=flags.seeds if "seeds" in given else saved.get("seeds", seeds),
        quick=quick,
    )


def listing(plan: jobs.Plan) -> str:
    """Return a line per job of a plan: whether it is finished, and its flags."""
    left = {
        job.name: job
        for job in jobs.remaining(jobs.jobs(plan), ledger.lines(plan.output))
        if not job.is_finished(plan.output)
    }
    lines = []
    for job in jobs.jobs(plan):
        state = "to train" if job.name in left else "finished"
        lines.append(f"{state:<9} {job.name:<28} {' '.join(left.get(job.name, job).flags)}")
    return "\n".join([*lines, f"{len(left)} of {len(lines)} jobs to train, in {plan.output}"])


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
    prints_only = "--dry_run" in argv
    advice = None if prints_only else lambda: "run the same command to resume"
    return exit_code(lambda: _reproduce(argv), advice)


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

    pages = [Path(page) for page in flags.pages.split(",") if page]
    print(shown(f"wrote the report: {', '.join(map(str, report.write(plan, pages)))}"))
