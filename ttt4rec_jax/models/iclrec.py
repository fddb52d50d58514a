"""ICLRec: SASRec with contrastive losses on augmented views and on clustered intents.

Chen, Liu, Li, McAuley, Xiong 2022, "Intent Contrastive Learning for Sequential Recommendation"
(arXiv:2202.02519), sections 3 and 4; loss, rates and iterations as in the authors' code
(github.com/salesforce/ICLRec). A history S is summarised by h, the mean of the encoder's outputs
over its clicks. Once an epoch the E step and once a training step the M step
(expectation-maximisation):

    E  c_1..c_K = k-means of h over all users
       Q(c_k | S) = 1 for the c_k nearest h, 0 for the others
    M  L = L_NextItem + beta L_SeqCL + lambda L_ICL
       beta = contrast_weight, lambda = intent_weight
       two views of each history, cropped, masked or reordered at random -> h1, h2
       c = c_k / |c_k| of the history
       L_SeqCL = L(h1, h2),  L_ICL = (L(h1, c) + L(h2, c)) / 2
       L(a, b) = mean over i and over (x, y) in {(a, b), (b, a)} of
            -log exp(x_i y_i) / (exp(x_i y_i) + sum_{j not in F_i} (exp(x_i y_j) + exp(x_i x_j)))
            where products are divided by the temperature
       F_i: i itself; for L_ICL all histories of i's intent (false-negative mitigation)

What differs from the authors' code: the encoder is this project's SASRec. h is a mean over clicks
for L_SeqCL too, as the paper says, where the code concatenates the outputs at all max_len
positions, and padding does not count. Masked clicks have an embedding of their own, where the code
masks them like padding. A history's intent is chosen without dropout, the paper's Q. False
negatives are left out of L_ICL alone, as in the paper; the code keeps them by default, and with
--de_noise removes them from L_SeqCL by comparing held-out items. Both losses see the views under
the same dropout. With --targets=last, windows of one user may be each other's negatives, since a
batch holds windows; in the authors' code it holds users. A cropped or reordered run may reach the
last click. k-means runs once instead of keeping the best of five.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.data.examples import Histories
from ttt4rec_jax.models.blocks import Block, BlockRecommender
from ttt4rec_jax.models.dense import feed_forward
from ttt4rec_jax.models.interface import Key
from ttt4rec_jax.models.layers import Attention, unit

CROP_TENTHS = 2  # of a history's clicks that a crop keeps
MASK_TENTHS = 7  # that masking masks
REORDER_TENTHS = 2  # that reordering shuffles
LLOYD_ITERATIONS = 20


class IclRec(BlockRecommender):
    """A TwoTower that HasAuxiliaryLoss and LearnsContext. Id num_items + 1 is the mask."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        layers = [Attention(config.dim, config.num_heads, rngs) for _ in range(config.num_blocks)]
        blocks = [
            Block(config.dim, layer, feed_forward(config, rngs), config.dropout) for layer in layers
        ]
        super().__init__(config, num_items, blocks, rngs, more_rows=1)
        self.mask = num_items + 1
        self.config = config

    def initial_context(self) -> dict:
        """Return a context of zeros."""
        return {"intents": jnp.zeros((self.config.num_intents, self.config.dim))}

    def learn_context(self, groups: tuple[Histories, ...], key: jax.Array) -> dict:
        """Return the E step's intents [K, D], the centres of all users' histories.

        Histories of fewer than two clicks are fillers.
        """
        summaries = [
            jax.lax.map(lambda batch: self.summary(*batch), tuple(group)) for group in groups
        ]
        real_MxB = jnp.concatenate([group.length for group in groups]) > 1
        intents = kmeans(jnp.concatenate(summaries), real_MxB, self.config.num_intents, key)
        return {"intents": intents}

    def auxiliary_loss(self, batch: Batch, context: dict, key: jax.Array) -> Float[Array, ""]:
        """Return beta L_SeqCL + lambda L_ICL over the rows that have a target.

        The key draws views and dropout.
        """
        view_key, dropout_key = jax.random.split(key)
        real_B = batch.weight.reshape(len(batch.length), -1).max(-1) > 0
        # both views in one batch of 2B rows
        view_BxL, length_B = augment(
            jnp.tile(batch.history, (2, 1)), jnp.tile(batch.length, 2), self.mask, view_key
        )
        first_BxD, second_BxD = jnp.split(self.summary(view_BxL, length_B, dropout_key), 2)
        h_BxD = jax.lax.stop_gradient(self.summary(batch.history, batch.length))
        intent_B = nearest(h_BxD, context["intents"])
        same_BxB = jnp.eye(len(real_B), dtype=bool)
        temperature = self.config.contrast_temperature
        contrast = contrast_loss(first_BxD, second_BxD, same_BxB, real_B, temperature)
        intent = intent_loss(
            first_BxD, second_BxD, intent_B, context["intents"], real_B, temperature
        )
        return self.config.contrast_weight * contrast + self.config.intent_weight * intent

    def summary(
        self, history_BxL: Int[Array, "B L"], length_B: Int[Array, " B"], key: Key = None
    ) -> Float[Array, "B D"]:
        """Return h, the mean of the encoder's outputs over a history's clicks."""
        x_BxLxD = self.represent(history_BxL, length_B, every=True, key=key)
        valid_BxL = jnp.arange(history_BxL.shape[1]) < length_B[:, None]
        return (
            jnp.where(valid_BxL[..., None], x_BxLxD, 0).sum(1) / jnp.maximum(length_B, 1)[:, None]
        )


