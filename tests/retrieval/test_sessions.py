"""Sessions of an index: the lists of V-SkNN and STAN as the reference retrievers give them; bounds, new items, damage."""

import dataclasses
import json
from itertools import pairwise

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.retrieval.shop import time as times

from tailorbird.errors import BundleError
from tailorbird.events import MINUTE, hash64s
from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers import STAN, Contexts, VSkNN
from tailorbird.retrieval import Index, NewItem, build_index, candidates, with_items
from tailorbird.retrieval.arrays import array_bytes
from tailorbird.retrieval.neighbours import STAN as S_TAN
from tailorbird.retrieval.neighbours import VSkNN as V_SKNN
from tailorbird.retrieval.sessions import SOURCES, Plan, newest_sessions

T0 = 1_700_000_000_000_000
AS_OF = T0 + 1_000 * MINUTE
ITEMS, PEOPLE = 8, 4
ONE = Plan(gap_us=10_000 * MINUTE)
PLANS = {
    "usual": ONE,
    "few": Plan(
        gap_us=10_000 * MINUTE,
        sessions=V_SKNN(k=2, sample=3, weighting="linear", weighting_score="log", idf_weight=2.0),
        stan=S_TAN(k=2, sample=3, position=0.7, recency_us=90.0 * MINUTE, closeness=0.7),
    ),
}


def table(rows):
    """Events of (person, item, minute)."""
    person, item, minute = zip(*rows, strict=True) if rows else ((), (), ())
    n = len(rows)
    return pa.table(
        {
            "type": pa.array(["click"] * n, pa.string()),
            "ts": times([T0 + each * MINUTE for each in minute]),
            "person": pa.array([f"u{each}" for each in person], pa.string()),
            "item_id": pa.array([f"i{each}" for each in item], pa.string()),
        }
    )


def catalogue(n=ITEMS):
    ids = [f"i{each}" for each in range(n)]
    return pa.table({"id": ids, "valid_from": times([T0] * n), "attributes": [json.dumps({"title": each}) for each in ids]})


def folder_of(tmp_path_factory, rows, plan, items=ITEMS):
    folder = tmp_path_factory.mktemp("sessions") / "index"
    build_index(folder, table(rows), catalogue(items), as_of=AS_OF, sessions=plan)
    return folder


def index_of(tmp_path_factory, rows, plan=ONE):
    return Index.open(folder_of(tmp_path_factory, rows, plan))


def bare_index(rows, plan):
    """The sessions alone, which is quicker."""
    index = Index.bare([f"i{each}" for each in range(ITEMS)])
    person, item, minute = np.array(sorted(rows, key=lambda row: (row[0], row[2])), np.int64).T
    made = newest_sessions(person, item, T0 + minute * MINUTE, items=ITEMS, as_of=AS_OF, plan=plan)
    return dataclasses.replace(index, sessions=made)


def keys(*items):
    return hash64s(f"i{item}" for item in items)


def minutes(*each):
    return np.array([T0 + minute * MINUTE for minute in each], np.int64)


def found(index, source, items, at=(), n=20):
    """Item → score."""
    ts = minutes(*at) if at else np.zeros(0, np.int64)
    listed = index.like_sessions(source, keys(*items) if items else np.zeros(0, np.uint64), ts, n)
    return dict(zip((index.ids[row] for row in listed.rows), listed.scores.tolist(), strict=True))


def reference(index, rows, plan, source, context):
    """What the retriever of `models` lists, fitted on the same sessions: sessions of one item lead nowhere and are none."""
    rows = [row for row in rows if len({item for person, item, _ in rows if person == row[0]}) > 1]
    person, item, minute = (np.array([row[at] for row in rows], np.int64) for at in range(3))
    place = index.find_ids([f"i{each}" for each in range(ITEMS)])
    seen = Interactions(person, place[item].astype(np.int64), T0 + minute * MINUTE, PEOPLE, len(index))
    how = plan.sessions if source == "sessions" else plan.stan
    kind = VSkNN if source == "sessions" else STAN
    recipe = kind(**{name: getattr(how, name) for name in how.__dataclass_fields__})
    offsets = np.array([0, len(context)], np.int64)
    own = place[np.array(context, np.int64)].astype(np.int64)
    top = recipe.fit(seen, AS_OF).top(Contexts(np.array([AS_OF]), own, np.zeros(len(context), np.int64), offsets), len(index))
    return {index.ids[row]: float(score) for row, score in zip(top.item[0], top.score[0], strict=True) if row >= 0}


