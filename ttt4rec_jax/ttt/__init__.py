"""Test-time training layers: pure functions on one sequence and one head, and the Flax module around them.

Axis letters, in the whole package: B batch, L length, D model width, H heads, F head width, b
mini_batch_size, M mini-batches, C candidates, K negatives, V items. An array's name ends in its
axes: keys_LxF.
"""
