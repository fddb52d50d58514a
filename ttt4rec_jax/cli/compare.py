"""The command experiments/compare.py: compare the systems of finished runs. Imports no JAX."""

import dataclasses
import json
from pathlib import Path

from data_prep import atomic
from data_prep.settings import UserError, check, option
from data_prep.text import shown_lines
from ttt4rec_jax.cli.command import Command, Section, exit_code
from ttt4rec_jax.cli.flags import import_named
from ttt4rec_jax.evaluation.compare import compare
from ttt4rec_jax.evaluation.compare_table import table
from ttt4rec_jax.metrics import PROTOCOLS, cutoffs

PURPOSE = """Compare finished runs by a paired test over their test users, for one or more seeds:

{program} runs/sasrec-0 runs/sasrec-1 runs/ttt4rec-0 runs/ttt4rec-1
{program} runs/my-sweep --protocol=full --json=comparison.json

Runs whose settings differ only in the seed form one system. The first run's system is the
reference. For every other system, the table gives the difference of the mean metrics, its 95%
confidence interval, the relative difference and the p-value. With two or more seeds per system, the
intervals also cover the variation between trainings. The method is described in
ttt4rec_jax/evaluation/paired_test.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """The flags of compare.py."""

    protocol: str = option(
        "both",
        "Metrics to compare: among sampled candidates, over the full catalogue, or both.",
        choices=("both", *PROTOCOLS),
    )
    top_k: str = option(
        "",
        "Numbers k of the metrics of the first k items, as in 1,10,50; default: 5,10.",
    )
    json: str = option("", "Also write the comparison to this JSON file.", path=True)
    model: str = option(
        "", "Models of your own among the runs, as module:Class, separated by commas."
    )
    inner: str = option(
        "", "Inner learners of your own among the runs, as module:name, separated by commas."
    )

    def __post_init__(self) -> None:
        check(self)
        if self.top_k:
            cutoffs(self.top_k)


COMMAND = Command(
    PURPOSE,
    (Section("Flags:", CompareFlags),),
    positional="RUN",
    positional_help="Folder of a run, or of a sweep for all of its combinations.",
)


def main(argv: list[str]) -> int:
    """Print a comparison. Returns the exit code; see command.exit_code."""
    return exit_code(lambda: _compare(argv))


def _compare(argv: list[str]) -> None:
    import_named(argv)
    parsed = COMMAND.parse(argv)
    flags = parsed.settings(CompareFlags)
    protocol = "" if flags.protocol == "both" else flags.protocol
    top_k = cutoffs(flags.top_k) if flags.top_k else None
    comparison = compare([Path(run) for run in parsed.positional], protocol, top_k)
    if flags.json:
        try:
            with atomic.file(Path(flags.json)) as file:
                file.write((json.dumps(comparison, indent=2) + "\n").encode())
        except OSError as error:
            raise UserError(
                f"--json: {flags.json} cannot be written ({error.strerror}); name another file"
            ) from error
    print(shown_lines(table(comparison)))
