"""Lists and scores of any recommender against a twin that goes user by user, and the evaluator."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import make_dataset

from data_prep.settings import UserError
from ttt4rec_jax.evaluation.candidates import candidates_of, rank_scores, shuffled_candidates
from ttt4rec_jax.evaluation.listed import optimistic, summarise_lists
from ttt4rec_jax.evaluation.lists import rank_lists, seen_items
from ttt4rec_jax.evaluation.scorer import rank_by_scorer
from ttt4rec_jax.evaluation.tables import read_categories, read_rows
from ttt4rec_jax.metrics import Ranks, summarise_test

V = 30
IDS = {"user": pl.Series([f"u{u}" for u in range(40)]), "item": pl.Series(range(100, 100 + V))}


def read(table, needs_score=False):
    return read_rows(table, "--recommendations", IDS, needs_score)


def judged(table, dataset, k=5):
    return rank_lists(read(table), dataset, dataset.test, k, "--recommendations")


@pytest.fixture(scope="module")
def messy():
    """Lists with ties, repeats, seen items, unknown ids; of some users and of others."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(45):  # those from 40 on are unknown
        if user % 9 == 4:
            continue
        for _ in range(rng.integers(1, 25)):
            rows.append((f"u{user}", int(rng.integers(98, 100 + V)), float(rng.integers(0, 6))))
    return pl.DataFrame(rows, schema=["user", "item", "score"], orient="row").sample(
        fraction=1.0, shuffle=True, seed=1
    )


def twin(table, dataset):
    """{user: (greater, ties, others, length)}, and counts, by loops over the rows."""
    targets = dict(zip(dataset.test.users.tolist(), dataset.test.positions.tolist(), strict=True))
    counts = dict.fromkeys(("unknown_items", "repeated_items", "seen_items"), 0)
    lists = {user: {} for user in targets}
    for name, item, score in sorted(table.rows(), key=lambda row: -row[2]):
        user = int(name[1:])
        if user not in targets:
            continue
        number = item - 99
        history = dataset.items[dataset.offsets[user] : targets[user]].tolist()
        target = dataset.items[targets[user]]
        if not 1 <= number <= V:
            counts["unknown_items"] += 1
        elif number in lists[user]:
            counts["repeated_items"] += 1
        elif number in history and number != target:
            lists[user][number] = None  # seen, once
            counts["seen_items"] += 1
        else:
            lists[user][number] = score
    found = {}
    for user, position in targets.items():
        target = dataset.items[position]
        scores = {item: score for item, score in lists[user].items() if score is not None}
        others = V - len({*dataset.items[dataset.offsets[user] : position].tolist(), target})
        if target in scores:
            above = sum(score > scores[target] for score in scores.values())
            ties = sum(score == scores[target] for score in scores.values()) - 1
            found[user] = above, ties, others, len(scores)
        else:
            found[user] = others, 0, others, len(scores)
    return found, counts


def test_lists_equal_a_twin_that_goes_row_by_row(random_dataset, messy):
    lists = judged(messy, random_dataset)
    expected, counts = twin(messy, random_dataset)
    users = random_dataset.test.users.tolist()
    got = np.stack([*lists.ranks, lists.lengths], 1).tolist()
    assert got == [list(expected[user]) for user in users]
    assert counts.items() <= lists.counts.items()
    assert lists.counts["unknown_users"] == 4 and lists.counts["rows"] == len(messy)
    without = sum(length == 0 for *_, length in expected.values())
    assert lists.counts["users_without_list"] == without > 0
    assert (lists.items[:, 0] > 0).sum() == len(users) - without


def whole_lists(dataset, score):
    """Every item of the catalogue for every user, by a function of histories and candidates."""
    users = pl.Series("user", [f"u{u}" for u in range(40)])
    pairs = pl.DataFrame({"user": users}).join(
        pl.DataFrame({"item": IDS["item"]}), how="cross", maintain_order="left"
    )
    history = np.array([dataset.items[dataset.offsets[u]] for u in range(40)])
    scores = score(np.repeat(history, V)[:, None], np.tile(np.arange(1, V + 1), 40)[:, None])
    return pairs.with_columns(score=scores.ravel().astype(float))


def score(histories, candidates):
    """Exact scores with many ties, by the first click of a history."""
    return (candidates * 7 + histories[:, :1] * 3) % 5


def test_whole_rankings_have_the_ranks_of_the_evaluator(random_dataset):
    """Both protocols, and every metric, since nothing is unknown then."""
    expected = rank_by_scorer(score, random_dataset, "test", 20, 7)
    table = whole_lists(random_dataset, score)
    lists = judged(table, random_dataset)
    ranks, counts = rank_scores(
        read(table, needs_score=True), random_dataset, random_dataset.test, "--scores"
    )
    for got, wanted in ((lists.ranks, expected["full"]), (ranks, expected["sampled"])):
        assert np.array_equal(np.stack(got), np.stack(wanted))
    assert summarise_lists(lists.ranks, lists.lengths) == (summarise_test(expected["full"]), {})
    asked = (candidates_of(random_dataset, random_dataset.test) > 0).sum()
    of_targets = V * len(random_dataset.test.users)
    assert counts["other_pairs"] == of_targets - asked
    assert not counts["candidates_without_score"]


