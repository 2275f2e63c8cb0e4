"""The inverted file: what it finds beside the exact answer, items that came later, rules, and files
that are damaged.
"""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.ranking.tower import Space, Tower, TowerPlan
from tailorbird.retrieval import Index, NewItem, with_items
from tailorbird.retrieval.arrays import array_bytes
from tailorbird.retrieval.inverted import FILE_NAMES, InvertedFile, build_inverted
from tailorbird.retrieval.vectors import Content, ItemVectors

N, WIDTH, KINDS = 6_000, 16, 60
RNG = np.random.default_rng(4)
AT = RNG.normal(size=(KINDS, WIDTH)).astype(np.float32)


def drawn(count):
    return AT[RNG.integers(0, KINDS, count)] + np.float32(0.4) * RNG.normal(
        size=(count, WIDTH)
    ).astype(np.float32)


VECTORS, USERS = drawn(N), drawn(50)
INVERTED = build_inverted(VECTORS, drawn(100))
NO_HISTORY = RaggedArrays(np.zeros(2, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64))


def space(user, inverted, shown=None):
    vectors = ItemVectors(
        VECTORS,
        np.zeros((1, WIDTH), np.float32),
        np.full(WIDTH, 0.01, np.float32),
        Content(),
        inverted,
    )
    plan = TowerPlan("recent", 1, WIDTH, repeats=False, trained_until=0, share=0.5)
    tower = Tower(plan, np.zeros((2, WIDTH), np.float32), lambda *window: user[None])
    index = Index.from_ids([f"i{number}" for number in range(N)], vectors)
    return Space(tower, index if shown is None else index.restrict(shown))


def both(user, n, shown=None, sequence=NO_HISTORY):
    exact, by_file = space(user, None, shown), space(user, INVERTED, shown)
    return exact.nearest(exact.query(sequence), n), by_file.nearest(by_file.query(sequence), n)


def test_it_compares_a_part_and_returns_nearly_all_of_the_nearest():
    assert INVERTED.calibration.share < 0.35
    recall = []
    for user in USERS:
        exact, approximate = both(user, 100)
        recall.append(np.isin(exact.rows, approximate.rows).mean())
        assert (np.diff(approximate.scores) <= 0).all()
        same = np.isin(approximate.rows, exact.rows)
        exact_scores = dict(zip(exact.rows.tolist(), exact.scores.tolist(), strict=True))
        np.testing.assert_allclose(
            approximate.scores[same],
            [exact_scores[row] for row in approximate.rows[same].tolist()],
            atol=0.1,
        )
    assert np.mean(recall) >= 0.98


def test_the_sum_over_all_items_is_close_and_the_same_for_one_and_for_many():
    for user in USERS[:10]:
        one = space(user, INVERTED)
        exact = space(user, None).query(NO_HISTORY)
        assert one.query(NO_HISTORY).log_sum == pytest.approx(exact.log_sum, abs=0.1)
        assert (
            one._compute_log_sums(np.stack([user, user])).tolist()
            == [np.float32(one.query(NO_HISTORY).log_sum)] * 2
        )
    rows = np.array([5, 0, N - 1])
    query = space(USERS[0], INVERTED).query(NO_HISTORY)
    np.testing.assert_allclose(
        query.scores_of(rows), space(USERS[0], None).query(NO_HISTORY).scores_of(rows), rtol=1e-5
    )


@pytest.mark.parametrize("inverted", [INVERTED, None])
def test_an_item_has_the_same_score_to_the_bit_among_many_and_by_itself(inverted):
    """What is shown is a part of the candidates: who scores it again, by the bundle and what was
    logged, must come to the same.
    """
    rows = np.random.default_rng(2).choice(N, 500, replace=False)
    for user in USERS[:10]:
        here = space(user, inverted)

        def scores(some, here=here):
            return here.vector_columns(
                ["vector_score"], here.index.keys[some], np.zeros(len(some), np.intp), NO_HISTORY, 1
            )["vector_score"]

        all_scores = scores(rows)
        for count in (1, 3, 7, 20):
            assert np.array_equal(scores(rows[:count]), all_scores[:count])
            assert np.array_equal(scores(rows[-count:]), all_scores[-count:])


def test_all_lists_are_probed_if_needed():
    exact, approximate = both(USERS[0], N)
    assert sorted(approximate.rows.tolist()) == sorted(exact.rows.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.002, 0.05, 0.5])
