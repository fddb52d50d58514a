"""Test-time training layers: pure functions on one sequence and one head, and a Flax module.

Axis letters in the whole package: B batch, L length, D model width, H heads, F head width,
b mini_batch_size, M mini-batches, C candidates, K negatives, V items. The name of an array ends in
its axes: keys_LxF. `ArrayLike` types accept NumPy arrays too; one-letter axes in lower case and in
upper case are different axes.
"""
