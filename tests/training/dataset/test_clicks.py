"""Candidates as a server would have had them: nothing of the request's own moment or after it, and
what no source gave told apart.
"""

import numpy as np
import pyarrow as pa
import pytest
from tests.support import routed

from tailorbird.candidates.batch import EVENT_COLUMNS, segment_keys, to_event_batch
from tailorbird.candidates.contract import build_contract
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.protocol import CandidateRequest
from tailorbird.candidates.query import RequestLists, table_group
from tailorbird.candidates.replay import EPOCH_INTERVAL_US
from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, MINUTE, hash64s
from tailorbird.features import FeatureSet, entity, sequence
from tailorbird.ranking import Slot
from tailorbird.training.dataset.clicks import (
    SamplingScheme,
    concat_datasets,
    draw_candidates,
    draw_requests,
    infer_scheme,
    sample_negatives,
)
from tailorbird.training.dataset.codes import IdVocabulary, encode_interactions
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.extra_labels import OutcomeIndex
from tailorbird.training.dataset.replay import Replay, select_live_columns
from tailorbird.training.dataset.slates import concat_slates

FEATURES = FeatureSet.from_declarations(
    [sequence("recent", entity("user"), ["click", "purchase"], length=16)]
)
CLICK, BUY = SamplingScheme(), SamplingScheme(type="purchase", truth="session")
e = routed.event


def draw_chunks(
    events: pa.Table,
    scheme: SamplingScheme,
    ts_from: int,
    ts_to: int,
    slot: Slot,
    **more: list[str],
) -> tuple[Dataset, Replay]:
    people, items = IdVocabulary.of(events["person"]), IdVocabulary.of(events["item_id"])
    replay = Replay(events, FEATURES, slot, items, select_live_columns(FEATURES, slot), **more)
    return draw_requests(events, people, items, scheme, ts_from=ts_from, ts_to=ts_to), replay


def draw(
    events: pa.Table,
    sources: dict[str, int],
    ts_from: int,
    ts_to: int,
    scheme: SamplingScheme = CLICK,
    *,
    hide: tuple[str, ...] = (),
) -> Dataset:
    data, replay = draw_chunks(
        events, scheme, ts_from, ts_to, Slot("home", sources=sources, hide_seen=hide)
    )
    return concat_datasets([each.data for each in draw_candidates(data, replay, scheme)])[0]


def going_on(*clicks: dict) -> pa.Table:
    """A log in which something else happens two minutes after each click, by when the click is in
    the tables.
    """
    return routed.table(
        *(
            row
            for click in clicks
            for row in (click, e("search", click["ts"] + 2 * MINUTE, "somebody", None))
        )
    )


def lists(data: Dataset) -> list[list[str]]:
    items = data.item_vocabulary.decode(data.item_codes)
    return [sorted(items[a:b]) for a, b in zip(data.offsets, data.offsets[1:], strict=False)]


def truths(data: Dataset, type_: str = "click") -> list[list[str]]:
    items = data.item_vocabulary.decode(data.item_codes)
    return [
        [items[row] for row in range(a, b) if data.labels[type_][row]]
        for a, b in zip(data.offsets, data.offsets[1:], strict=False)
    ]


def missed(data: Dataset) -> list[tuple[int, str]]:
    return list(
        zip(
            data.missed_positives.request_index.tolist(),
            data.item_vocabulary.decode(data.missed_positives.item_codes),
            strict=True,
        )
    )


def test_a_request_stands_just_before_its_event_and_knows_the_log_up_to_the_last_tables() -> None:
    events = routed.table(
        e("click", 1 * HOUR, "a", "old"),
        e("click", 9 * HOUR, "b", "x"),
        e("click", 20 * HOUR, "b", "y"),
        e("click", 28 * HOUR + 5, "b", "z"),  # within the request's minute: in no table yet
        e("click", 28 * HOUR + 9, "c", "x"),
    )
    data = draw(events, {"popular:18h": 10}, 28 * HOUR + 9, 30 * HOUR)
    assert lists(data) == [["x", "y"]]
    assert truths(data) == [["x"]]
    assert data.t.tolist() == [28 * HOUR + 10]
    assert data.log_position.tolist() == [4]  # all but the request's own event
    assert missed(data) == []


