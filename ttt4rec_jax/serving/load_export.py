"""Load an export with jax, numpy and flatbuffers alone; a copy of this file lies in each export.

    from load_export import load_export

    model = load_export("model/")
    model.recommend([["1193", "661"]], k=10)            # ids and scores, seen items excluded
    model.score([["1193", "661"]], [["914", "3408"]])
    session = model.open_session()                      # TTT4Rec: a state of fixed size per user
    session.observe("1193")
    session.recommend(k=10)

The folder:
    manifest.json         versions, the model's settings, its data, and descriptions of what follows
    arrays.npz            parameters and item vectors [tiles, 512, D]; item i is row i - 1 of the
                          vectors reshaped to [tiles * 512, D]
    items.jsonl           line i: id, title and training clicks of item i, counted from 1
    PROGRAM.jax_export    functions (arrays, *arguments) -> results, for jax.export.deserialize;
                          the batch size B and the number of candidates C may have any value
      encode              history [B, L], length [B] -> user vectors [B, K, D], one per interest
      score               history, length, candidates [B, C] -> scores [B, C], computed as for the
                          sampled negatives of the evaluation
      top_k               history, length, blocked [B, W] -> scores [B, k], items [B, k], computed
                          as for the full catalogue of the evaluation
      session_step        memory [B, S], click [B] -> memory [B, S]. "memory" is the recurrent state
                          of a session; arrays.npz has the initial one as "first_memory"
      session_top_k       memory [B, S], blocked [B, W] -> scores [B, k], items [B, k]
An item scores its best product with an interest; if the model's interest_rule is soft, their sum
weighted by softmax. Models that score pairs (DIN, ItemKNN) have no encode, others without recurrent
state no session programs. A history holds item numbers: the last L clicks, zero-padded at the
right. "blocked" is a bit mask over items, item 1 in the lowest bit of byte 0; set bits exclude.
Item 0 is padding: it scores -inf, fills a top k of fewer items, and leaves a state unchanged.
"""

import hashlib
import io
import json
import os
import tokenize
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = "ttt4rec_jax.export"
VERSION = 1
# what damaged or false files raise
UNREADABLE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError),
    *(TypeError, ValueError, zipfile.BadZipFile),
    *(SyntaxError, tokenize.TokenError),  # by NumPy, of an array's header
)
MAX_BATCH = 64  # rows of one call of a program
Ids = Iterable[int | str]
Array = np.ndarray


class ExportError(ValueError):
    """A folder cannot be served; the message is one line."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class Recommendation(NamedTuple):
    """Recommended items, the best first; fewer than k where fewer are allowed.

    titles: None where the data has none; source: "model", or "popularity" for an empty history,
    whose scores are numbers of training clicks.
    """

    ids: list
    scores: Array
    titles: list | None
    source: str


class Session:
    """A user's clicks: the recurrent state [S], and a bit mask over the items seen [W]."""

    def __init__(self, model: "ExportedModel"):
        self.model = model
        self.state = np.asarray(model.arrays["first_memory"])
        self.clicks = 0
        self.seen = np.zeros(model.width, np.uint8)

    def observe(self, id: int | str) -> None:
        """Add a click. Raise ValueError for an unknown id."""
        click = self.model.to_items([id])
        self.state = self.model.call("session_step", self.state[None], click)[0][0]
        set_bits(self.seen[None], [click])
        self.clicks += 1

    def recommend(self, k: int = 10, exclude: Ids = ()) -> Recommendation:
        """Return the k best items now, without those clicked before and those in `exclude`."""
        self.model.check_k(k)
        blocked_1xW = self.seen[None].copy()
        set_bits(blocked_1xW, [self.model.to_items(exclude)])
        scores, items = self.model.call("session_top_k", self.state[None], blocked_1xW)
        return self.model.to_recommendations(scores, items, blocked_1xW, [self.clicks == 0], k)[0]


