"""Serve live sessions over HTTP, with a page that a person can click."""

import sys

from ttt4rec_jax.cli.serve import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