def test_what_no_source_gave_is_no_row_and_counts_as_missed() -> None:
    events = going_on(
        *(e("click", hour * HOUR, "a", item) for hour, item in enumerate("xyz", 1)),
        e("click", 5 * HOUR, "b", "never"),
    )
    data = draw(events, {"popular:24h": 2}, 2 * HOUR, DAY)
    assert lists(data)[:2] == [["x"], ["x", "y"]]
    assert [len(each) for each in lists(data)] == [1, 2, 2]
    assert truths(data) == [[], [], []]
    assert missed(data) == [(0, "y"), (1, "z"), (2, "never")]
    some = data.take(np.array([2, 0]))
    assert missed(some) == [(0, "never"), (1, "y")]


def test_what_the_slot_does_not_show_again_is_no_candidate() -> None:
    clicks = [(1, "a", "x"), (2, "b", "y"), (5, "a", "y"), (6, "a", "x")]
    events = going_on(*(e("click", hour * HOUR, person, item) for hour, person, item in clicks))
    hidden = draw(events, {"popular": 10}, 5 * HOUR, DAY, hide=("click",))
    assert (lists(hidden), missed(hidden)) == ([["y"], []], [(1, "x")])
    again = draw(events, {"popular": 10}, 5 * HOUR, DAY, hide=("purchase",))
    assert lists(again) == [["x", "y"], ["x", "y"]]
    assert truths(again) == [["y"], ["x"]]


def test_sources_without_candidates_raise() -> None:
    rare = routed.table(*(e("click", n * HOUR, f"u{n}", f"i{n}") for n in range(30)))
    data, replay = draw_chunks(
        rare, CLICK, 10 * HOUR, 2 * DAY, Slot("home", sources={"popular": 10})
    )
    with pytest.raises(
        NotReadyError,
        match=r"no source of candidates gave any of the 20 things that people chose \(click\)",
    ):
        sample_negatives(data, replay, CLICK, 5)
    with pytest.raises(NotReadyError, match="no event of type 'share' in the window"):
        draw(rare, {"popular": 10}, 0, DAY, SamplingScheme(type="share"))


def test_a_basket_is_one_question_before_its_first_item() -> None:
    events = routed.table(
        e("purchase", 1 * HOUR, "a", "milk", session_id="s1"),
        e("purchase", 1 * HOUR + 1, "a", "bread", session_id="s1"),
        e("purchase", 5 * HOUR, "a", "milk", session_id="s2"),
        e("purchase", 5 * HOUR + 1, "a", "eggs", session_id="s2"),
        e("purchase", 5 * HOUR + 2, "a", "milk", session_id="s2"),
    )
    data = draw(events, {"repeat": 5}, 4 * HOUR, DAY, BUY)
    assert lists(data) == [["bread", "milk"]]
    assert truths(data, "purchase") == [["milk"]]
    assert missed(data) == [(0, "eggs")]
    assert data.t.tolist() == [5 * HOUR + 1]


def test_sampled_negatives_preserve_the_prior_and_prefer_popular_items() -> None:
    clicks = [e("click", n, f"b{n}-{k}", f"i{n}") for n in range(1, 101) for k in range(101 - n)]
    events = routed.table(
        *clicks,
        e("search", 2 * HOUR - MINUTE, "b", None),
        *(e("click", 2 * HOUR + n, f"a{n}", f"i{n}") for n in range(1, 51)),
    )
    data, replay = draw_chunks(events, CLICK, 2 * HOUR, DAY, Slot("home", sources={"popular": 400}))
    full, some = sample_negatives(data, replay, CLICK, 0), sample_negatives(data, replay, CLICK, 7)
    assert full.row_count == 50 * 100
    assert some.row_count == pytest.approx(50 * 8, rel=0.1)
    assert some.weight.sum() == pytest.approx(full.row_count, rel=0.15)
    assert some.labels["click"].sum() == 50
    assert np.all(some.weight[some.labels["click"]] == 1)
    assert some.weight.min() >= 1
    assert some.provenance["candidate_recall"] == 1
    assert some.provenance["candidates_mean"] == 100
    sampled = np.array(
        [
            int(item[1:])
            for item, label in zip(
                some.item_vocabulary.decode(some.item_codes), some.labels["click"], strict=True
            )
            if not label
        ]
    )
    assert (sampled <= 20).sum() > 2 * (sampled > 80).sum()


