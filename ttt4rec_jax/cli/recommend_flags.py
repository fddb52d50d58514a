"""The flags of experiments/recommend.py, and how they may be combined. Imports no JAX."""

import dataclasses

from data_prep.settings import UserError, check, option
from ttt4rec_jax.cli.command import Command, FinishedRun, Section
from ttt4rec_jax.config.execution import PROGRAM_CACHE
from ttt4rec_jax.serving.files import FORMATS
from ttt4rec_jax.serving.histories import seconds_of

PURPOSE = f"""Recommend items with a finished run, to users in a file, to one user, or in a session:

{{program}} --run=runs/x --histories=users.parquet --k=10 --output=top.parquet
{{program}} --run=runs/x --user=42
{{program}} --run=runs/x --interactive

Give --histories and --output, or --user, or --interactive; with --user, an interactive session
starts from that user's history. The best parameters are read from the run's folder, which is all
that is needed, except that --user without --histories reads the history from the run's data.

{FORMATS}"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecommendFlags(FinishedRun):
    """The flags of recommend.py. Raises UserError if they cannot be combined."""

    histories: str = option(
        "", "Histories to read: a .parquet, .csv or .jsonl file, or - for stdin.", path=True
    )
    output: str = option("", "File to write: .parquet, .csv or .jsonl, or - for stdout.", path=True)
    csv_escape: bool = option(
        False,
        "In a .csv output, write ' before text that begins with =, +, -, @, a tab or a carriage "
        "return, which a spreadsheet would take for a formula.",
    )
    user: str = option("", "Id of a user whose history and recommendations are printed.")
    interactive: bool = option(
        False, "Read clicks from the terminal, and print the recommendations after each."
    )
    k: int = option(10, "Number of items to recommend.", low=1)
    unknown: str = option(
        "error",
        "What to do with clicks on items that are not in the run's data: stop with an error, or "
        "skip them.",
        choices=("error", "skip"),
    )
    include_seen: bool = option(False, "Also recommend items of the history.")
    exclude: str = option("", "Ids of items that are not recommended, separated by commas.")
    include_only: str = option(
        "", "Ids of the only items that are recommended, separated by commas."
    )
    whole_history: bool = option(
        False, "Read the whole history, as a session does, instead of its last max_len clicks."
    )
    at: str = option(
        "",
        "Time of the requests, for a run with --time=request: seconds since 1970, or a date-time "
        "in UTC. In an interactive session it is the present.",
    )
    program_cache: str = option("", PROGRAM_CACHE)

    def __post_init__(self) -> None:
        check(self)
        self.check_run()
        if self.output and (not self.histories or self.user or self.interactive):
            raise UserError(
                "--output: needs --histories; it cannot be combined with --user or --interactive"
            )
        if self.interactive and (self.histories or self.whole_history):
            raise UserError(
                "--interactive: reads clicks from the terminal; "
                "leave out --histories and --whole_history"
            )
        if self.at:
            if self.interactive:
                raise UserError("--at: an interactive session asks at the present; leave it out")
            seconds_at(self.at)
        if not (self.output or self.user or self.interactive):
            raise UserError(
                "nothing to do; give --histories and --output, or --user, or --interactive"
            )


def seconds_at(text: str) -> float | None:
    """Return the time that --at names in seconds, None for an empty text. Raises UserError."""
    try:
        return seconds_of(text) if text else None
    except ValueError as error:
        raise UserError(
            f"--at: found {text!r}, expected seconds since 1970, or a date-time as "
            "2024-05-01 12:00:00"
        ) from error


COMMAND = Command(
    PURPOSE,
    (
        Section("The run:", RecommendFlags, ("run", "model", "inner")),
        Section(
            "Input and output:",
            RecommendFlags,
            ("histories", "output", "csv_escape", "user", "interactive"),
        ),
        Section(
            "Recommendations:",
            RecommendFlags,
            (
                "k",
                "unknown",
                "include_seen",
                "exclude",
                "include_only",
                "whole_history",
                "at",
            ),
        ),
        Section("Where to run:", RecommendFlags, ("data_dir", "cache_dir", "program_cache")),
    ),
)
