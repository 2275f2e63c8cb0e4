"""Indexes as of several moments: a row is given one that knows nothing of what came at or after its own time."""

import numpy as np
import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.events import DAY, HOUR, ROUTED
from tailorbird.ranking import Slot
from tailorbird.retrieval.sessions import Plan
from tailorbird.training.indexes import IndexSettings, Room, build_series, no_items
from tailorbird.training.settings import TrainSettings


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


def test_indexes_that_take_more_than_there_is_room_for_end_the_training_and_it_says_how_often_there_is():
    moments = [2 * DAY + hour * HOUR for hour in range(12)]
    weighed: list[int] = []

    def taken(most: int) -> UsageError | None:
        try:
            build_series(clicks("i2"), no_items(), moments, room=Room(most, HOUR), progress=lambda done, total: weighed.append(done))
        except UsageError as error:
            return error
        return None

    assert taken(1 << 30) is None
    assert weighed[-1] == 12
    weighed.clear()
    error = taken(10_000)
    assert error is not None
    assert error.where == "[train] index_every"
    made = weighed[-1] + 1  # the one that did not fit counts too
    assert made < 12
    assert f"{made} of 12 indexes take" in error.message
    assert f'index_every = "{-(-12 // made)}h"' in error.fix


def test_only_regular_indexes_are_bounded():
    assert TrainSettings().room is None
    assert TrainSettings(index_every_us=HOUR, index_room=7).room == Room(7, HOUR)


def test_what_comes_later_changes_no_index_but_the_later_ones():
    one, other = (build_series(clicks(item), no_items(), [2 * DAY, 4 * DAY]).indexes for item in ("i1", "i2"))
    assert np.array_equal(one[0].item_item.weights, other[0].item_item.weights)
    assert len(one[0].item_item.weights)
    assert len(one[1]) == 2
    assert len(other[1]) == 3


def test_what_comes_later_changes_no_sessions_but_those_of_later_indexes():
    asked = IndexSettings(sessions=Plan())
    one, other = (build_series(clicks(item), no_items(), [2 * DAY, 4 * DAY], asked).indexes for item in ("i1", "i2"))
    for name in ("starts", "item", "place", "fade"):
        assert np.array_equal(getattr(one[0].sessions, name), getattr(other[0].sessions, name))
    assert (len(one[0].sessions), len(one[1].sessions), len(other[1].sessions)) == (2, 3, 3)
    assert [other[1].ids[row] for row in other[1].sessions.item[-2:]] == ["i0", "i2"]


def test_sessions_are_kept_where_a_slot_asks_for_them():
    for sources, kept in (({"popular": 10}, False), ({"stan": 10}, True), ({"sessions": 10, "popular": 5}, True)):
        asked = IndexSettings().asked_by(Slot("plain", sources={"popular": 1}), Slot("home", sources=sources))
        assert (asked.sessions is not None) == kept
        assert build_series(clicks("i2"), no_items(), [2 * DAY], asked).with_sessions == kept
    assert TrainSettings(window_us=DAY).index_for(Slot("home", sources={"stan": 10})).sessions == Plan(within_us=DAY)
    assert TrainSettings(window_us=99 * DAY).index_for(Slot("home", sources={"stan": 10})).sessions == Plan()
    mine = Plan(most=7)
    assert IndexSettings(sessions=mine).asked_by(Slot("home", sources={"stan": 10})).sessions == mine
