"""What lists of recommendations are like, beyond whether they hold the target. Imports no JAX.

Let c[i] be the training clicks on item i, V the number of items, and the slots the places 1..k of
all lists. Slots beyond the end of a list are none.

coverage@k    the share of the V items that are in some slot
gini@k        the Gini coefficient of how many slots each of the V items has: 0 if all have the same
              number, close to 1 if a few items have all
popularity@k  the mean of c over the slots of a list, mean over lists
novelty@k     the mean of -log2(max(c, 1) / sum of c) over the slots of a list, mean over lists: the
              self-information of a click on an item (Zhou et al. 2010), in bits
diversity@k   the mean of 1 - |A & B| / |A | B| over the pairs of items in a list, where A and B are
              their categories, mean over lists of two items or more (Ziegler et al. 2005, with
              Jaccard's similarity); pairs with an item without a category are left out
"""

from collections.abc import Sequence

import numpy as np

LISTS_AT_ONCE = 2**22  # of lists x places x categories


def beyond_accuracy(
    item_TxK: np.ndarray,
    clicks_V: np.ndarray,
    target_T: np.ndarray,
    top_k: Sequence[int],
    categories_VxG: np.ndarray | None = None,
) -> dict[str, float]:
    """Return the measures of the first k items for each k, and some of the targets themselves.

    The mean popularity and novelty of what was clicked are named popularity_clicked and
    novelty_clicked. The half-widths of 95% intervals over users are named `<measure>_ci95`.

    Args:
        item_TxK: The lists, the best first; 0 is no item.
        clicks_V: The training clicks on each item.
        target_T: The items that were clicked.
        top_k: Numbers k; those beyond K are left out.
        categories_VxG: Which categories each item has, if they are known.
    """
    popularity_V = clicks_V.astype(float)
    novelty_V = -np.log2(np.maximum(popularity_V, 1) / max(popularity_V.sum(), 1))
    found: dict[str, float] = {}
    for k in (k for k in top_k if k <= item_TxK.shape[1]):
        item_Txk = item_TxK[:, :k]
        slots_V = np.bincount(item_Txk[item_Txk > 0], minlength=len(clicks_V) + 1)[1:]
        found[f"coverage@{k}"] = float((slots_V > 0).mean())
        found[f"gini@{k}"] = gini(slots_V)
        per_list = {
            "popularity": list_means(item_Txk, popularity_V),
            "novelty": list_means(item_Txk, novelty_V),
        }
        if categories_VxG is not None and k > 1:
            per_list["diversity"] = diversity(item_Txk, categories_VxG)
        for name, values in per_list.items():
            found |= mean_and_interval(f"{name}@{k}", values)
    for name, values_V in (("popularity", popularity_V), ("novelty", novelty_V)):
        found |= mean_and_interval(f"{name}_clicked", values_V[target_T - 1])
    return found


def mean_and_interval(name: str, values: np.ndarray) -> dict[str, float]:
    """Return the mean of what is not NaN, and the half-width of its 95% interval."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {}
    mean = {name: float(known.mean())}
    if len(known) > 1:
        mean[f"{name}_ci95"] = float(1.96 * known.std(ddof=1) / np.sqrt(len(known)))
    return mean


def list_means(item_Txk: np.ndarray, value_V: np.ndarray) -> np.ndarray:
    """Return the mean of the items' values in each list [T]; NaN for an empty list."""
    value = np.concatenate([[0.0], value_V])
    count_T = (item_Txk > 0).sum(1)
    total_T = value[item_Txk].sum(1)
    return np.where(count_T > 0, total_T / np.maximum(count_T, 1), np.nan)


def gini(slots_V: np.ndarray) -> float:
    """Return the Gini coefficient of counts: half their relative mean absolute difference."""
    total = slots_V.sum()
    if not total:
        return 0.0
    V = len(slots_V)
    weight_V = 2 * np.arange(1, V + 1) - V - 1
    return float((weight_V * np.sort(slots_V)).sum() / (V * total))


def diversity(item_Txk: np.ndarray, categories_VxG: np.ndarray) -> np.ndarray:
    """Return the mean dissimilarity of the pairs of each list [T]; NaN without such a pair."""
    T, k = item_Txk.shape
    G = categories_VxG.shape[1]
    categories = np.concatenate([np.zeros((1, G), bool), categories_VxG]).astype(np.float32)
    rows = max(1, LISTS_AT_ONCE // max(k * G, 1))
    found = np.full(T, np.nan)
    first, second = np.triu_indices(k, 1)
    for start in range(0, T, rows):
        of_list = categories[item_Txk[start : start + rows]]
        both = np.matmul(of_list, of_list.swapaxes(1, 2))[:, first, second]
        size = of_list.sum(2)
        is_known = (size[:, first] > 0) & (size[:, second] > 0)
        either = size[:, first] + size[:, second] - both
        dissimilar = np.where(is_known, 1 - both / np.maximum(either, 1), 0.0)
        pairs = is_known.sum(1)
        means = dissimilar.sum(1) / np.maximum(pairs, 1)
        found[start : start + rows] = np.where(pairs > 0, means, np.nan)
    return found
