"""Judge a recommender from elsewhere by its lists and scores; write result.json like a run's.

Prints nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from data_prep.settings import UserError
from ttt4rec_jax.config.judged import JudgedConfig
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.evaluation.candidates import rank_scores
from ttt4rec_jax.evaluation.listed import summarise_lists
from ttt4rec_jax.evaluation.lists import rank_lists
from ttt4rec_jax.evaluation.tables import read_categories, read_rows
from ttt4rec_jax.metrics import CUTOFFS, Ranks, summarise_test
from ttt4rec_jax.pipeline import result as results
from ttt4rec_jax.pipeline.heldout import HeldOut, more_lines
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.read import Run

# What was found in lists or scores, and what was done with it. {0} is the number.
FOUND = {
    "unknown_users": "{0} users are not in the data; their rows were left out",
    "users_without_target": "{0} users have no target; their rows were left out",
    "unknown_items": "{0} rows have an item that is not in the data; they were left out",
    "repeated_items": "{0} rows repeat an item of the same user; they were left out",
    "seen_items": "{0} rows recommend an item that the user had clicked before the target; they "
    "were left out, and the items behind them moved up",
    "users_without_list": "{0} users have no list; they count as misses",
    "other_pairs": "{0} rows are no candidates of the evaluation; they were left out",
    "users_without_scores": "{0} users have no scores; their targets are ranked last",
    "candidates_without_score": "{0} candidates have no score; they are ranked last",
    "targets_without_score": "{0} of these are targets",
}


class Judgement(NamedTuple):
    """What was found of a recommender.

    ranks: {protocol: ranks} of the targets. listed: {protocol: the lengths of the lists [T]} where
    the ranks are those of lists. counts: what was found in "recommendations" and "scores". notes:
    the same in sentences. items: the first items of each user's list [T, K], None without lists.
    """

    ranks: dict[str, Ranks]
    listed: dict[str, np.ndarray]
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    items: np.ndarray | None


def judge(
    prepared: Path,
    dataset: Dataset,
    recommendations: Any = None,
    scores: Any = None,
    split: str = "test",
    top_k: Sequence[int] = CUTOFFS,
    flag: str = "",
) -> Judgement:
    """Return what lists of recommendations, scores of the candidates, or both say of the targets.

    Args:
        prepared: The folder that `dataset` was loaded from, which has the ids.
        recommendations, scores: Each a path or a DataFrame, as evaluation.tables reads it.
        flag: What stands before the names of these in errors: "--" on the command line.

    Raises UserError.
    """
    ids = {
        name: pl.read_parquet(prepared / f"{name}s.parquet", columns=["id"])["id"]
        for name in ("user", "item")
    }
    targets = {"validation": dataset.validation, "test": dataset.test}[split]
    found = Judgement({}, {}, {}, (), None)
    if recommendations is not None:
        what = f"{flag}recommendations"
        rows = read_rows(recommendations, what, ids, needs_score=False)
        lists = rank_lists(rows, dataset, targets, max(top_k), what)
        found = Judgement(
            {"full": lists.ranks},
            {"full": lists.lengths},
            {"recommendations": lists.counts},
            (*sentences("recommendations", lists.counts), *rows.notes),
            lists.items,
        )
    if scores is not None:
        what = f"{flag}scores"
        rows = read_rows(scores, what, ids, needs_score=True)
        ranks, counts = rank_scores(rows, dataset, targets, what)
        found = found._replace(
            ranks={"sampled": ranks} | found.ranks,
            counts=found.counts | {"scores": counts},
            notes=(*found.notes, *sentences("scores", counts)),
        )
    if not found.ranks:
        raise UserError(
            f"{flag}recommendations, {flag}scores: both are missing; give the lists of a "
            "recommender, its scores of the candidates, or both"
        )
    return found


def sentences(what: str, counts: dict[str, int]) -> list[str]:
    """Return what was found in lists or scores, in sentences."""
    lines = [f"{what}: {counts['rows']:,} rows"]
    if "longest_list" in counts:
        shortest = counts["shortest_list"]
        longest = counts["longest_list"]
        size = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
        lines[0] += f", lists of {size} items"
    found = {text: counts[name] for name, text in FOUND.items() if counts.get(name)}
    return lines + [f"{what}: {text.format(f'{number:,}')}" for text, number in found.items()]


def metrics(
    judgement: Judgement, top_k: Sequence[int] = CUTOFFS
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Return {protocol: {metric: value}}, and {protocol: the bounds} of listed.summarise_lists."""
    values = {}
    bounds = {}
    for protocol, ranks in judgement.ranks.items():
        if protocol in judgement.listed:
            lengths = judgement.listed[protocol]
            values[protocol], bounds[protocol] = summarise_lists(ranks, lengths, top_k)
        else:
            values[protocol] = summarise_test(ranks, top_k)
    return values, {protocol: of for protocol, of in bounds.items() if of}


