"""Data are the same however they are given: as a file or as a DataFrame."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import ttt4rec_jax as t4r


@pytest.fixture(scope="module")
def clicks():
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "price": rng.random(600),
            "user": np.repeat([f"user {u}" for u in range(60)], 10),
            "item": [f"i{i}" for i in rng.integers(0, 40, 600)],
            "time": pl.datetime_range(
                pl.datetime(2020, 1, 1), pl.datetime(2020, 1, 25, 23), "1h", eager=True
            ),
        }
    )


def test_a_frame_is_prepared_like_a_file(clicks, tmp_path):
    clicks.write_csv(tmp_path / "clicks.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    options = {"item_core": 1, "eval_negatives": 9, "cache_dir": tmp_path / "cache"}
    of_file = t4r.prepare(tmp_path / "clicks.csv", **options)
    pandas = pd.DataFrame({name: clicks[name].to_list() for name in clicks.columns})
    renamed = clicks.rename({"user": "who", "item": "what"}).lazy()
    frames = [
        t4r.prepare(clicks, **options),
        t4r.prepare(pandas, **options),
        t4r.prepare(pandas.astype({"user": "category", "item": "string"}), **options),
        t4r.prepare(renamed, user_col="who", item_col="what", **options),
    ]
    digests = {frame.dataset.manifest["sha256"] for frame in frames}
    assert digests == {of_file.dataset.manifest["sha256"]}
    assert len(list((tmp_path / "cache" / "frames").glob("*.parquet"))) == 2  # two sets of names
    assert of_file.num_users == 60 and of_file.num_interactions == 600
    assert of_file.items.columns == ["item", "id", "clicks"]
    assert set(of_file.items["id"]) == set(clicks["item"])
    assert repr(of_file).startswith("Data(clicks: 60 users, ")
    assert "60 users" in of_file._repr_html_()


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("ml1x", {}, "'ml1x' is an unknown data set (did you mean 'ml1m'?)"),
        ("ml1m", {"splitt": "temporal"}, "splitt: prepare has no such option (did you mean 'spl"),
        ("synthetic", {"user_core": "5"}, "--user_core: '5' is a str, expected int"),
        (7, {}, "dataset: int, expected a name, a path or a DataFrame"),
        (pl.DataFrame({"a": [1]}), {}, "the DataFrame: none of its columns looks like the user"),
        (
            pd.DataFrame({"user": [1, "a"], "item": [1, 2], "time": [1, 2]}),
            {},
            "the DataFrame: column 'user' holds values of several types",
        ),
    ],
)
def test_a_mistake_is_one_line(dataset, options, message):
    with pytest.raises(t4r.UserError) as raised:
        t4r.prepare(dataset, **options)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_options_of_files_hold_for_frames_and_what_looks_odd_is_said(tmp_path, caplog):
    rows = [(u, (u + k) % 12, "2020-01-01", 100 * k + u, k) for u in range(20) for k in range(6)]
    rows += [("NA", k % 12, "2020-01-01", k, 9) for k in range(120)]
    frame = pl.DataFrame(
        [(str(u), *rest) for u, *rest in rows], ("user", "item", "date", "ts", "n"), orient="row"
    )
    options = {"user_core": 1, "item_core": 1, "eval_negatives": 3, "cache_dir": tmp_path}
    data = t4r.prepare(frame, where="n < 5 OR user = 'NA'", **options)
    assert data.summary["rows"]["where"] == 20
    assert data.summary["time_span"] == [0, 419]
    assert "the time is read from ts, not from date" in caplog.text
    about_na = data.notices[0]
    assert "the user 'NA' has 120 of 220 clicks (55%)" in about_na
    assert "220" in data.describe().replace(",", "")
    with pytest.raises(t4r.UserError, match="has no column 'm'"):
        t4r.prepare(frame, where="m = 1", **options)
