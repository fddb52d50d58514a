"""The programs of an export: pure functions (arrays, *arguments) -> results.

They consist of the evaluation's functions. Parameters and item vectors are arguments, so that the
export stores them once for all programs. The batch size B and the number of candidates C are
symbolic. The docstring of load_export describes each program; the names of the arguments and
results in SIGNATURES are part of the format ("memory" is the recurrent state of a session).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.serving.engine import is_recurrent, is_two_tower
from ttt4rec_jax.serving.recurrent import RecurrentPrograms
from ttt4rec_jax.serving.top_k import pack_mask, top_k_of_histories, top_k_of_users

SIGNATURES = {  # program: (arguments after the arrays, results)
    "encode": (("history", "length"), ("user_vectors",)),
    "score": (("history", "length", "candidates"), ("scores",)),
    "top_k": (("history", "length", "blocked"), ("scores", "items")),
    "session_step": (("memory", "click"), ("memory",)),
    "session_top_k": (("memory", "blocked"), ("scores", "items")),
}
Arrays = dict[str, jax.Array]
Program = Callable[..., tuple[jax.Array, ...]]


class Programs(NamedTuple):
    """The functions of an export by name, the arrays they share, and the shape of each argument."""

    functions: dict[str, Program]
    arrays: Arrays
    shapes: dict[str, jax.ShapeDtypeStruct]


def make_programs(
    graphdef: nnx.GraphDef, params: dict[str, Any], num_items: int, max_len: int, k: int
) -> Programs:
    """Return the programs of a model. k: the number of items that the top k returns."""
    leaves, treedef = jax.tree.flatten_with_path(params)
    names = [
        f"parameters/{jax.tree_util.keystr(path, simple=True, separator='/')}" for path, _ in leaves
    ]
    arrays = {name: x for name, (_, x) in zip(names, leaves, strict=True)}

    def parameters(arrays: Arrays) -> dict[str, Any]:
        return jax.tree.unflatten(treedef, [arrays[name] for name in names])

    def model(arrays: Arrays) -> Any:
        return nnx.merge(graphdef, parameters(arrays))

    B, C = jax.export.symbolic_shape("B, C")
    shapes = {
        "history": jax.ShapeDtypeStruct((B, max_len), np.int32),
        "length": jax.ShapeDtypeStruct((B,), np.int32),
        "candidates": jax.ShapeDtypeStruct((B, C), np.int32),
        "blocked": jax.ShapeDtypeStruct((B, -(-num_items // 8)), np.uint8),
    }
    if not is_two_tower(model(arrays)):
        return Programs(pair_programs(model, num_items, k), arrays, shapes)
    item_NxC = ranking.item_tiles(num_items)
    arrays["item_vectors"] = jax.jit(
        lambda arrays: jax.lax.map(model(arrays).item_vectors, item_NxC)
    )(arrays)
    functions = two_tower_programs(model, num_items, k)
    if is_recurrent(model(arrays)):
        recurrent = RecurrentPrograms(graphdef, params)
        arrays["first_memory"] = jnp.asarray(recurrent.initial_state)
        shapes["memory"] = jax.ShapeDtypeStruct((B, len(recurrent.initial_state)), np.float32)
        shapes["click"] = jax.ShapeDtypeStruct((B,), np.int32)
        functions |= session_programs(recurrent, model, parameters, num_items, k)
    return Programs(functions, arrays, shapes)


def two_tower_programs(
    model: Callable[[Arrays], Any], num_items: int, k: int
) -> dict[str, Program]:
    """Return the programs of a model that encodes histories. `model` builds it from the arrays."""

    def encode(arrays, history_BxL, length_B):
        return (model(arrays).encode(history_BxL, length_B),)

    def score(arrays, history_BxL, length_B, candidates_BxC):
        (user_BxKxD,) = encode(arrays, history_BxL, length_B)
        vector_VxD = arrays["item_vectors"].reshape(-1, user_BxKxD.shape[-1])
        scores_BxC = ranking.Products(model(arrays)).candidates(
            user_BxKxD, vector_VxD[jnp.maximum(candidates_BxC - 1, 0)]
        )
        return (mask_padding(scores_BxC, candidates_BxC, num_items),)

    def top_k(arrays, history_BxL, length_B, blocked_BxW):
        (user_BxKxD,) = encode(arrays, history_BxL, length_B)
        return top_k_allowed(model(arrays), arrays, user_BxKxD, blocked_BxW, num_items, k)

    return {"encode": encode, "score": score, "top_k": top_k}


def session_programs(
    recurrent: RecurrentPrograms,
    model: Callable[[Arrays], Any],
    parameters: Callable[[Arrays], dict[str, Any]],
    num_items: int,
    k: int,
) -> dict[str, Program]:
    """Return the programs of sessions. `parameters` returns the model's from the arrays."""

    def session_step(arrays, state_BxS, click_B):
        is_click_B = (click_B > 0).astype(np.int32)
        return (recurrent.advance(parameters(arrays), click_B[:, None], is_click_B, state_BxS),)

    def session_top_k(arrays, state_BxS, blocked_BxW):
        user_Bx1xD = state_BxS[:, None, : recurrent.dim]
        return top_k_allowed(model(arrays), arrays, user_Bx1xD, blocked_BxW, num_items, k)

    return {"session_step": session_step, "session_top_k": session_top_k}


