"""The paper's claims, each decided by a test that was fixed before the runs were seen, or said to be undecided. Imports no JAX.

Verdicts: "held"; "held in part"; "did not hold": there is evidence against it; "not shown": what
was found is within chance; "cannot be decided": runs are missing. Tests are paired.py's, on test
NDCG@5 among 1:99, with Holm's
p.
"""

import math
import statistics
from typing import NamedTuple

import numpy as np

from ttt4rec_jax.evaluation.paired_test import LEVEL, Difference, difference, holm, two_sided_p
from ttt4rec_jax.metrics import p_text, per_target
from ttt4rec_jax.paper.jobs import TITLES
from ttt4rec_jax.runs.read import Run

METRIC = "ndcg@5"
PROTOCOL = "sampled"
BASE = ("din", "gru4rec", "sasrec")
COMIREC = ("comirec_sa", "comirec_dr")
PAR = 0.05  # on a par: the 95% interval excludes that TTT4Rec is worse by so much of the other's figure
HELD = "held"
PART = "held in part"
NOT = "did not hold"
UNSHOWN = "not shown"
UNDECIDED = "cannot be decided"


class Claim(NamedTuple):
    """A claim of the paper, what the runs say, the rule that decided, and the figures, a line each."""

    text: str
    verdict: str
    rule: str
    evidence: list[str]


def by_user(runs: list[Run], protocol: str = PROTOCOL, metric: str = METRIC) -> np.ndarray:
    """[seeds, test users]."""
    return np.stack([per_target(run.ranks[protocol])[metric] for run in runs])


def tested(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[Difference, float]]:
    """{name: (other - reference, Holm's p over all)} of pairs (reference, other); over seeds too, if all have several."""
    found = {
        name: difference(a, b, over_seeds=min(len(a), len(b)) > 1) for name, (a, b) in pairs.items()
    }
    return {
        n: (d, p)
        for (n, d), p in zip(found.items(), holm([d.p for d in found.values()]), strict=True)
    }


def said(name: str, one: Difference, p: float, seeds: int) -> str:
    """A comparison in one line."""
    over = f"over users and {seeds} seeds" if seeds > 1 else "over users alone, one seed"
    return (
        f"{name}: {one.difference:+.4f}, 95% interval [{one.low:+.4f}, {one.high:+.4f}], "
        f"{p_text(p)} (Holm), {over}"
    )


def worst(verdicts: list[str]) -> str:
    """Several verdicts in one: the same if all agree; in part if some held."""
    if not verdicts:
        return UNDECIDED
    if len(set(verdicts)) == 1:
        return verdicts[0]
    known = [v for v in verdicts if v != UNDECIDED]
    if HELD in known or PART in known:
        return PART
    return NOT if NOT in known else UNSHOWN


def on_a_par(runs: dict[str, dict[str, list[Run]]]) -> Claim:
    """TTT4Rec against DIN, GRU4Rec and SASRec. runs: {dataset: {model: runs}}, also below."""
    verdicts = []
    evidence = []
    for dataset, of in runs.items():
        missing = [TITLES[m] for m in ("ttt4rec", *BASE) if not of.get(m)]
        if missing:
            verdicts.append(UNDECIDED)
            evidence.append(f"{dataset}: no finished run of {', '.join(missing)}")
            continue
        ttt = by_user(of["ttt4rec"])
        results = tested({m: (by_user(of[m]), ttt) for m in BASE})
        below = []
        wide = []
        for model, (one, p) in results.items():
            evidence.append(
                said(f"{dataset}, TTT4Rec - {TITLES[model]}", one, p, min(len(ttt), len(of[model])))
            )
            if one.difference < 0 and p < LEVEL:
                below.append(model)
            elif one.low < -PAR * by_user(of[model]).mean():
                wide.append(model)
        verdicts.append(NOT if below else UNSHOWN if wide else HELD)
    rule = (
        f"On each data set, NDCG@5 of TTT4Rec less that of each base model, paired over test users. It holds if none is below "
        f"0 with p < {LEVEL} and no 95% interval reaches down to {PAR:.0%} of the base model's figure; an interval that does "
        "leaves it not shown."
    )
    return Claim(
        "TTT4Rec is on a par with or above the base models DIN, GRU4Rec and SASRec.",
        worst(verdicts),
        rule,
        evidence,
    )


