"""Table 1 of the report: every model on every data set."""

import statistics
from typing import NamedTuple

from ttt4rec_jax.evaluation.compare import comparison, systems
from ttt4rec_jax.evaluation.paired_test import LEVEL
from ttt4rec_jax.metrics import PAPER_METRICS, PROTOCOLS, label, p_text
from ttt4rec_jax.paper.claims import RunsByModel
from ttt4rec_jax.paper.document import Block, Cell, Heading, Row, Table, Text
from ttt4rec_jax.paper.jobs import BASELINES, EXTRAS, PAPER, TITLES, Plan
from ttt4rec_jax.paper.results import Results
from ttt4rec_jax.runs.read import Run

PROTOCOL_LABELS = {"sampled": "1:99", "full": "full"}
LONGEST_REASON = 60  # characters of a table cell


class Contrast(NamedTuple):
    """TTT4Rec compared with the best of the paper's other models in one metric.

    mark: "▲" or "▼" if the difference TTT4Rec - other is significant, else "".
    p: adjusted by Holm's method over the other models.
    """

    mark: str
    other: str
    difference: float
    p: float


def against_best(by_model: dict[str, list[Run]]) -> dict[str, dict[str, Contrast]]:
    """Return {protocol: {metric: contrast}} on one data set; {} if there is nothing to compare."""
    others = [model for model in PAPER if model != "ttt4rec" and by_model.get(model)]
    if not by_model.get("ttt4rec") or not others:
        return {}
    compared = systems([run for model in ("ttt4rec", *others) for run in by_model[model]])
    names = [system.name for system in compared[1:]]
    results = comparison(compared, PROTOCOLS, [])["results"]
    contrasts: dict[str, dict[str, Contrast]] = {}
    for protocol, result in results.items():
        contrasts[protocol] = {}
        for metric in PAPER_METRICS:
            means = {name: result["means"][name][metric] for name in names}
            best = max(names, key=lambda name: means[name])
            test = result["differences"][best][metric]  # other - TTT4Rec
            significant = "▼" if test["difference"] > 0 else "▲"
            mark = significant if test["p_holm"] < LEVEL else ""
            contrasts[protocol][metric] = Contrast(mark, best, -test["difference"], test["p_holm"])
    return contrasts


def _mean_and_std(runs: list[Run], protocol: str, metric: str) -> tuple[float, float | None]:
    """Return a test metric's mean and standard deviation over seeds (None for one seed)."""
    values = [run.result["test"][protocol][metric] for run in runs]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def table(
    by_model: dict[str, list[Run]], seeds: int, missing: dict[str, str], dataset: str
) -> Table:
    """Return one data set's table: means ± standard deviation over seeds.

    The best of the paper's models is bold, the second underlined; TTT4Rec has the marks of its
    contrasts. The row of a model without runs gives the reason.
    """
    columns = [(protocol, metric) for protocol in PROTOCOLS for metric in PAPER_METRICS]
    contrasts = against_best(by_model)
    styles = _styles(by_model, columns)

    def row(model: str) -> Row:
        runs = by_model.get(model, [])
        start = [TITLES[model], f"{len(runs)}/{1 if model in BASELINES else seeds}"]
        if not runs:
            reason = _shortened(missing.get(f"{dataset}/{model}-0", "missing"))
            return [*start, reason, *["-"] * (len(columns) - 1)]
        cells = []
        for protocol, metric in columns:
            mean, std = _mean_and_std(runs, protocol, metric)
            text = f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"
            if model == "ttt4rec" and contrasts:
                text = f"{text} {contrasts[protocol][metric].mark}".strip()
            cells.append(Cell(text, styles.get((model, protocol, metric), "")))
        return [*start, *cells]

    rows: list[Row] = []
    for models in (PAPER, EXTRAS, BASELINES):
        if rows:
            rows.append(None)
        rows += [row(model) for model in models]
    labels = [f"{label(metric)} {PROTOCOL_LABELS[protocol]}" for protocol, metric in columns]
    return Table(["model", "seeds", *labels], rows)


def _styles(
    by_model: dict[str, list[Run]], columns: list[tuple[str, str]]
) -> dict[tuple[str, str, str], str]:
    """Return {(model, protocol, metric): style} for the best two of the paper's models."""
    styles: dict[tuple[str, str, str], str] = {}
    for column in columns:
        means = {m: _mean_and_std(by_model[m], *column)[0] for m in PAPER if by_model.get(m)}
        ranked = sorted(means, key=lambda model: -means[model])
        styles |= {(model, *column): style for model, style in zip(ranked, "bu", strict=False)}
    return styles


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."


def blocks(plan: Plan, results: Results, runs: RunsByModel) -> list[Block]:
    """Return the report's section on Table 1."""
    section: list[Block] = [
        Heading("Table 1: every model on every data set"),
        Text(
            "Test metrics, mean ± standard deviation over seeds (none for one seed). Among the "
            "paper's models (above the first line) the best is **bold**, the second underlined; "
            "below them models that the paper does not have, then the baselines popularity and "
            "ItemKNN. ▲ and ▼: TTT4Rec is above or below the best of the paper's other models with "
            f"p < {LEVEL}, paired over test users and, where there are several, seeds; Holm's p "
            "over the other models. Metrics at 1:99 and over the full catalogue must not be "
            "compared with each other."
        ),
    ]
    for dataset in plan.datasets:
        section += [
            Heading(dataset, 3),
            table(runs[dataset], plan.seeds, results.missing, dataset),
            _contrasts(against_best(runs[dataset])),
        ]
    return section


def _contrasts(contrasts: dict[str, dict[str, Contrast]]) -> Text:
    """Return the differences in NDCG as a sentence."""
    if not contrasts:
        return Text("TTT4Rec is not compared: it or every other model of the paper is missing.")
    texts = [
        f"{protocol} {metric}: TTT4Rec - {TITLES[result.other]} {result.difference:+.4f}, "
        f"{p_text(result.p)}"
        for protocol, by_metric in contrasts.items()
        for metric, result in by_metric.items()
        if metric.startswith("ndcg")
    ]
    return Text("TTT4Rec against the best other model of each column: " + "; ".join(texts) + ".")
