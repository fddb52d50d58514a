"""Loads what experiments/export.py wrote, with jax, numpy and flatbuffers alone. A copy of this file lies in every export.

    from load_export import load_export

    model = load_export("model/")
    model.recommend([["1193", "661"]], k=10)            # ids and scores, seen items left out
    model.score([["1193", "661"]], [["914", "3408"]])
    session = model.open_session()                      # TTT4Rec: a memory of fixed size, however many clicks came before
    session.observe("1193")
    session.recommend(k=10)

The folder:
    manifest.json           versions, the model's settings, what its data was, and what follows
    arrays.npz              parameters and the vectors of the items [tiles, 512, D], item i at i - 1 of [tiles * 512, D]
    items.jsonl             line i: id, title and training clicks of item i, counted from 1
    PROGRAM.jax_export      functions (arrays, *arguments) -> results, for jax.export.deserialize; B and C are any numbers
      encode                history [B, L], length [B] -> user vectors [B, K, D], one for each interest
      score                 history, length, candidates [B, C] -> scores [B, C], as among sampled negatives in evaluation
      top_k                 history, length, blocked [B, W] -> scores [B, k], items [B, k], as in the full catalogue
      session_step          memory [B, S], click [B] -> memory [B, S]; the first memory is in arrays.npz
      session_top_k         memory [B, S], blocked [B, W] -> scores [B, k], items [B, k]
A model that scores pairs (DIN, ItemKNN) has no encode; models that carry no state have no session
programs. History: numbers of items, the last L clicks at the left, zeros behind. blocked: a bit an
item, item 1's the lowest of byte 0; 1 leaves it out.
0 stands for no item: a candidate that scores -inf, a place of the top k that nothing is left for, a
click that changes nothing.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

FORMAT = "ttt4rec_jax.export"
VERSION = 1
ROWS = 64  # most rows of one call of a program


class ExportError(ValueError):
    """A folder that cannot be served, told in one line."""


class Recommendation(NamedTuple):
    """Items from the best on; titles are None where the data has none.

    source: "model", or "popularity" for an empty history: scores are then numbers of training
    clicks.
    """

    ids: list
    scores: np.ndarray
    titles: list | None
    source: str


class Session:
    """One user's clicks so far: a memory [S], and a bit an item of what was seen [W]. Neither grows."""

    def __init__(self, model: "ExportedModel"):
        self.model = model
        self.memory = np.asarray(model.arrays["first_memory"])
        self.clicks = 0
        self.seen = np.zeros(model.width, np.uint8)

    def observe(self, id) -> None:
        """Takes in a click. Raises ValueError if the data does not have the id."""
        click = self.model.find([id])
        self.memory = self.model.call("session_step", self.memory[None], click)[0][0]
        mark(self.seen, click)
        self.clicks += 1

    def recommend(self, k: int = 10, exclude=()) -> Recommendation:
        """The k best items now, those seen and `exclude` left out."""
        self.model.check_k(k)
        blocked_1xW = self.seen[None].copy()
        mark(blocked_1xW[0], self.model.find(exclude))
        found = self.model.call("session_top_k", self.memory[None], blocked_1xW)
        return self.model.named(*found, blocked_1xW, [self.clicks == 0], k)[0]