def test_it_finds_what_may_be_shown_however_little_that_is(share):
    shown = np.random.default_rng(1).random(N) < share
    recall = []
    for user in USERS:
        exact, approximate = both(user, 20, shown)
        assert shown[approximate.rows].all()
        assert approximate.rows.size == exact.rows.size
        recall.append(np.isin(exact.rows, approximate.rows).mean() if exact.rows.size else 1.0)
    assert np.mean(recall) >= 0.97


def test_items_of_the_history_are_excluded():
    exact, _ = both(USERS[0], 3)
    index = space(USERS[0], INVERTED).index
    had = RaggedArrays(np.array([0, 3]), index.keys[exact.rows], np.arange(3))
    _, approximate = both(USERS[0], 50, sequence=had)
    assert not np.isin(exact.rows, approximate.rows).any()


def test_new_and_changed_items_match_at_once():
    user = USERS[0]
    before = space(user, INVERTED)
    far = before.nearest(before.query(NO_HISTORY), N).rows[-1]
    vectors = before.vectors
    moved = VECTORS.copy()
    moved[far] = 10 * user
    after = replace(
        vectors,
        vectors=np.concatenate([moved, 9 * user[None]]),
        inverted=INVERTED.extended(np.array([far]), N + 1),
    )
    now = Space(before.tower, Index.from_ids([f"i{number}" for number in range(N + 1)], after))
    query = now.query(NO_HISTORY)
    matches = now.nearest(query, N + 1)
    assert matches.rows[:2].tolist() == [far, N]
    assert np.unique(matches.rows).size == matches.rows.size == N + 1
    again = after.inverted.extended(np.zeros(0, np.intp), N + 1)
    assert np.array_equal(again.is_stale, after.inverted.is_stale)


def test_an_added_item_is_in_the_lists_of_the_next_index():
    grown = with_items(
        space(USERS[0], INVERTED).index,
        [NewItem("new", {"title": "x"}, 1), NewItem("i7", {"title": "x"}, 1)],
    )
    assert np.flatnonzero(grown.vectors.inverted.is_stale).tolist() == [7, N]


def test_nothing_is_built_where_it_would_spare_nothing():
    even = np.random.default_rng(0).normal(size=(3_000, 48)).astype(np.float32)
    assert build_inverted(even, even[:50]) is None
    assert build_inverted(even[:0], even[:5]) is None
    assert build_inverted(even, even[:0]) is None


def files(**damaged):
    vectors = space(USERS[0], INVERTED).vectors
    return vectors.files() | {f"inverted_{name}.npy": data for name, data in damaged.items()}


def test_it_is_restored_from_its_files():
    read = ItemVectors.read(files(), N)
    assert read.inverted.calibration == INVERTED.calibration
    again = read.inverted.probe_lists(USERS[3], VECTORS)
    result = INVERTED.probe_lists(USERS[3], VECTORS)
    assert np.array_equal(again.rows, result.rows)
    assert np.array_equal(again.products, result.products)
    assert again.log_sum_exp == result.log_sum_exp
    assert (
        ItemVectors.read(
            {name: data for name, data in files().items() if name not in FILE_NAMES}, N
        ).inverted
        is None
    )


@pytest.mark.parametrize(
    "damaged",
    [
        {"rows": array_bytes(INVERTED.rows[:-1])},
        {"rows": array_bytes(np.zeros(N, np.int32))},
        {"rows": array_bytes(INVERTED.rows - 1)},
        {"rows": array_bytes(INVERTED.rows.astype(np.int64))},
        {"begin": array_bytes(INVERTED.offsets[::-1].copy())},
        {"begin": array_bytes(INVERTED.offsets[:3])},
        {"begin": b"none"},
    ],
)
def test_a_damaged_file_is_refused(damaged):
    # `Index.load` makes a BundleError of it
    with pytest.raises(ValueError, match=r"lists of the inverted file|no array"):
        ItemVectors.read(files(**damaged), N)


def test_a_file_without_its_lists_is_refused():
    intact = files()
    with pytest.raises(KeyError):
        ItemVectors.read({name: data for name, data in intact.items() if name != FILE_NAMES[0]}, N)
    with pytest.raises((ValueError, msgspec.ValidationError)):
        ItemVectors.read(
            intact | {FILE_NAMES[2]: b'{"lists": 100000, "recall": 1.0, "share": 0.1}'}, N
        )


def test_every_row_is_in_one_list():
    assert sorted(INVERTED.rows.tolist()) == list(range(N))
    assert isinstance(INVERTED, InvertedFile)