def contrast_loss(
    a_BxD: Float[Array, "B D"],
    b_BxD: Float[Array, "B D"],
    same_BxB: Bool[Array, "B B"],
    real_B: Bool[Array, " B"],
    temperature: float,
) -> Float[Array, ""]:
    """Return L(a, b) of the module's docstring over real rows.

    same_BxB[i, j]: whether j is in F_i; symmetric, true for j = i.
    """

    def products(x_BxD, y_BxD):
        return jnp.matmul(x_BxD, y_BxD.T, precision="highest") / temperature

    def one_side(xy_BxB, xx_BxB):
        # a row keeps its positive even if it is not real, so that no sum is empty and no gradient
        # is NaN
        candidates = jnp.where(negative_BxB | jnp.eye(len(real_B), dtype=bool), xy_BxB, -jnp.inf)
        others = jnp.where(negative_BxB, xx_BxB, -jnp.inf)
        return jax.nn.logsumexp(jnp.concatenate([candidates, others], 1), 1) - jnp.diagonal(xy_BxB)

    negative_BxB = ~same_BxB & real_B
    ab_BxB = products(a_BxD, b_BxD)
    loss_B = (
        one_side(ab_BxB, products(a_BxD, a_BxD)) + one_side(ab_BxB.T, products(b_BxD, b_BxD))
    ) / 2
    return jnp.where(real_B, loss_B, 0).sum() / jnp.maximum(real_B.sum(), 1)


def intent_loss(
    first_BxD: Float[Array, "B D"],
    second_BxD: Float[Array, "B D"],
    intent_B: Int[Array, " B"],
    intents_KxD: Float[Array, "K D"],
    real_B: Bool[Array, " B"],
    temperature: float,
) -> Float[Array, ""]:
    """Return L_ICL of both views and each history's intent.

    Histories of the same intent are not negatives of each other.
    """
    c_BxD = unit(intents_KxD)[intent_B]
    same_BxB = intent_B[:, None] == intent_B
    first = contrast_loss(first_BxD, c_BxD, same_BxB, real_B, temperature)
    second = contrast_loss(second_BxD, c_BxD, same_BxB, real_B, temperature)
    return (first + second) / 2


def augment(
    history_BxL: Int[Array, "B L"], length_B: Int[Array, " B"], mask: int, key: jax.Array
) -> tuple[Int[Array, "B L"], Int[Array, " B"]]:
    """Return (a view of each history, its length): a crop, mask or reordering drawn for each."""
    B, L = history_BxL.shape
    choice_key, start_key, noise_key = jax.random.split(key, 3)

    def view(history_L, length, choice, start, noise_L):
        cropped_L, size = crop(history_L, length, start)
        views = (
            cropped_L,
            mask_items(history_L, length, noise_L, mask),
            reorder(history_L, length, start, noise_L),
        )
        return jnp.stack(views)[choice], jnp.where(choice == 0, size, length)

    choice_B = jax.random.randint(choice_key, (B,), 0, 3)
    start_B = jax.random.uniform(start_key, (B,))
    noise_BxL = jax.random.uniform(noise_key, (B, L))
    return jax.vmap(view)(history_BxL, length_B, choice_B, start_B, noise_BxL)


