r"""Measure a training step as the catalogue grows, with dense Adam and --sparse_embeddings.

    python experiments/benchmarks/catalogue.py --items=10000,100000,1000000 \
        [--targets=every --max_len=50] [--json=FILE]

Clicks are generated in memory and drawn uniformly, so that hardly any item occurs twice in a batch,
which is the worst case. A measurement is a dispatch of several steps with donated buffers, as in a
run. Temporary memory does not include the parameters and their two moments, so that a copy of the
item table would be visible there.
"""

import dataclasses
import sys
from collections.abc import Callable

from command_line import Figures, run
from generated import generated
from timing import interleaved, machine, show

from data_prep.settings import option
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.config.values import expand
from ttt4rec_jax.training.compile import Executables, compile_runs
from ttt4rec_jax.training.step import EpochSums


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogueFlags(Figures):
    """The flags of catalogue.py."""

    items: str = option("10000,100000,1000000", "Sizes of the catalogue, separated by commas.")
    targets: str = option("last", "main.py's flag.", choices=("last", "every"))
    max_len: int = option(10, "Length of the histories.", low=1)
    dim: int = option(64, "Width of the model.", low=1)
    batch_size: int = option(256, "Histories of a step.", low=1)
    steps: int = option(20, "Steps of one measurement.", low=1)
    repeats: int = option(9, "Measurements of each row.", low=1)


def more_steps(executables: Executables, steps: int) -> Callable[[], EpochSums]:
    """Return a function that trains `steps` more steps at each call."""
    program = executables.program
    training = program.training
    data = (program.clicks, training.examples, *executables.begin_epoch(0))
    state = training.first_state

    def run() -> EpochSums:
        nonlocal state
        state, sums = executables.run_steps(state, training.first_sums, *data, 0, steps)
        return sums

    return run


def main(flags: CatalogueFlags) -> None:
    sizes = expand("items", flags.items, int)
    before = machine()
    programs = {}
    temporary = {}
    model = ModelConfig(dim=flags.dim, max_len=flags.max_len)
    for num_items in sizes:
        dataset = generated(num_items, 20_000, 8, 1)
        for adam in ("dense", "sparse"):
            train = TrainConfig(
                batch_size=flags.batch_size,
                targets=flags.targets,
                sparse_embeddings=adam == "sparse",
            )
            executables = compile_runs([Config(model=model, train=train)], dataset)
            memory = executables.run_steps.memory_analysis()
            temporary[num_items, adam] = None if memory is None else memory.temp_size_in_bytes / 1e6
            programs[num_items, adam] = more_steps(executables, flags.steps)
    medians = interleaved(programs, flags.repeats)
    rows = [
        {
            "items": num_items,
            "adam": adam,
            "ms_per_step": ms / flags.steps,
            "over_fewest_items": ms / medians[sizes[0], adam],
            "over_dense": ms / medians[num_items, "dense"],
            "temporary_mb": temporary[num_items, adam],
        }
        for (num_items, adam), ms in medians.items()
    ]
    show(rows, before, flags.json)


if __name__ == "__main__":
    sys.exit(run(__doc__, CatalogueFlags, main))
