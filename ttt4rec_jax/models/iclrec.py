"""ICLRec: SASRec, trained as well to tell histories apart by what is left of them, and by the intents they are clustered into.

Chen, Liu, Li, McAuley, Xiong 2022, "Intent Contrastive Learning for Sequential Recommendation"
(arXiv:2202.02519), sections 3 and 4; loss, rates and iterations as in the authors' code
(github.com/salesforce/ICLRec). h, the mean of the encoder's outputs over a history's clicks, stands
for the history S. In turn, once an epoch and once a step (expectation-maximisation):

    E  c_1..c_K = k-means of h over all users;  Q(c_k | S) = 1 for the c_k nearest h, 0 for the others
    M  L = L_NextItem + beta L_SeqCL + lambda L_ICL,  beta = contrast_weight, lambda = intent_weight
       two views of each history, cropped, masked or reordered at random -> h1, h2;  c = c_k / |c_k| of the history
       L_SeqCL = L(h1, h2),  L_ICL = (L(h1, c) + L(h2, c)) / 2
       L(a, b) = mean over i and over (x, y) in {(a, b), (b, a)} of
                 -log exp(x_i y_i) / (exp(x_i y_i) + sum_{j not F_i} (exp(x_i y_j) + exp(x_i x_j))),  products / temperature
       F_i: i itself; for L_ICL all histories of i's intent (false-negative mitigation)

What differs from the authors' code: the encoder is this project's SASRec. h is a mean over clicks
for L_SeqCL too, as the paper says, where the code concatenates the outputs at all max_len
positions, and padding is no part of it. Masked clicks have an embedding of their own, where the
code hides them like padding. A history's intent is chosen without dropout, the paper's Q. False
negatives are left out of L_ICL alone, as in the paper; the code leaves them in by default, and with
--de_noise takes them out of L_SeqCL by comparing held-out items. Both losses see the views under
the same dropout. A cropped or
reordered run may reach the
last click. k-means runs once
instead of keeping the best of
five.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.data.examples import Histories
from ttt4rec_jax.models.layers import Attention, Block, BlockRecommender, unit

# tenths of a history that a crop keeps, a mask hides, a reordering shuffles
CROPPED = 2
MASKED = 7
REORDERED = 2
LLOYD_ITERATIONS = 20


class IclRec(BlockRecommender):
    """Interface in models/__init__.py. Id num_items + 1 is the mask."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        layers = [Attention(config.dim, config.num_heads, rngs) for _ in range(config.num_blocks)]
        blocks = [Block(config.dim, layer, config.ffn, config.dropout, rngs) for layer in layers]
        super().__init__(config, num_items, blocks, rngs, more_rows=1)
        self.mask = num_items + 1
        self.config = config

    def initial_context(self) -> dict:
        """What learn_context gives, in zeros."""
        return {"intents": jnp.zeros((self.config.num_intents, self.config.dim))}

    def learn_context(self, groups: tuple[Histories, ...], key) -> dict:
        """The E step: intents [K, D], centres of all users' histories. Histories of less than two clicks are fillers."""
        summaries = [
            jax.lax.map(lambda batch: self.summary(*batch), tuple(group)) for group in groups
        ]
        real_MxB = jnp.concatenate([group.length for group in groups]) > 1
        return {
            "intents": kmeans(jnp.concatenate(summaries), real_MxB, self.config.num_intents, key)
        }

    def own_loss(self, batch: Batch, context: dict, key):
        """beta L_SeqCL + lambda L_ICL over the rows that have a target. The key draws views and dropout."""
        view_key, dropout_key = jax.random.split(key)
        real_B = batch.weight.reshape(len(batch.length), -1).max(-1) > 0
        # both views in one batch of 2B rows
        view_BxL, length_B = augment(
            jnp.tile(batch.history, (2, 1)), jnp.tile(batch.length, 2), self.mask, view_key
        )
        first_BxD, second_BxD = jnp.split(self.summary(view_BxL, length_B, dropout_key), 2)
        h_BxD = jax.lax.stop_gradient(self.summary(batch.history, batch.length))
        intent_B = nearest(h_BxD, context["intents"])
        return self.config.contrast_weight * contrast_loss(
            first_BxD,
            second_BxD,
            jnp.eye(len(real_B), dtype=bool),
            real_B,
            self.config.contrast_temperature,
        ) + self.config.intent_weight * intent_loss(
            first_BxD,
            second_BxD,
            intent_B,
            context["intents"],
            real_B,
            self.config.contrast_temperature,
        )

    def summary(self, history_BxL, length_B, key=None):
        """h [B, D]: the mean of the encoder's outputs over a history's clicks."""
        x_BxLxD = self.represent(history_BxL, length_B, every=True, key=key)
        valid_BxL = jnp.arange(history_BxL.shape[1]) < length_B[:, None]
        return (
            jnp.where(valid_BxL[..., None], x_BxLxD, 0).sum(1) / jnp.maximum(length_B, 1)[:, None]
        )


