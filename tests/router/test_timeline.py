"""A timeline is a sorted list; of equal times the last put wins."""

from hypothesis import given
from hypothesis import strategies as st

from tailorbird.router.timeline import Timeline

PUTS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=12)


@given(PUTS, st.sampled_from("abc"), st.integers(-1, 6))
def test_what_held_at_a_time_is_the_newest_put_at_or_before_it(puts, key, ts):
    timeline = Timeline()
    for number, (at, when) in enumerate(puts):
        timeline.put(at, when, number)
    before = [(when, number) for number, (at, when) in enumerate(puts) if at == key and when <= ts]
    assert timeline.at(key, ts) == (max(before)[1] if before else None)
