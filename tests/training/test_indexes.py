"""Indexes as of several moments: a row is given one that knows nothing of what came at or after its own time."""

import numpy as np
import pyarrow as pa

from tailorbird.events import DAY, ROUTED
from tailorbird.training.indexes import build_series, no_items


def clicks(item_of_late: str) -> pa.Table:
    """Two people who click i0 and then i1 on the first day; on the third, another item."""
    ts = [0, 60, 0, 60, 2 * DAY, 2 * DAY + 60]
    return pa.table(
        {
            "type": ["click"] * 6,
            "ts": pa.array([DAY + each for each in ts]).cast(ROUTED.field("ts").type),
            "person": ["u0", "u0", "u1", "u1", "u0", "u0"],
            "item_id": ["i0", "i1", "i0", "i1", "i0", item_of_late],
        }
    )


def test_a_row_is_given_the_newest_index_that_is_not_after_it():
    series = build_series(clicks("i2"), no_items(), [4 * DAY, 2 * DAY])
    assert [index.as_of for index in series.indexes] == [2 * DAY, 4 * DAY]
    assert series.place_of(np.array([2 * DAY - 1, 2 * DAY, 4 * DAY - 1, 4 * DAY, 9 * DAY])).tolist() == [-1, 0, 0, 1, 1]


def test_what_comes_later_changes_no_index_but_the_later_ones():
    one, other = (build_series(clicks(item), no_items(), [2 * DAY, 4 * DAY]).indexes for item in ("i1", "i2"))
    assert np.array_equal(one[0].item_item.weights, other[0].item_item.weights)
    assert len(one[0].item_item.weights)
    assert len(one[1]) == 2
    assert len(other[1]) == 3
