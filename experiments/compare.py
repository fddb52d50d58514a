"""Compare systems by the test users of their finished runs."""

import sys

from ttt4rec_jax.cli.compare import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