def crop(
    history_L: Int[Array, " L"], length: Int[Array, ""], start: Float[Array, ""]
) -> tuple[Int[Array, " L"], Int[Array, ""]]:
    """Return (a run of a fifth of the clicks, at least one, moved to the left; its length).

    start in [0, 1): where the run starts, from the first possible position to the last.
    """
    size = jnp.maximum(length * CROP_TENTHS // 10, 1)
    position_L = jnp.arange(len(history_L))
    first = (start * (length - size + 1)).astype(jnp.int32)
    return jnp.where(position_L < size, history_L[first + position_L], 0), size


def mask_items(
    history_L: Int[Array, " L"], length: Int[Array, ""], noise_L: Float[Array, " L"], mask: int
) -> Int[Array, " L"]:
    """Return the history with seven tenths of its clicks, those of least noise, masked."""
    noise_L = jnp.where(jnp.arange(len(history_L)) < length, noise_L, jnp.inf)
    rank_L = jnp.argsort(jnp.argsort(noise_L))
    return jnp.where(rank_L < length * MASK_TENTHS // 10, mask, history_L)


def reorder(
    history_L: Int[Array, " L"],
    length: Int[Array, ""],
    start: Float[Array, ""],
    noise_L: Float[Array, " L"],
) -> Int[Array, " L"]:
    """Return the history with a run of a fifth of its clicks in the order of their noise.

    start in [0, 1): where the run starts, from the first possible position to the last.
    """
    size = length * REORDER_TENTHS // 10
    position_L = jnp.arange(len(history_L))
    first = (start * (length - size + 1)).astype(jnp.int32)
    inside = (position_L >= first) & (position_L < first + size)
    return history_L[jnp.argsort(jnp.where(inside, first + size * noise_L, position_L))]


def nearest(x_BxD: Float[Array, "B D"], centres_KxD: Float[Array, "K D"]) -> Int[Array, " B"]:
    """Return which centre is nearest each x, the first of equals: the least |c|^2 / 2 - x c."""
    product_BxK = jnp.matmul(x_BxD, centres_KxD.T, precision="highest")
    return (jnp.square(centres_KxD).sum(-1) / 2 - product_BxK).argmin(-1)


def kmeans(
    x_MxBxD: Float[Array, "M B D"], real_MxB: Bool[Array, "M B"], count: int, key: jax.Array
) -> Float[Array, "K D"]:
    """Return `count` centres of the real points, by Lloyd's algorithm from random points.

    Each point is drawn once if there are enough. At most a batch's distances are in memory at a
    time.
    """
    real_N = real_MxB.reshape(-1)
    order_N = jnp.argsort(jnp.where(real_N, jax.random.uniform(key, real_N.shape), jnp.inf))
    start_K = order_N[jnp.arange(count) % jnp.maximum(real_N.sum(), 1)]
    start_KxD = x_MxBxD.reshape(len(real_N), -1)[start_K]
    return lloyd(x_MxBxD, real_MxB, start_KxD)


def lloyd(
    x_MxBxD: Float[Array, "M B D"],
    real_MxB: Bool[Array, "M B"],
    centres_KxD: Float[Array, "K D"],
) -> Float[Array, "K D"]:
    """Move each centre LLOYD_ITERATIONS times to the mean of the real points nearest it.

    A centre without such points stays.
    """

    def iteration(_, centres_KxD):
        def add(sums, batch):
            x_BxD, real_B = batch
            sum_KxD, size_K = sums
            # an index that is out of range is dropped
            to_B = jnp.where(real_B, nearest(x_BxD, centres_KxD), len(centres_KxD))
            sum_KxD = sum_KxD.at[to_B].add(x_BxD, mode="drop")
            return (sum_KxD, size_K.at[to_B].add(1, mode="drop")), None

        zeros = jnp.zeros_like(centres_KxD), jnp.zeros(len(centres_KxD), jnp.int32)
        (sum_KxD, size_K), _ = jax.lax.scan(add, zeros, (x_MxBxD, real_MxB))
        return jnp.where(
            size_K[:, None] > 0, sum_KxD / jnp.maximum(size_K, 1)[:, None], centres_KxD
        )

    return jax.lax.fori_loop(0, LLOYD_ITERATIONS, iteration, centres_KxD)
