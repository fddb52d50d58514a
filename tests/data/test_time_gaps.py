"""Time gaps: their codes, the clicks that carry them, and what is refused."""

import dataclasses

import numpy as np
import pytest
from helpers import make_dataset

from data_prep.settings import UserError
from data_prep.times import AS_IN_FILE, NO_TIME
from ttt4rec_jax.data.time_gaps import GAP_CODES, click_codes, gap_codes

V = 9
HOUR = 3600


def timed(times, unit="seconds", num_items=V):
    """Users with clicks on 1, 2, ... at their times."""
    dataset = make_dataset([list(range(1, len(row) + 1)) for row in times], num_items)
    return dataclasses.replace(
        dataset,
        timestamps=np.concatenate(times).astype(np.int64),
        manifest=dataset.manifest | {"name": "mine", "time_unit": unit},
    )


def test_a_code_is_half_a_doubling():
    exact = [2**power - 1 for power in range(31)]
    assert gap_codes(np.array(exact)).tolist() == [1 + 2 * power for power in range(31)]
    seconds = np.unique(np.geomspace(1, 2**31, 5000).astype(np.int64))
    expected = 1 + np.floor(2 * np.log2(1.0 + seconds))
    assert (gap_codes(seconds) == np.minimum(expected, GAP_CODES - 1)).all()


def test_a_click_carries_the_gaps_around_it():
    times = [[0, HOUR, HOUR, 5 * HOUR], [50 * HOUR, 51 * HOUR, 80 * HOUR]]
    dataset = timed(times)
    one, four, long = gap_codes(np.array([HOUR, 4 * HOUR, 29 * HOUR])).tolist()
    before = np.array([0, one, 1, four, 0, one, long])
    after = np.array([one, 1, four, 0, one, long, 0])
    for time, expected in (("gaps", before), ("request", before + GAP_CODES * after)):
        codes, items = np.divmod(click_codes(dataset, time), V + 1)
        assert items.tolist() == dataset.items.tolist() and codes.tolist() == expected.tolist()
    # the same moments in another unit, stated or recognised, are the same gaps
    day = 1_700_000_000_000
    shifted = [[day + 1000 * x for x in row] for row in times]
    for unit in ("milliseconds", AS_IN_FILE):
        same = click_codes(timed(shifted, unit), "gaps")
        assert (same == click_codes(dataset, "gaps")).all()


def test_data_without_times_and_catalogues_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="--time=gaps: the clicks of mine have no times"):
        click_codes(timed([[0, 0, 0]], NO_TIME), "gaps")
    with pytest.raises(UserError, match="found 600,000 items, expected at most 524,287"):
        click_codes(timed([[0, 1, 2]], num_items=600_000), "request")
    assert click_codes(timed([[0, 1, 2]], num_items=600_000), "gaps").max() < 2**31
