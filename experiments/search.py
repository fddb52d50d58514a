"""Search for the options of a model that are best on validation."""

import sys

from ttt4rec_jax.cli.search import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
