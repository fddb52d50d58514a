"""Reproduce the paper's Table 1, Figure 2 and Figure 3 as report.md and report.html."""

import sys

from ttt4rec_jax.paper.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
