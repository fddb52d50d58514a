"""Exports a finished run as StableHLO that serves on cpu, cuda and tpu with jax alone:

python experiments/export.py --run=runs/x --output=model/
"""

import sys
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.cli.parser import Parser, add_run, check_run
from ttt4rec_jax.serving import export_folder

DESCRIPTION = """Exports the best parameters of a run, whose folder is all that is needed: programs of any batch for cpu, cuda
and tpu (encode, score candidates, top k and, for TTT4Rec, a session's step), arrays, items and a manifest. The folder is
loaded by the load_export.py in it, which needs jax, numpy and flatbuffers, and not this package."""


def parser(program: str) -> Parser:
    """The command line."""
    found = Parser(program, DESCRIPTION)
    add_run(found)
    add = found.add_argument
    add(
        "--output", metavar="FOLDER", required=True, type=Path, help="folder to write, new or empty"
    )
    add("--k", type=int, default=100, help="most items that a request can ask for (default: 100)")
    add("--overwrite", action="store_true", help="replace the export in --output")
    return found


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
        check_run(asked)
        export_folder.check(asked.output, asked.overwrite)
        from ttt4rec_jax.serving.export import (
            export_run,  # imports JAX, which a wrong flag need not wait for
        )

        manifest = export_run(
            asked.run,
            asked.output,
            asked.k,
            overwrite=asked.overwrite,
            data_dir=asked.data_dir,
            cache_dir=asked.cache_dir,
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