LOGS = st.lists(st.tuples(st.integers(0, PEOPLE - 1), st.integers(0, ITEMS - 1)), min_size=1, max_size=30).map(
    lambda pairs: [(person, item, minute) for minute, (person, item) in enumerate(pairs)]
)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("source", SOURCES)
@settings(deadline=None, max_examples=60)
@given(rows=LOGS, context=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=60))
def test_sessions_list_what_the_reference_retriever_lists(source, plan, rows, context):
    index = bare_index(rows, PLANS[plan])
    context = context[-50:]  # the reference leaves out what lies before, too
    mine, theirs = found(index, source, context), reference(index, rows, PLANS[plan], source, context)
    mine, theirs = ({item: score for item, score in each.items() if score > 1e-9} for each in (mine, theirs))
    assert mine.keys() == theirs.keys()
    assert mine == pytest.approx(theirs, rel=1e-5)


def test_what_was_built_and_loaded_is_what_was_made_of_the_events(tmp_path_factory):
    rng = np.random.default_rng(3)
    rows = [(int(person), int(item), minute) for minute, (person, item) in enumerate(rng.integers(0, (PEOPLE, ITEMS), (60, 2)))]
    for plan in PLANS.values():
        built = index_of(tmp_path_factory, rows, plan)
        assert built.sessions.plan == plan
        for source in SOURCES:
            mine = found(built, source, [1, 5, 2])
            assert len(mine) == 5
            assert mine == pytest.approx(reference(built, rows, plan, source, [1, 5, 2]), rel=1e-5)
            assert mine == pytest.approx(found(bare_index(rows, plan), source, [1, 5, 2]))


def test_what_those_who_did_the_like_went_on_to_you_see_at_once(tmp_path_factory):
    rows = [(0, 1, 0), (0, 2, 1), (1, 1, 5), (1, 3, 6), (2, 4, 7), (2, 5, 8)]
    index = index_of(tmp_path_factory, rows)
    assert set(found(index, "sessions", [1])) == {"i2", "i3"}
    by_age = found(index, "stan", [1])
    assert by_age["i3"] > by_age["i2"]  # of the newer session
    assert set(found(index, "sessions", [4])) == {"i5"}
    assert found(index, "sessions", [7]) == {}


def test_somebody_without_a_session_and_an_index_without_sessions_find_nothing(tmp_path_factory):
    rows = [(0, 1, 0), (0, 2, 1)]
    for index in (index_of(tmp_path_factory, rows), index_of(tmp_path_factory, rows, None), index_of(tmp_path_factory, [])):
        assert found(index, "sessions", []) == found(index, "stan", []) == {}
    assert index_of(tmp_path_factory, rows, None).sessions is None
    assert found(index_of(tmp_path_factory, rows, None), "stan", [1]) == {}
    assert found(index_of(tmp_path_factory, []), "stan", [1]) == {}


def test_a_pause_ends_a_session_of_the_table_and_of_who_asks(tmp_path_factory):
    rows = [(0, 1, 0), (0, 2, 1), (0, 3, 100), (0, 4, 101), (1, 5, 200), (2, 1, 1), (2, 6, 31), (2, 7, 62)]
    index = index_of(tmp_path_factory, rows, Plan(gap_us=30 * MINUTE))
    assert len(index.sessions) == 3  # 1 2; 3 4; 1 6: an item alone is no session
    assert set(found(index, "sessions", [1])) == {"i2", "i6"}
    assert set(found(index, "sessions", [1, 3], at=(0, 10))) == {"i2", "i4", "i6"}
    assert set(found(index, "sessions", [1, 3], at=(0, 40))) == {"i4"}


def test_the_newest_sessions_are_kept_and_of_each_the_last_events(tmp_path_factory):
    rows = [(person, item, 10 * person + item) for person in range(3) for item in (0, 1, 2)]
    index = index_of(tmp_path_factory, rows, Plan(most=2, length=2))
    assert len(index.sessions) == 2
    assert index.sessions.item.size == 4
    assert found(index, "sessions", [0]) == {}  # the first of three events
    assert index.sessions.place.tolist() == [1, 2, 1, 2]
    assert len(index_of(tmp_path_factory, rows).sessions) == 3
    assert len(index_of(tmp_path_factory, rows, Plan(within_us=AS_OF - T0 - 15 * MINUTE)).sessions) == 1


