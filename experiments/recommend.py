"""Recommend with a finished run: to every user in a file, to one user, or click by click."""

import sys

from ttt4rec_jax.cli.recommend import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