def held_out(prepared: Path, dataset: Dataset, categories: Any = None, flag: str = "") -> HeldOut:
    """Return what is known of the test targets; categories: a path or a DataFrame."""
    known = None
    if categories is not None:
        ids = pl.read_parquet(prepared / "items.parquet", columns=["id"])["id"]
        known = read_categories(categories, f"{flag}categories", ids)
    return HeldOut(dataset, catalogue.from_prepared(prepared, dataset).clicks, known)


def result(
    config: JudgedConfig,
    prepared: Path,
    dataset: Dataset,
    judgement: Judgement,
    top_k: Sequence[int] = CUTOFFS,
    with_segments: bool = False,
    categories: Any = None,
) -> dict[str, Any]:
    """Return the content of result.json, as of a run, for the test set.

    categories: a path or a DataFrame of items and their categories.
    """
    values, bounds = metrics(judgement, top_k)
    test = held_out(prepared, dataset, categories)
    trained = {"training": "elsewhere", "selection": "elsewhere"}
    return {
        "model": config.name,
        "config": config.to_dict(),
        "dataset": results.dataset(dataset.manifest),
        "protocol": results.evaluation_protocol(config.data, dataset.manifest, trained),
        "top_k": list(top_k),
        "judged": {**judgement.counts, "notes": list(judgement.notes)},
        "test": values,
        **({"bounds": bounds} if bounds else {}),
        **test.entries(judgement.ranks, judgement.items, top_k, with_segments, judgement.listed),
    }


def again(
    run: Run, prepared: Path, dataset: Dataset, top_k: Sequence[int], with_segments: bool
) -> dict[str, Any]:
    """Return the content of a finished run's result at other numbers k and by segment.

    The ranks on disk determine it; what the lists are like stays as it was. dataset: that of the
    run. Raises UserError if it is another one.
    """
    if run.result["dataset"]["sha256"] != dataset.manifest["sha256"]:
        raise UserError(
            f"--run: {run.path} is of other data (sha256 {run.result['dataset']['sha256'][:16]}, "
            f"found {dataset.manifest['sha256'][:16]}); give the --data_dir that it was trained on"
        )
    values, bounds = metrics(Judgement(run.ranks, run.listed, {}, (), None), top_k)
    record = {**run.result["config"].get("record", {}), "top_k": ",".join(map(str, top_k))}
    return {
        **run.result,
        "config": run.result["config"] | {"record": record},
        "top_k": list(top_k),
        "test": values,
        **({"bounds": bounds} if bounds else {}),
        **held_out(prepared, dataset).entries(run.ranks, None, top_k, with_segments, run.listed),
    }


def table(content: dict[str, Any]) -> str:
    """Return the table of a judged recommender: data, protocol, what was found, test metrics.

    For the content of a run's result, returns the table of that.
    """
    if "judged" not in content:
        return results.table(content)
    lines = results.header_lines(content)
    lines.append(f"model      {content['model']}, from elsewhere")
    notes = content["judged"]["notes"]
    lines += [f"{'' if n else 'found':<10} {text}" for n, text in enumerate(notes)]
    lines += ["", *results.metric_lines(content, tuple(content["top_k"]))]
    for protocol, by_k in content.get("bounds", {}).items():
        for k, bound in by_k.items():
            most = bound["at_most"][f"ndcg@{k}"]
            lines.append(
                f">= {protocol}: {bound['short_lists']:,} lists end before {k} items; what they "
                f"leave out counts as a miss (NDCG@{k} is at most {most:.4f})"
            )
    if any("mrr" not in of_protocol for of_protocol in content["test"].values()):
        lines.append("-  not known: lists do not determine the ranks beyond their ends")
    return "\n".join([*lines, *more_lines(content)])


def write(path: Path, content: dict[str, Any], judgement: Judgement, dataset: Dataset) -> None:
    """Write result.json and test_ranks.parquet into a new folder. Raises UserError."""
    folder = RunFolder(path)
    folder.check_free()
    with folder.locked():
        folder.write_result(content, judgement.ranks, dataset.test.users, judgement.listed)
