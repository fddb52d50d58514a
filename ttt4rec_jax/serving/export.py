"""Export a trained run as a folder that can be served without this package.

load_export/ describes the content of the folder and loads it. Scores and ranks are those of the
evaluation, since the exported programs (programs.py) consist of the evaluation's functions.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data.time_gaps import SECONDS
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.runs.load import load_run
from ttt4rec_jax.serving import export_folder, load_export
from ttt4rec_jax.serving.programs import SIGNATURES, Arrays, make_programs

PLATFORMS = ("cpu", "cuda", "tpu")


def export_run(
    run_dir: str | Path,
    output: str | Path,
    k: int = 100,
    *,
    overwrite: bool = False,
    data_dir: str | Path = "",
    cache_dir: str | Path = "",
) -> dict[str, Any]:
    """Export the best parameters of a run and return the manifest. Raise UserError.

    Args:
        output: a folder that is new or empty or, with `overwrite`, holds an export.
        k: the largest number of items that a request can ask for.
        data_dir, cache_dir: as in load_run.
    """
    output = Path(output)
    export_folder.check(output, overwrite)
    model = load_run(run_dir, data_dir, cache_dir)
    source = provenance(RunFolder(Path(run_dir)).result)
    return export_model(*model, output, k, overwrite=overwrite, source=source)


def export_model(
    config: ModelConfig,
    graphdef: nnx.GraphDef,
    params: dict[str, Any],
    items: Catalogue,
    output: Path,
    k: int = 100,
    *,
    overwrite: bool = False,
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Export a model as load_run returns it, and return the manifest. Raise UserError.

    source: entries of the manifest about where the model comes from.
    """
    k = min(k, len(items))
    is_timed = config.time != "none"
    programs = make_programs(graphdef, params, len(items), config.max_len, k)
    exported = {
        name: export_program(
            function, programs.arrays, [programs.shapes[x] for x in SIGNATURES[name][0]]
        )
        for name, function in programs.functions.items()
    }
    manifest = {
        "format": load_export.FORMAT,
        "format_version": load_export.VERSION_WITH_TIMES if is_timed else load_export.VERSION,
        "written_by": {
            name: importlib.metadata.version(name) for name in ("ttt4rec_jax", "jax", "jaxlib")
        },
        "calling_convention_version": max(
            program.calling_convention_version for program in exported.values()
        ),
        "readable_by": (
            f"jax {jax.__version__} and, as jax.export promises, releases of the six months "
            "after it"
        ),
        "platforms": list(PLATFORMS),
        "model": dataclasses.asdict(config),
        **(source or {}),
        "items": len(items),
        "k": k,
        **({"gap_seconds": SECONDS.tolist()} if is_timed else {}),
        "programs": {name: describe(name, program) for name, program in exported.items()},
        "arrays": {
            name: {"dtype": str(x.dtype), "shape": list(x.shape)}
            for name, x in programs.arrays.items()
        },
    }
    with export_folder.replacing(output, overwrite) as folder:
        for name, program in exported.items():
            (folder / manifest["programs"][name]["file"]).write_bytes(program.serialize())
        arrays: dict[str, Any] = {name: np.asarray(x) for name, x in programs.arrays.items()}
        np.savez(folder / "arrays.npz", **arrays)
        write_items(folder / "items.jsonl", items)
        manifest["files"] = {
            path.name: load_export.sha256(path) for path in sorted(folder.iterdir())
        }
        loader = Path(load_export.__file__).parent
        shutil.copytree(loader, folder / loader.name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "manifest.json").write_text(
            json.dumps(manifest, indent=2) + "\n", encoding="utf-8"
        )
    return manifest


def provenance(result: Path) -> dict[str, Any]:
    """Return the data set (with its sha256) and best epoch of a run's result.json.

    Both are None if the run has not finished.
    """
    content = read.result(result.parent) if result.exists() else {}
    return {"dataset": content.get("dataset"), "best_epoch": content.get("best_epoch")}


def write_items(path: Path, items: Catalogue) -> None:
    """Write one line per item: id (a number or text, as in the data), title if any, clicks."""
    with open(path, "w", encoding="utf-8") as file:
        for row, (id, clicks) in enumerate(zip(items.ids, items.clicks.tolist(), strict=True)):
            title = {"title": items.titles[row]} if items.titles else {}
            file.write(json.dumps({"id": id, **title, "clicks": clicks}) + "\n")


def export_program(
    function: Callable, arrays: Arrays, arguments: list[jax.ShapeDtypeStruct]
) -> jax.export.Exported:
    """Lower a function of (arrays, *arguments) for every platform and any batch size."""
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}
    with no_source_locations():
        return jax.export.export(jax.jit(function), platforms=PLATFORMS)(shapes, *arguments)


@contextlib.contextmanager
def no_source_locations() -> Iterator[None]:
    """Keep the paths of this machine's source files out of lowered programs."""
    before = jax.config.values["jax_traceback_in_locations_limit"]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def describe(name: str, program: jax.export.Exported) -> dict[str, Any]:
    """Return a program's entry in the manifest.

    It names the file and lists, in order, the arguments after the arrays and the results.
    """
    arguments, results = SIGNATURES[name]
    return {
        "file": f"{name}.jax_export",
        "arguments": describe_arrays(arguments, program.in_avals[-len(arguments) :]),
        "results": describe_arrays(results, program.out_avals),
    }


def describe_arrays(names: tuple[str, ...], shapes: Any) -> list[dict[str, Any]]:
    """Return name, dtype and shape of some arrays; symbolic dimensions are text."""
    return [
        {
            "name": name,
            "dtype": str(x.dtype),
            "shape": [dim if isinstance(dim, int) else str(dim) for dim in x.shape],
        }
        for name, x in zip(names, shapes, strict=True)
    ]
