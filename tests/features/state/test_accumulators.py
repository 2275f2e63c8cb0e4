"""Accumulators: any order and any cut into batches lead to the same bits; a reading record holds
until it says.
"""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tailorbird.events import HOUR
from tailorbird.features import FeatureSet, count, entity, total
from tailorbird.features.arithmetic.finish import recent_events
from tailorbird.features.arithmetic.runs import Runs
from tailorbird.features.event_columns.columns import Frame
from tailorbird.features.layout.layout import (
    NEWEST_LANE,
    NEXT_CHANGE_LANE,
    READING_HEADER_LANES,
    VALID_FROM_LANE,
    Step,
)
from tailorbird.features.state.state import Records, StateBatch
from tailorbird.features.state.tiles import NEVER_TS, FilledLanes

item = entity("item")
PHASES = [Phase.reuse, Phase.generate]


def absorbed(kit, records: Records, keys: np.ndarray, batches: list[list[dict]]) -> np.ndarray:
    """The states of `keys` after the batches."""
    states = np.zeros((len(keys), records.layout.state_lanes), np.int64)
    sizes = np.zeros(len(keys), np.int64)
    for batch in batches:
        frame = Frame(kit.table(batch))
        taken = [
            (accumulator, accumulator.extract_additions(frame))
            for accumulator in records.accumulators
        ]
        new = states[:, NEWEST_LANE].copy()
        for _, added in taken:
            np.maximum.at(new, np.searchsorted(keys, added.key), added.ts)
        parts = [(one, np.searchsorted(keys, added.key), added) for one, added in taken]
        records.update(StateBatch(states, FilledLanes.from_states(states), sizes), new, parts)
    return states


def all_keys(records: Records, frame: Frame) -> np.ndarray:
    return np.unique(
        np.concatenate(
            [accumulator.extract_additions(frame).key for accumulator in records.accumulators]
        )
    )


@pytest.mark.slow
@settings(max_examples=40, deadline=None, phases=PHASES)
@given(data=st.data())
def test_any_order_and_any_batches_lead_to_the_same_state(kit, data):
    events = kit.routed(data.draw(st.lists(kit.events(), min_size=8, max_size=40)))
    shuffled = data.draw(st.permutations(events))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    parts = [list(shuffled[a:b]) for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    for layout in kit.every_kind().layout.entities:
        records = Records(layout)
        keys = all_keys(records, Frame(kit.table(events)))
        np.testing.assert_array_equal(
            absorbed(kit, records, keys, parts), absorbed(kit, records, keys, [events])
        )


@settings(max_examples=40, deadline=None, phases=PHASES)
@given(data=st.data())
def test_a_reading_record_is_what_the_state_gives_until_its_next_change_and_not_at_it(kit, data):
    events = kit.routed(data.draw(st.lists(kit.events(), min_size=4, max_size=30)))
    for layout in kit.every_kind().layout.entities:
        records = Records(layout)
        keys = all_keys(records, Frame(kit.table(events)))
        states = absorbed(kit, records, keys, [events])
        readings = records.compute_readings(states, states[:, NEWEST_LANE] + 1)
        change, first = readings[:, NEXT_CHANGE_LANE], readings[:, VALID_FROM_LANE]
        some = data.draw(st.floats(0, 1))
        until = np.minimum(change, first + 10**13)
        between = first + ((until - 1 - first) * some).astype(np.int64)
        same = records.compute_readings(states, between)
        np.testing.assert_array_equal(
            same[:, READING_HEADER_LANES:], readings[:, READING_HEADER_LANES:]
        )
        np.testing.assert_array_equal(same[:, NEXT_CHANGE_LANE], change)
        ends = change != NEVER_TS
        after = records.compute_readings(states[ends], change[ends])
        assert (
            (after[:, READING_HEADER_LANES:] != readings[ends][:, READING_HEADER_LANES:])
            .any(axis=1)
            .all()
        )


def test_a_late_event_older_than_the_ring_is_dropped_and_not_wrapped_into_a_newer_tile(kit):
    features = FeatureSet.from_declarations([count("n", item, "click", window="3h", hop="1h")])
    records = Records(features.layout.entities[0])
    noon = kit.T0 // HOUR * HOUR
    clicks = [
        kit.event("click", noon - hours * HOUR, item_id="i", event_id=f"e{hours}")
        for hours in (0, 4, 3, 5, 8)
    ]
    states = absorbed(
        kit, records, np.array([kit.key("i")], np.uint64), [[one] for one in kit.routed(clicks)]
    )
    readings = records.compute_readings(states, states[:, NEWEST_LANE] + 1)
    assert (
        readings[0, READING_HEADER_LANES] == 2
    )  # now and three hours ago, the oldest tile that still counts
    assert readings[0, NEXT_CHANGE_LANE] == noon + HOUR


def test_a_sum_of_the_largest_values_does_not_overflow_and_what_is_larger_is_capped_and_counted(
    kit,
):
    features = FeatureSet.from_declarations(
        [total("s", item, "purchase", of="price", unit=0.01, max=1000, window="1h")]
    )
    records = Records(features.layout.entities[0])
    buys = [
        kit.event("purchase", kit.T0 + n, item_id="i", price=price, event_id=str(n))
        for n, price in enumerate((1e9, 0.015, 0.025))
    ]
    frame = Frame(kit.table(kit.routed(buys)))
    added = records.accumulators[0].extract_additions(frame)
    assert added.value.tolist() == [100_000, 2, 2]  # half to even
    assert frame.capped_counts == {"price": 1}


@pytest.mark.parametrize("of_session", ["s1", None])
def test_a_session_is_the_requested_one_or_the_run_that_ends_now(kit, of_session):
    minute = 60_000_000
    ts = np.array(
        [0, kit.T0 - 100 * minute, kit.T0 - 50 * minute, kit.T0 - 20 * minute, kit.T0], np.int64
    )
    click, view, s1, s2 = (np.uint64(kit.key(text)) for text in ("click", "view", "s1", "s2"))
    types, sessions = (
        np.array([0, click, click, view, click], np.uint64),
        np.array([0, s1, s1, s1, s2], np.uint64),
    )
    request_session = np.array([0 if of_session is None else kit.key(of_session)], np.uint64)
    step = Step("clicks", "numeric", "session", text="click")

    def clicks(t: int) -> float:
        columns = recent_events(t, ts, np.zeros(5, np.int64), types, sessions)
        item, type, session = (column.view(np.uint64) for column in columns[1:])
        return Runs(
            np.array([0, len(columns[0])]),
            columns[0],
            item,
            type,
            session,
            np.array([t]),
            request_session,
            item,
        ).column(step)[0]

    assert clicks(kit.T0 + 30 * minute) == 2
    assert clicks(kit.T0 + 30 * minute + 1) == (0 if of_session is None else 2)
