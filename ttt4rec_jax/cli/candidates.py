"""The command experiments/candidates.py: write what another library needs to be judged."""

import dataclasses
from pathlib import Path

from data_prep.settings import DataConfig, UserError, check, option
from data_prep.text import shown
from ttt4rec_jax.cli.command import Command, Section, exit_code
from ttt4rec_jax.cli.flags import HEADINGS
from ttt4rec_jax.config.execution import DataFolders

PURPOSE = """Write what another library needs to train, to recommend and to score, for evaluate:

{program} --dataset=beauty --output=for-als

The folder holds Parquet files with the ids of the data: clicks.parquet (what may be known),
users.parquet (whom to recommend items to), candidates.parquet (the pairs to score, in an order that
does not tell the target) and items.parquet; its manifest.json describes them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidatesFlags(DataFolders):
    """The flags of candidates.py."""

    output: str = option("", "New folder to write (required).", path=True)

    def __post_init__(self) -> None:
        check(self)
        if not self.output:
            raise UserError("--output: missing; give --output=FOLDER, a new folder; see --help")
        path = Path(self.output)
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise UserError(f"--output: {self.output} exists; name a new folder")


COMMAND = Command(
    PURPOSE, (Section("Flags:", CandidatesFlags), Section(HEADINGS["data"], DataConfig))
)


def main(argv: list[str]) -> int:
    """Write the folder. Returns the exit code; see command.exit_code."""
    return exit_code(lambda: _write(argv))


def _write(argv: list[str]) -> None:
    parsed = COMMAND.parse(argv)
    flags = parsed.settings(CandidatesFlags)
    config = parsed.settings(DataConfig)
    from data_prep.prepare import prepare
    from ttt4rec_jax.data.dataset import load_dataset
    from ttt4rec_jax.pipeline import candidates

    prepared = prepare(config, flags.data_dir, flags.cache_dir)
    dataset = load_dataset(prepared, on_host=True)
    tables = candidates.candidates(prepared, dataset)
    candidates.write(Path(flags.output), tables, dataset.manifest)
    print(
        f"{len(tables.clicks):,} clicks, {len(tables.users):,} users, "
        f"{len(tables.candidates):,} candidates, {len(tables.items):,} items "
        f"in {shown(flags.output)}"
    )