class ExportedModel:
    """The programs of an export, and requests by the ids of the data.

    programs: jitted functions (arrays, *arguments) -> tuple of results, by name.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        """Load the folder of a manifest. Raise ExportError if jax cannot run its programs here."""
        import jax  # here, so that an incomplete folder is refused without waiting for the import

        self.folder = folder
        self.manifest = manifest
        self.max_len: int = manifest["model"]["max_len"]
        self.width = -(-manifest["items"] // 8)
        items = read_items(folder / "items.jsonl", manifest["items"])
        self.ids = [item["id"] for item in items]
        self.titles = [item["title"] for item in items] if "title" in items[0] else None
        self.clicks = np.array([item["clicks"] for item in items])
        self.item_of = {str(id): item for item, id in enumerate(self.ids, 1)}
        self.process = os.getpid()
        self.arrays = jax.device_put(read_arrays(folder / "arrays.npz"))
        self.programs = {
            name: jax.jit(exported.call) for name, exported in deserialize(folder, manifest).items()
        }

    def recommend(
        self, histories: Iterable[Ids], k: int = 10, exclude: Ids = (), exclude_seen: bool = True
    ) -> list[Recommendation]:
        """Return the k best items of each history of ids. Raise ValueError for an unknown id."""
        self.check_k(k)
        clicks = [self.to_items(history) for history in histories]
        excluded = self.to_items(exclude)
        if not clicks:
            return []
        blocked_BxW = np.zeros((len(clicks), self.width), np.uint8)
        set_bits(blocked_BxW, [excluded] * len(clicks))
        if exclude_seen:
            set_bits(blocked_BxW, clicks)
        scores, items = self.call("top_k", *windows(clicks, self.max_len), blocked_BxW)
        is_empty = [len(history) == 0 for history in clicks]
        return self.to_recommendations(scores, items, blocked_BxW, is_empty, k)

    def score(self, histories: Iterable[Ids], candidates: Iterable[Ids]) -> Array:
        """Return the scores [B, C] of C candidates for each of B histories, all of them ids."""
        clicks = [self.to_items(history) for history in histories]
        candidates_BxC = np.stack([self.to_items(ids) for ids in candidates])
        return self.call("score", *windows(clicks, self.max_len), candidates_BxC)[0]

    def encode(self, histories: Iterable[Ids]) -> Array:
        """Return user vectors [B, K, D]; an item's score is its largest product with the K."""
        clicks = map(self.to_items, histories)
        return self.call("encode", *windows(list(clicks), self.max_len))[0]

    def open_session(self) -> Session:
        """Return a session without clicks. Raise ValueError if the model has no recurrent state."""
        if "session_step" not in self.programs:
            name = self.manifest["model"]["model"]
            raise ValueError(f"{name} carries no state: pass whole histories to recommend instead")
        return Session(self)

    def call(self, name: str, *arguments: Array) -> list[Array]:
        """Return a program's results for n > 0 rows, in batches of few sizes to compile."""
        if os.getpid() != self.process:
            raise ValueError("loaded before a fork, which stops jax; load it in each process")
        batches = []
        for first in range(0, len(arguments[0]), MAX_BATCH):
            batch = [x[first : first + MAX_BATCH] for x in arguments]
            count = len(batch[0])
            padded = [pad_rows(x, next_power_of_two(count)) for x in batch]
            results = self.programs[name](self.arrays, *padded)
            batches.append([np.asarray(x)[:count] for x in results])
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def to_items(self, ids: Ids) -> Array:
        """Return the item numbers of ids. Raise ValueError that names an unknown id."""
        ids = list(ids)
        unknown = [id for id in ids if str(id) not in self.item_of]
        if unknown:
            raise ValueError(
                f"the data has no item {unknown[0]!r}; expected ids such as {self.ids[0]!r}"
            )
        return np.array([self.item_of[str(id)] for id in ids], np.int32)

    def check_k(self, k: int) -> None:
        """Raise ValueError if the programs do not return k items."""
        most = self.manifest["k"]
        if k < 1 or k > most < len(self.ids):
            raise ValueError(
                f"k: found {k}, expected 1 to {most}; export the run with a larger --k for more"
            )

    def to_recommendations(
        self, scores_Bxk: Array, items_Bxk: Array, blocked_BxW: Array, is_empty: list[bool], k: int
    ) -> list[Recommendation]:
        """Return the k best items by their ids; the most popular ones for an empty history."""
        if np.isnan(scores_Bxk).any():
            raise ValueError("the model scores an item as NaN; its run is damaged")
        recommendations = []
        for scores, items, blocked_W, no_click in zip(
            scores_Bxk, items_Bxk, blocked_BxW, is_empty, strict=True
        ):
            if no_click:
                order = np.argsort(-self.clicks, kind="stable")
                items = 1 + order[np.unpackbits(blocked_W, bitorder="little")[order] == 0]
                scores = self.clicks[items - 1].astype(np.float32)
            rows = (items[items > 0][:k] - 1).tolist()
            ids = [self.ids[row] for row in rows]
            titles = self.titles and [self.titles[row] for row in rows]
            source = "popularity" if no_click else "model"
            recommendations.append(Recommendation(ids, scores[: len(rows)], titles, source))
        return recommendations


