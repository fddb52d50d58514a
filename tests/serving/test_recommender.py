"""Recommender: the evaluation's scores, filters, empty histories, mistakes, run folders."""

import numpy as np
import pytest
from helpers import (
    L,
    V,
    assert_same_lists,
    catalogue_of,
    make_dataset,
    make_recommender,
    serving_config,
    split_model,
)

import ttt4rec_jax
from data_prep.settings import UserError
from ttt4rec_jax import metrics
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data.clicks import device_clicks
from ttt4rec_jax.evaluation import evaluator, ranking
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.verified import DIGESTS
from ttt4rec_jax.serving import engine
from ttt4rec_jax.serving.recommender import Recommender


@pytest.fixture(scope="module")
def sasrec(recommender_of):
    return recommender_of("sasrec")


# Scores


@pytest.mark.parametrize(
    "case, lengths",
    [(case, None) for case in [*MODELS, "ttt4rec b4"] if case != "ttt4rec"]
    + [("sasrec", (2, 5, L))],
)
def test_test_histories_give_the_metrics_of_the_evaluation(
    random_dataset, recommender_of, case, lengths, monkeypatch
):
    recommender = recommender_of(case)
    if lengths:  # several groups of histories by length
        for module in (evaluator, engine):
            monkeypatch.setattr(module, "lengths_read", lambda max_len: lengths)
        recommender = make_recommender(recommender.config, random_dataset)
    graphdef, params = split_model(recommender.config, random_dataset)
    evaluate = evaluator.Evaluator(
        graphdef, params, random_dataset, device_clicks(random_dataset), L
    )
    expected = metrics.summarise(evaluate(params, "test")["full"])
    targets = random_dataset.test
    histories = [
        random_dataset.items[random_dataset.offsets[user] : position]
        for position, user in zip(targets.positions, targets.users, strict=True)
    ]
    ids = [(100 * history).tolist() for history in histories]
    ranks = []
    for history, target, best, all_items in zip(
        ids,
        100 * random_dataset.items[targets.positions],
        recommender.recommend(ids, k=V),
        recommender.recommend(ids, k=V, exclude_seen=False),
        strict=True,
    ):
        assert set(best.ids) == {100 * i for i in range(1, V + 1)} - set(history)
        # in the evaluation, a target that was clicked before stays a candidate
        target_score = dict(zip(all_items.ids, all_items.scores, strict=True))[target]
        others = np.array(
            [score for id, score in zip(best.ids, best.scores, strict=True) if id != target]
        )
        ranks.append(((others > target_score).sum(), (others == target_score).sum(), len(others)))
    assert metrics.summarise(metrics.Ranks(*np.array(ranks).T)) == expected


@pytest.mark.parametrize("name", ["sasrec", "din"])
def test_batches_give_what_single_histories_give(random_dataset, name, monkeypatch):
    # Given several tiles of the catalogue, several batches, and a last one that is not full
    monkeypatch.setattr(ranking, "TILE", 16)
    monkeypatch.setattr(engine, "MAX_SCORES", 16 * 2 * 4)
    recommender = make_recommender(serving_config(name), random_dataset)
    histories = [(100 * np.arange(1 + i % 9, 3 + i % 9 + i % 5)).tolist() for i in range(11)]
    for many, history in zip(recommender.recommend(histories, k=12), histories, strict=True):
        assert_same_lists(many, recommender.recommend([history], k=12)[0])
    assert recommender.recommend([]) == []


# Ids, filters, empty histories


def test_ids_may_be_text_and_come_back_as_in_the_data(sasrec):
    (of_numbers,) = sasrec.recommend([[100, 500]], k=3)
    (of_texts,) = sasrec.recommend([("100", np.int64(500))], k=np.int64(3))
    assert of_numbers.ids == of_texts.ids and all(type(id) is int for id in of_texts.ids)
    assert of_texts.titles == [f"title {id // 100}" for id in of_texts.ids]


def test_filters(sasrec):
    history = [100, 500, 100]
    everything = sasrec.recommend([history], k=V, exclude_seen=False)[0]
    assert sorted(everything.ids) == [100 * i for i in range(1, V + 1)]
    assert (np.diff(everything.scores) <= 0).all()

    def expected(keep):
        return [id for id in everything.ids if keep(id)]

    assert sasrec.recommend([history], k=V)[0].ids == expected(lambda id: id not in history)
    assert (
        sasrec.recommend([history], k=5, exclude=["300", 700])[0].ids
        == expected(lambda id: id not in (100, 500, 300, 700))[:5]
    )
    best = sasrec.recommend(
        [history], k=5, include_only=[100, 200, 900], exclude=[900], exclude_seen=False
    )[0]
    assert best.ids == expected(lambda id: id in (100, 200))
    assert sasrec.recommend([history], k=10**6, include_only=[100])[0].ids == []


