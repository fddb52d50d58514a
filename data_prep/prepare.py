"""A data set's name, or your file -> a prepared folder, which ttt4rec_jax.data reads.

items.npy               int32 [E]       clicks of user 0, then user 1, ..., each in order; items are 1..V, 0 is padding
timestamps.npy          int64 [E]       in manifest["time_unit"]: seconds for the catalogue's data sets
offsets.npy             int64 [users+1] user u's clicks are offsets[u]..offsets[u+1]-1
train_ends.npy          int64 [users]   one past a user's last training click
{validation,test}_targets.npy    int64 [T]     flat positions of the targets, ascending
{validation,test}_negatives.npy  int32 [T, N]  items that the target's user never clicks
is_first.npy  gaps.npy  gap_starts.npy    index.click_index of the above
users.parquet           row u: the original id of user u
items.parquet           row r: the original id of item r+1, and its title where known
manifest.json           counts, settings, source, licence, digests
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
    archives,
    clicks,
    download,
    index,
    negatives,
    readers,
    rows,
    sources,
    split,
    store,
    synthetic,
)
from data_prep.files import file_digest
from data_prep.settings import DataConfig, UserError

logger = logging.getLogger(__name__)
HASHED_AT_ONCE = 64 << 20  # bytes; the digest of a larger file is remembered
RACY_NS = 2_000_000_000
SORTED_AT_ONCE = (
    2**22,
    16,
)  # clicks, of whole users, but in so many parts at most: a sort takes several times their memory
MOST_CLICKS = 2**31  # positions of clicks are int32 in training and evaluation


def prepare(config: DataConfig, data_dir: str | Path = "", cache_dir: str | Path = "") -> Path:
    """The folder of the prepared data, made unless it is there for this source and these settings.

    data_dir: where raw archives lie or are downloaded to; else $TTT4REC_DATA_DIR, else the user's
    cache folder.
    cache_dir: where prepared folders lie; else $TTT4REC_CACHE_DIR, else the user's cache folder.
    Raises UserError for whatever a user can set right.
    """
    cache = sources.user_folder(cache_dir, "TTT4REC_CACHE_DIR", "prepared")
    source = sources.find(config)
    filters = {
        "user_core": source.user_core if config.user_core < 0 else config.user_core,
        "item_core": source.item_core if config.item_core < 0 else config.item_core,
    }
    if source.name == "synthetic" and not source.file:
        path = None
        layout = None
        origin = {"file": "", "bytes": 0, "sha256": f"generated, version {synthetic.VERSION}"}
    else:
        path, layout = _file(source, sources.user_folder(data_dir, "TTT4REC_DATA_DIR", "data"))
        with archives.readable(path):
            origin = {
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": source_digest(path, cache),
            }
    settings = {
        "filters": filters,
        "split": _split_settings(config),
        "negatives": {"kind": config.negatives, "number": config.eval_negatives},
        "data_seed": config.data_seed,
        "on_bad_rows": config.on_bad_rows,
    }
    layout_settings = dataclasses.asdict(layout) if layout else {}
    key = json.dumps(
        [store.FORMAT_VERSION, origin["sha256"], layout_settings, settings], sort_keys=True
    )
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", source.name)[:40]
    folder = cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    def make(new: Path, scratch: Path) -> None:
        begin = time.perf_counter()
        if path:
            download.check_local(source, path)
            found = readers.read(path, layout, config.on_bad_rows, scratch)
        else:
            found = _from_memory(synthetic.generate(config.data_seed))
        titles = readers.read_titles(path, source.titles) if path and source.titles else None
        kept = clicks.k_core(found.table.lazy(), filters["user_core"], filters["item_core"])
        found = found._replace(table=found.table.clear())  # what follows has the memory to itself
        clicked = in_sequence(kept, filters)
        del kept
        arrays, tables = prepared(clicked, titles, config)
        manifest = {
            "name": source.name,
            "source": origin,
            "counts": {
                "users": len(tables["users"]),
                "items": len(tables["items"]),
                "interactions": len(arrays["items"]),
                "validation": len(arrays["validation_targets"]),
                "test": len(arrays["test_targets"]),
            },
            **settings,
            "skipped_rows": dataclasses.asdict(found.bad),
            "time_unit": source.time_unit or found.time_unit,
            "licence": source.licence,
            "citation": source.citation,
        }
        whole = arrays["items"], arrays["offsets"], arrays["train_ends"], len(tables["items"])
        store.write(new, arrays, index.click_index(*whole), tables, manifest)
        logger.info(
            "prepared %s: %s in %.1f s", folder, manifest["counts"], time.perf_counter() - begin
        )

    return store.reuse_or_make(folder, make)


class Sequences(NamedTuple):
    """Clicks in order: items [E], times [E], offsets [users + 1] of prepare.py's arrays; the ids, by kind."""

    items: np.ndarray
    times: np.ndarray
    offsets: np.ndarray
    tables: dict[str, pl.DataFrame]


