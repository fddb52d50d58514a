"""What a search leaves on disk: search.json with its trials, a picture, and the preset it found.

A preset file is {"model", "dataset", "values": {option: value}, "search": {...}}; --preset=FILE
takes it. Imports no JAX.
"""

import dataclasses
from pathlib import Path
from typing import Any

from data_prep.files import read_json
from data_prep.settings import UserError, first_line
from ttt4rec_jax.config import Config
from ttt4rec_jax.pipeline.search_space import (
    Range,
    Search,
    SearchConfig,
    Space,
    Trial,
    best,
    fields_of,
    folder_of,
    number_text,
    read,
    title,
)
from ttt4rec_jax.pipeline.sweep_picture import metric_label
from ttt4rec_jax.runs import verified
from ttt4rec_jax.runs.folder import write_json

FILE = "search.json"
PICTURE = "search.png"


def write(root: Path, asked: Search, done: list[Trial], facts: dict[str, Any]) -> dict[str, Any]:
    """Write search.json and return its content: what was asked for, facts, and the trials."""
    winner = best(done)
    content = {
        "asked": {
            "budget": dataclasses.asdict(asked.config),
            "space": {name: one.text() for name, one in asked.space.items()},
            "fixed": asked.fixed,
        },
        **facts,
        "best": winner.folder if winner else None,
        "trials": [trial._asdict() for trial in done],
    }
    write_json(root / FILE, content)
    return content


def draw(root: Path, asked: Search, done: list[Trial], content: dict[str, Any]) -> None:
    """Draw the trials and the options' importance. Raises UserError if that cannot be written."""
    from ttt4rec_jax import plots  # imports matplotlib

    label = metric_label(asked.fixed["select_by"])
    values = [trial.value for trial in done]
    stopped = [trial.state == "pruned" for trial in done]
    figure = plots.search(values, stopped, content["importance"], label)
    with verified.writing(root / PICTURE):
        plots.save(figure, root / PICTURE)


def check_data(root: Path, sha256: str) -> None:
    """Raise UserError if a search in this folder was started on other data."""
    path = root / FILE
    before = read_json(path)["sha256"] if path.exists() else sha256
    if before != sha256:
        raise UserError(
            f"--resume: {root} was started on data with sha256 {before[:16]}, found "
            f"{sha256[:16]}; give the data that it was started on, or another --run_dir"
        )


def saved(root: Path) -> Search | None:
    """Return what was asked for by the search in a folder, None if it holds none.

    Raises UserError if its file is damaged.
    """
    path = root / FILE
    try:
        asked = read_json(path)["asked"]
        fields = fields_of(asked["fixed"]["model"])
        space = {name: read(name, text, fields[name]) for name, text in asked["space"].items()}
        chosen = {name: one for name, one in space.items() if one is not None}
        return Search(SearchConfig(**asked["budget"]), chosen, asked["fixed"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a search ({first_line(error)}); copy its folder again"
        ) from error


def check_same(before: Search, now: Search) -> None:
    """Raise UserError if a resumed search is given other options than it was started with."""
    for what in ("space", "fixed"):
        old: Any = getattr(before, what)
        new: Any = getattr(now, what)
        for name in [*old, *new]:
            if old.get(name) != new.get(name):
                raise UserError(
                    f"--resume: the search was started with --{name}={_text(old.get(name))}, "
                    f"found {_text(new.get(name))}; give the same, or start a new search in "
                    "another --run_dir"
                )


def _text(value: Any) -> str:
    if value is None:
        return "another range or value"
    return value.text() if hasattr(value, "text") else str(value)


def write_preset(path: Path, asked: Search, content: dict[str, Any]) -> None:
    """Write the winner's settings as a preset file. Raises UserError."""
    (winner,) = (trial for trial in content["trials"] if _folder(trial) == content["best"])
    config = asked.combination(winner["params"])
    defaults = Config.from_flags({"model": config.model.model}).to_dict()
    budget = content["asked"]["budget"]
    found = {
        "model": config.model.model,
        "dataset": config.data.dataset,
        "values": {
            name: value
            for section in ("model", "train", "eval")
            for name, value in config.to_dict()[section].items()
            if value != defaults[section][name] and name not in ("model", "seed")
        },
        "search": {
            "validation": {config.eval.select_by: winner["value"]},
            "trials": len(content["trials"]),
            "seconds": content["seconds"],
            "search_seed": budget["search_seed"],
            "space": content["asked"]["space"],
        },
    }
    write_json(path, found)


def _folder(trial: dict[str, Any]) -> str:
    return folder_of(trial["number"])


def table(asked: Search, done: list[Trial], content: dict[str, Any]) -> str:
    """Return the best trials, the importance of the options, and the budget, as lines."""
    importance = content["importance"]
    complete = [trial for trial in done if trial.state == "complete"]
    ranked = sorted(complete, key=lambda trial: -(trial.value or 0.0))
    states = {state: sum(t.state == state for t in done) for state in ("pruned", "fail")}
    lines = [
        f"{len(done)} trials in {content['seconds']:.0f} s of training: {len(complete)} complete, "
        f"{states['pruned']} stopped early, {states['fail']} failed"
    ]
    lines += [
        f"  {trial.value:.4f}  {title(trial.number, trial.params)}{'  <- best' * (i == 0)}"
        for i, trial in enumerate(ranked[:5])
    ]
    if importance:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in importance.items())
        lines.append(f"importance  {shares}")
    edges = at_the_edge(asked.space, ranked[0].params) if ranked else []
    lines += [f"note      the best {name}; a wider range may hold a better one" for name in edges]
    return "\n".join(lines)


def at_the_edge(space: Space, params: dict[str, Any]) -> list[str]:
    """Return "name=value is at the edge of lo:hi" for the ranges at whose end the best value is."""
    notes = []
    for name, one in space.items():
        if not isinstance(one, Range) or name not in params:
            continue
        value = params[name]
        near = min(value - one.low, one.high - value) <= 0.02 * (one.high - one.low)
        if one.is_log:
            near = min(value / one.low, one.high / value) <= (one.high / one.low) ** 0.02
        if near:
            notes.append(f"{name}={number_text(value)} is at the edge of {one.text()}")
    return notes
