"""Parts follow each other in time, with a gap in which labels would reach over the border."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import UsageError
from tailorbird.training.dataset.split import split_at, split_by_time


@given(st.lists(st.integers(0, 10_000), min_size=20, max_size=200, unique=True), st.integers(0, 50))
def test_no_part_knows_of_a_later_one(times, gap):
    t = np.array(times)
    try:
        split = split_by_time(t, gap=gap)
    except UsageError:
        return  # the gap swallowed a part
    assert t[split.train].max() + gap <= split.train_until <= t[split.validation].min()
    assert t[split.validation].max() + gap <= split.validation_until <= t[split.test].min()
    assert len(split.train) + len(split.validation) + len(split.test) + split.dropped_count == len(
        t
    )
    assert np.all(np.diff(t[split.test]) >= 0)


def test_shares_match_the_arguments():
    split = split_by_time(np.arange(1_000), validation_share=0.1, test_share=0.2)
    assert (len(split.train), len(split.validation), len(split.test)) == (700, 100, 200)


def test_an_empty_part_raises_with_the_times():
    day = 86_400_000_000
    with pytest.raises(
        UsageError,
        match=r"the test part is empty: 5 requests from 1970-01-11.* to 1970-01-15.* cut at",
    ):
        split_at(np.arange(10, 15) * day, 12 * day, 19 * day)
    with pytest.raises(UsageError, match="empty: no request, cut at"):
        split_at(np.zeros(0, np.int64), 2, 9)
    with pytest.raises(UsageError, match="at least 3 requests"):
        split_by_time(np.arange(2))
