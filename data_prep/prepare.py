"""Prepare a built-in data set or a file: write the folder that ttt4rec_jax.data reads.

items.npy                        int32 [E]        items of user 0's clicks, then of user 1's, ...,
                                                  in order; items are 1..V, 0 is padding
timestamps.npy                   int64 [E]        in manifest["time_unit"]: seconds for the
                                                  catalogue's data sets
offsets.npy                      int64 [users+1]  user u's clicks are offsets[u]..offsets[u+1]-1
train_ends.npy                   int64 [users]    one past a user's last training click
{validation,test}_targets.npy    int64 [T]        flat positions of the targets, ascending
{validation,test}_negatives.npy  int32 [T, N]     items that the target's user never clicks
is_first.npy gaps.npy gap_starts.npy              index.click_index of the above
users.parquet                                     row u: the original id of user u
items.parquet                                     row r: the original id of item r+1, and its title
                                                  if known
manifest.json                                     counts, settings, source, licence, digests
"""

import dataclasses
import hashlib
import json
import logging
import re
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from data_prep import (
    clicks,
    download,
    index,
    negatives,
    origin,
    readers,
    rows,
    sources,
    split,
    store,
    summary,
    synthetic,
    ties,
    windows,
)
from data_prep.catalogue.entry import Layout, Source
from data_prep.settings import DataConfig, UserError
from data_prep.tables import Clicks, encode

logger = logging.getLogger(__name__)
# Clicks are sorted in parts of whole users, since a sort takes several times their memory: about
# SORTED_AT_ONCE clicks each, but more if that would make more than MOST_PARTS parts.
SORTED_AT_ONCE = 2**22
MOST_PARTS = 16
MOST_CLICKS = 2**31  # positions of clicks are int32 in training and evaluation


def prepare(config: DataConfig, data_dir: str | Path = "", cache_dir: str | Path = "") -> Path:
    """Return the folder of the prepared data; create it unless it exists for source and settings.

    data_dir: folder of raw archives, to which they are downloaded; default: $TTT4REC_DATA_DIR, or
    a folder in the user's cache directory. cache_dir: folder of prepared folders; default:
    $TTT4REC_CACHE_DIR, or a folder in the user's cache directory. Raise UserError for any error
    that the user can correct.
    """
    windows.check_named(config)
    cache = sources.user_folder(cache_dir, "TTT4REC_CACHE_DIR", "prepared")
    source = sources.find(config)
    path, layout = _file(source, sources.user_folder(data_dir, "TTT4REC_DATA_DIR", "data"))
    before = origin.stamps(path)
    found = origin.origin(path, cache)
    settings = _settings(config, source)
    layout_settings = dataclasses.asdict(layout) if path else {}
    key = json.dumps(
        [store.FORMAT_VERSION, found["sha256"], layout_settings, settings], sort_keys=True
    )
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", source.name)[:40]
    folder = cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    def make(new: Path, scratch: Path) -> None:
        begin = time.perf_counter()
        filters = settings["filters"]
        titles = None
        if path:
            if path.is_file():
                download.check_local(source, path)
            parsed = readers.read(path, layout, config.on_bad_rows, scratch)
            if source.titles and path.suffix == ".zip":
                titles = readers.read_titles(path, source.titles)
            origin.check_unchanged(path, before)
        else:
            parsed = _from_memory(synthetic.generate(config.data_seed))
        parsed, kept, dropped, window = _filtered(parsed, config, filters)
        sequences = in_sequence(kept, filters)
        del kept
        if config.ties == "shuffled":
            ties.shuffle(sequences.items, sequences.times, sequences.offsets, config.data_seed)
        arrays, tables = prepared(sequences, titles, config, window)
        whole = arrays["items"], arrays["offsets"], arrays["train_ends"], len(tables["items"])
        lookup = index.click_index(*whole)
        on_items = index.clicks_per_item(arrays["items"], len(tables["items"]))
        counts = {"user": np.diff(arrays["offsets"]), "item": on_items}
        unit = source.time_unit or parsed.time_unit
        columns = parsed.facts.get("columns", {})
        manifest = {
            "name": source.name,
            "source": found,
            "counts": {
                "users": len(tables["users"]),
                "items": len(tables["items"]),
                "interactions": len(arrays["items"]),
                "validation": len(arrays["validation_targets"]),
                "test": len(arrays["test_targets"]),
            },
            **parsed.facts,
            "rows": dropped | {"cores": dropped["left"] - len(arrays["items"])},
            "summary": summary.summarise(arrays, lookup["is_first"], on_items, unit),
            "notices": [*parsed.notices, *summary.notices(columns, tables, counts)],
            **settings,
            "skipped_rows": dataclasses.asdict(parsed.bad),
            "time_unit": unit,
            "licence": source.licence,
            "citation": source.citation,
        }
        store.write(new, arrays, lookup, tables, manifest)
        logger.info(
            "prepared %s: %s in %.1f s", folder, manifest["counts"], time.perf_counter() - begin
        )

    return store.reuse_or_make(folder, make)


