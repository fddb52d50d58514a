"""The generated data set: each click depends on the user's last two clicks and on a user group."""

import numpy as np
import polars as pl

from data_prep.negatives import below

VERSION = 1  # increase it whenever a seed gives different data
USERS = 1500
ITEMS = 300
GROUPS = 4
SHORTEST = 8
LONGEST = 32
HOUR = 3600


def generate(seed: int) -> pl.DataFrame:
    """Return about 30,000 clicks of 1500 users on 300 items.

    The columns user, item and time (unix seconds) are integers. Each item has one successor per
    group of users. With probability 8/10 a click is a successor: of the last click with probability
    3/4, else of the one before; in the user's own group with probability 3/4, else in any group.
    Otherwise it is drawn by popularity (weight 1/rank). No user clicks an item twice. Integer
    arithmetic on raw random bits gives the same data on every machine.
    """
    bits = np.random.PCG64(np.random.SeedSequence((seed, VERSION)))
    users = np.arange(USERS)
    popular = np.repeat(np.arange(ITEMS), 10_000 // np.arange(1, ITEMS + 1))
    successors = below(bits, ITEMS, ITEMS * GROUPS).reshape(ITEMS, GROUPS)
    group = below(bits, GROUPS, USERS)
    clicks = np.zeros((USERS, LONGEST), np.int64)
    seen = np.zeros((USERS, ITEMS), bool)
    for step in range(LONGEST):
        item = popular[below(bits, len(popular), USERS)]
        if step > 0:
            back = np.where(below(bits, 4, USERS) < 3, 1, min(2, step))
            taste = np.where(below(bits, 4, USERS) < 3, group, below(bits, GROUPS, USERS))
            follows = below(bits, 10, USERS) < 8
            item = np.where(follows, successors[clicks[users, step - back], taste], item)
        for _ in range(LONGEST):
            again = seen[users, item]
            item = np.where(again, popular[below(bits, len(popular), USERS)], item)
        while (again := seen[users, item]).any():
            item = np.where(again, (item + 1) % ITEMS, item)
        clicks[:, step] = item
        seen[users, item] = True
    start = below(bits, 300 * 24, USERS) * HOUR + 1_577_836_800
    gaps = (1 + below(bits, 48, USERS * LONGEST).reshape(USERS, LONGEST)) * HOUR
    times = start[:, None] + np.cumsum(gaps, axis=1)
    kept = np.arange(LONGEST) < (SHORTEST + below(bits, LONGEST - SHORTEST + 1, USERS))[:, None]
    user_ids = np.broadcast_to(users[:, None] + 1, kept.shape)
    return pl.DataFrame({"user": user_ids[kept], "item": clicks[kept] + 1, "time": times[kept]})
