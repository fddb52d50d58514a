"""Where a run reads and writes, and on which devices it is trained. Imports no JAX."""

import dataclasses

from data_prep.settings import UserError, check, option

PROGRAM_CACHE = (
    "Folder of compiled programs; default: a folder in the user's cache; none: keep none."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFolders:
    """Where data are read, for the commands that read them."""

    data_dir: str = option(
        "",
        "Folder of the archives; default: TTT4REC_DATA_DIR, or a folder in the user's cache.",
    )
    cache_dir: str = option(
        "",
        "Folder of prepared data; default: TTT4REC_CACHE_DIR, or a folder in the user's cache.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(DataFolders):
    """Where a run reads and writes, and where flags that are not given take their values from."""

    preset: str = option(
        "paper",
        "Values of the flags that are not given: those of the paper, those that its authors "
        "probably used, or the best known for the model and data set.",
        choices=("paper", "authors", "best"),
    )
    run_dir: str = option("", "Folder of the run; default: runs/<model>-<dataset>-<time>.")
    resume: bool = option(
        False, "Resume the run in --run_dir; flags that are not given keep the run's values."
    )
    dry_run: bool = option(
        False, "Print what would be trained, in which programs and at what cost; train nothing."
    )
    program_cache: str = option("", PROGRAM_CACHE)
    mesh: str = option(
        "",
        "Spread one run over several devices: data:4,model:2 splits batches over 4 and the item "
        "table over 2; default: one device.",
    )
    data_placement: str = option(
        "auto",
        "Where the data reside during training. device: in the device's memory. host: mapped from "
        "disk, and transferred batch by batch. auto: device if they fit into a quarter of its "
        "memory.",
        choices=("auto", "device", "host"),
    )
    coordinator: str = option(
        "",
        "Address host:port of the first of several processes; "
        "Slurm, Kubernetes and Cloud TPU need none.",
    )
    num_processes: int = option(
        1, "Number of processes that train together, each started with the same flags.", low=1
    )
    process_id: int = option(0, "Index of this process among them, from 0.", low=0)

    def __post_init__(self) -> None:
        check(self)
        mesh_sizes(self.mesh)
        if (self.num_processes > 1) != bool(self.coordinator):
            raise UserError("--coordinator and --num_processes: give both, or neither")
        if self.process_id >= self.num_processes:
            raise UserError(
                f"--process_id: found {self.process_id}, "
                f"expected less than --num_processes={self.num_processes}"
            )
        if self.resume and not self.run_dir:
            raise UserError("--resume: needs --run_dir, the folder of the run to resume")


def mesh_sizes(text: str) -> tuple[int, int]:
    """Return (data, model) of --mesh, 1 for an axis that is not named. Raises UserError."""
    sizes = {"data": 1, "model": 1}
    for part in text.split(",") if text else ():
        name, _, size = part.partition(":")
        if name not in sizes or not size.isdecimal() or int(size) < 1:
            raise UserError(
                f"--mesh: {part!r} is not an axis with its size; "
                "expected data:4, model:2 or data:4,model:2"
            )
        sizes[name] = int(size)
    return sizes["data"], sizes["model"]
