"""Histories and sets of items as arrays, in batches of few sizes."""

from collections.abc import Sequence

import numpy as np

MAX_BATCH = 64  # rows of one call of a program


def windows(histories: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last `length` items of histories, zero-padded [B, length], and counts [B]."""
    recent = [items[-length:] for items in histories]
    count_B = np.array([len(items) for items in recent], np.int32)
    history_BxL = np.zeros((len(recent), length), np.int32)
    item_N = np.concatenate([*recent, np.zeros(0, np.int32)])
    history_BxL[np.arange(length) < count_B[:, None]] = item_N
    return history_BxL, count_B


def set_bits(bits_BxW: np.ndarray, items: Sequence[np.ndarray]) -> None:
    """Set the bits of each row's items in place. There is at least one row."""
    row_N = np.repeat(np.arange(len(items)), [len(row) for row in items])
    bit_N = np.concatenate([*items, np.zeros(0, np.int32)]) - 1
    np.bitwise_or.at(bits_BxW, (row_N, bit_N >> 3), np.uint8(1) << (bit_N & 7).astype(np.uint8))


def pad_rows(x: np.ndarray, rows: int) -> np.ndarray:
    """Return x padded to `rows` rows, which repeat the first."""
    return np.concatenate([x, np.repeat(x[:1], rows - len(x), 0)])


def next_power_of_two(n: int, least: int = 1) -> int:
    """Return the smallest power of two that is at least n, or `least` if that is larger."""
    return max(least, 1 << (n - 1).bit_length())
