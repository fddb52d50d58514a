"""The sections of accelerator.py that train: epochs, stacked runs, determinism and memory."""

import hashlib
import os
from typing import Any

import jax
import numpy as np
from accelerator_settings import Emit, Settings, alone, megabytes, memory_stats, reason
from epoch import CASES, Case, take_turns

from ttt4rec_jax.training.loop import copied
from ttt4rec_jax.training.precision import obstacle

SWEEP = "beauty-paper"  # the case that is stacked, and trained twice with one seed


def tried(emit: Emit, described: dict, *arguments: Any, **more: Any) -> Case | None:
    """Return a case that has trained one epoch, which is not recorded; emit the error if it fails.

    described: what identifies the case in a row; arguments, more: those of Case.
    """
    try:
        case = Case(*arguments, **more)
        case.epoch()
    except Exception as error:
        emit(described | {"error": reason(error)})
        return None
    case.seconds.clear()
    return case


def precisions() -> list[str]:
    """Return the values of --precision that this device's programs differ in."""
    return ["float32"] if obstacle() else ["float32", "bfloat16"]


def of_epochs(settings: Settings, emit: Emit) -> None:
    """Measure epochs; the cases of one data set take turns."""
    names = settings.sizes.cases
    own = settings.sizes.model
    for data in dict.fromkeys(CASES[name][0] for name in names):
        dataset = settings.dataset(data)
        cases = []
        for name in (name for name in names if CASES[name][0] == data):
            for precision in precisions():
                described = {"case": name, "precision": precision, "data": settings.data[data]}
                if case := tried(emit, described, name, dataset, own, {"precision": precision}):
                    cases.append((described, case))
        take_turns([case for _, case in cases], settings.sizes.epochs)
        for described, case in cases:
            emit(described | case.row() | compiled(case))


def of_sweep(settings: Settings, emit: Emit) -> None:
    """Measure epochs of stacked runs, which differ in initializer_range, beside one run."""
    data = CASES[SWEEP][0]
    dataset = settings.dataset(data)
    one = None
    for runs in settings.sizes.stacked:
        described = {"runs": runs, "data": settings.data[data]}
        ranges = [{"initializer_range": float(x)} for x in np.geomspace(0.001, 0.2, runs)]
        case = tried(emit, described, SWEEP, dataset, settings.sizes.model, runs=ranges)
        if case is None:
            continue
        if runs == 1:
            one = case
        rivals = [case] if one in (None, case) else [one, case]  # the one run is measured again
        for rival in rivals:
            rival.seconds.clear()
        take_turns(rivals, settings.sizes.epochs)
        seconds = case.row()["s_per_epoch"]
        alone_s = one.row()["s_per_epoch"] if one else None
        ratios = {
            "s_per_epoch": seconds,
            "s_per_epoch_and_run": seconds / runs,
            "s_per_epoch_of_one": alone_s,
            "over_one_run": alone_s and seconds / alone_s,
            "over_separate_runs": alone_s and seconds / (runs * alone_s),
        }
        emit(described | ratios | compiled(case))


def compiled(case: Case) -> dict[str, float | None]:
    """Return what a case's compiled training took to compile, and needs in temporary memory."""
    return {"s_to_compile": case.executables.seconds, "temp_mb": analysed(case)["temp_mb"]}


def analysed(case: Case) -> dict[str, float | None]:
    """Return the memory that a case's compiled training needs, by XLA's analysis."""
    memory = case.executables.run_steps.memory_analysis()
    names = ("temp", "argument", "output", "alias")
    return {
        f"{name}_mb": None
        if memory is None
        else megabytes(getattr(memory, f"{name}_size_in_bytes"))
        for name in names
    }


def of_memory(settings: Settings, emit: Emit) -> None:
    """Measure the peak memory of each case's training, each in a process of its own."""
    for name in settings.sizes.cases:
        emit({"case": name} | alone("peak", settings, name))


def peak(settings: Settings, emit: Emit, name: str) -> None:
    """Train an epoch and emit the memory that it took."""
    case = Case(name, settings.dataset(CASES[name][0]), settings.sizes.model)
    case.epoch()
    emit(analysed(case) | {"peak_in_use_mb": megabytes(memory_stats().get("peak_bytes_in_use"))})


def of_determinism(settings: Settings, emit: Emit) -> None:
    """Compare the parameters of equal trainings: two in one process, and in two processes."""
    for flag in settings.sizes.xla_flags:
        flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        found = [alone("equal", settings, XLA_FLAGS=flags) for _ in range(2)]
        row: dict[str, Any] = {"XLA_FLAGS": flag or "none added"}
        errors = [one["error"] for one in found if "error" in one]
        if errors:
            emit(row | {"error": errors[0]})
            continue
        pairs = [one["digests"] for one in found]
        emit(
            row
            | {
                "equal_in_one_process": all(first == second for first, second in pairs),
                "equal_in_two_processes": pairs[0][0] == pairs[1][0],
                "s_per_epoch": min(one["s_per_epoch"] for one in found),
                "s_to_compile": min(one["s_to_compile"] for one in found),
            }
        )


def equal(settings: Settings, emit: Emit) -> None:
    """Train an epoch twice from one seed, and emit digests of the parameters."""
    case = Case(SWEEP, settings.dataset(CASES[SWEEP][0]), settings.sizes.model)
    digests = []
    for _ in range(2):
        case.state = copied(case.training.first_state)
        case.epochs = 0
        case.epoch()
        digests.append(digest(case.state.params))
    seconds = {"s_per_epoch": case.seconds[-1], "s_to_compile": case.executables.seconds}
    emit({"digests": digests} | seconds)


def digest(params: Any) -> str:
    """Return a digest of the bits of all parameters."""
    hashed = hashlib.sha256()
    for x in jax.tree.leaves(jax.device_get(params)):
        hashed.update(np.ascontiguousarray(x).data)
    return hashed.hexdigest()
