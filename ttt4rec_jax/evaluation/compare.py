"""Compare systems by their finished runs: each against the first, by paired_test.py.

Imports no JAX.

A system is a configuration; its runs differ only in the seed. A system that is not trained has no
seeds to vary. With a single seed of a trained system, the variance between trainings is unknown:
the interval then covers the variation over users only, and the comparison says so.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.config import MODELS, OPTIONS, Config
from ttt4rec_jax.config.judged import JudgedConfig
from ttt4rec_jax.config.models import has_option
from ttt4rec_jax.evaluation.comparable import (
    check_comparable,
    common_metrics,
    common_protocols,
    finished_runs,
    of_lists,
)
from ttt4rec_jax.evaluation.paired_test import difference, holm
from ttt4rec_jax.metrics import PROTOCOLS, compared_metrics, cutoff, per_target
from ttt4rec_jax.runs.read import EVALUATION_TEXTS, Run, read


def compare(
    paths: list[Path], protocol: str = "", top_k: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return the comparison of the runs in these folders, in the format of --json.

    protocol: one protocol, or "" for all that the runs share. top_k: the numbers k of the metrics,
    if they were chosen. Raises UserError.
    """
    folders, warnings = finished_runs(paths)
    runs = [read(path) for path in folders]
    protocols = common_protocols(runs, protocol)
    check_comparable(runs, protocols)
    return comparison(systems(runs), protocols, warnings, compared_metrics(top_k))


@dataclasses.dataclass(frozen=True)
class System:
    """Runs of one configuration, one per seed."""

    name: str
    settings: dict[str, Any]
    runs: list[Run]

    @property
    def model(self) -> str:
        return self.settings["model"]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def is_trained(self) -> bool:
        return self.runs[0].is_trained

    @property
    def one_training(self) -> bool:
        """Whether the system is trained, but only with one seed."""
        return self.is_trained and len(self.runs) == 1


def settings(config: Config | JudgedConfig) -> dict[str, Any]:
    """Return the settings that identify a system; for one from elsewhere, its name.

    These exclude the data, the seed, and options that the model does not have.
    """
    if isinstance(config, JudgedConfig):
        return {"model": config.name}
    model = config.model.model
    is_trained = MODELS[model].trained
    # options of all models, such as dim and dropout, matter only to models that are trained
    own = {
        name: value
        for name, value in dataclasses.asdict(config.model).items()
        if name == "model" or (has_option(model, name) if name in OPTIONS else is_trained)
    }
    if is_trained:
        own |= dataclasses.asdict(config.train) | dataclasses.asdict(config.eval)
        del own["seed"]
    return own


def systems(runs: list[Run]) -> list[System]:
    """Return the runs grouped by settings, in the order given.

    A system's name consists of the model, if models differ, and the flags in which the systems of
    that model differ. Raises UserError for fewer than two systems, or for a seed that appears twice
    in one system.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(settings(run.config).items()), []).append(run)
    for group in groups.values():
        by_seed: dict[int, Run] = {}
        for run in group:
            if (same := by_seed.setdefault(run.seed, run)) is not run:
                raise UserError(
                    f"{same.path} and {run.path} have the same settings "
                    f"and seed {run.seed}; name only one of them"
                )
    identities = [dict(key) for key in groups]
    if len(identities) < 2:
        seeds = f"{len(runs)} seeds of one configuration ({identities[0]['model']})"
        what = seeds if len(runs) > 1 else "only one run"
        listed = ", ".join(str(run.path) for run in runs)
        raise UserError(f"nothing to compare: {listed}: {what}; name runs of two configurations")
    return [
        System(_name(own, identities), own, group)
        for own, group in zip(identities, groups.values(), strict=True)
    ]


def _name(own: dict[str, Any], identities: list[dict[str, Any]]) -> str:
    """Return the name of the system with these settings among those of all systems."""
    peers = [other for other in identities if other["model"] == own["model"]]
    flags = [f"{k}={v}" for k, v in own.items() if any(other[k] != v for other in peers)]
    several = len({each["model"] for each in identities}) > 1
    return ",".join([own["model"]] * several + flags)


def cautions(compared: list[System]) -> list[str]:
    """Return warnings about differences between the systems' trainings."""
    trained = [system for system in compared if "epochs" in system.settings]
    warnings = []
    for what, flags in (
        ("the best epochs were selected by different metrics", ("select_by",)),
        ("training budgets differ", ("epochs", "patience")),
    ):
        names: dict[str, list[str]] = {}
        for system in trained:
            text = " ".join(f"--{flag}={system.settings[flag]}" for flag in flags)
            names.setdefault(text, []).append(system.name)
        if len(names) > 1:
            texts = [f"{text} for {' and '.join(of)}" for text, of in names.items()]
            warnings.append(f"{what}: {'; '.join(texts)}")
    return warnings


