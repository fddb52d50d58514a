"""The command experiments/export.py: export a finished run for serving.

JAX is imported once the flags are known to be right.
"""

import dataclasses
from pathlib import Path

from data_prep.settings import UserError, check, option
from ttt4rec_jax.cli.command import Command, FinishedRun, Section, exit_code
from ttt4rec_jax.serving import export_folder

PURPOSE = """Export a finished run as StableHLO programs for cpu, cuda and tpu that need jax alone:

{program} --run=runs/x --output=model/

The export holds the run's best parameters; the run's folder is all that is needed. It consists of
programs for any batch size (encode, score candidates, top k and, for TTT4Rec, a session's step),
arrays, items and a manifest. It is loaded by the load_export.py in it, which needs jax, numpy and
flatbuffers, but not this package."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportFlags(FinishedRun):
    """The flags of export.py."""

    output: str = option("", "Folder to write, new or empty (required).")
    k: int = option(100, "Maximum number of items that a request can ask for.", low=1)
    overwrite: bool = option(False, "Replace the export in --output.")

    def __post_init__(self) -> None:
        check(self)
        if not self.output:
            raise UserError("--output: missing; give --output=FOLDER, a new folder; see --help")


COMMAND = Command(PURPOSE, (Section("Flags:", ExportFlags),))


def main(argv: list[str]) -> int:
    """Export a run. Returns the exit code, see command.exit_code."""
    return exit_code(lambda: _export(argv))


def _export(argv: list[str]) -> None:
    flags = COMMAND.parse(argv).settings(ExportFlags)
    flags.check_run()
    output = Path(flags.output)
    export_folder.check(output, flags.overwrite)
    from ttt4rec_jax.serving.export import export_run  # imports JAX

    flags.import_own()
    manifest = export_run(
        flags.run,
        output,
        flags.k,
        overwrite=flags.overwrite,
        data_dir=flags.data_dir,
        cache_dir=flags.cache_dir,
    )
    print(summary(output, manifest))


def summary(output: Path, manifest: dict) -> str:
    """Return in two lines what was written."""
    megabytes = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    return (
        f"{output}: {manifest['model']['model']}, {manifest['items']:,} items, "
        f"top {manifest['k']}; {', '.join(manifest['programs'])} "
        f"for {', '.join(manifest['platforms'])}; {megabytes:.1f} MB\n"
        f"load it with {output / 'load_export.py'}, which needs jax, numpy and flatbuffers"
    )
