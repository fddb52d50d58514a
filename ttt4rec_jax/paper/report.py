"""The report on the paper's experiments, from the runs that are finished.

Every number in it comes from results.jsonl.
"""

from pathlib import Path

from ttt4rec_jax.paper import claims, conditions, figures, grid_claims, pages, table1
from ttt4rec_jax.paper.claims import Claim, Verdict
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
from ttt4rec_jax.paper.jobs import PAPER, Plan
from ttt4rec_jax.paper.results import (
    Results,
    collect,
    figure3_grid,
    grid_size,
    table1_runs,
)
from ttt4rec_jax.runs.folder import write_text

TITLE = "TTT4Rec: the paper's experiments"
CLAIMS = (
    claims.ON_A_PAR,
    claims.COMIREC_BETTER,
    claims.COMIREC_SLOW,
    grid_claims.MINI_BATCHES,
    grid_claims.EXTREME_RANGES,
)


def decide_claims(plan: Plan, results: Results, preset: str) -> list[Verdict]:
    """Decide the claims, in the order of CLAIMS, under a preset."""
    runs = table1_runs(plan, results, preset)
    expected = grid_size(plan, preset)
    grid = figure3_grid(plan, results, preset)
    return [
        claims.on_a_par(runs),
        claims.comirec_better(runs),
        claims.comirec_slow(runs[plan.figures_on]),
        grid_claims.mini_batches(grid, expected),
        grid_claims.extreme_ranges(grid, expected),
    ]


def claims_table(verdicts: dict[str, list[Verdict]]) -> Table:
    """Return the claims and their verdicts, as `decided` returns them."""
    overview: list[Row] = [
        [claim.text, *(Cell(of_preset[i].verdict, "b") for of_preset in verdicts.values())]
        for i, claim in enumerate(CLAIMS)
    ]
    return Table(["claim", *(f"preset {preset}" for preset in verdicts)], overview)


def claims_blocks(verdicts: dict[str, list[Verdict]]) -> list[Block]:
    """Return the section on the claims: a table of verdicts, then the evidence for each."""
    section: list[Block] = [
        Heading("Which of the paper's claims held"),
        claims_table(verdicts),
        Text(
            "Differences are tested by Welch's t test over seeds, on the same test users, so that "
            "they say whether other trainings would show them on these users."
        ),
    ]
    for i, claim in enumerate(CLAIMS):
        section += [Heading(f"Claim {i + 1}", 3), Text(claim.text), Text(_rule(claim))]
        for preset, of_preset in verdicts.items():
            section.append(Text(f"Preset {preset}: **{of_preset[i].verdict}**."))
            section.append(Bullets(of_preset[i].evidence))
    return section


def _rule(claim: Claim) -> str:
    return f"Decided by: {claim.rule}"


def note_of(plan: Plan) -> str:
    """Return the warning that is on every page of a quick run's report, else ""."""
    if not plan.quick:
        return ""
    return (
        f"Quick run: {plural(plan.seeds, 'seed')} and few epochs. It shows that everything works, "
        "not how good a model is."
    )


def decided(plan: Plan, results: Results) -> dict[str, list[Verdict]]:
    """Return {preset: the verdicts, in the order of CLAIMS}."""
    return {preset: decide_claims(plan, results, preset) for preset in plan.presets}


def tables(plan: Plan, results: Results) -> dict[str, Table]:
    """Return the tables that a page can hold, by name."""
    return {
        "ndcg": pages.ndcg_table(plan, results),
        "ndcg-paper": pages.ndcg_table(plan, results, PAPER),
        "claims": claims_table(decided(plan, results)),
    }


def blocks_of(plan: Plan, results: Results) -> list[Block]:
    """Return the blocks of the whole report."""
    finished = sum(map(len, results.runs.values()))
    counts = ", ".join(f"{name} {len(plan.seeds_on(name))}" for name in plan.datasets)
    summary = f"{plural(finished, 'run')} with a result. Data and seeds: {counts}."
    if results.missing:
        summary += f" {plural(len(results.missing), 'job')} without all results: see the end."
    blocks = [Text(summary), *conditions.settings(plan), *claims_blocks(decided(plan, results))]
    if "table1" in plan.parts:
        blocks += table1.blocks(plan, results)
    if "figure2" in plan.parts:
        blocks += figures.figure2_blocks(plan, results)
    if "figure3" in plan.parts:
        blocks += figures.figure3_blocks(plan, results)
    return blocks + conditions.blocks(results)


def write(plan: Plan, pages_to_update: list[Path]) -> list[Path]:
    """Write report.md with its pictures, report.html, and the tables of pages; return the paths.

    Raise UserError.
    """
    results = collect(plan)
    blocks = blocks_of(plan, results)
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
    pages.update(pages_to_update, tables(plan, results))
    return [*(plan.output / name for name in texts), *pages_to_update]
