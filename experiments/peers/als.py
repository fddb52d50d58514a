"""Train ALS of the library implicit, and write its lists and scores for `ttt4rec evaluate`.

It runs in an environment of its own (pip install implicit polars), which nothing else needs:

    ttt4rec candidates --dataset=beauty --output=for-als
    python experiments/peers/als.py for-als als
    ttt4rec evaluate --dataset=beauty --recommendations=als/top.parquet --scores=als/scores.parquet

Only the files of the first command are read: implicit sees neither the targets nor this package.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from implicit.als import AlternatingLeastSquares
from scipy import sparse

GRID = [(factors, alpha) for factors in (64, 128, 256) for alpha in (5.0, 20.0, 80.0)]
REGULARIZATION = 0.05
ITERATIONS = 15
LENGTH = 100  # of each list
SEED = 0


def trained(training: sparse.csr_matrix, factors: int, alpha: float) -> AlternatingLeastSquares:
    """Return ALS trained on a matrix of clicks, in which a click has the confidence 1 + alpha."""
    model = AlternatingLeastSquares(
        factors, REGULARIZATION, alpha, iterations=ITERATIONS, random_state=SEED, num_threads=1
    )
    model.fit(training, show_progress=False)
    return model


def validation_rate(
    model: AlternatingLeastSquares, training: sparse.csr_matrix, later: sparse.csr_matrix
) -> float:
    """Return the share of users whose click after the training clicks is among the first ten."""
    rows = np.flatnonzero(np.diff(later.indptr))
    item_Ux10, _ = model.recommend(rows, training[rows], N=10, filter_already_liked_items=True)
    hits = [item in of_user for item, of_user in zip(later[rows].indices, item_Ux10, strict=True)]
    return float(np.mean(hits))


def main(source: Path, output: Path) -> None:
    """Train on the training clicks in `source`; write top.parquet and scores.parquet.

    The factors and the confidence are those of GRID that are best on the validation clicks.
    """
    clicks = pl.read_parquet(source / "clicks.parquet")
    users = clicks["user"].unique(maintain_order=True)
    items = pl.read_parquet(source / "items.parquet")["item"]
    row_of_user = dict(zip(users, range(len(users)), strict=True))
    row_of_item = dict(zip(items, range(len(items)), strict=True))

    def matrix(table: pl.DataFrame) -> sparse.csr_matrix:
        rows = [row_of_user[user] for user in table["user"]]
        columns = [row_of_item[item] for item in table["item"]]
        shape = (len(users), len(items))
        clicked = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape)
        clicked.data[:] = 1.0
        return clicked

    training = matrix(clicks.filter("is_training"))
    later = matrix(clicks.filter(~pl.col("is_training")))
    rates = {}
    for factors, alpha in GRID:
        model = trained(training, factors, alpha)
        rates[factors, alpha] = validation_rate(model, training, later)
        print(f"factors {factors}, alpha {alpha:g}: validation HR@10 {rates[factors, alpha]:.4f}")
    model = trained(training, *max(rates, key=rates.__getitem__))

    # user vectors by the whole history: all clicks before the target
    history = matrix(clicks)
    model.user_factors = model.recalculate_user(np.arange(len(users)), history)

    chosen = pl.read_parquet(source / "users.parquet")["user"]
    rows = np.array([row_of_user[user] for user in chosen])
    item_UxN, score_UxN = model.recommend(
        rows, history[rows], N=LENGTH, filter_already_liked_items=True
    )
    output.mkdir(parents=True, exist_ok=True)
    top = pl.DataFrame(
        {
            "user": chosen.gather(np.repeat(np.arange(len(rows)), LENGTH)),
            "item": items.gather(item_UxN.ravel()),
            "score": score_UxN.ravel(),
        }
    )
    top.write_parquet(output / "top.parquet")

    pairs = pl.read_parquet(source / "candidates.parquet")
    user_n = np.array([row_of_user[user] for user in pairs["user"]])
    item_n = np.array([row_of_item[item] for item in pairs["item"]])
    score_n = np.einsum("nd,nd->n", model.user_factors[user_n], model.item_factors[item_n])
    pairs.with_columns(score=score_n).write_parquet(output / "scores.parquet")
    print(f"{len(top):,} recommendations and {len(pairs):,} scores in {output}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
