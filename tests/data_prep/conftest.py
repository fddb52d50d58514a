"""What several tests of data preparation need: a scratch folder, and a user's own file read."""

import tempfile
from pathlib import Path

import pytest
from helpers import random_clicks, write_csv

from data_prep import readers, sources
from data_prep.settings import DataConfig


@pytest.fixture
def folder(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return scratch


class Own:
    """own(name, content, on_bad_rows, **options): the clicks of a user's own file.

    own.read(path, **options): those of a path that is there.
    """

    def __init__(self, tmp_path, folder):
        self.tmp_path = tmp_path
        self.folder = folder

    def __call__(self, name, content, on_bad_rows="error", **options):
        path = self.tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.read(path, on_bad_rows, **options)

    def read(self, path, on_bad_rows="error", **options):
        config = DataConfig(dataset=str(path), **options)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            layout = sources.find(config).layout
            return readers.read(Path(config.dataset), layout, on_bad_rows, Path(scratch))


@pytest.fixture
def own(tmp_path, folder):
    return Own(tmp_path, folder)


@pytest.fixture
def config(tmp_path):
    """The settings of a user's own file of random clicks."""
    path = write_csv(tmp_path / "clicks.csv", random_clicks())
    return DataConfig(dataset=str(path), eval_negatives=3, user_core=15, item_core=18)
