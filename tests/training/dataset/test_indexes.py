"""Indexes as of several moments: a row is given one that knows nothing of items' later profiles,
and all that came until the next.
"""

import json

import numpy as np
import pyarrow as pa

from tailorbird.events import DAY, ROUTED
from tailorbird.training.dataset.indexes import ITEM_SCHEMA, build_series, empty_items

TIME = ROUTED.field("ts").type


def clicks(item_of_late: str) -> pa.Table:
    """Two people who click i0 and then i1 on the first day; on the third, another item."""
    ts = [0, 60, 0, 60, 2 * DAY, 2 * DAY + 60]
    return pa.table(
        {
            "type": ["click"] * 6,
            "ts": pa.array([DAY + each for each in ts]).cast(TIME),
            "person": ["u0", "u0", "u1", "u1", "u0", "u0"],
            "item_id": ["i0", "i1", "i0", "i1", "i0", item_of_late],
        }
    )


def profiles(*rows: tuple[str, int, float]) -> pa.Table:
    ids, moments, prices = zip(*rows, strict=True)
    attributes = [json.dumps({"price": price}) for price in prices]
    return pa.table(
        [ids, pa.array(moments).cast(TIME), attributes, [False] * len(ids)], schema=ITEM_SCHEMA
    )


def test_a_row_is_given_the_newest_index_that_is_not_after_it():
    series = build_series(clicks("i2"), empty_items(), [4 * DAY, 2 * DAY, 2 * DAY])
    assert [index.as_of for index in series.indexes] == [2 * DAY, 4 * DAY]
    assert series.index_numbers_at(
        np.array([2 * DAY - 1, 2 * DAY, 4 * DAY - 1, 4 * DAY, 9 * DAY])
    ).tolist() == [-1, 0, 0, 1, 1]


def test_an_item_between_two_indexes_is_in_the_first_with_its_initial_profile():
    """A server knows it within a second, so rows of that time must; what its profile said later
    they must not know.
    """
    items = profiles(
        ("i0", 0, 1.0),
        ("i0", 3 * DAY, 9.0),
        ("new", 3 * DAY, 5.0),
        ("new", 3 * DAY + 9, 7.0),
        ("later", 5 * DAY, 3.0),
    )
    series = build_series(clicks("i1"), items, [2 * DAY, 4 * DAY])

    def prices(place: int) -> dict[str, float]:
        index = series.indexes[place]
        price = index.attributes["price"]
        return {
            id_: float(price[row]) for row, id_ in enumerate(index.ids) if np.isfinite(price[row])
        }

    assert prices(0) == {"i0": 1.0, "new": 5.0}
    assert prices(1) == {"i0": 9.0, "new": 7.0, "later": 3.0}


def test_what_people_do_later_changes_no_index_but_what_it_holds():
    one, other = (
        build_series(clicks(item), empty_items(), [2 * DAY, 4 * DAY]).indexes
        for item in ("i1", "i2")
    )
    assert [len(index) for index in one] == [2, 2]
    assert [len(index) for index in other] == [3, 3], "i2 came before the second index was made"
    assert [index.as_of for index in one] == [index.as_of for index in other]
    np.testing.assert_array_equal(
        one[0].first_seen, other[0].first_seen[other[0].find(one[0].keys)]
    )