def _filtered(
    parsed: Clicks, config: DataConfig, filters: dict[str, int]
) -> tuple[Clicks, pl.LazyFrame, dict[str, int], windows.Window | None]:
    """Return the clicks without their table, those that are kept, counts of rows, and the window.

    The table is given up to free the memory for what follows. The window is that of a rolling
    split: later clicks are dropped before anything is counted by the filters.
    """
    kept = parsed.table.lazy()
    left = len(parsed.table)
    counts = {
        "read": left + parsed.bad.count + parsed.excluded,
        "skipped": parsed.bad.count,
        "where": parsed.excluded,
        "dedup": 0,
        "later": 0,
    }
    if config.dedup != "none":
        kept = clicks.without_repeats(kept, config.dedup).collect(engine="streaming").lazy()
        counts["dedup"] = left - kept.select(pl.len()).collect().item()
    counts["left"] = left - counts["dedup"]
    window = windows.window_of(kept, config) if config.split == "rolling" else None
    if window:
        kept = kept.filter(pl.col("time") < window.end)
        before = kept.select(pl.len()).collect(engine="streaming").item()
        counts["later"] = counts["left"] - before
        counts["left"] = before
    kept = clicks.k_core(kept, filters["user_core"], filters["item_core"])
    return parsed._replace(table=parsed.table.clear()), kept, counts, window


def _file(source: Source, data_dir: Path) -> tuple[Path | None, Layout]:
    """Return a source's file, downloaded if necessary, and its layout; None for generated data."""
    if not source.file:
        return None, source.layout
    existing = sources.existing_file(source, data_dir)
    return existing or (download.fetch(source, data_dir), source.layout)


def _settings(config: DataConfig, source: Source) -> dict:
    """Return the settings that determine the prepared data, as in the manifest."""
    parts: dict = {"kind": config.split}
    if config.split == "temporal":
        parts |= {"validation_time": config.validation_time, "test_time": config.test_time}
        parts["new_users"] = "test"  # where users without a training click have targets
    elif config.split == "user_holdout":
        parts["holdout_users"] = config.holdout_users
    elif config.split == "rolling":
        parts |= {n: getattr(config, n) for n in ("validation_time", "windows", "window")}
    return {
        "filters": {
            "user_core": source.user_core if config.user_core < 0 else config.user_core,
            "item_core": source.item_core if config.item_core < 0 else config.item_core,
        },
        "split": parts,
        "negatives": {"kind": config.negatives, "number": config.eval_negatives},
        "where": source.layout.where,
        "dedup": config.dedup,
        "ties": config.ties,
        "data_seed": config.data_seed,
        "on_bad_rows": config.on_bad_rows,
    }


class Sequences(NamedTuple):
    """Clicks in order, as arrays of the folder, and the tables of user ids and item ids."""

    items: np.ndarray
    times: np.ndarray
    offsets: np.ndarray
    tables: dict[str, pl.DataFrame]


