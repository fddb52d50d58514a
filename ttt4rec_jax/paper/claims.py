"""The paper's claims on Table 1 and Figure 2, each decided by a pre-registered test.

Verdicts: "held"; "held in part"; "did not hold": there is evidence against it; "not shown": the
difference is within chance; "cannot be decided": runs are missing. Tests are those of
evaluation/paired_test.py on test NDCG@5 among 1:99 candidates, with Holm's p. Imports no JAX.
"""

import math
import statistics
from typing import NamedTuple

import numpy as np

from ttt4rec_jax.evaluation.paired_test import LEVEL, Difference, difference, holm, two_sided_p
from ttt4rec_jax.metrics import p_text, per_target
from ttt4rec_jax.paper.document import plural
from ttt4rec_jax.paper.jobs import TITLES
from ttt4rec_jax.runs.read import Run

METRIC = "ndcg@5"
PROTOCOL = "sampled"
BASE = ("din", "gru4rec", "sasrec")
COMIREC = ("comirec_sa", "comirec_dr")
# TTT4Rec is on a par if the 95% interval excludes that it is worse by this share of NDCG@5
NON_INFERIORITY_MARGIN = 0.05
HELD = "held"
HELD_IN_PART = "held in part"
DID_NOT_HOLD = "did not hold"
NOT_SHOWN = "not shown"
UNDECIDED = "cannot be decided"

# {dataset: {model: its runs, one per seed}}
RunsByModel = dict[str, dict[str, list[Run]]]


class Claim(NamedTuple):
    """A claim of the paper, its verdict, the decision rule, and the evidence in lines."""

    text: str
    verdict: str
    rule: str
    evidence: list[str]


def by_user(runs: list[Run]) -> np.ndarray:
    """Return the metric that decides the claims, by [seeds, test users]."""
    return np.stack([per_target(run.ranks[PROTOCOL])[METRIC] for run in runs])


