"""What a result says about its evaluation."""

import pytest

from data_prep.settings import DataConfig
from ttt4rec_jax.pipeline import result


@pytest.mark.parametrize(
    ("options", "unit", "expected"),
    [
        ({}, "seconds", "leave_one_out"),
        ({}, "none (the order of the rows)", "leave_one_out, time none (the order of the rows)"),
        (
            {"ties": "shuffled", "data_seed": 7},
            "seconds",
            "leave_one_out, equal times shuffled, seed 7",
        ),
    ],
)
def test_the_split_says_what_orders_the_clicks(options, unit, expected):
    manifest = {"counts": {"items": 3}, "time_unit": unit}
    said = result.evaluation_protocol(DataConfig(**options), manifest, {})
    assert said["split"] == expected
