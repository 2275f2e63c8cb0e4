"""The index of repeats: the same answers whatever lies in the open run, in sealed segments or was
just loaded.
"""

import apsw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.events import DAY, Event
from tailorbird.router.decide.dedup import ENTRY_DTYPE, SCHEMA_SQL, DedupIndex, compute_fingerprints

HORIZON = 7 * DAY


@pytest.fixture
def connection():
    return new_connection()


def new_connection():
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA_SQL)
    return connection


def entries(*rows):
    """(key, received_at) → entries; check, offset and row follow from them."""
    made = np.zeros(len(rows), ENTRY_DTYPE)
    for row, (key, received_at) in enumerate(rows):
        made[row] = (key, key ^ 0x5555, received_at, received_at % 1_000_003, 1, row)
    return made


def take(index, connection, batch, lasting=()):
    """A step of the router: the rows that are repeats; the others are added and saved."""
    repeats = index.find_duplicates(batch)
    mask = np.ones(len(batch), bool)
    mask[list(repeats)] = False
    index.add(batch[mask])
    index.save(connection, lasting)
    return sorted(repeats)


def test_fingerprints_tell_subjects_and_ids_apart():
    events = [
        Event("e1", "view", user_id="1"),
        Event("e1", "view", anonymous_id="1"),
        Event("e1", "item", item_id="1"),
        Event("e2", "view", user_id="1"),
        Event("1", "view", user_id="e1"),
    ]
    prints = compute_fingerprints(events)
    assert prints.shape == (5, 2)
    assert len(set(prints.ravel().tolist())) == 10
    assert (
        compute_fingerprints([Event("e1", "click", user_id="1", anonymous_id="2")])[0] == prints[0]
    ).all()
    assert compute_fingerprints([]).shape == (0, 2)


def test_the_fingerprint_of_an_event_never_changes():
    key, check = compute_fingerprints([Event("e1", "view", user_id="1")])[0].tolist()
    assert [f"{key:016x}", f"{check:016x}"] == ["d1b72f50d6289e70", "19523597e36fe1d8"]


def test_a_key_that_collides_in_64_bits_is_no_repeat(connection):
    index = DedupIndex(connection, HORIZON)
    first, second = entries((7, 0)), entries((7, 0))
    second["fingerprint_rest"] += np.uint64(1)
    assert take(index, connection, first) == []
    assert take(index, connection, second) == []
    assert take(index, connection, np.concatenate([second, first])) == [0, 1]


def test_segments_behind_the_horizon_are_dropped_but_for_the_newest_few(connection):
    index = DedupIndex(connection, HORIZON, segment_rows=10)
    for day in range(40):
        take(index, connection, entries(*((day * 10 + number, day * DAY) for number in range(10))))
    segments = [row[0] for row in connection.execute("SELECT id FROM dedup_segment ORDER BY id")]
    assert segments == list(range(25, 41))
    assert connection.execute("SELECT min(segment), count(*) FROM dedup_page").fetchall() == [
        (25, 16)
    ]
    index = DedupIndex(connection, HORIZON, segment_rows=10)
    assert take(index, connection, entries((399, 39 * DAY), (240, 24 * DAY), (239, 23 * DAY))) == [
        0,
        1,
    ]


@pytest.mark.parametrize("reopened", [False, True])
def test_what_was_imported_is_remembered_for_ever(connection, reopened):
    index = DedupIndex(connection, HORIZON, segment_rows=10)
    imported = entries(*((number, number * DAY) for number in range(10)))
    imported["producer"] = 3
    take(index, connection, imported, lasting=(3,))
    for day in range(100, 140):
        take(
            index,
            connection,
            entries(*((day * 10 + number, day * DAY) for number in range(10))),
            lasting=(3,),
        )
    if reopened:
        index = DedupIndex(connection, HORIZON, segment_rows=10)
    assert [row[0] for row in connection.execute("SELECT id FROM dedup_segment ORDER BY id")] == [
        1,
        *range(26, 42),
    ]
    assert take(index, connection, imported) == list(range(10))
    assert take(index, connection, entries((1_000, 100 * DAY))) == [], (
        "others are forgotten as before"
    )


def test_many_entries_are_found_again_and_others_are_not(connection):
    random = np.random.default_rng(7)
    made = np.zeros(5_000, ENTRY_DTYPE)
    made["key"], made["fingerprint_rest"] = random.integers(0, 1 << 63, (2, 5_000))
    index = DedupIndex(connection, HORIZON, segment_rows=1_000)
    for start in range(0, 4_000, 500):
        assert take(index, connection, made[start : start + 500]) == []
    assert connection.execute("SELECT count(*) FROM dedup_run").get == 0
    assert connection.execute("SELECT count(*) FROM dedup_segment").get == 4
    order = random.permutation(5_000)
    repeats = index.find_duplicates(made[order])
    assert sorted(order[list(repeats)].tolist()) == list(range(4_000))


KEYS = st.integers(0, 5) | st.integers((1 << 64) - 3, (1 << 64) - 1)
BATCHES = st.lists(
    st.lists(st.tuples(KEYS, st.integers(0, 4).map(lambda days: days * 5 * DAY)), max_size=8),
    max_size=8,
)


@settings(deadline=None)
@given(BATCHES, st.integers(1, 12), st.sets(st.integers(0, 8)))
def test_it_is_a_list_of_what_was_accepted_however_it_is_kept(batches, segment_rows, reopened):
    connection = new_connection()
    index = DedupIndex(connection, HORIZON, segment_rows=segment_rows)
    model = []
    for number, batch in enumerate(batches):
        if number in reopened:
            index = DedupIndex(connection, HORIZON, segment_rows=segment_rows)
        expected = []
        for row, (key, received_at) in enumerate(batch):
            if any(key == other and abs(received_at - then) <= HORIZON for other, then in model):
                expected.append(row)
            else:
                model.append((key, received_at))
        assert take(index, connection, entries(*batch)) == expected