def in_sequence(kept: pl.LazyFrame, filters: dict[str, int]) -> Sequences:
    """Number filtered clicks and sort them. Raise UserError if there are none, or too many."""
    count = kept.select(pl.len()).collect(engine="streaming").item()
    if count >= MOST_CLICKS:  # before anything is counted or sorted
        raise UserError(
            f"--dataset: {count:,} clicks are left, expected fewer than {MOST_CLICKS:,}; use fewer"
        )
    tables = {"users": clicks.id_table(kept, "user"), "items": clicks.id_table(kept, "item")}
    if not len(tables["users"]):
        cores = " ".join(f"--{name}={least}" for name, least in filters.items())
        raise UserError(f"{cores}: no clicks are left; lower the filters or use more data")
    numbered = clicks.numbered(kept, tables["users"], tables["items"])
    counts = numbered.group_by("user").len().sort("user").collect(engine="streaming")["len"]
    offsets = np.concatenate([[0], np.cumsum(counts.to_numpy(), dtype=np.int64)])
    items = np.empty(offsets[-1], np.int32)
    times = np.empty(offsets[-1], np.int64)
    size = max(SORTED_AT_ONCE, -(-offsets[-1] // MOST_PARTS))
    for low, high in index.blocks(offsets, size):
        part = clicks.in_order(numbered.filter(pl.col("user").is_between(low, high - 1))).collect(
            engine="streaming"
        )
        items[offsets[low] : offsets[high]] = part["item"]
        times[offsets[low] : offsets[high]] = part["time"]
    return Sequences(items, times, offsets, tables)


def prepared(
    sequences: Sequences,
    titles: pl.DataFrame | None,
    config: DataConfig,
    window: windows.Window | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, pl.DataFrame]]:
    """Return the arrays and the tables of the prepared folder. window: that of a rolling split.

    Raise UserError if there is nothing to evaluate.
    """
    items, times, offsets, tables = sequences
    parts = _split(config, offsets, times, window)
    for part in ("validation", "test"):
        if not len(getattr(parts, part)):
            reason = f"no user has a {part} target and a click before it"
            raise UserError(
                f"--split={config.split}: {reason}; use more data, other filters or other cuts"
            )
    arrays = {
        "items": items,
        "timestamps": times,
        "offsets": offsets,
        "train_ends": parts.train_ends,
    }
    history = negatives.clicked(items, offsets, len(tables["items"]))
    pool = negatives.pool(config.negatives, items, offsets, parts.train_ends, len(tables["items"]))
    for number, part in enumerate(("validation", "test")):
        positions = getattr(parts, part)
        users = np.searchsorted(offsets, positions, side="right") - 1
        arrays[f"{part}_targets"] = positions.astype(np.int64)
        arrays[f"{part}_negatives"] = negatives.draw(
            users,
            history,
            pool,
            config.eval_negatives,
            (config.data_seed, number),
            split.is_new(offsets, parts.train_ends, users),
        )
    tables = {name: ids.select("id") for name, ids in tables.items()}
    if titles is not None:
        same = titles.with_columns(pl.col("id").cast(tables["items"].schema["id"], strict=False))
        tables["items"] = tables["items"].join(same, on="id", how="left", maintain_order="left")
    return arrays, tables


def _split(
    config: DataConfig, offsets: np.ndarray, times: np.ndarray, window: windows.Window | None
) -> split.Split:
    if window:
        return split.at_times(offsets, times, window.validation, window.test)
    if config.split == "temporal":
        return split.temporal(offsets, times, config.validation_time, config.test_time)
    if config.split == "user_holdout":
        return split.user_holdout(offsets, config.holdout_users, config.data_seed)
    return split.leave_one_out(offsets)


def _from_memory(table: pl.DataFrame) -> Clicks:
    texts = table.lazy().with_columns(pl.col("user", "item").cast(pl.String))
    return Clicks(encode(texts), "seconds", rows.BadRows())
