"""Whether finished runs can be compared, and by which protocols and metrics. Imports no JAX."""

import dataclasses
from pathlib import Path

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.evaluation.listed import known_metrics, short_lists
from ttt4rec_jax.metrics import PROTOCOLS, cutoff, label
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.read import EVALUATION_TEXTS, Run, failure, is_sweep, members


def finished_runs(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Return the folders of the runs, and a warning for each unfinished combination of a sweep.

    A sweep is replaced by its combinations, and a folder named twice counts once. Raises UserError.
    """
    folders = []
    warnings = []
    for path in paths:
        runs = members(path)
        if is_sweep(path):
            finished = [run for run in runs if RunFolder(run).result.exists()]
            for run in (run for run in runs if run not in finished):
                why = f" (failed: {reason})" if (reason := failure(run)) else ""
                warnings.append(f"{run} has no result and is left out{why}")
            if not finished:
                raise UserError(
                    f"{path}: a sweep with no finished combination; "
                    f"finish its training with --resume --run_dir={path}"
                )
            runs = finished
        folders += runs
    return list({path.resolve(): path for path in folders}.values()), warnings


def common_protocols(runs: list[Run], protocol: str = "") -> tuple[str, ...]:
    """Return the protocols that all runs have, or `protocol` if it is given. Raises UserError."""
    for run in runs:
        if protocol and protocol not in run.ranks:
            raise UserError(f"--protocol={protocol}: {run.path} has {', '.join(run.ranks)} only")
    candidates = (protocol,) if protocol else PROTOCOLS
    common = tuple(p for p in candidates if all(p in run.ranks for run in runs))
    if not common:
        each = ", ".join(f"{run.path} {'+'.join(run.ranks)}" for run in runs)
        raise UserError(f"the runs cannot be compared: no protocol is common to all ({each})")
    return common


def check_comparable(runs: list[Run], protocols: tuple[str, ...]) -> None:
    """Raise UserError that names the first difference between two runs' evaluations, if any."""
    first = runs[0]
    for other in runs[1:]:
        if problem := _incomparable(first, other, protocols):
            raise UserError(f"{first.path} and {other.path} cannot be compared: {problem}")


def _incomparable(first: Run, other: Run, protocols: tuple[str, ...]) -> str:
    """Return the first difference between two runs' evaluations, "" if there is none."""
    hashes = [run.result["dataset"]["sha256"] for run in (first, other)]
    if hashes[0] != hashes[1]:
        a, b = (dataclasses.asdict(run.config.data) for run in (first, other))
        flags = "".join(f"--{k}={a[k]} against {b[k]}, " for k in a if a[k] != b[k])
        return f"data differ, {flags}sha256 {hashes[0][:16]} against {hashes[1][:16]}"
    for name in EVALUATION_TEXTS:
        a, b = (run.result["protocol"].get(name, "") for run in (first, other))
        if a != b and (name not in PROTOCOLS or name in protocols):
            return f"protocol {name!r} is {a!r} against {b!r}"
    if not np.array_equal(first.users, other.users):
        user = min(set(first.users.tolist()) ^ set(other.users.tolist()))
        only = first.path if user in first.users else other.path
        sizes = f"{len(first.users):,} against {len(other.users):,}"
        return f"test users differ, {sizes}; user {user} is in {only} alone"
    for protocol in protocols:
        others = first.ranks[protocol].others
        others_too = other.ranks[protocol].others
        if (differ := np.flatnonzero(others != others_too)).size:
            user = first.users[differ[0]]
            counts = f"{others[differ[0]]:,} against {others_too[differ[0]]:,}"
            return f"{protocol} candidates of user {user} are {counts} beside the target"
    return ""


def common_metrics(runs: list[Run], protocol: str, metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics that all runs determine. Raises UserError if there are none."""
    common = tuple(m for m in metrics if all(m in known_metrics(r, protocol, [m]) for r in runs))
    if not common:
        raise UserError(
            f"--top_k: {', '.join(metrics)} are not known of every run by the protocol {protocol}, "
            "since lists end before; give longer lists, or smaller numbers"
        )
    return common


def of_lists(
    runs: list[Run], protocol: str, known: tuple[str, ...], metrics: tuple[str, ...]
) -> list[str]:
    """Return warnings about what lists of recommendations do not determine."""
    warnings = []
    if left_out := [m for m in metrics if m not in known]:
        warnings.append(
            f"{protocol}: {', '.join(map(label, left_out))} left out, since lists do not determine "
            "the ranks beyond their ends"
        )
    for run in runs:
        for k in dict.fromkeys(cutoff(m) for m in known if "@" in m):
            if count := short_lists(run, protocol, k):
                warnings.append(
                    f"{protocol}: {count:,} lists of {run.path} have fewer than {k} items; "
                    f"targets that they leave out count as misses among the first {k}"
                )
    return warnings
