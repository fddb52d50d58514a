"""What is refused before anything is downloaded or read."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import settings, sources
from data_prep.prepare import prepare
from data_prep.settings import DataConfig, UserError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"dataset": "beuaty"},
            "--dataset: 'beuaty' is an unknown data set (did you mean 'beauty'?)",
        ),
        ({"dataset": "ML1M"}, "'ML1M' is an unknown data set (did you mean 'ml1m'?)"),
        ({"dataset": ""}, "'' is an unknown data set"),
        (
            {"dataset": "clicks.xlsx"},
            "'clicks.xlsx' is a file in an unknown format; expected one that --dataset=list ",
        ),
        ({"dataset": "some/folder.x"}, "'some/folder.x' is a file in an unknown format"),
        ({"dataset": "ml1m", "member": "x"}, "--member: only for a file of your own"),
        (
            {"dataset": "x.txt", "layout": "sequences", "columns": "user,item"},
            "--columns: not for --layout=sequences",
        ),
        (
            {"dataset": "x.csv", "time_col": "none", "split": "temporal"},
            "--split=temporal: needs times, and none are read",
        ),
        ({"dataset": "x.parquet.gz"}, "'x.parquet.gz' is a file in an unknown format"),
        (
            {"dataset": "ml1m", "user_col": "u"},
            "--user_col: only for a file of your own; the columns of 'ml1m' are known",
        ),
        (
            {"split": "tempral"},
            "--split: 'tempral' is not one of leave_one_out, temporal, user_holdout, rolling "
            "(did you mean 'temporal'?)",
        ),
        (
            {"split": "rolling", "window": 5},
            "--window: found 5, expected at most --windows=4",
        ),
        (
            {"dataset": "x.csv", "time_col": "none", "split": "rolling"},
            "--split=rolling: needs times, and none are read; use leave_one_out",
        ),
        (
            {"split": "temporal", "validation_time": 0.9},
            "--validation_time: found 0.9, expected less than --test_time=0.9",
        ),
        ({"eval_negatives": 0}, "--eval_negatives: 0 is out of range, expected at least 1"),
        ({"on_bad_rows": "ignore"}, "--on_bad_rows: 'ignore' is not one of error, skip"),
    ],
)
def test_wrong_flags_are_refused_by_the_settings_alone(flags, message):
    with pytest.raises(UserError) as caught:
        DataConfig(**flags)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_and_catalogue_import_neither_jax_nor_polars():
    code = (
        "import sys, data_prep.settings, data_prep.sources\n"
        "print({'jax', 'polars', 'numpy'} & set(sys.modules))"
    )
    root = Path(settings.__file__).parents[1]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".inter", ".jsonl", ".json", ".parquet"])
def test_a_file_that_is_not_there(tmp_path, suffix):
    config = DataConfig(dataset=str(tmp_path / f"clicks{suffix}"))
    with pytest.raises(
        UserError,
        match=r"--dataset: no file .*clicks\S*; name a file or a folder with",
    ):
        prepare(config, cache_dir=tmp_path / "cache")
    (tmp_path / f"clicks{suffix}").mkdir()
    with pytest.raises(UserError, match="has no file of clicks"):
        prepare(config, cache_dir=tmp_path / "cache")


def test_default_filters():
    first = ("ml1m", "ml100k", "beauty", "electronics", "synthetic")
    entries = [sources.CATALOGUE[name] for name in first]
    assert [(source.user_core, source.item_core) for source in entries] == [
        (1, 5),
        (1, 5),
        (5, 5),
        (5, 5),
        (1, 1),
    ]
    own = sources.find(DataConfig(dataset="a/b/my.clicks.tsv.gz"))
    assert (own.name, own.user_core, own.item_core) == ("my", 5, 5)