def test_what_short_lists_do_not_determine_is_bounded_or_left_out(random_dataset):
    """Lists of 7, 11 and 15 items, cut from whole rankings without ties."""
    whole = whole_lists(random_dataset, score).with_columns(
        user=pl.col("user").str.slice(1).cast(pl.Int64), item=pl.col("item") - 99
    )
    users = random_dataset.test.users
    seen = seen_items(random_dataset, random_dataset.test)
    seen = seen.with_columns(user=pl.Series(users.astype(np.int64)).gather(seen["target"]))
    allowed = whole.join(seen, on=["user", "item"], how="anti", maintain_order="left")
    allowed = allowed.sort("user", "score", descending=[False, True], maintain_order=True)
    allowed = allowed.select(
        user=pl.format("u{}", "user"),
        item=pl.col("item") + 99,
        rank=pl.int_range(pl.len()).over("user"),
        length=7 + 4 * (pl.col("user") % 3),
    )
    truth = summarise_test(judged(allowed, random_dataset).ranks, (1, 5, 10))
    cut = allowed.filter(pl.col("rank") < pl.col("length"))
    lists = judged(cut, random_dataset, k=20)
    lengths = lists.lengths
    assert set(lengths) == {7, 11, 15}
    values, bounds = summarise_lists(lists.ranks, lengths, (1, 5, 10, 20))
    assert not {"hit@20", "ndcg@20", "mrr", "auc"} & values.keys()
    assert list(bounds) == ["10"]
    assert bounds["10"]["short_lists"] == ((lengths < 10) & (lists.ranks.greater >= 7)).sum() > 0
    for name in ("hit", "recall", "ndcg", "map", "precision"):
        for k in (1, 5):
            assert values[f"{name}@{k}"] == truth[f"{name}@{k}"]
        assert values[f"{name}@10"] <= truth[f"{name}@10"] <= bounds["10"]["at_most"][f"{name}@10"]
    assert values["hit@10"] < bounds["10"]["at_most"]["hit@10"]


def test_a_user_without_a_list_is_a_miss_and_no_bound():
    ranks = Ranks(np.array([0, 9, 9]), np.zeros(3, int), np.full(3, 9))
    values, bounds = summarise_lists(ranks, np.array([5, 0, 5]))
    assert values["hit@5"] == pytest.approx(1 / 3) and bounds == {}
    assert optimistic(ranks, np.array([5, 0, 5])).greater.tolist() == [0, 0, 5]


def test_ranks_are_used_where_scores_contradict_them():
    dataset = make_dataset([[1, 2, 3], [4, 5, 6]], V)
    rows = [("u0", 105, 1, 9.0), ("u0", 102, 2, 9.0), ("u1", 105, 1, 9.0)]
    table = pl.DataFrame(rows, schema=["userId", "item_id", "Rank", "score"], orient="row")
    agree = judged(table, dataset)
    assert agree.ranks.greater.tolist() == [0, 0] and agree.ranks.ties.tolist() == [1, 0]
    swapped = table.with_columns(score=pl.Series([8.0, 9.0, 9.0]))
    against = judged(swapped, dataset)
    assert against.ranks.greater.tolist() == [1, 0] and against.ranks.ties.tolist() == [0, 0]
    assert "the ranks were used" in read(swapped).notes[0]


def test_ids_are_found_in_every_form(tmp_path):
    dataset = make_dataset([[1, 2, 3], [4, 5, 6]], V)
    numbers = IDS | {"user": pl.Series([7, 8])}

    def lengths(table):
        rows = read_rows(table, "x", numbers, needs_score=False)
        return rank_lists(rows, dataset, dataset.test, 5, "x").lengths.tolist()

    table = pl.DataFrame({"user": [7, 7, 8], "item": [105, 106, 110], "rank": [1, 2, 1]})
    assert lengths(table) == [2, 1]
    assert lengths(table.with_columns(pl.col("user", "item").cast(pl.Float64))) == [2, 1]
    assert lengths(pd.DataFrame(table.to_dict(as_series=False))) == [2, 1]
    table.write_csv(tmp_path / "x.csv")
    assert lengths(tmp_path / "x.csv") == [2, 1]
    texts = table.with_columns(pl.format("{}.0", "user").alias("user"))
    texts.write_csv(tmp_path / "x.tsv", separator="\t")
    assert lengths(str(tmp_path / "x.tsv")) == [2, 1]
    table.write_ipc(tmp_path / "x.feather")
    assert lengths(tmp_path / "x.feather") == [2, 1]
    grouped = table.group_by("user", maintain_order=True).agg(pl.col("item").alias("items"))
    grouped.write_ndjson(tmp_path / "x.jsonl")
    assert lengths(tmp_path / "x.jsonl") == [2, 1]
    table.write_parquet(tmp_path / "x.parquet")
    assert lengths(tmp_path / "x.parquet") == [2, 1]