def in_sequence(kept: pl.LazyFrame, filters: dict[str, int]) -> Sequences:
    """Filtered clicks -> numbered ones in order. Raises UserError if there are none, or too many."""
    tables = {"users": clicks.id_table(kept, "user"), "items": clicks.id_table(kept, "item")}
    if not len(tables["users"]):
        cores = " ".join(f"--{name}={least}" for name, least in filters.items())
        raise UserError(f"{cores}: no clicks are left; lower them or use more data")
    numbered = clicks.numbered(kept, tables["users"], tables["items"])
    counts = numbered.group_by("user").len().sort("user").collect(engine="streaming")["len"]
    offsets = np.concatenate([[0], np.cumsum(counts.to_numpy(), dtype=np.int64)])
    if offsets[-1] >= MOST_CLICKS:
        raise UserError(
            f"--dataset: {offsets[-1]:,} clicks are left, expected fewer than {MOST_CLICKS:,}; use fewer"
        )
    items = np.empty(offsets[-1], np.int32)
    times = np.empty(offsets[-1], np.int64)
    least, parts = SORTED_AT_ONCE
    for low, high in index.blocks(offsets, max(least, -(-offsets[-1] // parts))):
        part = clicks.in_order(numbered.filter(pl.col("user").is_between(low, high - 1))).collect(
            engine="streaming"
        )
        items[offsets[low] : offsets[high]] = part["item"]
        times[offsets[low] : offsets[high]] = part["time"]
    return Sequences(items, times, offsets, tables)


def prepared(
    clicked: Sequences, titles: pl.DataFrame | None, config: DataConfig
) -> tuple[dict[str, np.ndarray], dict[str, pl.DataFrame]]:
    """Clicks in order -> the arrays and the tables of the prepared folder. Raises UserError if nothing is left to evaluate."""
    items, times, offsets, tables = clicked
    parts = (
        split.leave_one_out(offsets)
        if config.split == "leave_one_out"
        else split.temporal(offsets, times, config.validation_time, config.test_time)
    )
    for part in ("validation", "test"):
        if not len(getattr(parts, part)):
            reason = f"no user has a {part} target and a click to train on"
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
    pool = _pool(config.negatives, items, offsets, parts.train_ends, len(tables["items"]))
    for number, part in enumerate(("validation", "test")):
        positions = getattr(parts, part)
        users = np.searchsorted(offsets, positions, side="right") - 1
        arrays[f"{part}_targets"] = positions.astype(np.int64)
        arrays[f"{part}_negatives"] = negatives.draw(
            users, history, pool, config.eval_negatives, (config.data_seed, number)
        )
    tables = {name: ids.select("id") for name, ids in tables.items()}
    if titles is not None:
        same = titles.with_columns(pl.col("id").cast(tables["items"].schema["id"], strict=False))
        tables["items"] = tables["items"].join(same, on="id", how="left", maintain_order="left")
    return arrays, tables


def _pool(
    kind: str, items: np.ndarray, offsets: np.ndarray, train_ends: np.ndarray, num_items: int
) -> np.ndarray:
    """The items that negatives are drawn from, each as often as its weight: all once, or the training clicks."""
    if kind == "uniform":
        return np.arange(1, num_items + 1)
    spans = np.stack(
        [train_ends - offsets[:-1], offsets[1:] - train_ends], axis=1
    )  # of a user: trained, held out
    return items[np.repeat(np.tile([True, False], len(spans)), spans.ravel())]


def _split_settings(config: DataConfig) -> dict:
    if config.split == "leave_one_out":
        return {"kind": config.split}
    return {
        "kind": config.split,
        "validation_time": config.validation_time,
        "test_time": config.test_time,
    }


def _file(source: sources.Source, data_dir: Path) -> tuple[Path, sources.Layout]:
    """The file of a source, downloaded if it is not there, and its layout."""
    found = sources.existing_file(source, data_dir)
    if found is None:
        return download.fetch(source, data_dir), source.layout
    return found


def _from_memory(table: pl.DataFrame) -> readers.Clicks:
    texts = table.lazy().with_columns(pl.col("user", "item").cast(pl.String))
    return readers.Clicks(readers.encode(texts), "seconds", rows.BadRows())


def source_digest(path: Path, cache_dir: Path) -> str:
    """sha256 of a file. That of a large one is remembered in cache_dir while its size and time of change stay.

    A file changed within two seconds before it was hashed is hashed again: it may change within one
    tick of the clock.
    """
    stat = path.stat()
    if stat.st_size < HASHED_AT_ONCE:
        return file_digest(path)
    stamp = [stat.st_size, stat.st_mtime_ns]
    memo = (
        cache_dir
        / ".digests"
        / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.json"
    )
    try:
        known = json.loads(memo.read_text())
        if known["stamp"] == stamp:
            return known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = file_digest(path)
    if time.time_ns() - stat.st_mtime_ns > RACY_NS:
        memo.parent.mkdir(parents=True, exist_ok=True)
        store.replace_text(memo, json.dumps({"stamp": stamp, "sha256": digest}))
    return digest
