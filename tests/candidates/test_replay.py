"""A replay asks each question of the tables of its moment, and recomputes what servers logged, ties
included.
"""

import random

import numpy as np
import pyarrow as pa
import pytest
from tests.support.candidate_logs import (
    CONTRACT,
    RoutedEvent,
    make_random_askers,
    make_random_log,
    request_of,
    table_of,
)

from tailorbird.candidates.batch import to_event_batch
from tailorbird.candidates.contract import build_contract, parse_source
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.own import SourceError, register_sources, source
from tailorbird.candidates.parity import compare_lists
from tailorbird.candidates.protocol import GROUPS, NO_TABLES, CandidateRequest
from tailorbird.candidates.query import RequestLists, table_group
from tailorbird.candidates.replay import ReplayRequests, assign_regular_epochs, replay_requests
from tailorbird.candidates.session_knn.query import query_sessions
from tailorbird.errors import DeclarationError

NAMES = [
    "trending",
    "popular:24h:device",
    "popular:7d:category",
    "item_knn",
    "session_knn",
    "stan",
    "repeat",
    "new_items",
    "second_hop",
    "both_days",
    "in_sessions",
    "newest",
]


@source("second_hop", reads="neighbours")
def second_hop(request, tables):
    near = tables.neighbours(request.recent[-2:]).keys
    return np.unique(tables.neighbours(near).keys), np.ones(
        len(np.unique(tables.neighbours(near).keys))
    )


@source("both_days", reads="boards", boards=["popular:24h"])
def both_days(request, tables):
    listed = tables.leaderboard(parse_source("popular:24h").board).items
    return listed.keys[::-1], listed.scores[::-1]


@source("in_sessions", reads="sessions")
def in_sessions(request, tables):
    found = query_sessions(tables, request, "stan")
    return found.keys[1:], found.scores[1:]


@source("newest")
def newest(request, tables):
    return request.recent[-1:], np.ones(len(request.recent[-1:]))


@pytest.fixture(autouse=True)
def own_sources():
    register_sources([second_hop, both_days, in_sessions, newest])
    yield
    register_sources([])


def requests_at(
    lines: list[RoutedEvent], seed: int, many: int = 30
) -> tuple[ReplayRequests, list[RequestLists]]:
    """Return questions whose groups of tables stand at positions of their own, and the lists that a
    server would have read.
    """
    rng = random.Random(seed)
    requests = [request_of(asker) for asker in make_random_askers(seed, many)]
    epochs = {
        group: np.array([rng.choice([0, *(line.p for line in lines)]) for _ in requests])
        for group in GROUPS
    }
    served = []
    for number, request in enumerate(requests):
        expected = RequestLists(CandidateFold(CONTRACT).tables(), request)
        for group in GROUPS:
            at = [line for line in lines if line.p <= epochs[group][number]]
            fold = CandidateFold(CONTRACT)
            if at:
                fold.update(to_event_batch(table_of(at), CONTRACT, at[-1].p))
            lists = RequestLists(fold.tables(), request)
            for name in NAMES:
                if table_group(name) in (group, ""):
                    expected.list_by_source[name] = lists.get(name)
        served.append(expected)
    return ReplayRequests(requests, epochs), served


@pytest.mark.parametrize("seed", range(5))
def test_each_question_sees_the_tables_of_its_moment(seed: int) -> None:
    lines = make_random_log(seed, 150)
    questions, served = requests_at(lines, seed)
    answered = []
    for chosen, request_lists in replay_requests(CONTRACT, table_of(lines), questions, NAMES):
        for question, lists in zip(chosen.tolist(), request_lists, strict=True):
            answered.append(question)
            for name in NAMES:
                expected = served[question].list_by_source[name]
                assert lists.get(name).keys.tolist() == expected.keys.tolist(), name
                assert lists.get(name).scores.tolist() == expected.scores.tolist(), name
    assert sorted(answered) == list(range(len(served)))


