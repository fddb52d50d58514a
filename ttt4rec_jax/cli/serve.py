"""The command experiments/serve.py: serve live sessions over HTTP.

JAX and the web framework are imported after the flags have been checked.
"""

import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.settings import UserError, check, option
from ttt4rec_jax.cli.command import Command, FinishedRun, Section, exit_code
from ttt4rec_jax.cli.surroundings import start_jax
from ttt4rec_jax.config.execution import PROGRAM_CACHE
from ttt4rec_jax.service.settings import API_KEY, METRICS, ServiceConfig

PURPOSE = f"""Serve live sessions over HTTP, with a page that a person can click:

{{program}} --run=runs/x
{{program}} --run=runs/x --run=runs/y --port=8080
{{program}} --run=runs/x --sessions=redis://localhost:6379/0 --host=0.0.0.0 --workers=2

--run names a run or an export; given twice, the page shows both side by side. The page is at /, and
the interface is described at /openapi.json. If the environment variable {API_KEY} is set,
requests need that key. SIGTERM stops after what is in flight, SIGHUP loads the run again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeFlags(FinishedRun):
    """Which models are served."""

    second: str = option("", "Folder of a second run or export, shown beside the first.", path=True)
    program_cache: str = option("", PROGRAM_CACHE, path=True)

    def __post_init__(self) -> None:
        check(self)
        if not self.run:
            raise UserError("--run: missing; give --run=FOLDER, a run or an export; see --help")
        for flag, folder in (("run", self.run), ("second", self.second)):
            files = (Path(folder) / "config.json", Path(folder) / "manifest.json")
            if folder and not any(file.exists() for file in files):
                raise UserError(
                    f"--{flag}: {folder} holds no run and no export (no config.json or "
                    "manifest.json there); name the folder of a run or an export"
                )

    @property
    def folders(self) -> dict[str, str]:
        """The folders by the names of their models."""
        first = Path(self.run).resolve().name
        if not self.second:
            return {first: self.run}
        second = Path(self.second).resolve().name
        return {first: self.run, f"{second}-2" if second == first else second: self.second}


COMMAND = Command(
    PURPOSE,
    (
        Section("The models:", ServeFlags, ("run", "second", "model", "inner")),
        Section("The service:", ServiceConfig),
        Section("Where to run:", ServeFlags, ("data_dir", "cache_dir", "program_cache")),
    ),
)


def main(argv: list[str]) -> int:
    """Serve. Returns the exit code; see command.exit_code."""
    return exit_code(lambda: _serve(argv))


def _serve(argv: list[str]) -> None:
    parsed = COMMAND.parse(second_run(argv))
    flags = parsed.settings(ServeFlags)
    config = parsed.settings(ServiceConfig)
    check_installed(config)
    start_jax()
    from ttt4rec_jax.pipeline.devices import enable_compilation_cache
    from ttt4rec_jax.service import logs, models

    enable_compilation_cache(flags.program_cache)
    if not models.is_export(flags.run):
        flags.import_own()

    def load() -> Mapping[str, Any]:
        return {
            name: models.load(
                folder, config.batch_sizes, config.max_k, flags.data_dir, flags.cache_dir
            )
            for name, folder in flags.folders.items()
        }

    # for the Unix socket and the metrics; no other user can read it
    with tempfile.TemporaryDirectory(prefix="ttt4rec-") as folder:
        os.environ[METRICS] = folder  # before the import
        from ttt4rec_jax.service.server import serve

        logs.start()
        serve(config, load, Path(folder))


def second_run(argv: list[str]) -> list[str]:
    """Return the arguments with --second in place of a second --run."""
    places = [i for i, word in enumerate(argv) if word.lstrip("-").partition("=")[0] == "run"]
    if len(places) > 2:
        raise UserError(f"--run: given {len(places)} times; at most two runs are served together")
    if len(places) < 2:
        return argv
    place = places[1]
    return [*argv[:place], argv[place].replace("run", "second", 1), *argv[place + 1 :]]


def check_installed(config: ServiceConfig) -> None:
    """Raise UserError if a library of the extra `serve` is missing."""
    needed = ["fastapi", "prometheus_client", "uvicorn", *(["redis"] if config.uses_redis else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{missing[0]} is not installed; the service needs: pip install 'ttt4rec_jax[serve]'"
        )
