"""One Recommender in many threads gives what one thread gives; a forked process is refused."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import V, catalogue_of, serving_config, split_model

from data_prep.settings import UserError
from ttt4rec_jax.serving import export, load_export


def requests():
    """Histories of different lengths, k and filters: several compiled programs."""
    rng = np.random.default_rng(3)
    for number in range(64):
        histories = [(100 * rng.integers(1, V + 1, n)).tolist() for n in rng.integers(0, 9, 3)]
        yield histories, 1 + number % 20


@pytest.mark.parametrize("case", ["sasrec", "ttt4rec b4"])
def test_sixteen_threads_get_what_one_gets(recommender_of, case):
    recommender = recommender_of(case)

    def answer(request):
        histories, k = request
        lists = recommender.recommend(histories, k)
        session = recommender.open_session(histories[0])
        session.observe(100)
        return [(x.ids, x.scores.tolist()) for x in (*lists, session.recommend(k))]

    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(answer, requests()))
    assert together == list(map(answer, requests()))


def test_a_forked_process_is_refused_in_one_line(
    recommender_of, random_dataset, tmp_path, monkeypatch
):
    recommender = recommender_of("sasrec")
    session = recommender.open_session([100])
    blob = session.to_bytes()
    graphdef, params = split_model(serving_config("popularity"), random_dataset)
    items = catalogue_of(random_dataset)
    export.export_model(serving_config("popularity"), graphdef, params, items, tmp_path / "model")
    exported = load_export.load_export(tmp_path / "model")
    monkeypatch.setattr(os, "getpid", lambda: 1)
    for action in (
        lambda: recommender.recommend([[100]]),
        lambda: session.observe(200),
        lambda: session.recommend(),
        session.to_bytes,
        lambda: recommender.session_from_bytes(blob),
    ):
        with pytest.raises(UserError, match="forked since, and JAX's threads") as error:
            action()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="before a fork"):
        exported.recommend([[100]])
