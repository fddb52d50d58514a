"""The command search: the options of a model that are best on validation. Imports no JAX."""

import dataclasses
import signal
import time
from pathlib import Path
from typing import Any

from data_prep.settings import UserError, check, option
from data_prep.text import shown
from ttt4rec_jax.cli import flags
from ttt4rec_jax.cli.command import Command, Parsed, Section, exit_code, invocation
from ttt4rec_jax.cli.surroundings import start_jax
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.config.run import sections
from ttt4rec_jax.config.values import convert
from ttt4rec_jax.pipeline import presets
from ttt4rec_jax.pipeline import search_report as report
from ttt4rec_jax.pipeline.search_space import (
    Search,
    SearchConfig,
    changed,
    fields_of,
    new_search,
    read,
)
from ttt4rec_jax.runs.folder import RunFolder

PURPOSE = """Search for the options of a model that are best on validation, with one budget:

{program} --model=ttt4rec --dataset=beauty --trials=40 --run_dir=runs/search
{program} --model=sasrec --dataset=beauty --learning_rate=1e-4:1e-2:log --num_blocks=1,2,3
{program} --resume --run_dir=runs/search --trials=80 --preset_out=found.json

The flags are those of train. In the sections Model and Training, lo:hi and lo:hi:log search
between two numbers, a,b,c among values, and a single value fixes an option; what is searched for
by default is printed at the start. Every epoch and every choice is by validation (--select_by);
the test set is ranked once, for the best trial, whose folder is that of a run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchFiles:
    """What search writes in addition."""

    preset_out: str = option(
        "",
        "File for the best options, which train takes as --preset=FILE, with the budget that "
        "found them.",
        path=True,
    )

    def __post_init__(self) -> None:
        check(self)


def command(models: list[str]) -> Command:
    """Return the command, with the options that custom models add."""
    train = flags.command(PURPOSE, models)
    own = (Section("Search:", SearchConfig), Section("Result:", SearchFiles))
    return Command(PURPOSE, (*own, *train.sections))


def main(argv: list[str]) -> int:
    """Search as the flags say. Returns the exit code; see command.exit_code."""
    started = time.perf_counter()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    roots: list[Path] = []

    def how_to_resume() -> str:
        if not roots or not (roots[0] / report.FILE).exists():
            return "nothing was started"
        return f"resume with: {' '.join(invocation(argv[0]))} --resume --run_dir={roots[0]}"

    return exit_code(lambda: _search(argv, started, roots), how_to_resume)


def _search(argv: list[str], started: float, roots: list[Path]) -> None:
    parsed = command(flags.import_named(argv)).parse(argv)
    run_config = parsed.settings(RunConfig)
    files = parsed.settings(SearchFiles)
    root = RunFolder(Path(run_config.run_dir or "runs/search"))
    roots.append(root.path)
    asked = asked_for(parsed, root)
    if not run_config.resume and not root.is_free():
        raise UserError(
            f"--run_dir: {root.path} exists and is not empty; name another folder, or --resume the "
            "search in it"
        )
    if run_config.mesh or run_config.coordinator:
        raise UserError("--mesh, --coordinator: a trial is trained on one device; leave them out")
    if run_config.dry_run:
        for name, one in asked.space.items():
            print(shown(f"{name} {one.text()}"))
        print(f"dry run   {asked.config.trials} trials; nothing is trained")
        return
    start_jax()  # a wrong flag is reported before
    from ttt4rec_jax.cli import run

    content = run.search(asked, run_config, root, started)
    if files.preset_out:
        report.write_preset(Path(files.preset_out), asked, content)
        print(shown(f"preset     {files.preset_out}"))


def asked_for(parsed: Parsed, root: RunFolder) -> Search:
    """Return the search that the flags describe, or the one to resume. Raises UserError."""
    config = parsed.settings(SearchConfig)
    given = options_given(parsed)
    if parsed.texts["resume"]:
        before = report.saved(root.path)
        if before is None:
            raise UserError(f"--resume: {root.path} holds no search; name the folder of one")
        budget = {name: getattr(config, name) for name in parsed.given & set(vars(config))}
        now = changed(before, given)._replace(config=dataclasses.replace(before.config, **budget))
        report.check_same(before, now)
        return now
    preset = presets.values(parsed.texts["preset"], parsed.texts["model"], parsed.texts["dataset"])
    names = {"model": parsed.texts["model"], "dataset": parsed.texts["dataset"]}
    return new_search(config, names | given, preset)


def options_given(parsed: Parsed) -> dict[str, Any]:
    """Return the options of a run that the flags give: a value, or what is searched."""
    allowed = fields_of(parsed.texts["model"])
    given = {}
    for part in sections(parsed.texts["model"]).values():
        for field in dataclasses.fields(part):
            if field.name not in parsed.given:
                continue
            text = parsed.texts[field.name]
            searched = read(field.name, text, field) if field.name in allowed else None
            given[field.name] = searched or convert(field.name, text, type(field.default))
    return given
