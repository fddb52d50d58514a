"""Where a run reads and writes, and on which devices it is trained. Imports no JAX."""

import dataclasses

from data_prep.settings import UserError, check, nearest, option

PRESETS = ("paper", "fair", "authors", "best")
PROGRAM_CACHE = (
    "Folder that caches compiled programs; default: a folder in the user's cache directory; "
    "none: no cache."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFolders:
    """Where the data are, for the commands that read them."""

    data_dir: str = option(
        "",
        "Folder of downloaded archives; default: $TTT4REC_DATA_DIR, or a folder in the user's "
        "cache directory.",
        path=True,
    )
    cache_dir: str = option(
        "",
        "Folder of prepared data; default: $TTT4REC_CACHE_DIR, or a folder in the user's cache "
        "directory.",
        path=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(DataFolders):
    """Where a run reads and writes, its devices, and the preset of flags that are not given."""

    preset: str = option(
        "paper",
        "Values of the flags that are not given: those of the paper; the same with an equal target "
        "tower and equal early stopping for all models (fair); those that its authors probably "
        "used (authors); the best known ones for the model and data set (best); or those of a "
        "file that search has written (FILE.json).",
    )
    run_dir: str = option(
        "", "Folder of the run; default: runs/<model>-<dataset>-<time>.", path=True
    )
    resume: bool = option(
        False, "Resume the run in --run_dir; flags that are not given keep the run's values."
    )
    dry_run: bool = option(
        False, "Print what would be trained, and how many steps that takes; train nothing."
    )
    program_cache: str = option("", PROGRAM_CACHE, path=True)
    mesh: str = option(
        "",
        "Devices of a single run: data:4,model:2 splits batches over 4 devices and the item table "
        "over 2; default: one device, or all devices of several processes.",
    )
    data_placement: str = option(
        "auto",
        "Where the data reside during training. device: in the device's memory. host: mapped from "
        "disk and transferred batch by batch. auto: device, unless the data would take more than a "
        "quarter of its memory.",
        choices=("auto", "device", "host"),
    )
    coordinator: str = option(
        "",
        "Address host:port of the first process, if several processes train one run; on Slurm, "
        "Kubernetes and Cloud TPU it is detected.",
    )
    num_processes: int = option(
        1,
        "Number of processes that train one run; each is started with the same flags except "
        "process_id.",
        low=1,
    )
    process_id: int = option(0, "Index of this process, from 0 to num_processes - 1.", low=0)

    def __post_init__(self) -> None:
        check(self)
        if self.preset not in PRESETS and not self.preset.endswith(".json"):
            raise UserError(
                f"--preset: {self.preset!r} is not one of {', '.join(PRESETS)} or a file .json"
                f"{nearest(self.preset, PRESETS)}"
            )
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
