"""The benchmark of incremental training: what it asks, on a made-up log of clicks."""

import numpy as np
from benchmarks.quality.hourly import Log
from benchmarks.quality.incremental import CANDIDATES, LENGTH, Coded, _ndcg, rows_of

from tailorbird.events import DAY, HOUR, MINUTE


def log(sessions=400, days=2, items=150):
    rng = np.random.default_rng(0)
    length = rng.integers(2, 6, sessions)
    first = np.cumsum(length) - length
    start = np.sort(rng.integers(0, days * DAY - HOUR, sessions))
    session = np.repeat(np.arange(sessions), length)
    ts = start[session] + (np.arange(len(session)) - first[session]) * MINUTE
    item = rng.integers(0, items, len(session))
    user = rng.integers(0, 80, sessions)[session]
    segments = {"device_group": rng.integers(0, 3, sessions)[session]}
    by_time = np.argsort(ts, kind="stable")
    return Log(session, item, ts, user, segments, first, length, ts[first] // HOUR, by_time, items, 0, 1)


def test_candidates_are_of_the_hours_before_and_none_was_in_the_session():
    made = log()
    rows = rows_of(made, 1, learned=40, judged=40)
    for part in ("learn", "judge"):
        question, item, recent = (rows[f"{part} {name}"] for name in ("question", "item", "recent"))
        assert recent.shape == (len(rows[f"{part} t"]), LENGTH)
        assert not (recent[question] == item[:, None]).any()
        for place in range(0, len(question), 97):
            hour = rows[f"{part} t"][question[place]] // HOUR * HOUR
            before = (made.ts >= hour - 3 * HOUR) & (made.ts < hour)
            assert item[place] in made.item[before]
    assert np.bincount(rows["judge question"]).max() <= CANDIDATES
    assert np.bincount(rows["learn question"], rows["learn truth"]).max() == 1


def test_ndcg_of_lists_whose_answer_one_sees():
    rows = {"judge question": np.array([0, 0, 1, 1]), "judge truth": np.array([False, True, True, False]), "judge t": np.zeros(3)}
    np.testing.assert_allclose(_ndcg(rows, np.array([2.0, 1.0, 5.0, 4.0])), [1 / np.log2(3), 1.0, 0.0])


def test_articles_that_are_not_known_share_a_code():
    assert Coded(np.array([3, 8])).code(np.array([-1, 3, 8, 9, 0])).tolist() == [0, 2, 3, 1, 1]
