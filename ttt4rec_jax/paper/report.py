"""The report on the paper's experiments, from whatever runs are finished: every figure in it comes from a run folder."""

import json
import statistics
from pathlib import Path
from typing import NamedTuple

from data_prep.settings import UserError
from ttt4rec_jax import plots
from ttt4rec_jax.evaluation.compare import check_comparable, comparison, systems
from ttt4rec_jax.evaluation.paired_test import LEVEL
from ttt4rec_jax.metrics import PAPER_METRICS as METRICS
from ttt4rec_jax.metrics import PROTOCOLS, label, p_text
from ttt4rec_jax.paper import claims, inner_learners
from ttt4rec_jax.paper.document import (
    Bullets,
    Cell,
    Heading,
    Picture,
    Table,
    Text,
    as_html,
    markdown,
)
from ttt4rec_jax.paper.jobs import (
    BATCHES,
    EXTRAS,
    FLOORS,
    PAPER,
    RANGES,
    TITLES,
    Plan,
    grid,
    jobs,
    journal,
)
from ttt4rec_jax.paper.jobs import failure as job_failure
from ttt4rec_jax.runs.folder import write_text
from ttt4rec_jax.runs.read import Run, failure, history, read

TITLE = "TTT4Rec: the paper's experiments"


class Found(NamedTuple):
    """Finished runs, by the name of their folder under runs/, epochs of all begun ones, and why the others are missing."""

    runs: dict[str, Run]
    histories: dict[str, list[dict]]
    missing: dict[str, str]


def collect(plan: Plan) -> Found:
    """What there is of the plan's runs; a damaged one is missing, and why is said."""
    found = Found({}, {}, {})
    for job in sorted(
        jobs(plan), key=lambda job: len(job.combinations)
    ):  # single runs first, then the grid's many
        job.is_finished(plan.output)  # raises UserError if the folder holds runs of other settings
        for name, folder in job.folders(plan.output).items():
            key = f"{job.name}/{name}".rstrip("/")
            try:
                found.histories[key] = history(folder.path)
            except UserError:
                found.histories[key] = []
            try:
                if folder.result.exists():
                    found.runs[key] = read(folder.path)
                else:
                    why = failure(folder.path)
                    found.missing[key] = f"failed: {why}" if why else job_failure(job, plan.output)
            except UserError as error:
                found.missing[key] = f"failed: {error}"
    return found


def by_dataset(plan: Plan, found: Found) -> dict[str, dict[str, list[Run]]]:
    """{dataset: {model: its finished runs}} of Table 1."""
    models = (*PAPER, *EXTRAS, *FLOORS)
    of = {
        d: {
            m: [r for s in range(plan.seeds) if (r := found.runs.get(f"{d}/{m}-{s}"))]
            for m in models
        }
        for d in plan.datasets
    }
    for dataset in of.values():
        if len(runs := [run for members in dataset.values() for run in members]) > 1:
            check_comparable(runs, PROTOCOLS)
    return of


def histories_of(plan: Plan, found: Found) -> dict[str, list[list[dict]]]:
    """{model: the epochs of each seed's run} of Figure 2."""
    names = ("comirec_sa", "comirec_dr", "ttt4rec")
    of = {
        m: [found.histories.get(f"{plan.figures_on}/{m}-{s}", []) for s in range(plan.seeds)]
        for m in names
    }
    return {model: [lines for lines in seeds if lines] for model, seeds in of.items()}


def grid_of(plan: Plan, found: Found) -> dict[str, Run]:
    """{combination: its run} of Figure 3."""
    job = grid(plan)
    return {name: run for name in job.combinations if (run := found.runs.get(f"{job.name}/{name}"))}


# Table 1


def against_best(of: dict[str, list[Run]]) -> dict[str, dict[str, tuple[str, str, float, float]]]:
    """{protocol: {metric: (mark, best baseline, TTT4Rec - it, Holm's p over baselines)}}; {} if there is nothing to test."""
    baselines = [m for m in PAPER if m != "ttt4rec" and of.get(m)]
    if not of.get("ttt4rec") or not baselines:
        return {}
    compared = systems([run for m in ("ttt4rec", *baselines) for run in of[m]])
    results = comparison(compared, PROTOCOLS, [])["results"]
    marks = {}
    for protocol, result in results.items():
        marks[protocol] = {}
        for metric in METRICS:
            best = max(
                (s.name for s in compared[1:]), key=lambda name: result["means"][name][metric]
            )
            one = result["differences"][best][metric]
            mark = "" if one["p_holm"] >= LEVEL else "▼" if one["difference"] > 0 else "▲"
            marks[protocol][metric] = (mark, best, -one["difference"], one["p_holm"])
    return marks