def comirec_better(runs: dict[str, dict[str, list[Run]]]) -> Claim:
    """ComiRec, at the end of its epochs, against TTT4Rec."""
    pairs = {}
    verdicts = []
    evidence = []
    seeds = {}
    for dataset, of in runs.items():
        missing = [TITLES[m] for m in ("ttt4rec", *COMIREC) if not of.get(m)]
        if missing:
            verdicts.append(UNDECIDED)
            evidence.append(f"{dataset}: no finished run of {', '.join(missing)}")
            continue
        best = max(
            COMIREC,
            key=lambda m: statistics.fmean(r.result["validation"][PROTOCOL][METRIC] for r in of[m]),
        )
        name = f"{dataset}, {TITLES[best]} - TTT4Rec"
        pairs[name] = (by_user(of["ttt4rec"]), by_user(of[best]))
        seeds[name] = min(len(of["ttt4rec"]), len(of[best]))
    for name, (one, p) in tested(pairs).items():
        evidence.append(said(name, one, p, seeds[name]))
        verdicts.append(UNSHOWN if p >= LEVEL else HELD if one.difference > 0 else NOT)
    rule = (
        "On each data set, NDCG@5 of the ComiRec variant that validation prefers less that of TTT4Rec, paired over test users; "
        f"it holds if above 0 with p < {LEVEL}, and does not if below."
    )
    return Claim("ComiRec is better overall than TTT4Rec.", worst(verdicts), rule, evidence)


def comirec_slow(histories: dict[str, list[list[dict]]], dataset: str) -> Claim:
    """How many epochs ComiRec needs for what TTT4Rec has after one. histories: {model: the epochs of each seed's run}."""
    text = "ComiRec is slow to get there: it needs many epochs for what TTT4Rec reaches after one."
    rule = (
        f"{dataset}, validation NDCG@5 at 1:99. It holds if, in every seed of a variant, ComiRec after one epoch is below "
        "TTT4Rec after one (z test by both intervals over users, which takes them as independent and so errs against the "
        f"claim; all p < {LEVEL} after Holm), and does not if ComiRec is at TTT4Rec's figure after its first epoch in any "
        "seed. TTT4Rec's figure is the mean over its seeds. A variant alone: in part."
    )
    if missing := [TITLES[m] for m in ("ttt4rec", *COMIREC) if not any(histories.get(m, []))]:
        return Claim(text, UNDECIDED, rule, [f"no finished epoch of {', '.join(missing)}"])
    firsts = [run[0]["validation"][PROTOCOL] for run in histories["ttt4rec"]]
    goal = statistics.fmean(line[METRIC] for line in firsts)
    error = statistics.fmean(line[f"{METRIC}_ci95"] for line in firsts) / 1.96
    verdicts = []
    evidence = [f"TTT4Rec after one epoch: {goal:.4f}, mean of {len(firsts)} seed(s)"]
    for model in COMIREC:
        p_values = []
        below = []
        reached = []
        seconds = []
        for run in histories[model]:
            first = run[0]["validation"][PROTOCOL]
            z = (first[METRIC] - goal) / math.hypot(error, first[f"{METRIC}_ci95"] / 1.96)
            p_values.append(two_sided_p(z, 1e7))
            below.append(z < 0)
            epoch = next(
                (e["epoch"] for e in run if e["validation"][PROTOCOL][METRIC] >= goal), None
            )
            reached.append(f"epoch {epoch}" if epoch else f"not within {len(run)} epochs")
            if epoch:
                seconds.append(sum(e["seconds"] for e in run[:epoch]))
        p = max(holm(p_values))
        verdicts.append(NOT if not all(below) else HELD if p < LEVEL else UNSHOWN)
        start = statistics.fmean(run[0]["validation"][PROTOCOL][METRIC] for run in histories[model])
        time = (
            f", after {statistics.fmean(seconds):.0f} s of training on average where it did"
            if seconds
            else ""
        )
        evidence.append(
            f"{TITLES[model]} after one epoch {start:.4f} ({p_text(p)}); reaches it: {', '.join(reached)}{time}"
        )
    own = statistics.fmean(run[0]["seconds"] for run in histories["ttt4rec"])
    return Claim(
        text,
        worst(verdicts),
        rule,
        [*evidence, f"one epoch of TTT4Rec took {own:.0f} s of training"],
    )


