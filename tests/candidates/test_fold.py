"""A fold is a function of the log: batches, snapshots, restarts and forgetting change nothing; a
store shows the same tables.
"""

import random
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
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
from tailorbird.candidates.contract import Contract
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.protocol import GROUPS, CandidateTables
from tailorbird.candidates.publish import Publisher
from tailorbird.candidates.query import RequestLists
from tailorbird.candidates.tables import TableReader
from tailorbird.store import open_store

NAMES = (
    "trending",
    "popular:24h",
    "popular:24h:device",
    "popular:7d:category",
    "item_knn",
    "session_knn",
    "stan",
    "repeat",
    "new_items",
)


def taken(
    lines: list[RoutedEvent], contract: Contract, cuts: list[int], *, restart: bool = False
) -> CandidateFold:
    """Take in a log in batches that end at some rows; with `restart` each batch by a process of its
    own.
    """
    fold = CandidateFold(contract)
    for low, high in zip([0, *cuts], [*cuts, len(lines)], strict=True):
        if high > low:
            fold.update(to_event_batch(table_of(lines[low:high]), contract, lines[high - 1].p))
        if restart:
            fold = CandidateFold.restore(
                contract, {name: array.copy() for name, array in fold.arrays().items()}
            )
    return fold


def lists_of(tables: CandidateTables, seed: int) -> list[tuple[list[int], list[float]]]:
    request_lists = [
        RequestLists(tables, request_of(asker)) for asker in make_random_askers(seed, 4)
    ]
    ranked_lists = [lists.get(name) for lists in request_lists for name in NAMES]
    return [(listed.keys.tolist(), listed.scores.tolist()) for listed in ranked_lists]


@pytest.mark.parametrize("seed", range(8))
def test_batches_and_restarts_change_nothing(seed: int) -> None:
    lines, rng = make_random_log(seed, 250), random.Random(seed)
    uninterrupted = lists_of(taken(lines, CONTRACT, []).tables(), seed)
    for restart in (False, True):
        cuts = sorted(rng.sample(range(1, len(lines)), 9))
        assert (
            lists_of(taken(lines, CONTRACT, cuts, restart=restart).tables(), seed) == uninterrupted
        )


@pytest.mark.parametrize("seed", range(4))
def test_people_who_were_idle_for_long_are_forgotten_and_no_list_changes(seed: int) -> None:
    lines = make_random_log(seed, 250)
    sparse = [
        replace(line, p=line.p * 3_000) for line in lines
    ]  # positions at which the fold tends to what it keeps
    fold = taken(sparse, CONTRACT, [50, 120, 121])
    assert fold.position // (1 << 16) > 10
    assert lists_of(fold.tables(), seed) == lists_of(taken(lines, CONTRACT, []).tables(), seed)


def test_items_and_people_beyond_the_contract_are_dropped_and_counted() -> None:
    small = msgspec.structs.replace(CONTRACT, items_max=6, people_max=3)
    lines = [
        replace(line, p=line.p * 3_000) for line in make_random_log(1, 400, items=40, people=20)
    ]
    cuts = list(range(37, 400, 37))
    fold = taken(lines, small, cuts)
    assert fold.evicted_counts["items"] > 0
    assert fold.evicted_counts["people"] > 0
    # Up to where the fold tends next there may be more.
    assert fold.item_table.count < 40
    assert lists_of(fold.tables(), 1) == lists_of(taken(lines, small, [], restart=True).tables(), 1)


@pytest.mark.parametrize("seed", range(4))
def test_published_tables_equal_those_of_the_fold(tmp_path: Path, seed: int) -> None:
    lines = make_random_log(seed, 300, items=30)
    sparse = [replace(line, p=line.p * 1_500) for line in lines]
    small = msgspec.structs.replace(CONTRACT, items_max=20)
    store = open_store(tmp_path / "tables", create=True)
    publisher, fold = Publisher(store, small), CandidateFold(small)
    reader = TableReader(store, small)
    for low in range(0, len(sparse), 23):
        part = sparse[low : low + 23]
        fold.update(to_event_batch(table_of(part), small, part[-1].p))
        publisher.publish(fold, GROUPS, now=part[-1].ts)
        with reader.tables() as tables:
            tables.renew_sessions()
            assert lists_of(tables, low) == lists_of(fold.tables(), low)
            assert {name: epoch.position for name, epoch in tables.epochs.items()} == dict.fromkeys(
                GROUPS, part[-1].p
            )
            facts, expected = (
                source.facts(fold.item_table.keys) for source in (tables, fold.tables())
            )
            np.testing.assert_array_equal(facts.first_seen, expected.first_seen)
            np.testing.assert_array_equal(facts.category, expected.category)
    reader.close()


def test_a_group_that_is_not_due_stays_as_it_was(tmp_path: Path) -> None:
    lines = make_random_log(2, 200)
    store = open_store(tmp_path / "tables", create=True)
    publisher, fold = Publisher(store, CONTRACT), CandidateFold(CONTRACT)
    fold.update(to_event_batch(table_of(lines[:100]), CONTRACT, lines[99].p))
    publisher.publish(fold, publisher.due_groups(fold, 0), now=0)
    then = lists_of(fold.tables(), 2)
    fold.update(to_event_batch(table_of(lines[100:]), CONTRACT, lines[-1].p))
    assert publisher.due_groups(fold, 500_000) == []
    assert publisher.due_groups(fold, 1_000_000) == ["boards"]
    publisher.publish(fold, ["boards"], now=1_000_000)
    reader = TableReader(store, CONTRACT)
    with reader.tables() as tables:
        assert tables.epochs["boards"].position == lines[-1].p
        assert tables.epochs["neighbours"].position == lines[99].p
        now = lists_of(tables, 2)
        current = lists_of(fold.tables(), 2)
    boards = [
        place
        for place in range(len(now))
        if NAMES[place % len(NAMES)].partition(":")[0] in ("trending", "popular", "new_items")
    ]
    unaffected = [
        place
        for place in range(len(now))
        if NAMES[place % len(NAMES)] in ("item_knn", "session_knn", "stan")
    ]
    assert [now[place] for place in boards] == [current[place] for place in boards]
    assert [now[place] for place in unaffected] == [then[place] for place in unaffected]
    reader.close()