def test_a_new_item_has_its_place_in_a_session_and_leads_nowhere_yet(tmp_path_factory):
    rows = [(0, 1, 0), (0, 2, 1), (1, 1, 5), (1, 3, 6)]
    index = index_of(tmp_path_factory, rows)
    grown = with_items(index, [NewItem("i99", {"title": "new"}, AS_OF)])
    assert found(grown, "sessions", [99]) == {}
    assert found(grown, "stan", [1, 99]).keys() == {"i2", "i3"}
    assert found(grown, "stan", [1, 99])["i3"] == pytest.approx(found(index, "stan", [1])["i3"])  # λ1 of the norm falls out with one item
    assert found(grown, "sessions", [1, 99])["i3"] < found(index, "sessions", [1])["i3"]  # one step further back


def test_they_are_sources_that_rules_bind(tmp_path_factory):
    index = index_of(tmp_path_factory, [(0, 1, 0), (0, 2, 1), (1, 1, 5), (1, 3, 6), (1, 4, 7)])
    merged = candidates(index, {"sessions": 2, "stan": 10, "popular": 3}, recent=keys(1), recent_ts=minutes(0))
    assert merged.source_names()[:2] == ["sessions", "sessions"]
    assert merged.contributed["stan"] == 1
    shown = np.array([each != "i3" for each in index.ids])
    bound = candidates(index.only(shown), {"sessions": 10, "stan": 10}, recent=keys(1))
    assert {index.ids[row] for row in bound.rows} == {"i2", "i4"}


def test_a_batch_has_the_bits_of_single_questions(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [(int(person), int(item), minute) for minute, (person, item) in enumerate(rng.integers(0, (30, ITEMS), (900, 2)))]
    index = index_of(tmp_path_factory, rows, Plan(gap_us=100 * MINUTE, sessions=V_SKNN(k=5, sample=20), stan=S_TAN(k=5, sample=20)))
    sizes = rng.integers(0, 7, 450)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    row, ts = rng.integers(-1, len(index), offsets[-1]), np.arange(offsets[-1]) * 40 * MINUTE
    for source in SOURCES:
        whole = index.sessions.near(source, offsets, row, ts)
        singles = [index.sessions.near(source, np.array([0, b - a]), row[a:b], ts[a:b]) for a, b in pairwise(offsets)]
        assert np.array_equal(whole.gain, np.concatenate([one.gain for one in singles]))
        keyed = [one.key + number * len(index) for number, one in enumerate(singles)]
        assert np.array_equal(whole.key, np.concatenate(keyed))
        assert len(whole.key) > 500


DAMAGE = {
    "sessions_starts.npy": [np.array([0, 4], np.int64), np.array([0, 0, 4], np.int64), np.array([0, 2, 4], np.int32)],
    "sessions_items.npy": [np.full(4, ITEMS, np.int32), np.full(4, -1, np.int32), np.zeros(3, np.int32), np.zeros(4, np.int64)],
    "sessions_places.npy": [np.zeros(4, np.int32), np.full(4, 51, np.int32), np.ones(5, np.int32)],
    "sessions_fade.npy": [np.full(2, np.nan), np.array([-1.0, 1.0]), np.ones(3), np.ones((2, 1))],
    "sessions.json": [],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_sessions_are_refused(tmp_path_factory, name):
    folder = folder_of(tmp_path_factory, [(0, 1, 0), (0, 2, 1), (1, 1, 5), (1, 3, 6)], ONE)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert Index.load(files).sessions is not None
    for array in DAMAGE[name]:
        with pytest.raises(BundleError, match="cannot be read"):
            Index.load(files | {name: array_bytes(array)})
    with pytest.raises(BundleError):
        Index.load({path: data for path, data in files.items() if path != name})
    with pytest.raises(BundleError):
        Index.load(files | {name: files[name][:-9]})


@pytest.mark.parametrize("wrong", [{"gap_us": 0}, {"most": 0}, {"sessions": V_SKNN(sample=5_001)}, {"stan": S_TAN(closeness=float("nan"))}])
def test_a_plan_without_bounds_is_none(wrong):
    with pytest.raises(ValueError, match="sessions want"):
        Plan(**wrong)
    data = msgspec.json.encode(Plan())
    assert msgspec.json.decode(data, type=Plan) == Plan()