def _figures(runs: list[Run], protocol: str, metric: str) -> tuple[float, float | None]:
    values = [run.result["test"][protocol][metric] for run in runs]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def table1(of: dict[str, list[Run]], seeds: int, missing: dict[str, str], dataset: str) -> Table:
    """Means ± std over seeds; the best of the paper's models bold, the second underlined, TTT4Rec's marks beside."""
    columns = [(p, m) for p in PROTOCOLS for m in METRICS]
    marks = against_best(of)
    styles = {}
    for column in columns:
        ranked = sorted((m for m in PAPER if of.get(m)), key=lambda m: -_figures(of[m], *column)[0])
        styles |= {(model, column): style for model, style in zip(ranked, "bu", strict=False)}
    rows = []
    for group in (PAPER, EXTRAS, FLOORS):
        rows += [None] if rows else []
        for model in group:
            runs = of.get(model, [])
            wanted = 1 if model in FLOORS else seeds
            row = [TITLES[model], f"{len(runs)}/{wanted}"]
            if not runs:
                row += [_short(missing.get(f"{dataset}/{model}-0", "missing"))] + ["-"] * (
                    len(columns) - 1
                )
            for column in columns if runs else ():
                mean, std = _figures(runs, *column)
                text = f"{mean:.4f}" + (f" ± {std:.4f}" if std is not None else "")
                mark = marks[column[0]][column[1]][0] if model == "ttt4rec" and marks else ""
                row.append(Cell(f"{text} {mark}".strip(), styles.get((model, column), "")))
            rows.append(row)
    labels = [f"{label(m)}{' 1:99' if p == 'sampled' else ' full'}" for p, m in columns]
    return Table(["model", "seeds", *labels], rows)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def table1_blocks(plan: Plan, found: Found, of: dict) -> list:
    blocks = [
        Heading("Table 1: every model on every data set"),
        Text(
            "Test figures, mean ± standard deviation over seeds (none for one seed). Among the paper's models (above the first "
            "line) the best is **bold**, the second underlined; below it models that the paper does not have, then floors. "
            f"▲ and ▼: TTT4Rec is above or below the best baseline of the paper's with p < {LEVEL}, paired over test users "
            "and, where there are several, seeds; Holm's p over the baselines. 1:99 and full catalogue must not be compared."
        ),
    ]
    for dataset in plan.datasets:
        blocks += [Heading(dataset, 3), table1(of[dataset], plan.seeds, found.missing, dataset)]
        if marks := against_best(of[dataset]):
            texts = [
                f"{p} {m}: TTT4Rec - {TITLES[best]} {d:+.4f}, {p_text(q)}"
                for p, by in marks.items()
                for m, (_, best, d, q) in by.items()
                if m in ("ndcg@5", "ndcg@10")
            ]
            blocks.append(
                Text("TTT4Rec against the best baseline of each column: " + "; ".join(texts) + ".")
            )
        else:
            blocks.append(Text("TTT4Rec is not compared: it or every baseline is missing."))
    return blocks


# Figures


def figure2_blocks(plan: Plan, found: Found) -> list:
    dataset = plan.figures_on
    of = histories_of(plan, found)
    blocks = [Heading(f"Figure 2: ComiRec by epoch on {dataset}")]
    lines = {
        TITLES[m]: [[e["validation"]["sampled"]["ndcg@5"] for e in run] for run in of[m]]
        for m in ("comirec_sa", "comirec_dr")
        if of[m]
    }
    if not lines:
        return [*blocks, Text("Missing: no finished epoch of ComiRec.")]
    ttt = [run[0]["validation"]["sampled"]["ndcg@5"] for run in of["ttt4rec"]]
    dashed = (
        (f"TTT4Rec after one epoch, mean of {len(ttt)} seed{'s' * (len(ttt) > 1)}", ttt)
        if ttt
        else None
    )
    figure = plots.epochs_and_line(
        lines, dashed, "NDCG@5, validation, 1:99", f"{dataset}{' (quick)' * plan.quick}"
    )
    caption = (
        f"NDCG@5 by epoch on {dataset}, on validation users at 1:99 (the test set is scored once, at the end). Bands: least to "
        "greatest over seeds." + ("" if ttt else " TTT4Rec is missing.")
    )
    return [*blocks, Picture("figure2.png", caption, plots.png(figure))]


