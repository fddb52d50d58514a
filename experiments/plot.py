"""Plot the training loss and the validation metrics of runs by epoch."""

import sys

from ttt4rec_jax.cli.plot import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