def pair_programs(model: Callable[[Arrays], Any], num_items: int, k: int) -> dict[str, Program]:
    """Return the programs of a model that scores pairs of a history and a candidate."""

    def score(arrays, history_BxL, length_B, candidates_BxC):
        def score_row(history_1xL, length_1, candidates_1xC):
            scores_1xC = ranking.Pairs(model(arrays)).candidates(
                (history_1xL, length_1), candidates_1xC
            )
            return mask_padding(scores_1xC, candidates_1xC, num_items)

        return (map_rows(score_row, history_BxL, length_B, candidates_BxC),)

    def top_k(arrays, history_BxL, length_B, blocked_BxW):
        def top_k_of_row(history_1xL, length_1, blocked_1xW):
            bits_1xW = pad_mask(blocked_1xW, num_items)
            scores, items = top_k_of_histories(
                model(arrays), history_1xL, length_1, bits_1xW, num_items, k
            )
            return scores, pad_items(scores, items)

        return map_rows(top_k_of_row, history_BxL, length_B, blocked_BxW)

    return {"score": score, "top_k": top_k}


def top_k_allowed(
    model: Any,
    arrays: Arrays,
    user_BxKxD: jax.Array,
    blocked_BxW: jax.Array,
    num_items: int,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Return (scores, items) [B, k] by user vectors, of the items that are not blocked."""
    bits_BxW = pad_mask(blocked_BxW, num_items)
    vectors = arrays["item_vectors"]
    scores, items = top_k_of_users(model, user_BxKxD, vectors, bits_BxW, k)
    return scores, pad_items(scores, items)


def map_rows(function: Callable, *arguments: jax.Array) -> Any:
    """Apply a function of a batch to each row of the arguments, one at a time.

    Memory is that of one history, and the bits of a row do not depend on the other rows.
    """

    def apply(row):
        return jax.tree.map(lambda x: x[0], function(*(x[None] for x in row)))

    return jax.lax.map(apply, arguments)


def pad_mask(blocked_BxW: jax.Array, num_items: int) -> jax.Array:
    """Return the bits padded to whole tiles, as top_k.py takes them, with the padding blocked."""
    padding_W = pack_mask(np.zeros(num_items, bool))
    return jnp.pad(blocked_BxW, ((0, 0), (0, len(padding_W) - blocked_BxW.shape[1]))) | padding_W


def mask_padding(score_BxC: jax.Array, candidates_BxC: jax.Array, num_items: int) -> jax.Array:
    """Return the scores, and -inf for candidates that are not items."""
    return jnp.where((candidates_BxC > 0) & (candidates_BxC <= num_items), score_BxC, -jnp.inf)


def pad_items(scores_Bxk: jax.Array, items_Bxk: jax.Array) -> jax.Array:
    """Return the items, with 0 where fewer than k items are allowed."""
    return jnp.where(scores_Bxk == -jnp.inf, 0, items_Bxk)
