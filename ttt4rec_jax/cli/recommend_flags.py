"""The flags of experiments/recommend.py, and which of them go together. Imports no JAX."""

import dataclasses

from data_prep.settings import UserError, check, option
from ttt4rec_jax.cli.command import Command, FinishedRun, Section
from ttt4rec_jax.config.execution import PROGRAM_CACHE
from ttt4rec_jax.serving.files import FORMATS

PURPOSE = f"""Recommend with a finished run: to all users in a file, to one user, or click by click:

{{program}} --run=runs/x --histories=users.parquet --k=10 --output=top.parquet
{{program}} --run=runs/x --user=42
{{program}} --run=runs/x --interactive

It uses the run's best parameters, and needs nothing but the run's folder (--user without
--histories also reads the run's data). Give one of: --histories with --output, --user,
--interactive.

{FORMATS}"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecommendFlags(FinishedRun):
    """The flags of recommend.py. Raises UserError if they do not go together."""

    histories: str = option("", "Users' clicks: a .parquet, .csv or .jsonl file, or - for stdin.")
    output: str = option("", "File to write: .parquet, .csv or .jsonl, or - for stdout.")
    user: str = option("", "Id of one user, whose history and recommendations are printed.")
    interactive: bool = option(
        False, "Ask for clicks one by one, and print how the recommendations change."
    )
    k: int = option(10, "Number of items to recommend.", low=1)
    unknown: str = option(
        "error",
        "What to do with clicks on items that the run's data does not have.",
        choices=("error", "skip"),
    )
    include_seen: bool = option(False, "Recommend items of the history, too.")
    exclude: str = option("", "Ids of items never to recommend, separated by commas.")
    include_only: str = option("", "Ids of the only items to recommend, separated by commas.")
    whole_history: bool = option(
        False, "Read histories from their first click, as a session does, not only the last clicks."
    )
    program_cache: str = option("", PROGRAM_CACHE)

    def __post_init__(self) -> None:
        check(self)
        self.check_run()
        if self.output and (not self.histories or self.user or self.interactive):
            raise UserError(
                "--output: goes with --histories alone; leave out --user and --interactive"
            )
        if self.interactive and (self.histories or self.whole_history):
            raise UserError(
                "--interactive: asks for the clicks itself; "
                "leave out --histories and --whole_history"
            )
        if not (self.output or self.user or self.interactive):
            raise UserError(
                "nothing to do; give --histories and --output, or --user, or --interactive"
            )


COMMAND = Command(PURPOSE, (Section("Flags:", RecommendFlags),))
