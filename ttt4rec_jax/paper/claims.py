"""The paper's claims on Table 1 and Figure 2, each decided by a rule that was fixed before.

Verdicts: "held"; "held in part"; "did not hold": there is evidence against it; "not shown": the
difference is within chance; "cannot be decided": runs are missing. Tests are those of seeds.py, on
test NDCG@5 among 1:99 candidates; each claim has a verdict for each preset. Imports no JAX.
"""

import statistics
from typing import NamedTuple

from ttt4rec_jax.evaluation.paired_test import LEVEL
from ttt4rec_jax.paper.document import plural
from ttt4rec_jax.paper.jobs import TITLES
from ttt4rec_jax.paper.ledger import METRIC, PROTOCOL
from ttt4rec_jax.paper.results import ByModel, scores
from ttt4rec_jax.paper.seeds import contrasts

BASE = ("din", "gru4rec", "sasrec")
COMIREC = ("comirec_sa", "comirec_dr")
# TTT4Rec is on a par if the 95% interval excludes that it is worse by this share of NDCG@5
NON_INFERIORITY_MARGIN = 0.05
MANY_EPOCHS = 10  # "many"; TTT4Rec's whole training in the paper
HELD = "held"
HELD_IN_PART = "held in part"
DID_NOT_HOLD = "did not hold"
NOT_SHOWN = "not shown"
UNDECIDED = "cannot be decided"


class Verdict(NamedTuple):
    """The verdict on a claim under one preset, and the evidence in lines."""

    verdict: str
    evidence: list[str]


class Claim(NamedTuple):
    """A claim of the paper, and the rule that decides it."""

    text: str
    rule: str


def combine(verdicts: list[str]) -> str:
    """Combine verdicts: their common one if all agree, "held in part" if some of them held.

    While some cannot be decided and the others all held, the claim cannot be decided either.
    """
    if not verdicts:
        return UNDECIDED
    if len(set(verdicts)) == 1:
        return verdicts[0]
    decided = [verdict for verdict in verdicts if verdict != UNDECIDED]
    if set(decided) == {HELD}:
        return UNDECIDED
    if HELD in decided or HELD_IN_PART in decided:
        return HELD_IN_PART
    return DID_NOT_HOLD if DID_NOT_HOLD in decided else NOT_SHOWN


def _too_few(runs: ByModel, models: tuple[str, ...]) -> str:
    """Return the titles of the models that have fewer than two runs, "" if there are none."""
    return ", ".join(TITLES[model] for model in models if len(runs.get(model, [])) < 2)


ON_A_PAR = Claim(
    "TTT4Rec is on a par with or above the base models DIN, GRU4Rec and SASRec.",
    "On each data set, NDCG@5 of TTT4Rec minus that of each base model, over seeds. The claim "
    f"holds if no difference is below 0 with p < {LEVEL} and no 95% interval reaches below "
    f"-{NON_INFERIORITY_MARGIN:.0%} of the base model's NDCG@5; if an interval does, the claim is "
    "not shown.",
)


def on_a_par(runs: dict[str, ByModel]) -> Verdict:
    """Decide whether TTT4Rec is on a par with or above DIN, GRU4Rec and SASRec."""
    verdicts = []
    evidence = []
    for dataset, by_model in runs.items():
        if missing := _too_few(by_model, ("ttt4rec", *BASE)):
            verdicts.append(UNDECIDED)
            evidence.append(f"{dataset}: fewer than two runs of {missing}")
            continue
        ttt = scores(by_model["ttt4rec"])
        others = {model: scores(by_model[model]) for model in BASE}
        below = False
        inconclusive = False
        tested = contrasts({model: (other, ttt) for model, other in others.items()})
        for model, contrast in tested.items():
            evidence.append(contrast.text(f"{dataset}, TTT4Rec - {TITLES[model]}"))
            margin = NON_INFERIORITY_MARGIN * statistics.fmean(others[model])
            if contrast.sign < 0:
                below = True
            elif contrast.low < -margin:
                inconclusive = True
        verdicts.append(DID_NOT_HOLD if below else NOT_SHOWN if inconclusive else HELD)
    return Verdict(combine(verdicts), evidence)


