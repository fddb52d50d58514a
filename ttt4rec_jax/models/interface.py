"""The interface of the recommenders, as protocols.

Histories are padded with item 0 at the right. A dropout key turns dropout on; None is for
evaluation. `isinstance(model, TwoTower)` tests whether a model has the methods of the protocol, not
whether their types match.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.data.examples import Histories

Context = Any  # a pytree of arrays
Key = jax.Array | None  # of dropout


@runtime_checkable
class TwoTower(Protocol):
    """A model whose score of an item is a product of a user vector and the item's vector.

    A user has K interests (one in most models): the score is that of the best one, or what the
    model's attribute interest_rule says (see interests.py). Its attribute reads_times, if it has
    one, is the value of --time: which time gaps its histories carry (data/time_gaps.py).
    """

    def encode(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        every: bool = False,
        key: Key = None,
    ) -> Float[Array, "B *positions K D"]:
        """Return user vectors [B, K, D], or [B, L, K, D] at each position with `every`."""
        ...

    def item_vectors(self, items: Int[Array, "*items"]) -> Float[Array, "*items D"]:
        """Return the vectors of items."""
        ...


@runtime_checkable
class HasItemTable(TwoTower, Protocol):
    """A two-tower model whose item vectors are a function of the rows of a table."""

    embedding: Any  # an nnx.Param [rows, D]

    def vectors_of(self, e: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return the item vectors of rows of the table."""
        ...


@runtime_checkable
class PairScorer(Protocol):
    """A model whose score depends on the history and the candidate together."""

    def score(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        candidates: Int[Array, "*B C"],
        key: Key = None,
    ) -> Float[Array, "B C"]:
        """Return scores [B, C] of candidates [B, C], or [C] for all histories."""
        ...


@runtime_checkable
class HasAuxiliaryLoss(Protocol):
    """A model that adds a loss of its own to the loss of the next item."""

    def auxiliary_loss(self, batch: Batch, context: Context, key: Key) -> Float[Array, ""]:
        """Return the loss of a batch, given what `LearnsContext` has learned."""
        ...


@runtime_checkable
class LearnsContext(Protocol):
    """A model that learns something from all training histories once an epoch."""

    def initial_context(self) -> Context:
        """Return a context of zeros, of the shapes that learn_context returns."""
        ...

    def learn_context(self, groups: tuple[Histories, ...], key: jax.Array) -> Context:
        """Return the context, learned from all histories, in groups of batches."""
        ...


@runtime_checkable
class StreamingModel(Protocol):
    """A model that can continue from a state, at a cost that does not depend on earlier clicks."""

    @property
    def is_stream(self) -> bool:
        """Whether it can continue from a state with its configuration."""
        ...

    def initial_state(self) -> Any:
        """Return the state before the first click."""
        ...

    def advance(
        self, click_L: Int[Array, " L"], length: Int[Array, ""], state: Any
    ) -> tuple[Float[Array, "1 D"], Any]:
        """Read more clicks of one user: return (user vectors [1, D], the next state)."""
        ...


class TrainingClicks(NamedTuple):
    """The clicks that a model may learn from, which untrained baselines count.

    User u's training clicks are items[offsets[u] : train_ends[u]]; others are held out.
    """

    items: np.ndarray  # [E]
    offsets: np.ndarray  # [users + 1]
    train_ends: np.ndarray  # [users]

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> "TrainingClicks":
        """Return the training clicks of a data set."""
        return cls(dataset.items, dataset.offsets, dataset.train_ends)
