"""Export a finished run as StableHLO programs that serve with jax alone."""

import sys

from ttt4rec_jax.cli.export import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
