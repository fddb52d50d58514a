"""Conditions are SQL expressions over the columns of a row; nothing else is executed."""

import polars as pl
import pytest
from helpers import error_of

from data_prep import where
from data_prep.settings import DataConfig


@pytest.mark.parametrize(
    "text",
    [
        "event = 'purchase' AND rating >= 4",
        "event IN ('view', 'buy') OR NOT rating IS NULL",
        "title LIKE '%select%' AND \"my column\" <> 'x;y'",
        "rating BETWEEN 1 AND 3",
        "lower(event) = 'view' AND length(title) > 2",
        "CASE WHEN rating > 3 THEN TRUE ELSE FALSE END",
        "rating % 2 = 0",
        "CAST(rating AS DOUBLE) > 3.5",
        "day >= '2020-01-01'",
        "user <> 'NA' AND date > '2020' AND time > 3 AND timestamp > 3 AND \"user\" > 'user'",
    ],
)
def test_conditions(text):
    assert where.columns_of(text)
    DataConfig(dataset="x.csv", where=text)


@pytest.mark.parametrize(
    "text",
    [
        "read_csv('FILE') = 1",
        "rating IN (SELECT a FROM read_csv('FILE'))",
        "rating = (SELECT max(rating) FROM self)",
        "EXISTS (SELECT * FROM read_parquet('FILE'))",
        "rating IN (VALUES (1))",
        "rating = 1; DROP TABLE x",
        "SELECT 1",
        "COPY x TO 'FILE'",
        "sum(rating) > 3",
        "count(*) > 1",
        "row_number() OVER () = 1",
        "rating > lag(rating) OVER (ORDER BY time)",
        "first(rating) = 1",
        "true",
        "rating >",
        "''",
        "__import__('os').system('touch FILE')",
    ],
)
def test_anything_else_is_refused_and_nothing_is_executed(text, tmp_path):
    file = tmp_path / "file.csv"
    file.write_text("a\n1\n")
    before = file.stat().st_atime_ns
    message = error_of(DataConfig, dataset="x.csv", where=text.replace("FILE", str(file)))
    assert message.startswith("--where=")
    assert "expected a condition over the file's columns, such as event = 'purchase'" in message
    assert file.stat().st_atime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["file.csv"]


def test_texts_are_compared_as_what_they_look_like():
    samples = {"n": ["1", "4.5", None], "code": ["007", "12"], "big": ["1234567890123456789"]}
    table = pl.DataFrame(
        {"n": ["10", "x", None], "code": ["007", "7", "7"], "big": samples["big"] * 3}
    )
    typed = table.with_columns(where.typed(samples))
    assert typed["n"].to_list() == [10.0, None, None]
    assert typed["code"].to_list() == ["007", "7", "7"]
    assert typed["big"].to_list() == [1234567890123456789] * 3
