"""What several tests of data preparation need: a scratch folder, and a user's own file read."""

import pytest
from helpers import random_clicks, write_csv

from data_prep import readers, sources
from data_prep.settings import DataConfig


@pytest.fixture
def folder(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return scratch


@pytest.fixture
def own(tmp_path, folder):
    """own(name, content, on_bad_rows, **columns): the clicks of a user's own file."""

    def read(name, content, on_bad_rows="error", **columns):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        source = sources.find(DataConfig(dataset=str(path), **columns))
        return readers.read(path, source.layout, on_bad_rows, folder)

    return read


@pytest.fixture
def config(tmp_path):
    """The settings of a user's own file of random clicks."""
    path = write_csv(tmp_path / "clicks.csv", random_clicks())
    return DataConfig(dataset=str(path), eval_negatives=3, user_core=15, item_core=18)