def compare_pairs(
    pairs: dict[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, tuple[Difference, float]]:
    """Test each pair (reference, other) of metrics [seeds, users].

    Return {name: (other - reference, p adjusted by Holm's method over all pairs)}. A test is over
    users and seeds if both have several seeds, else only over users.
    """
    differences = {
        name: difference(reference, other, over_seeds=min(len(reference), len(other)) > 1)
        for name, (reference, other) in pairs.items()
    }
    p_holm = holm([result.p for result in differences.values()])
    return {
        name: (result, p) for (name, result), p in zip(differences.items(), p_holm, strict=True)
    }


def format_comparison(name: str, result: Difference, p: float, seeds: int) -> str:
    """Return a comparison in one line."""
    over = f"over users and {seeds} seeds" if seeds > 1 else "over users alone, one seed"
    interval = f"95% interval [{result.low:+.4f}, {result.high:+.4f}]"
    return f"{name}: {result.difference:+.4f}, {interval}, {p_text(p)} (Holm), {over}"


def combine(verdicts: list[str]) -> str:
    """Combine verdicts: their common one if all agree, "held in part" if some of them held."""
    if not verdicts:
        return UNDECIDED
    if len(set(verdicts)) == 1:
        return verdicts[0]
    decided = [verdict for verdict in verdicts if verdict != UNDECIDED]
    if HELD in decided or HELD_IN_PART in decided:
        return HELD_IN_PART
    return DID_NOT_HOLD if DID_NOT_HOLD in decided else NOT_SHOWN


def _titles_without(runs: dict[str, list[Run]], models: tuple[str, ...]) -> str:
    """Return the titles of the models that have no run, "" if all have one."""
    return ", ".join(TITLES[model] for model in models if not runs.get(model))


def on_a_par(runs: RunsByModel) -> Claim:
    """Decide whether TTT4Rec is on a par with or above DIN, GRU4Rec and SASRec."""
    verdicts = []
    evidence = []
    for dataset, by_model in runs.items():
        if missing := _titles_without(by_model, ("ttt4rec", *BASE)):
            verdicts.append(UNDECIDED)
            evidence.append(f"{dataset}: no finished run of {missing}")
            continue
        ttt = by_user(by_model["ttt4rec"])
        others = {model: by_user(by_model[model]) for model in BASE}
        results = compare_pairs({model: (other, ttt) for model, other in others.items()})
        below = False
        inconclusive = False
        for model, (result, p) in results.items():
            name = f"{dataset}, TTT4Rec - {TITLES[model]}"
            evidence.append(format_comparison(name, result, p, min(len(ttt), len(others[model]))))
            if result.difference < 0 and p < LEVEL:
                below = True
            elif result.low < -NON_INFERIORITY_MARGIN * others[model].mean():
                inconclusive = True
        verdicts.append(DID_NOT_HOLD if below else NOT_SHOWN if inconclusive else HELD)
    rule = (
        "On each data set, NDCG@5 of TTT4Rec minus that of each base model, paired over test "
        f"users. The claim holds if no difference is below 0 with p < {LEVEL} and no 95% interval "
        f"reaches below -{NON_INFERIORITY_MARGIN:.0%} of the base model's NDCG@5; if an interval "
        "does, the claim is not shown."
    )
    text = "TTT4Rec is on a par with or above the base models DIN, GRU4Rec and SASRec."
    return Claim(text, combine(verdicts), rule, evidence)


def comirec_better(runs: RunsByModel) -> Claim:
    """Decide whether ComiRec, fully trained, is better than TTT4Rec."""
    pairs = {}
    verdicts = []
    evidence = []
    seeds = {}
    for dataset, by_model in runs.items():
        if missing := _titles_without(by_model, ("ttt4rec", *COMIREC)):
            verdicts.append(UNDECIDED)
            evidence.append(f"{dataset}: no finished run of {missing}")
            continue
        validation = {
            model: statistics.fmean(
                run.result["validation"][PROTOCOL][METRIC] for run in by_model[model]
            )
            for model in COMIREC
        }
        best = max(COMIREC, key=lambda model: validation[model])
        name = f"{dataset}, {TITLES[best]} - TTT4Rec"
        pairs[name] = (by_user(by_model["ttt4rec"]), by_user(by_model[best]))
        seeds[name] = min(len(by_model["ttt4rec"]), len(by_model[best]))
    for name, (result, p) in compare_pairs(pairs).items():
        evidence.append(format_comparison(name, result, p, seeds[name]))
        sign = HELD if result.difference > 0 else DID_NOT_HOLD
        verdicts.append(sign if p < LEVEL else NOT_SHOWN)
    rule = (
        "On each data set, NDCG@5 of the ComiRec variant with the better validation NDCG@5 minus "
        f"that of TTT4Rec, paired over test users. The claim holds if it is above 0 with "
        f"p < {LEVEL}, and does not hold if it is below 0 with p < {LEVEL}."
    )
    text = "ComiRec is better overall than TTT4Rec."
    return Claim(text, combine(verdicts), rule, evidence)


def comirec_slow(histories: dict[str, list[list[dict]]], dataset: str) -> Claim:
    """Decide whether ComiRec needs many epochs for what TTT4Rec reaches after one.

    histories: {model: the epochs (lines of metrics.jsonl) of each seed's run}.
    """
    text = "ComiRec is slow to get there: it needs many epochs for what TTT4Rec reaches after one."
    rule = (
        f"{dataset}, validation NDCG@5 at 1:99. The claim holds if, in every seed of a variant, "
        "ComiRec after one epoch is below TTT4Rec after one epoch (z test from both intervals over "
        "users, which treats them as independent and so errs against the claim; all "
        f"p < {LEVEL} after Holm). It does not hold if ComiRec reaches TTT4Rec's NDCG@5 in its "
        "first epoch in any seed. TTT4Rec's NDCG@5 is the mean over its seeds. If the claim holds "
        "for one variant alone, it holds in part."
    )
    missing = [
        TITLES[model] for model in ("ttt4rec", *COMIREC) if not any(histories.get(model, []))
    ]
    if missing:
        return Claim(text, UNDECIDED, rule, [f"no finished epoch of {', '.join(missing)}"])
    firsts = [run[0]["validation"][PROTOCOL] for run in histories["ttt4rec"]]
    goal = statistics.fmean(line[METRIC] for line in firsts)
    error = statistics.fmean(line[f"{METRIC}_ci95"] for line in firsts) / 1.96
    verdicts = []
    evidence = [f"TTT4Rec after one epoch: {goal:.4f}, mean of {plural(len(firsts), 'seed')}"]
    for model in COMIREC:
        verdict, line = _race(TITLES[model], histories[model], goal, error)
        verdicts.append(verdict)
        evidence.append(line)
    own = statistics.fmean(run[0]["seconds"] for run in histories["ttt4rec"])
    evidence.append(f"one epoch of TTT4Rec took {own:.0f} s of training")
    return Claim(text, combine(verdicts), rule, evidence)


def _race(title: str, runs: list[list[dict]], goal: float, error: float) -> tuple[str, str]:
    """Return the verdict and the evidence on the runs of one ComiRec variant.

    goal, error: TTT4Rec's metric after one epoch and its standard error over users.
    """
    firsts = [run[0]["validation"][PROTOCOL] for run in runs]
    z_values = [
        (first[METRIC] - goal) / math.hypot(error, first[f"{METRIC}_ci95"] / 1.96)
        for first in firsts
    ]
    # with this many degrees of freedom, Student's t is the normal distribution
    p = max(holm([two_sided_p(z, 1e7) for z in z_values]))
    all_below = all(z < 0 for z in z_values)
    verdict = DID_NOT_HOLD if not all_below else HELD if p < LEVEL else NOT_SHOWN
    reached = []
    seconds = []
    for run in runs:
        epochs = [line["epoch"] for line in run if line["validation"][PROTOCOL][METRIC] >= goal]
        reached.append(f"epoch {epochs[0]}" if epochs else f"not within {len(run)} epochs")
        if epochs:
            seconds.append(sum(line["seconds"] for line in run[: epochs[0]]))
    start = statistics.fmean(first[METRIC] for first in firsts)
    evidence = f"{title} after one epoch {start:.4f} ({p_text(p)}); reaches it: "
    evidence += ", ".join(reached)
    if seconds:
        mean = statistics.fmean(seconds)
        evidence += f", after {mean:.0f} s of training on average where it did"
    return verdict, evidence
