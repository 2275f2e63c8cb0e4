"""Item to item against a plain double loop over the same sequences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.retrieval.cooccurrence import DAMPING, ROW_MAX, Cooccurrence, cooccurrence

GAP = 100
ITEMS = 8


def dense(matrix, items=ITEMS):
    full = np.zeros((items, items), np.float32)
    for row in range(items):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        full[row, matrix.items[entries]] = matrix.weights[entries]
    return full


def by_loops(sequences, *, backward):
    sums = np.zeros((ITEMS, ITEMS))
    for events in sequences:
        kept = [event for place, event in enumerate(events) if place == 0 or event[0] != events[place - 1][0]]
        for a, (i, _) in enumerate(kept):
            for b in range(a + 1, min(a + 10, len(kept) - 1) + 1):
                if kept[b][1] - kept[b - 1][1] > GAP:
                    break
                j = kept[b][0]
                if i != j:
                    sums[i, j] += 1 / (b - a)
                    sums[j, i] += backward / (b - a)
    return sums / (sums.sum(axis=1, keepdims=True) + DAMPING)


def flatten(sequences):
    rows = [(number, item, ts) for number, events in enumerate(sequences) for item, ts in events]
    return (np.array([row[at] for row in rows], np.int64) for at in range(3))


@st.composite
def sequences(draw):
    made = []
    for _ in range(draw(st.integers(0, 4))):
        items = draw(st.lists(st.integers(0, ITEMS - 1), max_size=25))
        steps = draw(st.lists(st.sampled_from([0, 1, GAP, GAP + 1]), min_size=len(items), max_size=len(items)))
        made.append(list(zip(items, np.cumsum(steps).tolist(), strict=True)))
    return made


@settings(deadline=None)
@given(sequences(), st.booleans())
def test_against_loops(made, backward):
    matrix = cooccurrence(*flatten(made), items=ITEMS, gap_us=GAP, backward=backward)
    matrix.check(ITEMS)
    many = cooccurrence(*flatten(made), items=5_000, gap_us=GAP, backward=backward)  # too many to count in a table of all pairs
    many.check(5_000)
    assert many.indptr[: ITEMS + 1].tolist() == matrix.indptr.tolist()
    assert (many.items.tolist(), many.weights.tolist()) == (matrix.items.tolist(), matrix.weights.tolist())
    np.testing.assert_allclose(dense(matrix), by_loops(made, backward=backward), rtol=1e-6)


def test_two_items_one_after_the_other():
    matrix = cooccurrence(*flatten([[(0, 0), (1, 1)]]), items=2, gap_us=GAP)
    np.testing.assert_allclose(dense(matrix, 2), [[0, 1 / 11], [1 / 11, 0]])


@pytest.mark.parametrize("items", [ROW_MAX + 50, 5_000])
def test_a_row_keeps_its_best(items):
    n = ROW_MAX + 50
    pairs = [[(0, 0), (item, 1)] for item in range(1, n) for _ in range(1 + (item <= ROW_MAX))]
    matrix = cooccurrence(*flatten(pairs), items=items, gap_us=GAP)
    assert matrix.items[: matrix.indptr[1]].tolist() == list(range(1, ROW_MAX + 1))


@settings(deadline=None)
@given(sequences())
def test_look_up_is_the_dense_matrix(made):
    matrix = cooccurrence(*flatten(made), items=ITEMS, gap_us=GAP)
    left, right = (part.ravel() for part in np.meshgrid(np.arange(-1, ITEMS), np.arange(-1, ITEMS), indexing="ij"))
    expected = np.where((left < 0) | (right < 0), 0, dense(matrix)[left, right])
    np.testing.assert_array_equal(matrix.lookup(left, right), expected)
    for row in range(-1, ITEMS):
        np.testing.assert_array_equal(matrix.lookup_row(row, right[left == row]), expected[left == row])
    np.testing.assert_array_equal(matrix.widened(ITEMS + 3).lookup(np.array([ITEMS + 2]), np.array([0])), [0])


def test_look_up_in_a_full_row():
    matrix = Cooccurrence(np.array([0, 100]), np.arange(0, 200, 2, dtype=np.int32), np.arange(1, 101, dtype=np.float32))
    asked = np.arange(210)
    expected = np.where((asked % 2 == 0) & (asked < 200), asked / 2 + 1, 0)
    np.testing.assert_array_equal(matrix.lookup(np.zeros(210, np.intp), asked), expected)


@pytest.mark.parametrize(("indptr", "items"), [([0, 1, 1], [2]), ([0, 2], [1, 0]), ([0, 2, 1], [0]), ([0, 1, 1], [-1]), ([1, 1, 1], [0])])
def test_a_matrix_that_does_not_fit_its_items_is_refused(indptr, items):
    with pytest.raises(ValueError, match="item-to-item matrix"):
        Cooccurrence(np.array(indptr, np.int64), np.array(items, np.int32), np.ones(len(items), np.float32)).check(2)
