"""The report's sections on the conditions of its results.

Protocol, data, machine, versions, time, and which runs are missing.
"""

import json

from ttt4rec_jax.paper.document import Block, Bullets, Heading, Table, Text
from ttt4rec_jax.paper.driver import journal
from ttt4rec_jax.paper.jobs import Plan
from ttt4rec_jax.paper.results import Results
from ttt4rec_jax.runs.read import Run

NAMES_SHOWN = 12  # of runs that are missing for the same reason


def blocks(plan: Plan, results: Results) -> list[Block]:
    """Return the sections."""
    needed = {"run", "seconds", "environment"}
    entries = [entry for entry in journal(plan.output) if needed <= entry.keys()]
    return [
        Heading("Protocol and data"),
        _protocols(results.runs),
        *_data(results.runs),
        Heading("Machine, versions and time"),
        _machines(results.runs, entries),
        *_times(entries),
        *_missing(results.missing),
    ]


def _protocols(runs: dict[str, Run]) -> Block:
    """Return the descriptions of split, training, selection and evaluation in the runs' results.

    If the runs differ, each text names its data sets, or its models if it is about training.
    """
    protocols: dict[str, dict[str, set[str]]] = {}
    for name, run in runs.items():
        dataset, job = name.split("/")[:2]
        for aspect, text in run.result["protocol"].items():
            user = job.rsplit("-", 1)[0] if aspect == "training" else dataset
            protocols.setdefault(aspect, {}).setdefault(text, set()).add(user)
    texts = []
    for aspect, by_text in protocols.items():
        for text, users in by_text.items():
            names = f" ({', '.join(sorted(users))})" if len(by_text) > 1 else ""
            texts.append(f"{aspect}: {text}{names}")
    return Bullets(texts) if texts else Text("No run is finished.")


def _data(runs: dict[str, Run]) -> list[Block]:
    datasets: dict[str, dict] = {}
    for name, run in runs.items():
        datasets.setdefault(name.split("/")[0], run.result["dataset"])
    if not datasets:
        return []
    rows = [
        [name, *(f"{data[k]:,}" for k in ("users", "items", "interactions")), data["sha256"]]
        for name, data in datasets.items()
    ]
    return [Table(["data", "users", "items", "clicks", "sha256 of the prepared arrays"], rows)]


def _machines(runs: dict[str, Run], entries: list[dict]) -> Bullets:
    """Return devices, machines, versions, and the total time."""
    platforms = sorted({run.result["platform"] for run in runs.values()})
    texts = [f"JAX ran on: {'; '.join(platforms)}"] if platforms else []
    environments = {
        json.dumps(entry["environment"], sort_keys=True): entry["environment"] for entry in entries
    }
    for environment in environments.values():
        versions = (f"{name} {version}" for name, version in environment["versions"].items())
        texts += [environment["hardware"], ", ".join(versions)]
    if entries:
        hours = sum(entry["seconds"] for entry in entries) / 3600
        at_once = max(entry.get("at_once", 1) for entry in entries)
        parallel = f", up to {at_once} at a time on separate cores" if at_once > 1 else ""
        texts.append(
            f"time: {hours:.2f} h in {len(entries)} processes{parallel}, including start, "
            "compilation and evaluation"
        )
    else:
        texts.append(
            "time, hardware and versions: not recorded (reproduce.py did not start these runs)"
        )
    return Bullets(texts)


def _times(entries: list[dict]) -> list[Block]:
    """Return the table of seconds by data set and model."""
    if not entries:
        return []
    seconds: dict[str, float] = {}
    for entry in entries:
        name = entry["run"].rsplit("-", 1)[0]
        seconds[name] = seconds.get(name, 0.0) + entry["seconds"]
    rows = [[name, f"{total:.0f}"] for name, total in seconds.items()]
    return [Table(["runs", "seconds, all seeds"], rows)]


def _missing(missing: dict[str, str]) -> list[Block]:
    """Return the section on runs without a result, by reason."""
    if not missing:
        return []
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    texts = []
    for reason, names in reasons.items():
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        texts.append(f"{reason}: {', '.join(names[:NAMES_SHOWN])}{more}")
    return [Heading("Runs without a result"), Bullets(texts)]