def values_of(grid: dict[str, Run]) -> dict[tuple[float, int], dict[int, Run]]:
    """{(initializer_range, mini_batch_size): {seed: run}}."""
    found: dict[tuple[float, int], dict[int, Run]] = {}
    for run in grid.values():
        model = run.config.model
        found.setdefault((model.initializer_range, model.mini_batch_size), {})[
            run.config.train.seed
        ] = run
    return found


def averaged(cells: dict, keep) -> np.ndarray | None:
    """[seeds, users]: NDCG@5, mean over the cells that `keep` keeps, by the seeds that all of them have; None if none."""
    chosen = [runs for key, runs in cells.items() if keep(key)]
    seeds = sorted(set.intersection(*map(set, chosen))) if chosen else []
    return (
        np.mean([by_user([runs[s] for s in seeds]) for runs in chosen], axis=0) if seeds else None
    )


def mini_batches(grid: dict[str, Run], expected: int) -> Claim:
    """mini_batch_size 1 and 10 against 2 and 5, over all initializer_ranges. expected: how many runs the grid has."""
    text = "mini_batch_size 1 and 10 are better than those between (2 and 5)."
    rule = (
        "Figure 3's grid: NDCG@5 of each size, averaged over the initializer_ranges, 1 and 10 each less 2 and 5 each, paired "
        f"over test users. It holds if all four are above 0 with p < {LEVEL}, in part if some are and none is "
        f"below with p < {LEVEL}, and does not if one is."
    )
    if len(grid) < expected:
        return Claim(
            text, UNDECIDED, rule, [f"{len(grid)} of the {expected} runs of the grid have a result"]
        )
    cells = values_of(grid)
    of = {b: averaged(cells, lambda key, b=b: key[1] == b) for b in (1, 2, 5, 10)}
    results = tested(
        {f"{ends} - {between}": (of[between], of[ends]) for ends in (1, 10) for between in (2, 5)}
    )
    evidence = ["means: " + ", ".join(f"{b}: {x.mean():.4f}" for b, x in of.items())]
    evidence += [
        said(f"mini_batch_size {name}", one, p, len(of[1])) for name, (one, p) in results.items()
    ]
    signs = [0 if p >= LEVEL else 1 if one.difference > 0 else -1 for one, p in results.values()]
    verdict = (
        NOT if min(signs) < 0 else HELD if min(signs) > 0 else PART if max(signs) > 0 else UNSHOWN
    )
    return Claim(text, verdict, rule, evidence)


def extreme_ranges(grid: dict[str, Run], expected: int) -> Claim:
    """The smallest and the largest initializer_range against the one between that validation prefers."""
    text = "Too small and too large an initializer_range are both harmful."
    rule = (
        "Figure 3's grid: NDCG@5 of the smallest and of the largest range, averaged over mini_batch_sizes, each less that "
        f"of the range between that validation prefers, paired over test users. An end is harmful if below 0 with p < {LEVEL}; "
        "the claim holds if both are, in part if one is."
    )
    if len(grid) < expected:
        return Claim(
            text, UNDECIDED, rule, [f"{len(grid)} of the {expected} runs of the grid have a result"]
        )
    cells = values_of(grid)
    ranges = sorted({key[0] for key in cells})

    def validation(r):
        runs = [run for key, by_seed in cells.items() if key[0] == r for run in by_seed.values()]
        return statistics.fmean(run.result["validation"][PROTOCOL][METRIC] for run in runs)

    middle = max(ranges[1:-1], key=validation)
    of = {r: averaged(cells, lambda key, r=r: key[0] == r) for r in (ranges[0], middle, ranges[-1])}
    results = tested(
        {f"{end:g} - {middle:g}": (of[middle], of[end]) for end in (ranges[0], ranges[-1])}
    )
    evidence = ["means: " + ", ".join(f"{r:g}: {x.mean():.4f}" for r, x in of.items())]
    evidence += [
        said(f"initializer_range {name}", one, p, len(of[middle]))
        for name, (one, p) in results.items()
    ]
    signs = [0 if p >= LEVEL else 1 if one.difference < 0 else -1 for one, p in results.values()]
    verdict = (
        HELD if min(signs) > 0 else PART if max(signs) > 0 else NOT if min(signs) < 0 else UNSHOWN
    )
    return Claim(text, verdict, rule, evidence)
