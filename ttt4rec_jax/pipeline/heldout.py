"""What is told of a test set beside its metrics: warm and cold targets, segments, the lists."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.evaluation.beyond import beyond_accuracy
from ttt4rec_jax.evaluation.listed import is_unlisted, known_cutoffs
from ttt4rec_jax.evaluation.segments import GROUPS, by_segment, segments
from ttt4rec_jax.metrics import CUTOFFS, PROTOCOLS, Ranks, cutoff, label

METRIC_COLUMNS = {
    "sampled": f"{'sampled':>18}",
    "full": f"{'full catalogue':>20}",
    "unfiltered": f"{'seen items kept':>20}",
}


class HeldOut(NamedTuple):
    """The test targets of a data set, and the training clicks on each item [V].

    categories: which categories each item has [V, G], if they are known.
    """

    dataset: Dataset
    clicks: np.ndarray
    categories: np.ndarray | None = None

    def entries(
        self,
        ranks: dict[str, Ranks],
        lists: np.ndarray | None,
        top_k: Sequence[int],
        with_segments: bool = False,
        listed: dict[str, np.ndarray] | None = None,
    ) -> dict[str, Any]:
        """Return the entries of result.json beside the metrics of all test targets.

        Args:
            ranks: {protocol: ranks} of the targets.
            lists: The first items for each target [T, K]; None if they are not known.
            top_k: The numbers k of metrics.
            with_segments: Whether to give metrics by segment.
            listed: {protocol: the lengths of the lists [T]} where the ranks are those of lists.
        """
        targets = self.dataset.test
        target_T = self.dataset.items[targets.positions]
        known = {
            protocol: known_cutoffs(lengths, sorted({*CUTOFFS, *top_k}))
            for protocol, lengths in (listed or {}).items()
            if is_unlisted(ranks[protocol], lengths).any()
        }
        found = warm_and_cold(ranks, self.clicks[target_T - 1] == 0, known)
        if lists is not None:
            found["beyond_accuracy"] = beyond_accuracy(
                lists, self.clicks, target_T, top_k, self.categories
            )
        groups = segments(self.dataset, targets, self.clicks)
        if "user" in groups:
            of_users = by_segment(ranks, {"user": groups["user"]}, known)
            found["test_by_user"] = of_users["user"]
        if with_segments:
            numbers = sorted({*CUTOFFS, *top_k})
            found["segments"] = by_segment(ranks, groups, known, numbers)
        return found


def warm_and_cold(
    ranks: dict[str, Ranks], is_cold: np.ndarray, known: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Return the test metrics of warm and of cold targets apart; {} if none is cold.

    A cold target is an item without a training click. known: as by_segment takes it.
    """
    if not is_cold.any():
        return {}
    parts = {"warm": ~is_cold, "cold": is_cold}
    return {"test_by_item": by_segment(ranks, {"item": parts}, known)["item"]}


def row(name: str, values: Iterable[str], protocols: list[str]) -> str:
    cells = (
        f" {text:>{len(METRIC_COLUMNS[p])}}" for text, p in zip(values, protocols, strict=True)
    )
    return f"{name:<10}" + "".join(cells)


def item_lines(result: dict[str, Any]) -> list[str]:
    """Return the main metric of warm and cold targets, and of warm and new users, if there are."""
    lines = []
    kinds = ("test_by_item", "targets", "items"), ("test_by_user", "users", "users")
    for key, of, what in kinds:
        for name, part in result.get(key, {}).items():
            protocols = [p for p in PROTOCOLS if p in part]
            if part["targets"] and protocols:
                metric = main_metric([part[p] for p in protocols])
                cells = row("", (f"{part[p][metric]:.4f}" for p in protocols), protocols)
                having = "with" if name == "warm" else "without"
                lines.append(
                    f"{cells}   {label(metric)} of the {part['targets']:,} {name} {of} "
                    f"({what} {having} a training click)"
                )
    return lines


def more_lines(result: dict[str, Any]) -> list[str]:
    """Return lines for all entries of HeldOut.entries that a result has."""
    return [*item_lines(result), *beyond_lines(result), *segment_lines(result)]


def beyond_lines(result: dict[str, Any]) -> list[str]:
    """Return what the lists are like, for k = 10, or else the largest k; [] without lists."""
    found = result.get("beyond_accuracy", {})
    numbers = sorted(cutoff(name) for name in found if name.startswith("coverage@"))
    if not numbers:
        return []
    k = 10 if 10 in numbers else numbers[-1]
    texts = [
        f"coverage {found[f'coverage@{k}']:.4f}",
        f"Gini {found[f'gini@{k}']:.4f}",
        f"popularity {found[f'popularity@{k}']:.1f} (clicked {found['popularity_clicked']:.1f})",
        f"novelty {found[f'novelty@{k}']:.2f} bits (clicked {found['novelty_clicked']:.2f})",
    ]
    if f"diversity@{k}" in found:
        texts.append(f"diversity {found[f'diversity@{k}']:.4f}")
    return [f"{f'lists@{k}':<10} {', '.join(texts)}"]


def segment_lines(result: dict[str, Any]) -> list[str]:
    """Return the table of segments: targets, and the main metric of each protocol."""
    lines = []
    for group, of_group in result.get("segments", {}).items():
        for number, (name, entry) in enumerate(of_group.items()):
            protocols = [p for p in PROTOCOLS if p in entry]
            metric = main_metric([entry[p] for p in protocols])
            if not number:
                lines += ["", f"NDCG@{cutoff(metric)} by {GROUPS[group]}"]
            cells = (
                f"{entry[p][metric]:.4f} ± {entry[p].get(f'{metric}_ci95', 0):.4f}"
                for p in protocols
            )
            lines.append(f"{row(name, cells, protocols)}   {entry['targets']:,} targets")
    without = result["dataset"].get("users_without_training")
    if lines and without and "test_by_user" not in result:
        lines.append(f"{'':<10} {without:,} users have no training click, and no target")
    return lines


def main_metric(values: Iterable[dict[str, float]]) -> str:
    """Return ndcg@10, or NDCG at the largest k that all have."""
    common = set.intersection(*({n for n in of if n.startswith("ndcg@")} for of in values))
    names = sorted((name for name in common if "_" not in name), key=cutoff)
    return "ndcg@10" if "ndcg@10" in names else names[-1]
