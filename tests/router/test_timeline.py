"""A timeline is a sorted list; of equal times the last put wins. What memory lets go of changes no
answer.
"""

import apsw
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.router.decide.timeline import CACHED_VALUES, KEY_BYTES, VALUE_BYTES, Timeline

PUTS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=40)
SAVE = ("", -1)
STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)) | st.just(SAVE), max_size=60)


class History:
    """A timeline of numbers, and the table that it is over."""

    def __init__(self, bytes_max):
        self.table = apsw.Connection(":memory:")
        self.table.execute("CREATE TABLE kept(key TEXT, ts INTEGER, p INTEGER, number INTEGER)")
        select = "SELECT ts, number FROM kept WHERE key = ?1"
        self.timeline = Timeline(self.table, select, int, lambda number: 8, bytes_max=bytes_max)
        self.new = []

    def put(self, key, ts, number):
        self.timeline.put(key, ts, number)
        self.new.append((key, ts, number, number))

    def save(self):
        self.table.executemany("INSERT INTO kept VALUES (?, ?, ?, ?)", self.new)
        self.new = []
        self.timeline.mark_saved()


@given(
    STEPS,
    st.sampled_from("abc"),
    st.integers(-1, 6),
    st.sampled_from([0, 600, 1 << 20]),
    st.booleans(),
)
def test_what_held_at_a_time_is_the_newest_put_at_or_before_it(steps, key, ts, bytes_max, ready):
    history = History(bytes_max)
    for number, step in enumerate(steps):
        if step == SAVE:
            history.save()
        else:
            history.put(*step, number)
    if ready:
        history.timeline.preload(["a", key])
    before = [(when, number) for number, (at, when) in enumerate(steps) if at == key and when <= ts]
    assert history.timeline.value_at(key, ts) == (max(before)[1] if before else None)


def test_memory_holds_the_newest_values_of_the_keys_asked_for_lately():
    bytes_max = 20 * (KEY_BYTES + VALUE_BYTES)
    history = History(bytes_max)
    for number in range(1_000):
        history.put(f"k{number}", 0, number)
        history.put("often", number, number)
        if number % 10 == 9:
            history.save()
            assert history.timeline.cache_bytes <= bytes_max
            assert len(history.timeline) <= 20
    assert history.timeline.values("often") == list(range(1_000 - CACHED_VALUES, 1_000))
    assert history.timeline.value_at("often", 5) == 5
    assert history.timeline.value_at("k7", 0) == 7
