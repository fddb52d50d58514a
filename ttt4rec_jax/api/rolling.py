"""Rolling evaluation in Python: a run for each of several windows in time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.settings import UserError
from ttt4rec_jax.api.data import Data, Source, prepare
from ttt4rec_jax.api.options import option_lists
from ttt4rec_jax.api.train import Log, base_experiment, folder, silent
from ttt4rec_jax.config import memory
from ttt4rec_jax.pipeline import presets, resume
from ttt4rec_jax.pipeline import windows as rolled
from ttt4rec_jax.pipeline.combinations import combine
from ttt4rec_jax.pipeline.experiment import Experiment


def rolling(
    dataset: Source,
    model: Any = "ttt4rec",
    *,
    windows: int = 4,
    data_options: dict[str, Any] | None = None,
    run_dir: str | Path | None = None,
    progress: bool = True,
    log: Log | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train and test a model in each of several windows in time, as --split=rolling does.

    Args:
        dataset: What `prepare` takes.
        model: What `train` takes; like every option, it may be a list of several, as for `sweep`.
        windows: The number of windows.
        data_options: Options of `prepare`, such as validation_time, which is the share of clicks
            before the first window; but not split and window.
        run_dir: The folder to leave the runs in; by default a temporary one, which is removed.
        progress, log, options: Those of `train`.

    Returns: what windows.json holds: for each combination of the options, the best by validation
    first, its "windows", and "mean", its test metrics over windows {protocol: {metric: value}} with
    half the widths of 95% intervals. Raises UserError, and Interrupted.
    """
    shared = data_options or {}
    if wrong := {"split", "windows", "window"} & shared.keys():
        raise UserError(f"data_options: {', '.join(sorted(wrong))} is set by rolling; leave it out")
    if isinstance(dataset, Data):
        raise UserError(
            "dataset: Data are of one split; give what they were prepared from, and data_options"
        )
    first = prepare(dataset, split="rolling", windows=windows, window=1, **shared)
    log = log or silent
    if run_dir is not None:
        options = options | {"run_dir": str(run_dir)}
    lists, given = option_lists(first.config, model, options)
    presets.check_swept(lists, given)
    lists = rolled.expanded(resume.complete(lists | {"window": [0]}, given, log))
    combinations, run_config = combine(lists)
    root, temporary = folder(run_dir)
    resume.check_folder(root, combinations, run_config.resume)

    def experiments() -> Iterator[Experiment]:
        for part in rolled.by_data(combinations):
            number = next(iter(part.values())).data.window
            data = prepare(dataset, split="rolling", windows=windows, window=number, **shared)
            base = base_experiment(data, root, run_config, len(part), progress, log)
            yield base._replace(combinations=part, flags=lists)

    with memory.in_one_line(), root.locked():
        resume.check_folder(root, combinations, run_config.resume)
        found = rolled.train_all(experiments(), combinations)
    if temporary is not None:
        temporary.cleanup()
    return found