def load_export(folder: str | Path) -> ExportedModel:
    """Verify every file of an export and load the model. Raise ExportError."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        return ExportedModel(folder, manifest)
    except ExportError:
        raise
    except UNREADABLE as error:
        raise ExportError(f"{folder}: damaged ({first_line(error)}); copy it again") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an intact export of this version, or raise ExportError."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"], manifest["format_version"]
        files = dict(manifest["files"])
    except FileNotFoundError as error:
        raise ExportError(
            f"{folder}: no manifest.json, so it holds no export; name a folder that export.py wrote"
        ) from error
    except UNREADABLE as error:
        raise ExportError(
            f"{path}: not the manifest of an export ({first_line(error)}); copy the folder again"
        ) from error
    if found != (FORMAT, VERSION):
        raise ExportError(
            f"{folder}: found {found[0]} of format version {found[1]}, expected {FORMAT} of "
            f"version {VERSION}; use the load_export.py in that folder, or export the run again"
        )
    try:
        sizes = manifest["items"], manifest["k"], manifest["model"]["max_len"]
        programs = [program["file"] for program in manifest["programs"].values()]
        if unlisted := {"arrays.npz", "items.jsonl", *programs} - files.keys():
            raise ValueError(f"files has no {min(unlisted)}")
        if any(type(size) is not int or not 0 < size < 2**31 for size in sizes) or sizes[2] > 2**20:
            raise ValueError(f"items, k and max_len are {sizes}")
        if elsewhere := [name for name in files if Path(name).name != name]:
            raise ValueError(f"a file outside the folder, {elsewhere[0]!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{path}: damaged ({first_line(error)}); copy the folder again"
        ) from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ExportError(f"{path}: missing; copy the folder again")
        if sha256(path) != expected:
            raise ExportError(f"{path}: damaged (wrong sha256); copy the folder again")
    return manifest


def read_items(path: Path, count: int) -> list[dict[str, Any]]:
    """Return the lines of items.jsonl. Raise ValueError unless they are `count` items."""
    with open(path, encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines]
    if len(items) != count:
        raise ValueError(f"{path.name} has {len(items)} items, expected {count}")
    return items


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a .npz file. Raise ValueError unless each is as long as its header says.

    They are stored uncompressed and read as views of the file's bytes, so that no header can ask
    for more memory than that.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
                raise ValueError(f"{info.filename} is compressed, or larger than its file")
            file = io.BytesIO(archive.read(info))
            np.lib.format.read_magic(file)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            flat = np.frombuffer(file.getbuffer(), dtype, offset=file.tell())
            name = info.filename.removesuffix(".npy")
            arrays[name] = flat.reshape(shape, order="F" if is_fortran else "C")
    return arrays


def deserialize(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return {program: jax.export.Exported}. Raise ExportError if jax cannot run them here."""
    import jax

    if (platform := jax.export.default_export_platform()) not in manifest["platforms"]:
        what = f"exported for {', '.join(manifest['platforms'])}, but jax runs on {platform}"
        raise ExportError(f"{folder}: {what}; set JAX_PLATFORMS to one of them")
    least = jax.export.minimum_supported_calling_convention_version
    most = jax.export.maximum_supported_calling_convention_version
    try:
        if not least <= (version := manifest["calling_convention_version"]) <= most:
            raise ValueError(f"calling convention version {version}, expected {least} to {most}")
        paths = {name: folder / about["file"] for name, about in manifest["programs"].items()}
        return {
            name: jax.export.deserialize(bytearray(path.read_bytes()))
            for name, path in paths.items()
        }
    except Exception as error:  # whatever jax and flatbuffers raise for bytes that are no program
        raise ExportError(
            f"{folder}: jax {jax.__version__} cannot read its programs ({first_line(error)}); "
            f"install jax {manifest['written_by']['jax']}, which wrote them, "
            "or export the run again"
        ) from error


def windows(histories: Sequence[Array], length: int) -> tuple[Array, Array]:
    """Return the last `length` items of histories, zero-padded [B, length], and counts [B]."""
    recent = [items[-length:] for items in histories]
    count_B = np.array([len(items) for items in recent], np.int32)
    history_BxL = np.zeros((len(recent), length), np.int32)
    item_N = np.concatenate([*recent, np.zeros(0, np.int32)])
    history_BxL[np.arange(length) < count_B[:, None]] = item_N
    return history_BxL, count_B


def set_bits(bits_BxW: Array, items: Sequence[Array]) -> None:
    """Set the bits of each row's items in place. There is at least one row."""
    row_N = np.repeat(np.arange(len(items)), [len(row) for row in items])
    bit_N = np.concatenate([*items, np.zeros(0, np.int32)]) - 1
    np.bitwise_or.at(bits_BxW, (row_N, bit_N >> 3), np.uint8(1) << (bit_N & 7).astype(np.uint8))


def pad_rows(x: Array, rows: int) -> Array:
    """Return x padded to `rows` rows, which repeat the first."""
    return np.concatenate([x, np.repeat(x[:1], rows - len(x), 0)])


def next_power_of_two(n: int, least: int = 1) -> int:
    """Return the smallest power of two that is at least n, or `least` if that is larger."""
    return max(least, 1 << (n - 1).bit_length())


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file's content in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type's name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
