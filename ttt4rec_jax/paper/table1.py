"""Table 1 of the report: every model on every data set, under each preset."""

import statistics

from ttt4rec_jax.evaluation.paired_test import LEVEL
from ttt4rec_jax.metrics import PAPER_METRICS, USUAL_PROTOCOLS, label
from ttt4rec_jax.paper.document import Block, Cell, Heading, Row, Table, Text
from ttt4rec_jax.paper.jobs import BASELINES, EXTRAS, PAPER, TITLES, Plan
from ttt4rec_jax.paper.ledger import Trained
from ttt4rec_jax.paper.results import ByModel, Results, scores, table1_runs
from ttt4rec_jax.paper.seeds import can_test, contrasts, single_runs

PROTOCOL_LABELS = {"sampled": "1:99", "full": "full"}
LONGEST_REASON = 60  # characters of a table cell
COLUMNS = [(protocol, metric) for protocol in USUAL_PROTOCOLS for metric in PAPER_METRICS]
Column = tuple[str, str]
TITLE_OF_DATASET = {
    "beauty": "Amazon Beauty",
    "electronics": "Amazon Electronics",
    "ml1m": "MovieLens-1M",
}


def values(runs: list[Trained], column: Column) -> list[float]:
    """Return a test metric of the runs that have it, by seed."""
    protocol, metric = column
    return [run.test[protocol][metric] for run in runs if protocol in run.test]


def mark(by_model: ByModel, column: Column) -> str:
    """Return "▲" or "▼" if TTT4Rec differs from the best of the paper's other models, else "".

    The p-value is Holm's over all of the paper's other models.
    """
    ttt = values(by_model["ttt4rec"], column)
    others = {m: values(by_model[m], column) for m in PAPER if m != "ttt4rec"}
    others = {model: other for model, other in others.items() if can_test(other)}
    if not can_test(ttt) or not others:
        return ""
    best = max(others, key=lambda model: statistics.fmean(others[model]))
    sign = contrasts({m: (other, ttt) for m, other in others.items()})[best].sign
    return {1: "▲", -1: "▼", 0: ""}[sign]


def table(by_model: ByModel, seeds: int, missing: dict[str, str], prefix: str) -> Table:
    """Return one data set's table: means ± standard deviation over seeds.

    The best of the paper's models is bold, the second underlined; TTT4Rec has its marks. The row
    of a model without runs gives the reason. prefix: of the jobs, as in "fair/beauty".
    """
    styles = _styles(by_model)

    def row(model: str) -> Row:
        runs = by_model[model]
        start = [TITLES[model], f"{len(runs)}/{1 if model in BASELINES else seeds}"]
        if not runs:
            reason = _shortened(missing.get(f"{prefix}/{model}", "missing"))
            return [*start, reason, *["-"] * (len(COLUMNS) - 1)]
        cells = []
        for column in COLUMNS:
            text = _mean_text(values(runs, column))
            if model == "ttt4rec":
                text = f"{text} {mark(by_model, column)}".strip()
            cells.append(Cell(text, styles.get((model, column), "")))
        return [*start, *cells]

    rows: list[Row] = []
    for models in (PAPER, EXTRAS, BASELINES):
        known = [model for model in models if model in by_model]
        if rows and known:
            rows.append(None)
        rows += [row(model) for model in known]
    labels = [f"{label(metric)} {PROTOCOL_LABELS[protocol]}" for protocol, metric in COLUMNS]
    return Table(["model", "seeds", *labels], rows)


def _mean_text(numbers: list[float]) -> str:
    if not numbers:
        return "-"
    mean = f"{statistics.fmean(numbers):.4f}"
    return f"{mean} ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else mean


def _styles(by_model: ByModel) -> dict[tuple[str, Column], str]:
    """Return {(model, column): style} for the best two of the paper's models."""
    styles: dict[tuple[str, Column], str] = {}
    for column in COLUMNS:
        known = {m: values(by_model[m], column) for m in PAPER}
        means = {model: statistics.fmean(x) for model, x in known.items() if x}
        ranked = sorted(means, key=lambda model: -means[model])
        styles |= {(model, column): style for model, style in zip(ranked, "bu", strict=False)}
    return styles


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."


def blocks(plan: Plan, results: Results) -> list[Block]:
    """Return the report's section on Table 1."""
    section: list[Block] = [
        Heading("Table 1: every model on every data set"),
        Text(
            "Test metrics, mean ± standard deviation over seeds. Among the paper's models (above "
            "the first line) the best is **bold**, the second underlined; below them models that "
            "the paper does not have, then popularity and ItemKNN, which are not trained. ▲ and "
            "▼: TTT4Rec is above or below the best of the paper's other models with "
            f"p < {LEVEL}, over seeds; Holm's p over the other models. Metrics at 1:99 and over "
            "the full catalogue must not be compared with each other. DIN, which scores pairs, is "
            "not ranked over the full catalogue."
        ),
    ]
    for preset in plan.presets:
        section.append(Heading(f"Preset {preset}", 3))
        for dataset, by_model in table1_runs(plan, results, preset).items():
            section.append(Heading(TITLE_OF_DATASET.get(dataset, dataset), 4))
            if not any(by_model.values()):
                section.append(Text("Missing: no finished run."))
                continue
            section += [
                table(
                    by_model, len(plan.seeds_on(dataset)), results.missing, f"{preset}/{dataset}"
                ),
                _power(by_model),
            ]
    return section


def _power(by_model: ByModel) -> Text:
    """Return what a difference of single runs must exceed, as a sentence."""
    least = single_runs([scores(by_model[model]) for model in PAPER])
    if least != least:
        return Text("No model has two seeds, so that nothing is known of the seeds' effect.")
    return Text(
        f"Two single runs of NDCG@5 1:99 differ by chance by up to {least:.4f} in 95% of pairs: "
        "1.96 √2 times the standard deviation over seeds within the paper's models."
    )
