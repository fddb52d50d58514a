"""A trained run -> a folder that serves without this package: programs by jax.export, their arrays, the items, a manifest.

load_export.py says what is in the folder, and reads it. Scores and ranks are those of evaluation:
the programs are made of evaluation's own functions. Parameters and item vectors are arguments of
the programs and stored once; `B`, the batch, and `C`, the number of candidates, are symbolic.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.config import MODELS, ModelConfig
from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.runs.load import load_run
from ttt4rec_jax.serving import export_folder, load_export
from ttt4rec_jax.serving import top_k as top
from ttt4rec_jax.serving.session import Stream

PLATFORMS = ("cpu", "cuda", "tpu")
SIGNATURES = {  # program: (arguments behind the arrays, results)
    "encode": (("history", "length"), ("user_vectors",)),
    "score": (("history", "length", "candidates"), ("scores",)),
    "top_k": (("history", "length", "blocked"), ("scores", "items")),
    "session_step": (("memory", "click"), ("memory",)),
    "session_top_k": (("memory", "blocked"), ("scores", "items")),
}


def export_run(
    run_dir: str | Path,
    output: str | Path,
    k: int = 100,
    *,
    overwrite: bool = False,
    data_dir: str | Path = "",
    cache_dir: str | Path = "",
) -> dict:
    """Writes the best parameters of a run as an export, and returns its manifest. Raises UserError.

    Args: output: a folder that is new or empty or, with `overwrite`, an export; k: how many items
    the programs give at most.
        data_dir, cache_dir: as load_run's.
    """
    output = Path(output)
    export_folder.check(output, overwrite)
    model = load_run(run_dir, data_dir, cache_dir)
    return export_model(
        *model, output, k, overwrite=overwrite, known=provenance(RunFolder(Path(run_dir)).result)
    )


def export_model(
    config: ModelConfig,
    graphdef,
    params: dict,
    items: Catalogue,
    output: Path,
    k: int = 100,
    *,
    overwrite: bool = False,
    known: dict | None = None,
) -> dict:
    """As export_run, of a model as load_run gives it. known: what the manifest is to say of where it comes from."""
    k = min(k, len(items))
    arrays, functions, shapes = programs(config, graphdef, params, len(items), k)
    exported = {
        name: lower(function, arrays, [shapes[x] for x in SIGNATURES[name][0]])
        for name, function in functions.items()
    }
    manifest = {
        "format": load_export.FORMAT,
        "format_version": load_export.VERSION,
        "written_by": {
            name: importlib.metadata.version(name) for name in ("ttt4rec_jax", "jax", "jaxlib")
        },
        "calling_convention_version": max(
            one.calling_convention_version for one in exported.values()
        ),
        "readable_by": f"jax {jax.__version__} and, as jax.export promises, releases of the six months after it",
        "platforms": list(PLATFORMS),
        "model": dataclasses.asdict(config),
        **(known or {}),
        "items": len(items),
        "k": k,
        "programs": {name: describe(name, one) for name, one in exported.items()},
        "arrays": {
            name: {"dtype": str(x.dtype), "shape": list(x.shape)} for name, x in arrays.items()
        },
    }
    with export_folder.replacing(output, overwrite) as folder:
        for name, one in exported.items():
            (folder / manifest["programs"][name]["file"]).write_bytes(one.serialize())
        np.savez(folder / "arrays.npz", **{name: np.asarray(x) for name, x in arrays.items()})
        write_items(folder / "items.jsonl", items)
        shutil.copyfile(load_export.__file__, folder / "load_export.py")
        manifest["files"] = {
            path.name: load_export.sha256(path) for path in sorted(folder.iterdir())
        }
        (folder / "manifest.json").write_text(
            json.dumps(manifest, indent=2) + "\n", encoding="utf-8"
        )
    return manifest


def provenance(result: Path) -> dict:
    """What a run's result says of its data, with the sha256, and of its epoch; None each if the run was not finished."""
    found = json.loads(result.read_text()) if result.exists() else {}
    return {"dataset": found.get("dataset"), "best_epoch": found.get("best_epoch")}


def write_items(path: Path, items: Catalogue) -> None:
    """A line an item: id (a number or text, as in the data), title where the data has titles, training clicks."""
    with open(path, "w", encoding="utf-8") as file:
        for i, (id, clicks) in enumerate(zip(items.ids, items.clicks.tolist(), strict=True)):
            title = {"title": items.titles[i]} if items.titles else {}
            file.write(json.dumps({"id": id, **title, "clicks": clicks}) + "\n")


# --- the programs: functions (arrays, *arguments) -> results


