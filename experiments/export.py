"""Exports a finished run as StableHLO that serves on cpu, cuda and tpu with jax alone:

python experiments/export.py --run=runs/x --output=model/
"""

import sys
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax import export_folder
from ttt4rec_jax.command_line import Parser

DESCRIPTION = """Exports the best parameters of a run, whose folder is all that is needed: programs of any batch for cpu, cuda
and tpu (encode, score candidates, top k and, for TTT4Rec, a session's step), arrays, items and a manifest. The folder is
loaded by the load_export.py in it, which needs jax, numpy and flatbuffers, and not this package."""


def parser(program: str) -> Parser:
    """The command line."""
    found = Parser(program, DESCRIPTION)
    add = found.add_argument
    add("--run", metavar="FOLDER", required=True, type=Path, help="folder of the run")
    add("--output", metavar="FOLDER", required=True, type=Path, help="folder to write, new or empty")
    add("--k", type=int, default=100, help="most items that a request can ask for (default: 100)")
    add("--overwrite", action="store_true", help="replace the export in --output")
    add("--data_dir", default="", help="as for main.py, for runs without catalogue.parquet")
    add("--cache_dir", default="", help="as for main.py")
    return found


def check(asked) -> None:
    """Raises UserError for what can be told before anything is imported or read."""
    if asked.k < 1:
        raise UserError(f"--k: found {asked.k}, expected at least 1")
    if not (asked.run / "config.json").exists():
        raise UserError(f"--run: {asked.run} holds no run (no config.json there); name the folder of a run")
    export_folder.check(asked.output, asked.overwrite)


def summary(output: Path, manifest: dict) -> str:
    """What was written, in two lines."""
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    return (
        f"{output}: {manifest['model']['model']}, {manifest['items']:,} items, top {manifest['k']}; "
        f"{', '.join(manifest['programs'])} for {', '.join(manifest['platforms'])}; {size:.1f} MB\n"
        f"load it with {output / 'load_export.py'}, which needs jax, numpy and flatbuffers"
    )


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 a mistake told in one line, 130 interrupted."""
    try:
        asked = parser(argv[0]).parse_args(argv[1:])
        check(asked)
        from ttt4rec_jax.export import export_run  # imports JAX, which a wrong flag need not wait for

        manifest = export_run(
            asked.run, asked.output, asked.k, overwrite=asked.overwrite, data_dir=asked.data_dir, cache_dir=asked.cache_dir
        )
        print(summary(asked.output, manifest))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