def test_an_empty_history_gets_popular_items(sasrec, random_dataset):
    empty, other = sasrec.recommend([[], [100]], k=V, exclude=[200])
    assert (empty.source, other.source) == ("popularity", "model")
    counts = dict(zip(sasrec.items.ids, sasrec.items.clicks, strict=True))
    assert (
        empty.scores.tolist()
        == [counts[id] for id in empty.ids]
        == sorted(empty.scores, reverse=True)
    )
    assert len(empty.ids) == V - 1 and 200 not in empty.ids
    assert sasrec.open_session().recommend(k=V, exclude=[200]).ids == empty.ids
    assert sasrec.recommend([[9]], k=3, unknown="skip")[0].source == "popularity"


MISTAKES = {
    "unknown items": (
        lambda r: r.recommend([[100, 1], ["x"]]),
        "2 ids are not in the run's data: 1, x",
    ),
    "unknown excluded": (lambda r: r.recommend([[100]], exclude=[5]), "exclude: 1 ids"),
    "unknown click": (lambda r: r.open_session().observe("nothing"), "clicks: 1 ids"),
    "no policy": (lambda r: r.recommend([[100]], unknown="skp"), "did you mean 'skip'"),
    "k of zero": (lambda r: r.recommend([[100]], k=0), "k: found 0"),
    "k of text": (lambda r: r.recommend([[100]], k="10"), "k: found '10'"),
    "one history": (
        lambda r: r.recommend(["100", "200"]),
        "expected a list of ids in its place, as ['100']",
    ),
    "text": (lambda r: r.recommend("100"), "found the text '100'"),
    "a list as an id": (lambda r: r.recommend([[[100]]]), "an id is a number or a text"),
    "sizes": (lambda r: r.observe_many([r.open_session()], [100, 200]), "found 2 for 1 sessions"),
    "no state": (
        lambda r: r.recommend([[100]], whole_history=True),
        "sasrec carries no state and reads the last 6 clicks",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(sasrec, mistake):
    do, expected = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        do(sasrec)
    assert expected in str(error.value) and "\n" not in str(error.value)


# From a folder


def test_recommender_is_a_name_of_the_package():
    assert ttt4rec_jax.Recommender is Recommender
    with pytest.raises(AttributeError, match="no attribute 'Recommend'"):
        _ = ttt4rec_jax.Recommend


@pytest.mark.parametrize("what", ["nothing", "a file", "a sweep", "no checkpoint"])
def test_a_folder_without_a_trained_run_is_refused(random_dataset, tmp_path, what):
    folder = RunFolder(tmp_path / "run")
    expected = "holds no run"
    if what == "a file":
        folder.path.write_text("")
    if what == "a sweep":
        folder.path.mkdir()
        (folder.path / "sweep.json").write_text("{}")
        expected = "one of its combinations"
    if what == "no checkpoint":
        config = Config(model=serving_config("sasrec"))
        folder.create(config)
        catalogue.save(folder, catalogue_of(random_dataset), random_dataset, True)
        expected = "no checkpoints/best"
    with pytest.raises(UserError, match=expected):
        Recommender.load(folder.path)


@pytest.mark.parametrize("name", ["popularity", "itemknn"])
def test_a_model_without_training_is_in_its_folder(random_dataset, tmp_path, name):
    folder = RunFolder(tmp_path / "run")
    config = Config(model=serving_config(name))
    folder.create(config)
    titles = ["A", None] * (V // 2)
    catalogue.save(folder, catalogue_of(random_dataset, titles), random_dataset, False)
    loaded = Recommender.load(folder.path)
    made = make_recommender(config.model, random_dataset, titles)
    (best,), (expected,) = (r.recommend([[100, 300]], k=V) for r in (loaded, made))
    assert best.ids == expected.ids and best.titles == expected.titles
    np.testing.assert_array_equal(best.scores, expected.scores)
    folder.catalogue.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"catalogue.parquet: has changed since it was written"):
        Recommender.load(folder.path)
    (folder.path / DIGESTS).unlink()
    with pytest.raises(UserError, match=r"catalogue.parquet: cannot be read \([^\n]*$"):
        Recommender.load(folder.path)


def test_ties_of_equal_items_go_to_the_first(random_dataset):
    dataset = make_dataset([[1, 2, 3, 4]] * 5, 700)
    recommender = make_recommender(serving_config("popularity"), dataset)
    assert recommender.recommend([[100]], k=5)[0].ids == [200, 300, 400, 500, 600]