def test_what_has_no_score_comes_last():
    dataset = make_dataset([[1, 2, 3], [4, 5, 6], [7, 8, 9]], V, num_negatives=3)
    item_TxC = candidates_of(dataset, dataset.test)
    rows = []
    for user, candidates in enumerate(item_TxC.tolist()):
        left_out = {0: candidates[1:2], 1: candidates[:1], 2: []}[user]
        rows += [(f"u{user}", item + 99, 1.0) for item in candidates if item not in left_out]
    table = pl.DataFrame(rows, schema=["user", "item", "score"], orient="row")
    ranks, counts = rank_scores(read(table, True), dataset, dataset.test, "--scores")
    assert np.stack(ranks).tolist() == [[0, 3, 0], [2, 0, 3], [3, 3, 3]]
    assert counts["candidates_without_score"] == 2 and counts["targets_without_score"] == 1
    (again, with_repeat) = rank_scores(
        read(pl.concat([table, table[:2]]), True), dataset, dataset.test, "--scores"
    )
    assert np.array_equal(np.stack(again), np.stack(ranks))
    assert with_repeat["repeated_items"] == 2


def changed(table, **columns):
    return table.with_columns(**columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("score"), "no column of the rank or score; its columns are user, item"),
        (lambda t: t.drop("item"), "no column of the item"),
        (lambda t: t.clear(), "holds no rows"),
        (lambda t: changed(t, score=pl.lit(None)), "row 1 has score None, expected a number"),
        (lambda t: changed(t, score=pl.lit(np.nan)), "row 1 has score nan"),
        (lambda t: changed(t, item=pl.col("item") + 999), "rows have an item that is not in the"),
        (lambda t: t.filter(pl.col("user") == "u0"), "test users have no list"),
        (lambda t: changed(t, user=pl.lit("nobody")), "test users have no list"),
        (lambda t: 3, "int, expected a path or a DataFrame"),
        (lambda t: "nowhere.csv", "nowhere.csv is not there"),
        (lambda t: __file__, "has an unknown format"),
    ],
)
def test_what_gives_no_figure_is_an_error(random_dataset, messy, change, message):
    with pytest.raises(UserError) as raised:
        judged(change(messy), random_dataset)
    assert message in str(raised.value)


def test_two_scores_of_a_candidate_are_an_error(random_dataset):
    table = whole_lists(random_dataset, score)
    twice = pl.concat([table, table.with_columns(pl.col("score") + 1)])
    with pytest.raises(UserError, match="candidates have several scores, one of them"):
        rank_scores(read(twice, True), random_dataset, random_dataset.test, "--scores")
    with pytest.raises(UserError, match="test users have no score"):
        rank_scores(read(table[:V], True), random_dataset, random_dataset.test, "--scores")


def test_candidates_do_not_tell_the_target(random_dataset):
    targets = random_dataset.test
    item_TxC = candidates_of(random_dataset, targets)
    table = shuffled_candidates(random_dataset, targets, 0)
    by_user = {user: part["item"].to_list() for (user,), part in table.group_by("user")}
    places = []
    for user, candidates in zip(targets.users.tolist(), item_TxC.tolist(), strict=True):
        assert sorted(by_user[user]) == sorted(candidates)
        places.append(by_user[user].index(candidates[0]))
    assert len(set(places)) == item_TxC.shape[1]  # the target is everywhere
    assert max(np.bincount(places)) < len(places) / 2
    assert shuffled_candidates(random_dataset, targets, 0).equals(table)
    assert not shuffled_candidates(random_dataset, targets, 1).equals(table)


def test_categories_in_every_form(tmp_path):
    ids = pl.Series([10, 11, 12])
    rows = pl.DataFrame({"movieId": [12, 10, 10, 99], "genre": ["a", "a", "b", "c"]})
    expected = [[True, True], [False, False], [True, False]]
    assert read_categories(rows, "categories", ids)[:, :2].tolist() == expected
    joined = pl.DataFrame({"item": [12, 10, 11], "genres": ["a", "a|b", None]})
    joined.write_csv(tmp_path / "x.csv")
    assert read_categories(tmp_path / "x.csv", "categories", ids).tolist() == expected
    lists = joined.with_columns(pl.col("genres").str.split("|"))
    assert read_categories(lists, "categories", ids).tolist() == expected
    with pytest.raises(UserError, match="no column of the category; its columns are item"):
        read_categories(joined.drop("genres"), "--categories", ids)
