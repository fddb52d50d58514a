"""Which data set --dataset names, and where its file lies: in the catalogue, or a user's own."""

import dataclasses
import os
from pathlib import Path

from data_prep.agreement import BY_TIME
from data_prep.catalogue import CATALOGUE
from data_prep.catalogue.entry import Layout, Source
from data_prep.settings import DataConfig, UserError
from data_prep.suffixes import COMPRESSIONS, SEPARATORS, file_suffix


def find(config: DataConfig) -> Source:
    """Return the catalogue's entry, or a new one for a user's own file.

    The latter has the columns that the settings name, and 5-core filters for users and items. A
    condition in the settings replaces that of the catalogue. Raise UserError for settings that do
    not fit the data set.
    """
    if file_suffix(config.dataset):
        return _own(config)
    source = CATALOGUE[config.dataset]
    if config.split in BY_TIME and not source.layout.has_times:
        raise UserError(
            f"--split={config.split}: {config.dataset} has no times; use leave_one_out, or another "
            "data set"
        )
    if not config.where:
        return source
    if source.layout.kind in ("", "sequences", "impressions"):
        raise UserError(
            f"--where: {config.dataset} has no columns that a condition could name; leave it out"
        )
    others = tuple((file, _that_meet(layout, config.where)) for file, layout in source.others)
    return dataclasses.replace(
        source, layout=_that_meet(source.layout, config.where), others=others
    )


def _that_meet(layout: Layout, condition: str) -> Layout:
    return dataclasses.replace(layout, where=condition)


def _own(config: DataConfig) -> Source:
    """Return the entry of a user's own file."""
    layout = Layout(
        kind="sequences" if config.layout == "sequences" else "",
        user=config.user_col,
        item=config.item_col,
        time=config.time_col,
        separator=SEPARATORS.get(config.separator, config.separator),
        names=tuple(name.strip() for name in config.columns.split(",")) if config.columns else (),
        quoted=config.quoted,
        comment=config.comment_prefix,
        member=config.member,
        time_format=config.time_format,
        where=config.where,
    )
    path = without_tilde(config.dataset)
    return Source(
        name=path.name.split(".")[0].strip("*") or path.parent.name or "file",
        file=str(path),
        layout=layout,
        user_core=5,
        item_core=5,
        licence="Your own file.",
        citation="None.",
        time_unit="",
    )


def user_folder(flag: str | os.PathLike, variable: str, name: str) -> Path:
    """Return the folder of the flag, of the environment variable, or one in the user's cache."""
    chosen = str(flag) or (os.environ.get(variable, "") if variable else "")
    if chosen:
        return without_tilde(chosen)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else without_tilde("~/.cache")) / "ttt4rec_jax" / name


def without_tilde(path: str) -> Path:
    """Return a path with ~ replaced by the user's home. Raises UserError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: this user has no home; set HOME, or name folders that exist by "
            "--data_dir, --cache_dir and --program_cache"
        ) from error


def existing_file(source: Source, data_dir: Path) -> tuple[Path, Layout] | None:
    """Return a source's file and its layout, None if it has to be downloaded.

    What a person has to fetch may also be compressed. Raise UserError if it is not there.
    """
    if not source.url and not source.by_hand:
        return Path(source.file), source.layout
    for file, layout in ((source.file, source.layout), *source.others):
        for end in ("", *COMPRESSIONS, ".zip") if source.by_hand else ("",):
            if (data_dir / f"{file}{end}").exists():
                return data_dir / f"{file}{end}", layout
    if source.by_hand:
        raise UserError(
            f"--dataset={source.name}: cannot be downloaded without a person; {source.by_hand} "
            f"({source.page}), and put it at {(data_dir / source.file).absolute()}"
        )
    return None
