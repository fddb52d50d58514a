"""The report's sections on the conditions of its results.

Settings, protocol, data, machine, versions, time, and which runs are missing.
"""

import json
from typing import Any

from ttt4rec_jax.paper.document import Block, Bullets, Heading, Table, Text
from ttt4rec_jax.paper.jobs import Plan
from ttt4rec_jax.paper.results import Results

NAMES_SHOWN = 12  # of jobs that are missing for the same reason
SETTINGS = {
    "fair": "The paper's settings (width 64, 4 negatives, binary cross entropy, Adam at 0.001), "
    "with TTT4Rec's target tower for every model that can have one, and training until five "
    "epochs (BERT4Rec, whose epochs are shorter: 25) bring no improvement on validation. No value "
    "is tuned for a model.",
    "authors": "What the paper's authors probably used, by public code of their group: width 32, "
    "4 heads, 205 positives a batch, Xavier's initial values, tanh layers, user head and target "
    "tower in every model that can have them, 10 epochs, 50 for ComiRec. What is inferred, and "
    "what is not copied, is said in pipeline/presets.py.",
}


def settings(plan: Plan) -> list[Block]:
    """Return the section on the presets."""
    texts = [f"**{preset}**: {SETTINGS[preset]}" for preset in plan.presets]
    return [Heading("Two settings for every experiment"), Bullets(texts)]


def blocks(results: Results) -> list[Block]:
    """Return the sections on data, machine, time, and missing runs."""
    return [
        Heading("Protocol and data"),
        _protocols(results.lines),
        *_data(results.lines),
        Heading("Machine, versions and time"),
        *_machines(results.lines),
        *_missing(results.missing),
    ]


def _protocols(lines: list[dict[str, Any]]) -> Block:
    """Return the descriptions of split, training, selection and evaluation in the results.

    If they differ, each text names its data sets, or its models if it is about training.
    """
    protocols: dict[str, dict[str, set[str]]] = {}
    for line in lines:
        _, dataset, model = line["job"].split("/")
        for aspect, text in line["protocol"].items():
            user = model if aspect in ("training", "full") else dataset
            protocols.setdefault(aspect, {}).setdefault(text, set()).add(user)
    texts = []
    for aspect, by_text in protocols.items():
        for text, users in by_text.items():
            names = f" ({', '.join(sorted(users))})" if len(by_text) > 1 else ""
            texts.append(f"{aspect}: {text}{names}")
    return Bullets(texts) if texts else Text("No run is finished.")


def _data(lines: list[dict[str, Any]]) -> list[Block]:
    datasets = {line["job"].split("/")[1]: line["dataset"] for line in lines if line["dataset"]}
    if not datasets:
        return []
    rows = [
        [name, *(f"{data[k]:,}" for k in ("users", "items", "interactions")), data["sha256"]]
        for name, data in datasets.items()
    ]
    return [Table(["data", "users", "items", "clicks", "sha256 of the prepared arrays"], rows)]


def _machines(lines: list[dict[str, Any]]) -> list[Block]:
    """Return devices, machines, versions, and the time of each group of jobs."""
    platforms = sorted({line["platform"] for line in lines if line["platform"]})
    texts = [f"JAX ran on: {'; '.join(platforms)}"] if platforms else []
    environments = {json.dumps(line["environment"], sort_keys=True) for line in lines}
    for text in sorted(environments - {"{}"}):
        environment = json.loads(text)
        versions = (f"{name} {version}" for name, version in environment["versions"].items())
        texts += [environment["hardware"], ", ".join(versions)]
    seconds: dict[str, float] = {}
    for line in lines:
        group = line["job"].rsplit("/", 1)[0]
        seconds[group] = seconds.get(group, 0.0) + line["seconds"]
    hours = sum(seconds.values()) / 3600
    texts.append(
        f"time: {hours:.2f} h of processes, including start, compilation and evaluation; "
        "machines were shared with other work"
    )
    rows = [[name, f"{total:.0f}"] for name, total in seconds.items()]
    return [Bullets(texts), *([Table(["jobs", "seconds"], rows)] if rows else [])]


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
