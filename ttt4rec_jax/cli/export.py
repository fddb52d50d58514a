"""The command experiments/export.py: export a finished run for serving.

JAX is imported after the flags have been checked.
"""

import dataclasses
from pathlib import Path

from data_prep.settings import UserError, check, option
from data_prep.text import shown_lines
from ttt4rec_jax.cli.command import Command, FinishedRun, Section, exit_code
from ttt4rec_jax.cli.surroundings import start_jax
from ttt4rec_jax.serving import export_folder

PURPOSE = """Export a finished run as StableHLO programs, to serve it without this package:

{program} --run=runs/x --output=model/
{program} --run=runs/x --output=model/ --k=20 --overwrite

The export is made from the run's folder and contains the best parameters, the items, a manifest,
and programs for CPU, CUDA and TPU that accept any batch size: encode histories, score candidates,
find the top k and, for TTT4Rec, advance a session by one click. The folder load_export in the
export loads it; it needs jax, numpy and flatbuffers, but not this package."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportFlags(FinishedRun):
    """The flags of export.py."""

    output: str = option(
        "", "Folder to write; new or empty, unless --overwrite (required).", path=True
    )
    k: int = option(100, "Maximum number of items that a request can ask for.", low=1)
    overwrite: bool = option(False, "Replace an existing export in --output.")

    def __post_init__(self) -> None:
        check(self)
        if not self.output:
            raise UserError("--output: missing; give --output=FOLDER, a new folder; see --help")


COMMAND = Command(
    PURPOSE,
    (
        Section("The run:", ExportFlags, ("run", "model", "inner")),
        Section("The export:", ExportFlags, ("output", "k", "overwrite")),
        Section(
            "The data, read for a run of an early version only:",
            ExportFlags,
            ("data_dir", "cache_dir"),
        ),
    ),
)


def main(argv: list[str]) -> int:
    """Export a run. Returns the exit code; see command.exit_code."""
    return exit_code(lambda: _export(argv))


def _export(argv: list[str]) -> None:
    flags = COMMAND.parse(argv).settings(ExportFlags)
    flags.check_run()
    output = Path(flags.output)
    export_folder.check(output, flags.overwrite)
    start_jax()
    from ttt4rec_jax.serving.export import export_run

    flags.import_own()
    manifest = export_run(
        flags.run,
        output,
        flags.k,
        overwrite=flags.overwrite,
        data_dir=flags.data_dir,
        cache_dir=flags.cache_dir,
    )
    print(shown_lines(summary(output, manifest)))


def summary(output: Path, manifest: dict) -> str:
    """Return two lines that say what was written."""
    megabytes = sum(p.stat().st_size for p in output.rglob("*") if p.is_file()) / 1e6
    return (
        f"{output}: {manifest['model']['model']}, {manifest['items']:,} items, "
        f"top {manifest['k']}; {', '.join(manifest['programs'])} "
        f"for {', '.join(manifest['platforms'])}; {megabytes:.1f} MB\n"
        f"load it with {output / 'load_export'}, which needs jax, numpy and flatbuffers"
    )
