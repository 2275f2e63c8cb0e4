"""Pairs of several lists, what each list says of them, and the crowd's columns, against loops over the same rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.retrievers.test_contract import contexts, interactions, logs

from tailorbird.events import HOUR, MINUTE
from tailorbird.models.retrievers import OwnItems, Top
from tailorbird.models.retrievers.crowd import Crowd
from tailorbird.models.retrievers.pairs import Pairs, pool, scores_of

ITEMS = 6


@st.composite
def tops(draw, questions=3):
    width = draw(st.integers(1, 5))
    rows = [draw(st.permutations(range(ITEMS)))[: draw(st.integers(0, width))] for _ in range(questions)]
    item, score = np.full((questions, width), -1, np.int32), np.zeros((questions, width), np.float32)
    for q, row in enumerate(rows):
        item[q, : len(row)] = row
        score[q, : len(row)] = sorted(draw(st.lists(st.integers(1, 9), min_size=len(row), max_size=len(row))), reverse=True)
    return Top(item, score)


@settings(deadline=None, max_examples=50)
@given(tops(), tops(), st.integers(1, 5))
def test_a_pool_has_each_pair_once_and_tells_what_each_list_says(first, second, take):
    pairs = pool({"first": first, "second": second}, {"first": take, "second": 5}, ITEMS)
    expected = {(q, i) for q, row in enumerate(first.item.tolist()) for i in row[:take] if i >= 0}
    expected |= {(q, i) for q, row in enumerate(second.item.tolist()) for i in row if i >= 0}
    assert list(zip(pairs.question.tolist(), pairs.item.tolist(), strict=True)) == sorted(expected)
    told = scores_of("first", first, pairs)
    for at, (q, i) in enumerate(sorted(expected)):
        row = first.item[q].tolist()
        assert told["first"][at] == (first.score[q, row.index(i)] if i in row else 0)
        assert told["first_best"][at] == first.score[q, 0]


def test_the_best_pairs_may_have_scores_below_zero():
    pairs = Pairs(np.array([0, 0, 0, 2]), np.array([1, 3, 4, 0]), 3, 5)
    top = pairs.best(np.array([-2.0, -1.0, -1.0, 5.0]), 2)
    assert top.item.tolist() == [[3, 4], [-1, -1], [0, -1]]


def test_columns_of_the_crowd():
    t = 100 * HOUR
    # item, minutes before t, opens a session, device
    log = [(0, 300, True, 0), (1, 100, False, 1), (0, 50, False, 1), (1, 40, True, 1), (1, 3, False, 0), (2, -1, True, 0)]
    ts = np.array([t - minutes * MINUTE for _, minutes, _, _ in log])
    devices = np.array([device for *_, device in log])
    crowd = Crowd(np.array([e[0] for e in log]), ts, np.array([e[2] for e in log]), {"device": devices}, 3, {"device": HOUR})
    pairs = Pairs(np.array([0, 0, 0]), np.array([0, 1, 2]), 1, 3)
    made = crowd.columns(t, contexts([[(1, t + MINUTE)]], t + 2 * MINUTE), {"device": np.array([1])}, pairs)
    np.testing.assert_allclose(made["share_1h"], [1 / 3, 2 / 3, 0])  # what came after t is nobody's business
    np.testing.assert_allclose(made["share_6h"], [2 / 5, 3 / 5, 0])
    np.testing.assert_allclose(made["trend_1h"], [(1 * 3 + 1) / (1 + 1), (2 * 3 + 1) / (3 + 1), 1])
    np.testing.assert_allclose(made["followed"], [(1 + 1) / (1 + 3), (2 + 1) / (3 + 3), 1 / 3])
    np.testing.assert_allclose(made["device_share"], [1 / 2, 1 / 2, 0])
    np.testing.assert_allclose(made["device_lift"], [2 / (2 / 3 + 1), 2 / (4 / 3 + 1), 1])
    np.testing.assert_allclose(made["age_h"], [302 / 60, 102 / 60, 2 / 60], rtol=1e-6)
    np.testing.assert_allclose(made["newest_age_h"], 102 / 60, rtol=1e-6)
    np.testing.assert_allclose(made["minutes"], 2)


@settings(deadline=None, max_examples=30)
@given(logs(), st.booleans())
def test_own_items_come_before_what_is_popular(events, repeats):
    t = 1_000
    question = [(3, 100), (1, 400), (3, 900)]
    top = OwnItems(half_life_us=500, window_us=2_000).fit(interactions(events), t).top(contexts([question], t), 7, repeats=repeats)
    counts = {item: sum(event[1] == item for event in events) for item in {event[1] for event in events}}
    popular = [item for item in sorted(counts, key=lambda item: (-counts[item], item)) if item not in (1, 3)]
    assert [item for item in top.item[0].tolist() if item >= 0] == ([3, 1] if repeats else []) + popular
    if repeats:
        np.testing.assert_allclose(top.score[0, 0], 2 ** (-900 / 500) + 2 ** (-100 / 500), rtol=1e-5)