def comparison(
    compared: list[System],
    protocols: tuple[str, ...],
    warnings: list[str],
    metrics: tuple[str, ...],
) -> dict[str, Any]:
    """Return the comparison of every system with the first, in the format of --json.

    metrics: those to compare; of lists, only those that they determine.
    """
    first = compared[0]
    run = first.runs[0]
    runs = [run for system in compared for run in system.runs]
    of_protocols = {protocol: common_metrics(runs, protocol, metrics) for protocol in protocols}
    lists = [
        text
        for protocol, known in of_protocols.items()
        for text in of_lists(runs, protocol, known, metrics)
    ]
    return {
        "dataset": run.result["dataset"],
        "test_users": len(run.users),
        "protocol": {
            name: run.result["protocol"][name]
            for name in EVALUATION_TEXTS
            if name in run.result["protocol"] and (name not in PROTOCOLS or name in protocols)
        },
        "reference": first.name,
        "systems": {system.name: _description(system, first) for system in compared},
        "method": _method(compared),
        "warnings": warnings + cautions(compared) + lists,
        "results": {
            protocol: _results(compared, protocol, known)
            for protocol, known in of_protocols.items()
        },
    }


def over_seeds(one: System, other: System) -> bool:
    """Return whether the interval of two systems can cover the variance between trainings."""
    return not (one.one_training or other.one_training)


def _description(system: System, first: System) -> dict[str, Any]:
    """Return the entry of --json for a system that is compared with the first."""
    interval_over = "users and seeds" if over_seeds(first, system) else "users alone"
    return {
        "model": system.model,
        "seeds": system.seeds,
        "runs": [str(run.path) for run in system.runs],
        "settings": system.settings,
        "trained": system.is_trained,
        "interval_over": "" if system is first else interval_over,
    }


def _results(compared: list[System], protocol: str, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Return the means, standard deviations and differences of each metric by one protocol."""
    first = compared[0]
    values = {system.name: _values(system, protocol, metrics) for system in compared}
    means = {name: {m: float(x.mean()) for m, x in of.items()} for name, of in values.items()}
    spread = {
        system.name: {m: float(x.mean(1).std(ddof=1)) for m, x in values[system.name].items()}
        for system in compared
        if len(system.runs) > 1
    }
    differences: dict[str, dict[str, Any]] = {system.name: {} for system in compared[1:]}
    for m in metrics:
        tests = [
            difference(values[first.name][m], values[system.name][m], over_seeds(first, system))
            for system in compared[1:]
        ]
        mean = means[first.name][m]
        p_holm = holm([test.p for test in tests])
        for system, test, p in zip(compared[1:], tests, p_holm, strict=True):
            relative = 100 * test.difference / mean if mean else None
            more = {"relative_percent": relative, "p_holm": p}
            differences[system.name][m] = test._asdict() | more
    return {"means": means, "std_over_seeds": spread, "differences": differences}


def _values(system: System, protocol: str, metrics: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the compared metrics of a system's K runs and U users, {metric: [K, U]}."""
    top_k = sorted({cutoff(m) for m in metrics if "@" in m})
    by_run = [per_target(run.ranks[protocol], top_k) for run in system.runs]
    return {m: np.stack([values[m] for values in by_run]) for m in metrics}


def _method(compared: list[System]) -> list[str]:
    """Return lines that describe what was computed."""
    first = compared[0]
    others = compared[1:]
    lines = [
        "difference of the means over users and seeds; 95% interval and two-sided p by Student's t,"
        " paired over users"
    ]
    if any(over_seeds(first, system) for system in others):
        lines.append(
            "over users and seeds: includes the variance between the trainings of each system "
            "(Satterthwaite's degrees of freedom)"
        )
    if single := [system.name for system in compared if system.one_training]:
        lines.append(
            f"over users alone: {', '.join(single)} has only one seed, so the variance between "
            "trainings is unknown"
        )
    if len(others) > 1:
        lines.append(
            f"p-values are adjusted by Holm's method for the {len(others)} comparisons of each "
            "metric; the intervals are not adjusted"
        )
    return lines
