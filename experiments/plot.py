"""Draw loss and validation curves of runs, finished or not."""

import sys

from ttt4rec_jax.cli.plot import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