def figure3_blocks(plan: Plan, found: Found) -> list:
    cells = claims.values_of(grid_of(plan, found))
    expected = len(RANGES) * len(BATCHES) * plan.seeds
    blocks = [Heading(f"Figure 3: initializer_range and mini_batch_size on {plan.figures_on}")]
    if not cells:
        return [*blocks, Text(f"Missing: none of the {expected} runs of the grid has a result.")]
    validation, test = (
        {
            k: statistics.fmean(r.result[part]["sampled"]["ndcg@5"] for r in runs.values())
            for k, runs in cells.items()
        }
        for part in ("validation", "test")
    )
    best = max(validation, key=validation.get)
    have = sum(map(len, cells.values()))
    seeds = f"{'up to ' * (have < expected)}{plan.seeds} seed{'s' * (plan.seeds > 1)}"
    title = f"{plan.figures_on}{' (quick)' * plan.quick}, mean of {seeds}"
    figure = plots.heat_map(
        [[validation.get((r, b)) for r in RANGES] for b in BATCHES],
        ("mini_batch_size", list(BATCHES)),
        ("initializer_range", list(RANGES)),
        f"NDCG@5, validation, 1:99{' (quick)' * plan.quick}",
        f"{plan.figures_on}, mean of {seeds}",
        (BATCHES.index(best[1]), RANGES.index(best[0])),
    )
    rows = [
        [
            str(b),
            *(
                f"{test[r, b]:.4f} ({len(cells[r, b])})" if (r, b) in test else "missing"
                for r in RANGES
            ),
        ]
        for b in BATCHES
    ]
    caption = (
        f"NDCG@5 at 1:99 on validation users, at each run's best epoch; {have} of {expected} runs."
    )
    return [
        *blocks,
        Picture("figure3.png", caption, plots.png(figure)),
        Text("The same on test users (in brackets: seeds), by which the claims are tested:"),
        Table(["mini_batch_size", *(f"{r:g}" for r in RANGES)], rows),
        *inner_learners.blocks(cells, validation, title),
    ]


# Claims, and what the figures depend on


def claims_of(plan: Plan, found: Found, of: dict) -> list[claims.Claim]:
    expected = len(RANGES) * len(BATCHES) * plan.seeds
    cells = grid_of(plan, found)
    return [
        claims.on_a_par(of),
        claims.comirec_better(of),
        claims.comirec_slow(histories_of(plan, found), plan.figures_on),
        claims.mini_batches(cells, expected),
        claims.extreme_ranges(cells, expected),
    ]


def claims_blocks(plan: Plan, found: Found, of: dict) -> list:
    listed = claims_of(plan, found, of)
    blocks = [Heading("Which of the paper's claims held")]
    blocks.append(
        Table(["claim", "in these runs"], [[c.text, Cell(c.verdict, "b")] for c in listed])
    )
    for number, claim in enumerate(listed, 1):
        blocks += [
            Heading(f"Claim {number}: {claim.verdict}", 3),
            Text(f"{claim.text} **{claim.verdict.capitalize()}.**"),
        ]
        blocks += [Text(f"Decided by: {claim.rule}"), Bullets(claim.evidence)]
    return blocks


