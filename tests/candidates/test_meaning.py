"""Every list of every source is what the plain-Python reference says, ties included."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from tests.support.candidate_logs import (
    BOARDS,
    CONTRACT,
    make_random_askers,
    make_random_log,
    reference_events,
    request_of,
    table_of,
)

from tailorbird.candidates.batch import to_event_batch
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.protocol import RankedList
from tailorbird.candidates.query import RequestLists
from tailorbird.candidates.reference import ReferenceTables, ScoredItems, UserContext
from tailorbird.candidates.session_knn.similarity import VSkNN
from tailorbird.events import hash64

LOGS = [(seed, events) for seed in range(12) for events in (3, 40, 300)]


def fold_of(lines: list) -> CandidateFold:
    fold = CandidateFold(CONTRACT)
    fold.update(to_event_batch(table_of(lines), CONTRACT, lines[-1].p))
    return fold


def check(actual: RankedList, expected: ScoredItems) -> None:
    """The same items in the same order; of floats that were added in another order, scores that are
    equal but for rounding.
    """
    scores = np.array([score for _, score in expected])
    np.testing.assert_allclose(actual.scores, scores, rtol=1e-9)
    keys = [key for key, _ in expected]
    if actual.keys.tolist() != keys:  # equal but for rounding: any order of these
        groups = np.cumsum(np.abs(np.diff(scores, prepend=scores[0])) > 1e-9)
        assert sorted(zip(groups.tolist(), actual.keys.tolist(), strict=True)) == sorted(
            zip(groups.tolist(), keys, strict=True)
        )


@pytest.mark.parametrize(("seed", "events"), LOGS)
def test_lists_equal_those_of_the_reference(seed: int, events: int) -> None:
    lines = make_random_log(seed, events)
    fold, reference = fold_of(lines), ReferenceTables(CONTRACT, reference_events(lines))
    for asker in make_random_askers(seed, 4):
        lists = RequestLists(fold.tables(), request_of(asker))
        for name, board in (
            ("popular:1h", BOARDS[0]),
            ("popular:24h", BOARDS[1]),
            ("popular:24h:device", BOARDS[3]),
        ):
            check(lists.get(name), reference.popular(asker, board))
        check(lists.get("popular:7d:category"), reference.popular(asker, BOARDS[4]))
        check(lists.get("new_items"), reference.new_items())
        check(lists.get("repeat"), reference.repeat(asker))
        for last in (1, 2, 10):
            check(lists.get(f"item_knn:{last}"), reference.item_knn(asker, last))
        check(
            lists.get("session_knn"),
            v_sknn(reference, asker, VSkNN(500, 500, "quadratic", "quadratic")),
        )


def v_sknn(reference: ReferenceTables, asker: UserContext, settings: VSkNN) -> ScoredItems:
    """V-SkNN of the newest run of who asks (Ludewig and Jannach, 2018), with quadratic weights."""
    run: list[tuple[int, int]] = []
    for item, ts in zip(asker.recent, asker.recent_ts, strict=True):
        run = (
            [*run, (item, ts)]
            if run and ts - run[-1][1] <= CONTRACT.session_knn.gap_us
            else [(item, ts)]
        )
    context = [item for item, _ in run]
    last_place = {item: place for place, item in enumerate(context, 1)}
    sessions = [items for _, items in reference.sessions()]
    session_items = {item for items in sessions for item in items}
    shared = [item for item in last_place if item in session_items]
    scores: dict[int, float] = defaultdict(float)
    for items in [items for items in reversed(sessions) if set(items) & set(shared)][
        : settings.sample
    ]:
        common = [item for item in shared if item in items]
        similarity = sum((last_place[item] / len(context)) ** 2 for item in common) / len(shared)
        steps_back = len(context) - max(last_place[item] for item in common)
        for item in set(items) - set(context):
            scores[item] += similarity / (steps_back + 1) ** 2
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def test_a_board_covers_all_traffic_and_a_small_segment_falls_back_to_it() -> None:
    lines = make_random_log(3, 300)
    tables, reference = fold_of(lines).tables(), ReferenceTables(CONTRACT, reference_events(lines))
    for board in BOARDS[:4]:
        segment = hash64("mobile") if board.segment else 0
        listed, total = reference.leaderboard(board, segment)
        table = tables.leaderboard(board, segment)
        assert (table.items.keys.tolist(), table.total) == ([item for item, _ in listed], total)
        assert math.isclose(table.shares.scores.sum(), 1.0)


def test_a_click_is_trending_at_once_and_an_item_without_a_profile_too() -> None:
    lines = make_random_log(5, 200)
    fold = fold_of(lines)
    assert (
        hash64("i-new")
        not in RequestLists(fold.tables(), request_of(UserContext())).get("trending").keys
    )
    last = lines[-1]
    click = replace(
        last, p=last.p + 1, ts=fold.newest_ts, kind="click", item="i-new", person="u1", bot=False
    )
    fold.update(to_event_batch(table_of([click]), CONTRACT, click.p))
    lists = RequestLists(fold.tables(), request_of(UserContext()))
    assert hash64("i-new") in lists.get("trending").keys
    assert hash64("i-new") in lists.get("new_items").keys
