"""The report on the paper's experiments, from the runs that are finished.

Every number in it comes from a run's folder.
"""

from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.paper import claims, conditions, figures, grid_claims, table1
from ttt4rec_jax.paper.document import (
    Block,
    Bullets,
    Cell,
    Heading,
    Picture,
    Row,
    Table,
    Text,
    as_html,
    markdown,
    plural,
)
from ttt4rec_jax.paper.driver import failure as job_failure
from ttt4rec_jax.paper.jobs import Plan, jobs
from ttt4rec_jax.paper.results import (
    Results,
    figure2_histories,
    figure3_grid,
    grid_size,
    table1_runs,
)
from ttt4rec_jax.runs.folder import write_text
from ttt4rec_jax.runs.read import failure, history, read

TITLE = "TTT4Rec: the paper's experiments"


def collect(plan: Plan) -> Results:
    """Read the files of the plan's runs.

    A damaged run counts as missing, with the reason. Raise UserError if a folder holds runs of
    other settings.
    """
    results = Results({}, {}, {})
    # single runs first, then the runs of the grid
    for job in sorted(jobs(plan), key=lambda job: len(job.combinations)):
        job.is_finished(plan.output)  # raises UserError
        for name, folder in job.folders(plan.output).items():
            key = f"{job.name}/{name}".rstrip("/")
            try:
                results.histories[key] = history(folder.path)
            except UserError:
                results.histories[key] = []
            try:
                if folder.result.exists():
                    results.runs[key] = read(folder.path)
                else:
                    reason = failure(folder.path)
                    results.missing[key] = (
                        f"failed: {reason}" if reason else job_failure(job, plan.output)
                    )
            except UserError as error:
                results.missing[key] = f"failed: {error}"
    return results


def decide_claims(plan: Plan, results: Results, runs: claims.RunsByModel) -> list[claims.Claim]:
    """Decide the paper's claims. runs: those of Table 1."""
    expected = grid_size(plan)
    grid = figure3_grid(plan, results)
    return [
        claims.on_a_par(runs),
        claims.comirec_better(runs),
        claims.comirec_slow(figure2_histories(plan, results), plan.figures_on),
        grid_claims.mini_batches(grid, expected),
        grid_claims.extreme_ranges(grid, expected),
    ]


def claims_blocks(decided: list[claims.Claim]) -> list[Block]:
    """Return the section on the claims: a table of verdicts, then the evidence for each."""
    overview: list[Row] = [[claim.text, Cell(claim.verdict, "b")] for claim in decided]
    section: list[Block] = [
        Heading("Which of the paper's claims held"),
        Table(["claim", "in these runs"], overview),
    ]
    for number, claim in enumerate(decided, 1):
        section += [
            Heading(f"Claim {number}: {claim.verdict}", 3),
            Text(f"{claim.text} **{claim.verdict.capitalize()}.**"),
            Text(f"Decided by: {claim.rule}"),
            Bullets(claim.evidence),
        ]
    return section


def note_of(plan: Plan) -> str:
    """Return the warning that is on every page of a quick run's report, else ""."""
    if not plan.quick:
        return ""
    return (
        f"Quick run: {plural(plan.seeds, 'seed')} and few epochs. It shows that everything works, "
        "not how good a model is."
    )


def blocks_of(plan: Plan, results: Results) -> list[Block]:
    """Return the blocks of the whole report."""
    runs = table1_runs(plan, results)
    finished = len(results.runs)
    summary = (
        f"{finished} of {finished + len(results.missing)} runs have a result. Data: "
        f"{', '.join(plan.datasets)}; {plural(plan.seeds, 'seed')}."
    )
    blocks: list[Block] = [Text(summary), *claims_blocks(decide_claims(plan, results, runs))]
    if "table1" in plan.parts:
        blocks += table1.blocks(plan, results, runs)
    if "figure2" in plan.parts:
        blocks += figures.figure2_blocks(plan, results)
    if "figure3" in plan.parts:
        blocks += figures.figure3_blocks(plan, results)
    return blocks + conditions.blocks(plan, results)


def write(plan: Plan) -> list[Path]:
    """Write report.md with its pictures, and report.html; return both paths. Raise UserError."""
    blocks = blocks_of(plan, collect(plan))
    note = note_of(plan)
    for block in blocks:
        if isinstance(block, Picture):
            (plan.output / block.name).write_bytes(block.png)
    texts = {
        "report.md": markdown(TITLE, note, blocks),
        "report.html": as_html(TITLE, note, blocks),
    }
    for name, text in texts.items():
        write_text(plan.output / name, text)
    return [plan.output / name for name in texts]