def test_item_knn_candidates_use_only_the_past() -> None:
    pairs = [
        e("click", HOUR + 10 * n + k, f"p{n}", item)
        for n in range(20)
        for k, item in enumerate("xy")
    ]
    events = routed.table(
        *pairs, e("click", 3 * DAY, "me", "x"), e("click", 3 * DAY + 5, "me", "q")
    )
    assert lists(draw(events, {"item_knn": 5}, 3 * DAY + 1, 4 * DAY)) == [["y"]]


SOURCES = {
    "popular:6h:country": 4,
    "trending:device": 3,
    "popular:24h": 5,
    "item_knn:2": 6,
    "session_knn": 4,
    "stan": 3,
    "repeat": 2,
}
COUNTRIES, DEVICES = ("NO", "ES", "IS", None), ("phone", "desktop", None)


@pytest.fixture(scope="module")
def lively() -> pa.Table:
    """Every country likes other items, and others again in the second half; Iceland has too few
    people to tell.
    """
    rng, rows = np.random.default_rng(3), []
    for place, hour in enumerate(np.sort(rng.uniform(0, 30, 1_200))):
        country = COUNTRIES[rng.choice(4, p=(0.5, 0.4, 0.001, 0.099))]
        item = 10 * COUNTRIES.index(country) + int(rng.geometric(0.3)) + (5 if hour > 12 else 0)
        context = {"country": country, "device": DEVICES[rng.integers(3)]}
        rows.append(
            e("click", int(hour * HOUR) + place, f"u{rng.integers(40)}", f"i{item}", **context)
        )
    return routed.table(*rows)


