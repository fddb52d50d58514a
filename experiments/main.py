"""Train and evaluate a sequential recommender, or a sweep over several settings."""

import sys

from ttt4rec_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
