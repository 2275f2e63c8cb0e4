"""Keys of columns of texts: the stated hash for every text, and identities that are equal where
texts are.
"""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.events.keys import hash64
from tailorbird.features.offline.hashing import hash_texts, identify_texts

TEXTS = st.lists(
    st.one_of(
        st.none(),
        st.text(max_size=20),
        st.sampled_from(["", "a", "é" * 64, "x" * 128, "y" * 129, "z" * 1000]),
    )
)


@settings(deadline=None)  # the first one compiles
@given(
    TEXTS,
    st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]),
    st.integers(0, 3),
)
def test_every_text_has_its_stated_hash_and_an_identity_of_its_own(texts, kind, skipped):
    column = pa.array(texts, pa.string()).cast(kind).slice(skipped)
    texts = texts[skipped:]
    assert hash_texts(column).tolist() == [0 if text is None else hash64(text) for text in texts]
    keys = identify_texts(column, seed=7).tolist()
    assert [key == 0 for key in keys] == [text is None for text in texts]
    assert len(set(keys)) == len(set(texts))


def test_identities_do_not_depend_on_chunks_or_on_the_bytes_after_a_text():
    texts = [f"user-{number % 50}" for number in range(40_000)]
    expected = identify_texts(pa.array(texts), seed=1)
    parts = pa.chunked_array([pa.array(texts[:7]), pa.array(texts[7:])])
    assert identify_texts(parts, seed=1).tolist() == expected.tolist()
    assert len(set(expected.tolist())) == 50
    assert identify_texts(parts, seed=2)[0] != expected[0]


@pytest.mark.parametrize("number", [70_000])
def test_many_texts_in_shares_are_hashed_like_one(number):
    texts = [f"item {row * 7 % 30_011}" for row in range(number)]
    keys = hash_texts(pa.array(texts))
    assert keys[[0, 1, number - 1]].tolist() == [hash64(texts[row]) for row in (0, 1, number - 1)]
    assert len(set(keys.tolist())) == 30_011