def logged(questions: ReplayRequests, served: list[RequestLists]) -> tuple[pa.Table, list]:
    rows = [
        {
            "request_id": f"r{number}",
            "candidate_lists": NAMES,
            "candidate_digests": [lists.list_by_source[name].digest for name in NAMES],
            "candidate_positions": [
                int(questions.epochs_by_group[table_group(name)][number])
                if table_group(name)
                else 0
                for name in NAMES
            ],
            "device": "mobile" if lists.request.segments else None,
            "country": None,
            "referrer": None,
        }
        for number, lists in enumerate(served)
    ]
    return pa.Table.from_pylist(rows), [
        (lists.request.recent, lists.request.recent_ts) for lists in served
    ]


def test_logged_lists_are_recomputed_and_one_changed_position_is_detected() -> None:
    lines = make_random_log(1, 150)
    answers, recent = logged(*requests_at(lines, 1))
    report = compare_lists(CONTRACT, table_of(lines), answers, recent, complete_until=lines[-1].p)
    assert report.unequal == {}
    assert report.lists == report.responses * len(NAMES) > 100
    digests = answers["candidate_digests"].to_pylist()
    digests[5][NAMES.index("item_knn")] += 1
    wrong = answers.set_column(
        answers.column_names.index("candidate_digests"), "candidate_digests", pa.array(digests)
    )
    report = compare_lists(CONTRACT, table_of(lines), wrong, recent, complete_until=lines[-1].p)
    assert report.unequal == {"item_knn": 1}
    assert report.examples[0].request_id == "r5"


def test_one_event_more_or_less_is_detected() -> None:
    lines = make_random_log(4, 150)
    answers, recent = logged(*requests_at(lines, 4))
    without = [
        line
        for line in lines
        if line.p != next(line.p for line in lines[40:] if line.kind == "click" and line.person)
    ]
    assert compare_lists(
        CONTRACT, table_of(without), answers, recent, complete_until=lines[-1].p
    ).unequal


def test_what_the_lake_does_not_have_yet_waits() -> None:
    lines = make_random_log(1, 150)
    answers, recent = logged(*requests_at(lines, 1))
    complete_until = lines[119].p
    report = compare_lists(
        CONTRACT, table_of(lines[:120]), answers, recent, complete_until=complete_until
    )
    assert report.pending > 0
    assert report.responses > 0
    assert report.unequal == {}


def test_regular_epochs_of_a_history_do_not_look_ahead() -> None:
    lines = make_random_log(6, 300)
    p = np.array([line.p for line in lines])
    epochs = assign_regular_epochs(table_of(lines), p - 1)
    assert all(
        (epochs[group] < p).all() and (np.diff(epochs[group]) >= 0).all() for group in GROUPS
    )
    assert epochs["boards"][-1] > 0.9 * p[-1], "the newest question knows nearly all of the log"


def test_the_contract_of_an_own_source_has_what_it_reads() -> None:
    contract = build_contract(["in_sessions"])
    assert contract.session_knn is not None
    assert build_contract(["newest"]).session_knn is None
    assert parse_source("popular:24h").board in build_contract(["both_days"]).boards
    register_sources([])
    with pytest.raises(DeclarationError, match="unknown source 'newest'"):
        build_contract(["newest"])


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        (None, "returned NoneType"),
        (([1, 2], [0.5, 0.5]), "keys int64"),
        ((np.array([1, 2], np.uint64), [0.5]), "scores"),
        ((np.array([1, 1], np.uint64), [0.5, 0.5]), "twice"),
        ((np.array([1], np.uint64), [np.nan]), "not finite"),
    ],
)
def test_a_wrong_list_stops_a_training_and_empties_a_servers_list(returned, problem) -> None:
    register_sources([source("wrong")(lambda request, tables: returned)])
    with pytest.raises(SourceError, match=problem):
        RequestLists(NO_TABLES, CandidateRequest()).get("wrong")
    lists = RequestLists(NO_TABLES, CandidateRequest(), strict=False)
    assert len(lists.get("wrong")) == 0
    assert lists.failed_sources == ["wrong"]