def contrast_loss(a_BxD, b_BxD, same_BxB, real_B, temperature: float):
    """L(a, b) of the module's docstring, over real rows; same_BxB[i, j]: whether j is in F_i, symmetric, true for j = i."""

    def products(x_BxD, y_BxD):
        return jnp.matmul(x_BxD, y_BxD.T, precision="highest") / temperature

    def one_side(xy_BxB, xx_BxB):
        # a row keeps its positive even if it is not real, so that no sum is empty and no gradient
        # NaN
        candidates = jnp.where(negative_BxB | jnp.eye(len(real_B), dtype=bool), xy_BxB, -jnp.inf)
        others = jnp.where(negative_BxB, xx_BxB, -jnp.inf)
        return jax.nn.logsumexp(jnp.concatenate([candidates, others], 1), 1) - jnp.diagonal(xy_BxB)

    negative_BxB = ~same_BxB & real_B
    ab_BxB = products(a_BxD, b_BxD)
    loss_B = (
        one_side(ab_BxB, products(a_BxD, a_BxD)) + one_side(ab_BxB.T, products(b_BxD, b_BxD))
    ) / 2
    return jnp.where(real_B, loss_B, 0).sum() / jnp.maximum(real_B.sum(), 1)


def intent_loss(first_BxD, second_BxD, intent_B, intents_KxD, real_B, temperature: float):
    """L_ICL of both views and the intent of each history; histories of one intent are no negatives of each other."""
    c_BxD = unit(intents_KxD)[intent_B]
    same_BxB = intent_B[:, None] == intent_B
    losses = [
        contrast_loss(view_BxD, c_BxD, same_BxB, real_B, temperature)
        for view_BxD in (first_BxD, second_BxD)
    ]
    return sum(losses) / 2


def augment(history_BxL, length_B, mask: int, key):
    """(view of each history [B, L], its length [B]): one of crop, mask and reorder, drawn for each."""
    B, L = history_BxL.shape
    choice_key, place_key, noise_key = jax.random.split(key, 3)

    def one(history_L, length, choice, place, noise_L):
        cropped_L, size = crop(history_L, length, place)
        views = (
            cropped_L,
            hide(history_L, length, noise_L, mask),
            reorder(history_L, length, place, noise_L),
        )
        return jnp.stack(views)[choice], jnp.where(choice == 0, size, length)

    choice_B = jax.random.randint(choice_key, (B,), 0, 3)
    place_B = jax.random.uniform(place_key, (B,))
    return jax.vmap(one)(
        history_BxL, length_B, choice_B, place_B, jax.random.uniform(noise_key, (B, L))
    )


def crop(history_L, length, place):
    """(a run of a fifth of the clicks, one at least, moved to the left; how many). place in [0, 1) says where it begins."""
    size = jnp.maximum(length * CROPPED // 10, 1)
    position_L = jnp.arange(len(history_L))
    start = (place * (length - size + 1)).astype(jnp.int32)
    return jnp.where(position_L < size, history_L[start + position_L], 0), size


def hide(history_L, length, noise_L, mask: int):
    """The history with seven tenths of its clicks, those of least noise, replaced by the mask."""
    noise_L = jnp.where(jnp.arange(len(history_L)) < length, noise_L, jnp.inf)
    rank_L = jnp.argsort(jnp.argsort(noise_L))
    return jnp.where(rank_L < length * MASKED // 10, mask, history_L)


def reorder(history_L, length, place, noise_L):
    """The history with a run of a fifth of its clicks in the order of their noise. place in [0, 1) says where it begins."""
    size = length * REORDERED // 10
    position_L = jnp.arange(len(history_L))
    start = (place * (length - size + 1)).astype(jnp.int32)
    inside = (position_L >= start) & (position_L < start + size)
    return history_L[jnp.argsort(jnp.where(inside, start + size * noise_L, position_L))]


def nearest(x_BxD, centres_KxD):
    """Which centre is nearest each x [B], the first of equals: the least |c|^2 / 2 - x c."""
    product_BxK = jnp.matmul(x_BxD, centres_KxD.T, precision="highest")
    return (jnp.square(centres_KxD).sum(-1) / 2 - product_BxK).argmin(-1)


def kmeans(x_MxBxD, real_MxB, count: int, key):
    """`count` centres [K, D] of the real points, by Lloyd's algorithm from points drawn at random, each once if they suffice.

    At most a batch's distances are in memory at a time.
    """
    real_N = real_MxB.reshape(-1)
    order_N = jnp.argsort(jnp.where(real_N, jax.random.uniform(key, real_N.shape), jnp.inf))
    start_K = order_N[jnp.arange(count) % jnp.maximum(real_N.sum(), 1)]
    start_KxD = x_MxBxD.reshape(len(real_N), -1)[start_K]
    return lloyd(x_MxBxD, real_MxB, start_KxD)


def lloyd(x_MxBxD, real_MxB, centres_KxD):
    """LLOYD_ITERATIONS times: each centre moves to the mean of the real points nearest it, or stays where there is none."""

    def iteration(_, centres_KxD):
        def add(sums, batch):
            x_BxD, real_B = batch
            sum_KxD, size_K = sums
            to_B = jnp.where(
                real_B, nearest(x_BxD, centres_KxD), len(centres_KxD)
            )  # out of range: dropped
            return (
                sum_KxD.at[to_B].add(x_BxD, mode="drop"),
                size_K.at[to_B].add(1, mode="drop"),
            ), None

        zeros = jnp.zeros_like(centres_KxD), jnp.zeros(len(centres_KxD), jnp.int32)
        (sum_KxD, size_K), _ = jax.lax.scan(add, zeros, (x_MxBxD, real_MxB))
        return jnp.where(
            size_K[:, None] > 0, sum_KxD / jnp.maximum(size_K, 1)[:, None], centres_KxD
        )

    return jax.lax.fori_loop(0, LLOYD_ITERATIONS, iteration, centres_KxD)