COMIREC_BETTER = Claim(
    "ComiRec is better overall than TTT4Rec.",
    "On each data set, NDCG@5 of the ComiRec variant with the better validation NDCG@5 minus that "
    f"of TTT4Rec, over seeds. The claim holds if it is above 0 with p < {LEVEL}, and does not hold "
    f"if it is below 0 with p < {LEVEL}.",
)


def comirec_better(runs: dict[str, ByModel]) -> Verdict:
    """Decide whether ComiRec, fully trained, is better than TTT4Rec."""
    pairs = {}
    verdicts = []
    evidence = []
    for dataset, by_model in runs.items():
        if missing := _too_few(by_model, ("ttt4rec", *COMIREC)):
            verdicts.append(UNDECIDED)
            evidence.append(f"{dataset}: fewer than two runs of {missing}")
            continue
        validation = {
            model: statistics.fmean(run.validation[PROTOCOL][METRIC] for run in by_model[model])
            for model in COMIREC
        }
        best = max(COMIREC, key=lambda model: validation[model])
        pairs[f"{dataset}, {TITLES[best]} - TTT4Rec"] = (
            scores(by_model["ttt4rec"]),
            scores(by_model[best]),
        )
    for name, contrast in contrasts(pairs).items():
        evidence.append(contrast.text(name))
        verdicts.append({1: HELD, 0: NOT_SHOWN, -1: DID_NOT_HOLD}[contrast.sign])
    return Verdict(combine(verdicts), evidence)


COMIREC_SLOW = Claim(
    "ComiRec is slow to get there: it needs many epochs for what TTT4Rec reaches after one.",
    "Validation NDCG@5 at 1:99, and the mean over seeds of TTT4Rec's after one epoch. For each "
    "ComiRec variant, the claim holds if every seed reaches that mean, the median of them not "
    f"before epoch {MANY_EPOCHS} (the paper's ComiRec takes about 50). It does not hold if the "
    "median is earlier, or if a seed never reaches it: the paper's ComiRec gets there.",
)


def comirec_slow(runs: ByModel) -> Verdict:
    """Decide whether ComiRec needs many epochs. runs: those on the data set of Figure 2."""
    models = ("ttt4rec", *COMIREC)
    missing = [TITLES[model] for model in models if not runs.get(model)]
    if missing:
        return Verdict(UNDECIDED, [f"no finished run of {', '.join(missing)}"])
    goal = statistics.fmean(run.epochs[0] for run in runs["ttt4rec"])
    seconds = statistics.fmean(run.epoch_seconds for run in runs["ttt4rec"])
    evidence = [
        f"TTT4Rec after one epoch: {goal:.4f}, mean of {plural(len(runs['ttt4rec']), 'seed')}, "
        f"{seconds:.1f} s of training"
    ]
    verdicts = []
    for model in COMIREC:
        reached = [reached_at(run.epochs, goal) for run in runs[model]]
        first = statistics.fmean(run.epochs[0] for run in runs[model])
        texts = ", ".join("never" if epoch is None else f"epoch {epoch}" for epoch in reached)
        lengths = sorted({len(run.epochs) for run in runs[model]})
        last = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        evidence.append(
            f"{TITLES[model]}: {first:.4f} after one epoch; reaches {goal:.4f} at: {texts}, of "
            f"{last} epochs"
        )
        verdicts.append(_speed([epoch for epoch in reached if epoch is not None], len(reached)))
    return Verdict(combine(verdicts), evidence)


def reached_at(epochs: list[float], goal: float) -> int | None:
    """Return the first epoch, from 1, whose metric is at least `goal`; None if none is."""
    return next((number for number, value in enumerate(epochs, 1) if value >= goal), None)


def _speed(reached: list[int], seeds: int) -> str:
    if len(reached) < seeds or statistics.median(reached) < MANY_EPOCHS:
        return DID_NOT_HOLD
    return HELD