def test_training_draws_the_candidates_that_a_server_would_find(lively: pa.Table) -> None:
    """By tables published when the minute, or the ten of sessions, began, and the person's items at
    the request.
    """
    slot, names = Slot("home", sources=SOURCES, hide_seen=()), list(SOURCES)
    data, replay = draw_chunks(lively, CLICK, 28 * HOUR, 28 * HOUR + 40 * MINUTE, slot)
    drawn = concat_datasets([each.data for each in draw_candidates(data, replay, CLICK)])[0]
    contract, ts = build_contract(names), lively["ts"].cast(pa.int64()).to_numpy()
    columns, different = replay.live_columns, set()
    folds: dict[int, CandidateFold] = {}
    for number in range(drawn.request_count):
        served = RequestLists(CandidateFold(contract).tables(), CandidateRequest())
        here = slice(drawn.offsets[number], drawn.offsets[number + 1])
        mine = lively["person"].to_numpy() == drawn.context["person"][number].as_py()
        past = np.flatnonzero(mine & (np.arange(1, len(ts) + 1) <= drawn.log_position[number]))
        keys = (
            hash64s(lively["item_id"].take(pa.array(past)).to_pylist())
            if len(past)
            else np.zeros(0, np.uint64)
        )
        context = {name: drawn.context[name][number].as_py() for name in ("country", "device")}
        request = CandidateRequest(keys[-16:], ts[past][-16:], segment_keys(context))
        for group, every in EPOCH_INTERVAL_US.items():
            before = int(
                np.searchsorted(ts, ts[drawn.log_position[number] - 1] // every * every)
            )  # what came before this minute began
            if before not in folds:
                folds[before] = CandidateFold(contract)
                folds[before].update(
                    to_event_batch(
                        lively.slice(0, before).select(list(EVENT_COLUMNS)), contract, before
                    )
                )
            of_group = RequestLists(folds[before].tables(), request)
            served.list_by_source |= {
                name: of_group.get(name)
                for name in columns.candidates.sources
                if table_group(name) in (group, "")
            }
        owed, listed = 0, []
        for name, limit in SOURCES.items():
            owed += limit
            fresh = [key for key in served.get(name).keys.tolist() if key not in listed][:owed]
            owed -= len(fresh)
            listed += fresh
        assert drawn.item_vocabulary.keys[drawn.item_codes[here]].tolist() == listed
        expected = columns.candidates.matrix(
            served, drawn.item_vocabulary.keys[drawn.item_codes[here]]
        )
        np.testing.assert_array_equal(drawn.live_values[here], expected)
        different.add(tuple(listed))
    assert drawn.request_count > 15
    assert len(different) > 10


def test_later_events_change_no_candidate_and_no_column(lively: pa.Table) -> None:
    """The same requests, whose own events and all later ones are about other items."""
    slot, border = Slot("home", sources=SOURCES), 20 * HOUR
    late = lively["ts"].cast(pa.int64()).to_numpy() >= border
    other = np.where(late, np.roll(lively["item_id"].to_numpy(), 11), lively["item_id"].to_numpy())
    changed = lively.set_column(
        lively.column_names.index("item_id"), "item_id", pa.array(other.tolist())
    )
    runs = []
    for events in (lively, changed):
        data, replay = draw_chunks(events, CLICK, 14 * HOUR, border + 2 * MINUTE, slot)
        drawn = concat_datasets([each.data for each in draw_candidates(data, replay, CLICK)])[0]
        early = drawn.take(np.flatnonzero(drawn.log_position < np.flatnonzero(late)[0] + 1))
        runs.append((lists(early), early.live_values))
    assert runs[0][0] == runs[1][0]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert len(runs[0][0]) > 150


def test_baselines_show_lists_of_their_own(lively: pa.Table) -> None:
    """Not only what the slot's sources gave, and without what is not shown again."""
    slot = Slot("home", sources={"repeat": 3}, hide_seen=("click",))
    data, replay = draw_chunks(
        lively, CLICK, 29 * HOUR, 30 * HOUR, slot, baselines=["popular:24h", "item_knn+popular:7d"]
    )
    drawn = list(draw_candidates(data, replay, CLICK))
    slates = concat_slates([each.slates for each in drawn])
    assert list(slates) == ["popular:24h", "item_knn+popular:7d"]
    for slate in slates.values():
        assert len(slate.offsets) == data.request_count + 1
        shown = {data.item_vocabulary.values[code].as_py() for code in slate.item_codes.tolist()}
        assert len(shown) > 10
    assert all(each.data.row_count == 0 for each in drawn), (
        "what people had is all that the slot asks for, and is hidden"
    )


def test_the_scheme_infers_whether_a_session_is_a_basket() -> None:
    news = routed.table(
        *(
            e("click", n * HOUR, f"u{n % 9}", f"i{n}", session_id=f"s{n // 9}")
            for n in range(1, 100)
        )
    )
    assert infer_scheme(news, "click") == SamplingScheme(type="click", truth="event")
    shop = routed.table(
        *(e("purchase", n * HOUR, "u", f"i{n % 5}", session_id=f"s{n // 9}") for n in range(1, 100))
    )
    assert infer_scheme(shop, "purchase") == SamplingScheme(type="purchase", truth="session")


def test_extra_labels_are_of_what_the_person_did_with_the_item_soon_after() -> None:
    events = routed.table(
        e("click", 1 * HOUR, "a", "x"),
        e("click", 1 * HOUR, "a", "y"),
        e("purchase", 10 * HOUR - 1, "b", "x"),  # before
        e("click", 10 * HOUR, "b", "y"),
        e("purchase", 10 * HOUR + 5, "b", "y"),
        e("purchase", 10 * HOUR + 5, "c", "x"),  # somebody else
        e("purchase", 11 * HOUR + 1, "b", "x"),  # too late
    )
    data = draw(events, {"popular": 10}, 10 * HOUR, 11 * HOUR)
    bought = OutcomeIndex(
        encode_interactions(events, data.person_vocabulary, data.item_vocabulary, ("purchase",))
    )
    assert lists(data) == [["x", "y"]]
    named = data.item_vocabulary.decode(data.item_codes)
    assert [
        item for item, label in zip(named, bought.has_outcome(data, HOUR), strict=True) if label
    ] == ["y"]
    assert bought.has_outcome(data, HOUR + 1).all()
    assert not bought.has_outcome(data, 4).any()
    shared = OutcomeIndex(
        encode_interactions(events, data.person_vocabulary, data.item_vocabulary, ("share",))
    )
    assert not len(shared)
    assert not shared.has_outcome(data, HOUR).any()
