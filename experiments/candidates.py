"""Write what another library needs to train and to score the evaluation's candidates."""

import sys

from ttt4rec_jax.cli.candidates import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
