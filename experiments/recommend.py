"""Recommend items with a finished run, to users in a file, to one user, or in a session."""

import sys

from ttt4rec_jax.cli.recommend import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
