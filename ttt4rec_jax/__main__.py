"""The installed command `ttt4rec`, and `python -m ttt4rec_jax`: one command for each script."""

import importlib
import importlib.metadata
import sys
from typing import NamedTuple

from data_prep.settings import nearest


class Entry(NamedTuple):
    """A command: the module with its main(argv), and its purpose in one line."""

    module: str
    purpose: str


COMMANDS = {
    "train": Entry("cli.main", "Train and evaluate a model, or a sweep of several settings."),
    "sweep": Entry("cli.main", "The same as train; flags with several values define a sweep."),
    "search": Entry("cli.search", "Search for the best options of a model, by validation."),
    "compare": Entry("cli.compare", "Compare finished runs by a paired test."),
    "evaluate": Entry("cli.evaluate", "Judge the lists or scores of any recommender."),
    "candidates": Entry("cli.candidates", "Write what another library needs to be judged."),
    "recommend": Entry("cli.recommend", "Recommend items with a finished run."),
    "export": Entry("cli.export", "Export a finished run to serve it without this package."),
    "serve": Entry("cli.serve", "Serve live sessions over HTTP, with a page to click."),
    "plot": Entry("cli.plot", "Plot the loss and validation curves of runs."),
    "reproduce": Entry("paper.command", "Reproduce the paper's tables and figures."),
}
HELP = ("--help", "-help", "-h", "help")


def usage() -> str:
    """Return what `ttt4rec --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {entry.purpose}" for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            "Train, evaluate and serve sequential recommenders with test-time-training layers.",
            "",
            "usage: ttt4rec COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "ttt4rec COMMAND --help lists the flags of a command.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command that argv[1] names. Returns its exit code; 2 if there is no such command."""
    argv = sys.argv if argv is None else argv
    if len(argv) < 2 or argv[1] in HELP:
        print(usage(), file=sys.stdout if len(argv) > 1 else sys.stderr)
        return 0 if len(argv) > 1 else 2
    name = argv[1]
    if name == "--version":
        print(f"ttt4rec_jax {importlib.metadata.version('ttt4rec_jax')}")
        return 0
    if name not in COMMANDS:
        print(
            f"error: {name!r} is not a command{nearest(name, COMMANDS)}; see ttt4rec --help",
            file=sys.stderr,
        )
        return 2
    command = importlib.import_module(f"ttt4rec_jax.{COMMANDS[name].module}")
    return command.main([f"ttt4rec {name}", *argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
