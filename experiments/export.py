"""Export a finished run as StableHLO programs, to serve it without this package."""

import sys

from ttt4rec_jax.cli.export import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
