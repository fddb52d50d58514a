"""Compare finished runs by a paired test over their test users."""

import sys

from ttt4rec_jax.cli.compare import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