def programs(
    config: ModelConfig, graphdef, params: dict, num_items: int, k: int
) -> tuple[dict, dict, dict]:
    """(arrays that the programs share, {program: function}, {argument: its shape})."""
    leaves, treedef = jax.tree.flatten_with_path(params)
    names = [
        f"parameters/{jax.tree_util.keystr(path, simple=True, separator='/')}" for path, _ in leaves
    ]
    arrays = {name: x for name, (_, x) in zip(names, leaves, strict=True)}

    def parameters(arrays):
        return jax.tree.unflatten(treedef, [arrays[name] for name in names])

    def model(arrays):
        return nnx.merge(graphdef, parameters(arrays))

    B, C = jax.export.symbolic_shape("B, C")
    shapes = {
        "history": spec((B, config.max_len), np.int32),
        "length": spec((B,), np.int32),
        "candidates": spec((B, C), np.int32),
        "blocked": spec((B, -(-num_items // 8)), np.uint8),
    }
    if not MODELS[config.model].separable:
        return arrays, of_pairs(model, num_items, k), shapes
    item_NxC = ranking.item_tiles(num_items)
    arrays["item_vectors"] = jax.jit(
        lambda arrays: jax.lax.map(model(arrays).item_vectors, item_NxC)
    )(arrays)
    functions = of_users(model, num_items, k)
    if getattr(model(arrays), "is_stream", False):
        stream = Stream(graphdef, params)
        arrays["first_memory"] = jnp.asarray(stream.start)
        shapes |= {
            "memory": spec((B, len(stream.start)), np.float32),
            "click": spec((B,), np.int32),
        }
        functions |= of_sessions(stream, parameters, num_items, k)
    return arrays, functions, shapes


def of_users(model, num_items: int, k: int) -> dict[str, Callable]:
    """The programs of a model that encodes histories. model: of the arrays."""

    def encode(arrays, history_BxL, length_B):
        return (model(arrays).encode(history_BxL, length_B),)

    def score(arrays, history_BxL, length_B, candidates_BxC):
        (user_BxKxD,) = encode(arrays, history_BxL, length_B)
        vector_VxD = arrays["item_vectors"].reshape(-1, user_BxKxD.shape[-1])
        scores_BxC = ranking.Products.candidates(
            user_BxKxD, vector_VxD[jnp.maximum(candidates_BxC - 1, 0)]
        )
        return (only_items(scores_BxC, candidates_BxC, num_items),)

    def top_k(arrays, history_BxL, length_B, blocked_BxW):
        (user_BxKxD,) = encode(arrays, history_BxL, length_B)
        return best_of_users(arrays, user_BxKxD, blocked_BxW, num_items, k)

    return {"encode": encode, "score": score, "top_k": top_k}


def of_sessions(stream: Stream, parameters, num_items: int, k: int) -> dict[str, Callable]:
    """The programs of a model with a state. parameters: of the arrays."""

    def session_step(arrays, memory_BxS, click_B):
        is_click_B = (click_B > 0).astype(np.int32)
        return (stream.advance(parameters(arrays), click_B[:, None], is_click_B, memory_BxS),)

    def session_top_k(arrays, memory_BxS, blocked_BxW):
        return best_of_users(arrays, memory_BxS[:, None, : stream.dim], blocked_BxW, num_items, k)

    return {"session_step": session_step, "session_top_k": session_top_k}


def of_pairs(model, num_items: int, k: int) -> dict[str, Callable]:
    """The programs of a model that scores pairs of a history and a candidate. model: of the arrays."""

    def score(arrays, history_BxL, length_B, candidates_BxC):
        def one(history_1xL, length_1, candidates_1xC):
            scores_1xC = ranking.Pairs(model(arrays)).candidates(
                (history_1xL, length_1), candidates_1xC
            )
            return only_items(scores_1xC, candidates_1xC, num_items)

        return (by_row(one, history_BxL, length_B, candidates_BxC),)

    def top_k(arrays, history_BxL, length_B, blocked_BxW):
        def one(history_1xL, length_1, blocked_1xW):
            bits_1xW = in_tiles(blocked_1xW, num_items)
            return only_free(
                *top.of_histories(model(arrays), history_1xL, length_1, bits_1xW, num_items, k)
            )

        return by_row(one, history_BxL, length_B, blocked_BxW)

    return {"score": score, "top_k": top_k}


def best_of_users(arrays, user_BxKxD, blocked_BxW, num_items: int, k: int):
    """(scores, items) [B, k]."""
    return only_free(
        *top.of_users(user_BxKxD, arrays["item_vectors"], in_tiles(blocked_BxW, num_items), k)
    )


def by_row(function, *arguments):
    """A function of a batch, on each row by itself: memory is that of one history, and a row's bits depend on no other row."""

    def one(row):
        return jax.tree.map(lambda x: x[0], function(*(x[None] for x in row)))

    return jax.lax.map(one, arguments)


def in_tiles(blocked_BxW, num_items: int):
    """The bits of whole tiles, as top.py takes them: places beyond the last item are blocked."""
    beyond_W = top.in_tiles(np.zeros(num_items, bool))
    return jnp.pad(blocked_BxW, ((0, 0), (0, len(beyond_W) - blocked_BxW.shape[1]))) | beyond_W


def only_items(score_BxC, candidates_BxC, num_items: int):
    """Scores, and -inf where a candidate is no item."""
    return jnp.where((candidates_BxC > 0) & (candidates_BxC <= num_items), score_BxC, -jnp.inf)


def only_free(scores_Bxk, items_Bxk):
    """(scores, items), and item 0 where all that may be recommended stands before."""
    return scores_Bxk, jnp.where(scores_Bxk == -jnp.inf, 0, items_Bxk)


# --- their form in the folder


def spec(shape, dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def lower(
    function: Callable, arrays: dict, arguments: list[jax.ShapeDtypeStruct]
) -> jax.export.Exported:
    """A program for every platform and any batch."""
    shapes = {name: spec(x.shape, x.dtype) for name, x in arrays.items()}
    with no_source_locations():
        return jax.export.export(jax.jit(function), platforms=PLATFORMS)(shapes, *arguments)


@contextlib.contextmanager
def no_source_locations():
    """Programs are lowered without the paths of this machine's source files."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def describe(program: str, exported: jax.export.Exported) -> dict:
    """What the manifest says of a program: its file, and its arguments behind the arrays and its results, in order."""
    arguments, results = SIGNATURES[program]

    def said(names, shapes):
        return [
            {
                "name": name,
                "dtype": str(x.dtype),
                "shape": [d if isinstance(d, int) else str(d) for d in x.shape],
            }
            for name, x in zip(names, shapes, strict=True)
        ]

    return {
        "file": f"{program}.jax_export",
        "arguments": said(arguments, exported.in_avals[-len(arguments) :]),
        "results": said(results, exported.out_avals),
    }
