"""The command line. Importing it opens closed streams: some libraries need stderr to be imported."""

from ttt4rec_jax.cli.terminal import open_closed_streams

open_closed_streams()