def conditions_blocks(plan: Plan, found: Found) -> list:
    """Protocol, data, machine, versions, time, and what is missing."""
    blocks = [Heading("Protocol and data")]
    datasets = {}
    protocols = {}
    for name, run in found.runs.items():
        data = run.result["dataset"]
        datasets.setdefault(name.split("/")[0], data)
        for what, text in run.result["protocol"].items():
            members = protocols.setdefault(what, {}).setdefault(text, set())
            members.add(
                name.split("/")[1].rsplit("-", 1)[0] if what == "training" else name.split("/")[0]
            )
    texts = []
    for what, by_text in protocols.items():
        for text, members in by_text.items():
            whose = f" ({', '.join(sorted(members))})" if len(by_text) > 1 else ""
            texts.append(f"{what}: {text}{whose}")
    blocks.append(Bullets(texts) if texts else Text("No run is finished."))
    if datasets:
        rows = [
            [n, *(f"{d[k]:,}" for k in ("users", "items", "interactions")), d["sha256"]]
            for n, d in datasets.items()
        ]
        blocks.append(
            Table(["data", "users", "items", "clicks", "sha256 of the prepared arrays"], rows)
        )
    lines = [
        line for line in journal(plan.output) if {"run", "seconds", "environment"} <= line.keys()
    ]
    blocks.append(Heading("Machine, versions and time"))
    machines = list(
        {
            json.dumps(line["environment"], sort_keys=True): line["environment"] for line in lines
        }.values()
    )
    platforms = sorted({run.result["platform"] for run in found.runs.values()})
    said = [f"JAX ran on: {'; '.join(platforms)}"] if platforms else []
    for one in machines:
        said += [
            one["hardware"],
            ", ".join(f"{name} {version}" for name, version in one["versions"].items()),
        ]
    total = sum(line["seconds"] for line in lines)
    at_once = max((line.get("at_once", 1) for line in lines), default=1)
    several = f", up to {at_once} at a time on cores of their own" * (at_once > 1)
    said.append(
        f"time: {total / 3600:.2f} h in {len(lines)} processes{several}, start, compilation and evaluation included"
        if lines
        else "time, hardware and versions: not recorded (these runs were not started by reproduce.py)"
    )
    blocks.append(Bullets(said))
    if lines:
        spent: dict[str, float] = {}
        for line in lines:
            name = line["run"].rsplit("-", 1)[0]
            spent[name] = spent.get(name, 0.0) + line["seconds"]
        blocks.append(
            Table(["runs", "seconds, all seeds"], [[name, f"{s:.0f}"] for name, s in spent.items()])
        )
    if found.missing:
        reasons: dict[str, list[str]] = {}
        for name, why in found.missing.items():
            reasons.setdefault(why, []).append(name)
        texts = [
            f"{why}: {', '.join(names[:12])}{f' and {len(names) - 12} more' * (len(names) > 12)}"
            for why, names in reasons.items()
        ]
        blocks += [Heading("Runs without a result"), Bullets(texts)]
    return blocks


def note_of(plan: Plan) -> str:
    """What every page should say."""
    if not plan.quick:
        return ""
    seeds = f"{plan.seeds} seed{'s' * (plan.seeds > 1)}"
    return f"Quick run: {seeds} and few epochs. It shows that everything works, not how good a model is."


def blocks_of(plan: Plan, found: Found) -> list:
    """The report's blocks."""
    of = by_dataset(plan, found)
    total = len(found.runs) + len(found.missing)
    blocks = [
        Text(
            f"{len(found.runs)} of {total} runs have a result. Data: {', '.join(plan.datasets)}; {plan.seeds} seed(s)."
        )
    ]
    blocks += claims_blocks(plan, found, of)
    blocks += table1_blocks(plan, found, of) if "table1" in plan.parts else []
    blocks += figure2_blocks(plan, found) if "figure2" in plan.parts else []
    blocks += figure3_blocks(plan, found) if "figure3" in plan.parts else []
    return blocks + conditions_blocks(plan, found)


def write(plan: Plan) -> list[Path]:
    """Writes report.md with its pictures, and report.html. Raises UserError."""
    blocks = blocks_of(plan, collect(plan))
    title = TITLE
    note = note_of(plan)
    paths = []
    for block in blocks:
        if isinstance(block, Picture):
            (plan.output / block.name).write_bytes(block.png)
    for name, text in (
        ("report.md", markdown(title, note, blocks)),
        ("report.html", as_html(title, note, blocks)),
    ):
        write_text(plan.output / name, text)
        paths.append(plan.output / name)
    return paths
