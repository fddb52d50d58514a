"""A model that the service asks: a run, or an export, behind one set of calls on arrays.

Axis letters: B rows of a batch, V items, W bytes of a bit mask over items, S size of a state.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.serving import load_export
from ttt4rec_jax.serving.load_export import ExportedModel, ExportError, windows
from ttt4rec_jax.serving.recommender import Recommender
from ttt4rec_jax.serving.recurrent import CHUNK_SIZES
from ttt4rec_jax.serving.timed import TimedClicks
from ttt4rec_jax.serving.top_k import pack_mask

NO_CLICKS = np.zeros(0, np.int32)
FEWEST = 16  # lists are computed for so many items, or for the most that are allowed


class Best(NamedTuple):
    """The best items of B rows, the best first: scores, items [B, k]; excluded ones score -inf."""

    scores: np.ndarray
    items: np.ndarray


class Model(Protocol):
    """A model and its items. It is immutable; one thread calls it at a time.

    version: a digest of settings, parameters and items. timed: how it reads times of clicks; the
    calls take clicks as it reads them. initial_state: the state of a session before its first
    click, a vector of S or fewer numbers. nothing_excluded: the mask [W] to start from. about: what
    kind of model it is, for people.
    """

    version: str
    about: str
    items: Catalogue
    timed: TimedClicks
    initial_state: np.ndarray
    nothing_excluded: np.ndarray
    max_k: int

    def advance(
        self, states: Sequence[np.ndarray], clicks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the states after more clicks, of any number."""
        ...

    def step(
        self,
        states: Sequence[np.ndarray],
        clicks: Sequence[np.ndarray],
        excluded_BxW: np.ndarray,
        k: int,
    ) -> tuple[list[np.ndarray], Best]:
        """Return the states after at most one click each, and the best items."""
        ...

    def rank(self, histories: Sequence[np.ndarray], excluded_BxW: np.ndarray, k: int) -> Best:
        """Return the best items after histories, which are read as the evaluation reads them."""
        ...


