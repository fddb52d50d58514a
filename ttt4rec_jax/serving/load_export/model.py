"""An exported model and its sessions: requests by the ids of the data."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .batches import MAX_BATCH, next_power_of_two, pad_rows, set_bits, windows
from .folder import deserialize, read_arrays, read_items
from .times import Clock, TimedClicks

Ids = Iterable[int | str]
Array = np.ndarray


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
    """A user's clicks: the recurrent state [S], and a bit mask over the items seen [W].

    clock: what a model with --time needs of their times.
    """

    def __init__(self, model: "ExportedModel"):
        self.model = model
        self.state = np.asarray(model.arrays["first_memory"])
        self.clicks = 0
        self.seen = np.zeros(model.width, np.uint8)
        self.clock = Clock()

    def observe(self, id: int | str, time: Any = None) -> None:
        """Add a click. Raise ValueError for an unknown id, or a time that is missing or wrong."""
        timed = self.model.timed
        click = self.model.to_items([id])
        (seconds,) = timed.check(None if time is None else [[time]], [1])
        reads, clock = timed.read(click, seconds, self.clock)
        self.state = self._advanced(reads)
        self.clock = clock
        set_bits(self.seen[None], [click])
        self.clicks += 1

    def recommend(self, k: int = 10, exclude: Ids = (), at: Any = None) -> Recommendation:
        """Return the k best items now, without those clicked before and those in `exclude`.

        at: the time of the request, for a model with --time=request. Raise ValueError.
        """
        self.model.check_k(k)
        (moment,) = self.model.timed.check_at(at, 1)
        state_S = self._advanced(self.model.timed.asked(self.clock, moment))
        blocked_1xW = self.seen[None].copy()
        set_bits(blocked_1xW, [self.model.to_items(exclude)])
        scores, items = self.model.call("session_top_k", state_S[None], blocked_1xW)
        return self.model.to_recommendations(scores, items, blocked_1xW, [self.clicks == 0], k)[0]

    def _advanced(self, reads: Array) -> Array:
        """Return the state after clicks, at most one."""
        if not len(reads):
            return self.state
        return self.model.call("session_step", self.state[None], reads)[0][0]


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
        time = manifest["model"].get("time", "none")
        gap_seconds = manifest["gap_seconds"] if time != "none" else ()
        self.timed = TimedClicks(time, len(items), gap_seconds)
        self.item_of = {str(id): item for item, id in enumerate(self.ids, 1)}
        self.process = os.getpid()
        self.arrays = jax.device_put(read_arrays(folder / "arrays.npz"))
        self.programs = {
            name: jax.jit(exported.call) for name, exported in deserialize(folder, manifest).items()
        }

    def recommend(
        self,
        histories: Iterable[Ids],
        k: int = 10,
        exclude: Ids = (),
        exclude_seen: bool = True,
        times: Any = None,
        at: Any = None,
    ) -> list[Recommendation]:
        """Return the k best items of each history of ids. Raise ValueError for an unknown id.

        times: for a model with --time, those of each history's clicks, in seconds since 1970 or as
        datetimes; at: with --time=request, the time of the requests, or one for each history.
        """
        self.check_k(k)
        clicks, reads = self.to_reads(histories, times, at)
        excluded = self.to_items(exclude)
        if not clicks:
            return []
        blocked_BxW = np.zeros((len(clicks), self.width), np.uint8)
        set_bits(blocked_BxW, [excluded] * len(clicks))
        if exclude_seen:
            set_bits(blocked_BxW, clicks)
        scores, items = self.call("top_k", *windows(reads, self.max_len), blocked_BxW)
        is_empty = [len(history) == 0 for history in clicks]
        return self.to_recommendations(scores, items, blocked_BxW, is_empty, k)

    def score(
        self, histories: Iterable[Ids], candidates: Iterable[Ids], times: Any = None, at: Any = None
    ) -> Array:
        """Return the scores [B, C] of C candidates for each of B histories, all of them ids.

        times, at: as in `recommend`.
        """
        _, reads = self.to_reads(histories, times, at)
        candidates_BxC = np.stack([self.to_items(ids) for ids in candidates])
        return self.call("score", *windows(reads, self.max_len), candidates_BxC)[0]

    def encode(self, histories: Iterable[Ids], times: Any = None, at: Any = None) -> Array:
        """Return user vectors [B, K, D]; an item's score is its largest product with the K.

        times, at: as in `recommend`.
        """
        _, reads = self.to_reads(histories, times, at)
        return self.call("encode", *windows(reads, self.max_len))[0]

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
        texts = [str(id) for id in ids]
        find = self.item_of.get
        items = [find(text) or find(text.removesuffix(".0"), 0) for text in texts]  # 7.0 is 7
        if 0 in items:
            unknown = texts[items.index(0)]
            raise ValueError(
                f"the data has no item {unknown!r}; expected ids such as {self.ids[0]!r}"
            )
        return np.array(items, np.int32)

    def to_reads(
        self, histories: Iterable[Ids], times: Any, at: Any
    ) -> tuple[list[Array], list[Array]]:
        """Return the items of histories, and the clicks that the model reads of them.

        Raise ValueError for an unknown id, or times that are missing or wrong.
        """
        items = [self.to_items(history) for history in histories]
        seconds = self.timed.check(times, [len(history) for history in items])
        moments = self.timed.check_at(at, len(items))
        return items, list(map(self.timed.of_history, items, seconds, moments))

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
