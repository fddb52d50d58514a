"""Train and evaluate one configuration, or every combination of several values."""

import sys

from ttt4rec_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
