"""Facets: counted as a loop over the items would count them."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.support.shops import retrieval_shop

from tailorbird.retrieval import NewItem, with_items
from tailorbird.retrieval.facets import FACET_VALUES_MAX, compute_facet

EMPTY = retrieval_shop.make_empty_index()
COLOURS = st.lists(st.sampled_from(["red", "blue", "grey"]), max_size=3)


@given(
    st.lists(st.tuples(COLOURS, st.none() | st.integers(0, 9)), min_size=1, max_size=20), st.data()
)
def test_they_are_what_a_loop_counts(items, data):
    new = [
        NewItem(f"n{place}", {"colour": colours, "size": size}, 1)
        for place, (colours, size) in enumerate(items)
    ]
    index = with_items(EMPTY, new)
    chosen = data.draw(st.sets(st.sampled_from(range(len(items)))))
    rows = index.find_ids([f"n{place}" for place in sorted(chosen)])
    if "colour" in index.attributes and any(colours for colours, _ in items):
        facet = compute_facet(index, rows, "colour")
        counted = Counter(part for place in chosen for part in set(items[place][0]))
        assert facet.counts == dict(counted)
        assert list(facet.counts.values()) == sorted(facet.counts.values(), reverse=True)
        assert facet.missing == sum(not items[place][0] for place in chosen)
    sizes = [items[place][1] for place in chosen if items[place][1] is not None]
    if any(size is not None for _, size in items):
        facet = compute_facet(index, rows, "size")
        assert (facet.counts, facet.missing) == ({}, len(chosen) - len(sizes))
        assert (facet.low, facet.high) == ((min(sizes), max(sizes)) if sizes else (None, None))


def test_only_the_most_frequent_values_are_returned():
    new = [NewItem(f"n{place}", {"brand": f"b{place % 50}"}, 1) for place in range(60)]
    index = with_items(EMPTY, new)
    facet = compute_facet(index, np.arange(60), "brand")
    assert len(facet.counts) == FACET_VALUES_MAX
    assert list(facet.counts)[:10] == sorted(f"b{number}" for number in range(10))
    assert compute_facet(index, np.arange(60), "nothing") is None
