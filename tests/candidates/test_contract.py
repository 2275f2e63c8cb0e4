"""Names of sources, what a project keeps for them, and what the sources see of events."""

import numpy as np
import pyarrow as pa
import pytest
from tests.support import routed

from tailorbird.candidates.batch import EVENT_COLUMNS, segment_keys, to_event_batch
from tailorbird.candidates.contract import Board, build_contract, parse_source
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.protocol import CandidateRequest, RankedList
from tailorbird.candidates.query import CandidateColumns, RequestLists
from tailorbird.errors import DeclarationError
from tailorbird.events import DAY, HOUR, MINUTE, hash64
from tailorbird.ranking import Slot

T = 1_700_000_000_000_000


@pytest.mark.parametrize(
    ("name", "board"),
    [
        ("popular", Board(7 * DAY)),
        ("popular:24h", Board(DAY)),
        ("popular:15m:referrer", Board(15 * MINUTE, "referrer")),
        ("popular:category", Board(7 * DAY, "category")),
        ("trending", Board(HOUR)),
        ("trending:device", Board(HOUR, "device")),
    ],
)
def test_a_name_states_window_and_segment(name: str, board: Board) -> None:
    assert parse_source(name).board == board


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("populr", "popular"),
        ("popular:2m", "from 5m"),
        ("popular:24h:size", "segment"),
        ("popular:soon", "such as popular:24h"),
        ("item_knn:0", "from 1 to 10"),
        ("item_knn:x", "from 1 to 10"),
        ("repeat:3", "takes nothing"),
        ("editorial", "names no list"),
        ("fresh", "use one of"),
    ],
)
def test_what_is_no_source_is_refused_with_what_to_write(name: str, expected: str) -> None:
    with pytest.raises(DeclarationError) as error:
        parse_source(name)
    assert expected in f"{error.value.message} {error.value.fix}"
    with pytest.raises(DeclarationError, match="slot home"):
        Slot("home", sources={name: 10})


def test_a_contract_has_the_slots_tables_and_an_overall_board_per_segment() -> None:
    basic, extended = (
        build_contract(["item_knn"]),
        build_contract(["popular:6h:device", "session_knn"]),
    )
    assert {Board(6 * HOUR, "device"), Board(6 * HOUR)} <= set(extended.boards)
    assert basic.session_knn is None
    assert extended.session_knn is not None
    assert extended.covers(basic)
    assert not basic.covers(extended)
    assert basic.union(extended).covers(extended)
    assert basic.hash != extended.hash
    assert basic.hash == build_contract(["item_knn:2", "repeat", "sequence"]).hash, (
        "these ask for no table of their own"
    )


def test_columns_are_named_after_sources() -> None:
    columns = CandidateColumns(("trending", "popular:24h:device", "item_knn:2", "repeat"))
    assert columns.names[::2] == (
        "popular_1h_rank",
        "popular_24h_device_rank",
        "item_knn_2_rank",
        "repeat_rank",
    )
    assert set(columns.describe_columns()) == set(columns.names)


def batch(*rows: dict) -> CandidateFold:
    contract = build_contract(["popular:24h:referrer", "new_items"])
    fold, table = CandidateFold(contract), routed.table(*rows)
    fold.update(to_event_batch(table.select(list(EVENT_COLUMNS)), contract, table.num_rows))
    return fold


def test_bots_late_events_and_what_shows_no_interest_count_nothing() -> None:
    fold = batch(
        routed.event("click", T, "u1", "i1"),
        routed.event("click", T, "u1", "i2", agent="bot"),
        routed.event("click", T, "u1", "i3", counts=False),
        routed.event("scroll", T, "u1", "i4"),
        routed.event("search", T, "u1", None),
    )
    assert RequestLists(fold.tables(), CandidateRequest()).get("trending").keys.tolist() == [
        hash64("i1")
    ]


def test_a_referring_page_counts_for_its_site() -> None:
    pages = (
        "https://www.google.com/search?q=a",
        "https://google.com/",
        "android-app://com.google",
        "https://t.co/x",
    )
    rows = [
        routed.event("click", T, f"u{k}", "i1", referrer=page) for k, page in enumerate(pages * 10)
    ]
    fold = batch(*rows, *(routed.event("click", T, "u", "i2") for _ in range(60)))
    segments = segment_keys({"referrer": "http://www.google.com/news"})
    listed = RequestLists(fold.tables(), CandidateRequest(segments=segments)).get(
        "popular:24h:referrer"
    )
    assert listed.keys.tolist() == [hash64("i1")]
    overall = RequestLists(fold.tables(), CandidateRequest()).get("popular:24h:referrer")
    assert overall.keys.tolist() == [hash64("i2"), hash64("i1")]


def test_answers_that_show_several_items_count_for_each() -> None:
    contract = build_contract(["new_items"], shown="answer")
    fold = CandidateFold(contract)
    rows = [routed.event("item", T, None, f"i{k}") for k in range(3)]
    rows += [routed.answer(T + 1, "u1", ["i0", "i1"], f"r{k}") for k in range(50)]
    rows += [routed.event("click", T + 2, "u1", "i1")] * 40
    table = routed.table(*rows)
    fold.update(to_event_batch(table, contract, table.num_rows))
    keys = fold.tables().new_items().keys.tolist()
    assert keys == [hash64("i2"), hash64("i1"), hash64("i0")], (
        "what was never shown comes first, then what is clicked"
    )
    assert isinstance(table, pa.Table)


def test_a_list_that_was_looked_up_is_known_to_be_shared() -> None:
    ranked = RankedList(np.array([3, 1], np.uint64), np.array([2.0, 1.0]))
    assert not ranked.is_shared
    assert ranked.ranks(np.array([1, 2, 3], np.uint64)).tolist() == [1, -1, 0]
    assert ranked.is_shared
