"""The command line. Importing it opens closed streams, which some libraries need at import."""

from ttt4rec_jax.cli.terminal import open_closed_streams

open_closed_streams()
