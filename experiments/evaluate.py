"""Judge the lists or scores of any recommender."""

import sys

from ttt4rec_jax.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
