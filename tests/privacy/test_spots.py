"""Many strings are found in long data wherever they stand, as `bytes.find` finds each of them."""

from hypothesis import given
from hypothesis import strategies as st

from tailorbird.privacy.spots import Spots

ALIKE = st.text("ab-", min_size=6, max_size=9).map(str.encode)
LONG = st.tuples(
    st.sampled_from([b"ajs-next-1719000000-", b""]),
    ALIKE,
    st.sampled_from([b"@events.shop.example.com", b""]),
).map(b"".join)


@given(st.sets(LONG, max_size=12), st.lists(st.one_of(LONG, st.binary(max_size=9)), max_size=8))
def test_each_string_is_found_wherever_it_stands_and_nothing_else(
    needles: set[bytes], parts: list[bytes]
) -> None:
    data = b"".join([*parts, *sorted(needles)[:3]])
    expected = sorted(
        (place, needle)
        for needle in needles
        for place in range(len(data))
        if data.startswith(needle, place)
    )
    assert list(Spots(needles).at(data)) == expected


def test_strings_shorter_than_six_bytes_are_not_looked_for() -> None:
    assert list(Spots([b"short", b"longer"]).at(b"short longer")) == [(6, b"longer")]
    assert list(Spots([]).at(b"anything")) == []