class RunModel:
    """The best parameters of a run."""

    def __init__(self, recommender: Recommender, max_k: int):
        self.recommender = recommender
        self.engine = recommender.engine
        self.version = recommender.fingerprint
        self.about = recommender.config.model
        self.items = recommender.items
        self.timed = recommender.timed
        self.initial_state = self.engine.initial_state
        self.nothing_excluded = pack_mask(np.zeros(len(self.items), bool))
        self.max_k = max_k

    def advance(
        self, states: Sequence[np.ndarray], clicks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the states after more clicks, of any number."""
        return self.engine.advance(states, clicks)[0]

    def step(
        self,
        states: Sequence[np.ndarray],
        clicks: Sequence[np.ndarray],
        excluded_BxW: np.ndarray,
        k: int,
    ) -> tuple[list[np.ndarray], Best]:
        """Return the states after at most one click each, and the best items."""
        after, ranked = self.engine.advance(states, clicks, excluded_BxW.__getitem__, k)
        return after, _joined(ranked)

    def rank(self, histories: Sequence[np.ndarray], excluded_BxW: np.ndarray, k: int) -> Best:
        """Return the best items after histories, which are read as the evaluation reads them."""
        return _joined(self.engine.rank_histories(histories, excluded_BxW.__getitem__, k))


class ExportModel:
    """An exported model. One without a session program reads the last clicks again."""

    def __init__(self, exported: ExportedModel):
        self.exported = exported
        self.version = load_export.sha256(exported.folder / "manifest.json")[:32]
        self.about = f"{exported.manifest['model']['model']}, exported"
        self.items = Catalogue(exported.ids, exported.titles, exported.clicks)
        own = exported.timed
        self.timed = TimedClicks(own.time, len(self.items), own.gap_seconds)
        self.is_recurrent = "session_step" in exported.programs
        first = exported.arrays["first_memory"] if self.is_recurrent else NO_CLICKS
        self.initial_state = np.asarray(first)
        self.nothing_excluded = np.zeros(exported.width, np.uint8)
        self.max_k = min(exported.manifest["k"], len(self.items))

    def advance(
        self, states: Sequence[np.ndarray], clicks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the states after more clicks, of any number."""
        if not self.is_recurrent:
            length = self.exported.max_len
            return [np.append(s, c)[-length:] for s, c in zip(states, clicks, strict=True)]
        state_BxS = np.stack(states)
        click_BxT, _ = windows(clicks, max(map(len, clicks), default=0) or 1)
        for click_B in click_BxT.T:  # item 0 leaves a state as it is
            (state_BxS,) = self.exported.call("session_step", state_BxS, click_B)
        return list(state_BxS)

    def step(
        self,
        states: Sequence[np.ndarray],
        clicks: Sequence[np.ndarray],
        excluded_BxW: np.ndarray,
        k: int,
    ) -> tuple[list[np.ndarray], Best]:
        """Return the states after at most one click each, and the best items."""
        after = self.advance(states, clicks)
        if not self.is_recurrent:
            return after, self.rank(after, excluded_BxW, k)
        return after, Best(*self.exported.call("session_top_k", np.stack(after), excluded_BxW))

    def rank(self, histories: Sequence[np.ndarray], excluded_BxW: np.ndarray, k: int) -> Best:
        """Return the best items after histories, which are read as the evaluation reads them."""
        history_BxL, length_B = windows(histories, self.exported.max_len)
        return Best(*self.exported.call("top_k", history_BxL, length_B, excluded_BxW))


def load(
    folder: str, batch_sizes: Sequence[int], max_k: int, data_dir: str = "", cache_dir: str = ""
) -> Model:
    """Load a run or an export. Raises UserError.

    batch_sizes, max_k: the shapes that `warm` compiles.
    """
    if is_export(folder):
        try:
            return ExportModel(load_export.load_export(folder))
        except ExportError as error:
            raise UserError(f"--run: {error}") from error
    from ttt4rec_jax.runs.load import load_run

    recommender = Recommender(*load_run(folder, data_dir, cache_dir), batch_sizes)
    return RunModel(recommender, min(max_k, len(recommender.items)))


def is_export(folder: str) -> bool:
    """Return whether a folder holds an export."""
    return (Path(folder) / "manifest.json").exists()


def k_computed(model: Model, k: int) -> int:
    """Return for how many items a list of k is computed: one of two numbers."""
    return min(FEWEST, model.max_k) if k <= FEWEST else model.max_k


def warm(model: Model, batch_sizes: Sequence[int]) -> Iterator[None]:
    """Call a model in every shape that requests can take, so that none waits for a compilation.

    Yields after each number of rows, so that the caller can stop.
    """
    most = batch_sizes[-1]
    sizes = batch_sizes
    if isinstance(model, ExportModel):
        sizes = [1 << power for power in range(min(most, load_export.MAX_BATCH).bit_length())]
    click = np.ones(1, np.int32)
    ks = sorted({k_computed(model, 1), k_computed(model, model.max_k)})
    for size in sizes:
        states = [model.initial_state] * size
        excluded_BxW = np.repeat(model.nothing_excluded[None], size, 0)
        for count in CHUNK_SIZES:
            model.advance(states, [np.repeat(click, count)] * size)
        for k in ks:
            model.step(states, [click] * size, excluded_BxW, k)
            for length in _lengths(model):
                model.rank([np.repeat(click, length)] * size, excluded_BxW, k)
        yield


def _lengths(model: Model) -> list[int]:
    """Return a length of history for each length that histories are padded to."""
    from ttt4rec_jax.data.clicks import lengths_read

    return list(lengths_read(model.engine.max_len)) if isinstance(model, RunModel) else [1]


def _joined(ranked: Sequence[Any]) -> Best:
    """Return the batches of engine.Ranked as one, without the rows that pad them."""
    parts = [
        (np.asarray(x.scores)[: len(x.num_allowed)], np.asarray(x.items)[: len(x.num_allowed)])
        for x in ranked
    ]
    scores, items = zip(*parts, strict=True)
    return Best(np.concatenate(scores), np.concatenate(items))