class ExportedModel:
    """An export's programs, and requests by the data's own ids.

    manifest: the folder's; arrays: on the device, by name; programs: jitted functions (arrays,
    *arguments) -> tuple, by name.
    """

    def __init__(self, folder: Path, manifest: dict):
        """folder: whose manifest read_manifest gave. Raises ExportError if this jax or platform cannot run it."""
        import jax  # not at the top, so that a folder that is not whole is refused at once

        self.folder = folder
        self.manifest = manifest
        self.max_len = manifest["model"]["max_len"]
        self.width = -(-manifest["items"] // 8)
        with open(folder / "items.jsonl", encoding="utf-8") as lines:
            items = [json.loads(line) for line in lines]
        self.ids = [item["id"] for item in items]
        self.titles = [item["title"] for item in items] if "title" in items[0] else None
        self.clicks = np.array([item["clicks"] for item in items])
        self.item_of = {str(id): item for item, id in enumerate(self.ids, 1)}
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            self.arrays = jax.device_put(dict(stored))
        self.programs = {
            name: jax.jit(exported.call)
            for name, exported in deserialized(folder, manifest).items()
        }

    def recommend(
        self, histories, k: int = 10, exclude=(), exclude_seen: bool = True
    ) -> list[Recommendation]:
        """The k best items of each history, a list of ids in the order of the clicks. Raises ValueError for an unknown id."""
        self.check_k(k)
        found = [self.find(history) for history in histories]
        blocked_BxW = np.zeros((len(found), self.width), np.uint8)
        excluded = self.find(exclude)
        for bits_W, items in zip(blocked_BxW, found, strict=True):
            mark(bits_W, excluded)
            if exclude_seen:
                mark(bits_W, items)
        if not found:
            return []
        scores, items = self.call("top_k", *self.windows(found), blocked_BxW)
        return self.named(scores, items, blocked_BxW, [len(items) == 0 for items in found], k)

    def score(self, histories, candidates) -> np.ndarray:
        """Scores [B, C] of C candidates for each of B histories, all of them ids."""
        found = [self.find(history) for history in histories]
        return self.call(
            "score", *self.windows(found), np.stack([self.find(ids) for ids in candidates])
        )[0]

    def encode(self, histories) -> np.ndarray:
        """User vectors [B, K, D]; an item's score is the greatest of its products with them."""
        return self.call("encode", *self.windows([self.find(history) for history in histories]))[0]

    def open_session(self) -> Session:
        """A session of a user who has not clicked yet. Raises ValueError if the model carries no state."""
        if "session_step" not in self.programs:
            raise ValueError(
                f"{self.manifest['model']['model']} carries no state: give whole histories to recommend"
            )
        return Session(self)

    def call(self, name: str, *arguments: np.ndarray) -> list[np.ndarray]:
        """A program's results for n > 0 rows, at most ROWS at a time and padded to a power of two: few shapes to compile."""
        parts = []
        for first in range(0, len(arguments[0]), ROWS):
            part = [x[first : first + ROWS] for x in arguments]
            count = len(part[0])
            more = (1 << (count - 1).bit_length()) - count
            results = self.programs[name](
                self.arrays, *(np.concatenate([x, np.repeat(x[:1], more, 0)]) for x in part)
            )
            parts.append([np.asarray(x)[:count] for x in results])
        return [np.concatenate(of_parts) for of_parts in zip(*parts, strict=True)]

    def find(self, ids) -> np.ndarray:
        """The numbers of items. Raises ValueError that names an id that the data does not have."""
        unknown = [id for id in ids if str(id) not in self.item_of]
        if unknown:
            raise ValueError(
                f"the data has no item {unknown[0]!r}; expected ids such as {self.ids[0]!r}"
            )
        return np.array([self.item_of[str(id)] for id in ids], np.int32)

    def windows(self, found: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(the last max_len clicks of each history, padded [B, L]; how many they are [B])."""
        history_BxL = np.zeros((len(found), self.max_len), np.int32)
        length_B = np.zeros(len(found), np.int32)
        for row, items in enumerate(found):
            length_B[row] = min(len(items), self.max_len)
            history_BxL[row, : length_B[row]] = items[-self.max_len :]
        return history_BxL, length_B

    def check_k(self, k: int) -> None:
        """Raises ValueError if the programs do not give so many items."""
        most = self.manifest["k"]
        if k < 1 or k > most < len(self.ids):
            raise ValueError(
                f"k: found {k}, expected 1 to {most}; export the run with another --k for more"
            )

    def named(self, scores_Bxk, items_Bxk, blocked_BxW, is_empty, k: int) -> list[Recommendation]:
        """What is best, in the data's own ids; for an empty history, what was clicked most in training."""
        if np.isnan(scores_Bxk).any():
            raise ValueError("the model scores an item with NaN; its run is damaged")
        named = []
        for scores, items, bits_W, no_click in zip(
            scores_Bxk, items_Bxk, blocked_BxW, is_empty, strict=True
        ):
            if no_click:
                order = np.argsort(-self.clicks, kind="stable")
                items = 1 + order[np.unpackbits(bits_W, bitorder="little")[order] == 0]
                scores = self.clicks[items - 1].astype(np.float32)
            places = (items[items > 0][:k] - 1).tolist()
            titles = self.titles and [self.titles[i] for i in places]
            source = "popularity" if no_click else "model"
            named.append(
                Recommendation([self.ids[i] for i in places], scores[: len(places)], titles, source)
            )
        return named


def load_export(folder: str | Path) -> ExportedModel:
    """The model in an export's folder, once every file is found as it was written. Raises ExportError."""
    return ExportedModel(Path(folder), read_manifest(Path(folder)))


def read_manifest(folder: Path) -> dict:
    """The manifest of an export of this version whose files are all as written. Raises ExportError."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind = manifest["format"]
        version = manifest["format_version"]
        files = manifest["files"]
    except FileNotFoundError as error:
        raise ExportError(
            f"{folder}: no manifest.json, so it holds no export; name a folder that export.py wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{path}: not the manifest of an export ({first_line(error)}); copy the folder anew"
        ) from error
    if (kind, version) != (FORMAT, VERSION):
        what = f"found {kind} of format version {version}, expected {FORMAT} of version {VERSION}"
        raise ExportError(
            f"{folder}: {what}; use the load_export.py that lies in the folder, or export the run anew"
        )
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise ExportError(f"{folder / name}: missing; copy the folder anew")
        if sha256(folder / name) != expected:
            raise ExportError(
                f"{folder / name}: damaged, its sha256 is not the manifest's; copy the folder anew"
            )
    return manifest


def deserialized(folder: Path, manifest: dict) -> dict:
    """The programs, {name: jax.export.Exported}. Raises ExportError if this jax, or its platform, cannot run them."""
    import jax

    here = jax.export.default_export_platform()
    platforms = manifest["platforms"]
    if here not in platforms:
        raise ExportError(
            f"{folder}: exported for {', '.join(platforms)}, and jax runs on {here}; set JAX_PLATFORMS to one of them"
        )
    least = jax.export.minimum_supported_calling_convention_version
    most = jax.export.maximum_supported_calling_convention_version
    try:
        if not least <= (version := manifest["calling_convention_version"]) <= most:
            raise ValueError(f"calling convention version {version}, expected {least} to {most}")
        files = {name: folder / about["file"] for name, about in manifest["programs"].items()}
        return {
            name: jax.export.deserialize(bytearray(path.read_bytes()))
            for name, path in files.items()
        }
    except (ValueError, NotImplementedError) as error:
        what = f"jax {jax.__version__} cannot read its programs ({first_line(error)})"
        written = manifest["written_by"]["jax"]
        raise ExportError(
            f"{folder}: {what}; install jax {written}, which wrote them, or export the run anew"
        ) from error


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mark(bits_W: np.ndarray, items: np.ndarray) -> None:
    """Sets the bits of items, in place."""
    np.bitwise_or.at(bits_W, (items - 1) >> 3, np.uint8(1) << ((items - 1) & 7).astype(np.uint8))


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
