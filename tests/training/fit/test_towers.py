"""Towers in training: trained, exported and served alike, blind to what comes later, and taken only
where they find more.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from tests.support import routed

from tailorbird.candidates.protocol import CandidateRequest
from tailorbird.errors import BundleError, UsageError
from tailorbird.events import DAY, HOUR, MINUTE, hash64s
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.features import FeatureSet, count, entity, sequence
from tailorbird.ranking import Slot
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.ranking.tower import VECTOR_COLUMNS, Space
from tailorbird.ranking.tower_net import TOLERANCE, read_tower
from tailorbird.retrieval import inverted, vectors
from tailorbird.retrieval.vectors import build_content
from tailorbird.training.dataset.clicks import SamplingScheme, draw_requests
from tailorbird.training.dataset.codes import IdVocabulary
from tailorbird.training.dataset.indexes import ITEM_SCHEMA, IndexSeries, build_series
from tailorbird.training.fit import towers
from tailorbird.training.fit.retrieval import choose_retrieval, make_retriever
from tailorbird.training.fit.towers import TowerLearner, TowerSettings

pytestmark = pytest.mark.slow

pytest.importorskip("torch", reason="needs the extra `deep`")
pytest.importorskip("onnxscript", reason="needs the extra `deep`")

T0 = 1_700_000_000_000_000 // DAY * DAY
KINDS, EACH = 12, 60
FEATURES = FeatureSet.from_declarations([sequence("recent", entity("user"), ["click"], length=32)])
SLOT = Slot("home", sources={"item_knn": 18, "popular": 18, "new_items": 9})
SMALL = TowerSettings(
    width=16, layers=1, heads=2, length=8, epochs=6, steps_min=80, steps_max=80, rate=2e-2
)


def kind(number):
    return number % KINDS


def items():
    attributes = [
        json.dumps({"category": f"kind {kind(number)}", "title": f"thing {number}"})
        for number in range(KINDS * EACH)
    ]
    ids, never = [f"i{number}" for number in range(len(attributes))], [None] * len(attributes)
    return pa.table(
        [ids, pa.array(never, TIME_TYPE), attributes, [True] * len(ids)], schema=ITEM_SCHEMA
    )


def log(*, loyal, people=400, clicks=10, days=4):
    """People click on things of one kind, or on anything; any thing as soon as another."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(people), clicks)
    next_kind = (
        rng.integers(0, KINDS, people)[person] if loyal else rng.integers(0, KINDS, len(person))
    )
    number = next_kind + KINDS * rng.integers(0, EACH, len(person))
    ts = T0 + np.sort(rng.integers(0, days * DAY, len(person)))
    order = rng.permutation(len(person))
    clicks = zip(ts.tolist(), person[order].tolist(), number[order].tolist(), strict=True)
    return routed.table(
        *(routed.event("click", at, f"u{who}", f"i{what}") for at, who, what in clicks)
    )


def make_training_data(events, codes=None):
    codes_by_column = codes or IdVocabulary.of(
        events["item_id"], items()["id"]
    )  # as in a log, which has the profiles too
    return SimpleNamespace(
        events=events,
        events_with_profiles=events,
        person_vocabulary=IdVocabulary.of(events["person"]),
        item_vocabulary=codes_by_column,
    )


def choose(events, choice, *, features=FEATURES, slot=SLOT, made=None):
    """Choose retrieval on the last of four days, with indexes and towers as of its start."""
    log, between = make_training_data(events), (T0 + 3 * DAY, T0 + 4 * DAY)
    validation = draw_requests(
        events,
        log.person_vocabulary,
        log.item_vocabulary,
        SamplingScheme(),
        ts_from=between[0],
        ts_to=between[1],
    )
    return choose_retrieval(
        log,
        features,
        slot,
        made or series(events, 3),
        between[0],
        choice,
        SMALL,
        validation=validation,
        seed=0,
    )


def series(events, *days):
    return build_series(events, items(), [T0 + int(day * DAY) for day in days])


@pytest.fixture(scope="module")
def loyal():
    return log(loyal=True)


def learner(events, index, settings=SMALL, codes=None):
    return TowerLearner(
        make_training_data(events, codes),
        "recent",
        ("click",),
        build_content(index.attributes),
        settings,
        0,
    )


@pytest.fixture(scope="module")
def learned(loyal):
    made = series(loyal, 3)
    one = learner(loyal, made.indexes[0])
    return one, one.build_space(made.indexes[0], T0 + 3 * DAY)


def session_query(*numbers):
    offsets = np.cumsum([0, *map(len, numbers)]).astype(np.int64)
    keys = (
        hash64s(f"i{number}" for each in numbers for number in each)
        if offsets[-1]
        else np.zeros(0, np.uint64)
    )
    return RaggedArrays(offsets, keys, T0 + np.arange(offsets[-1]) * 1_000_000)


def test_trained_exported_and_served_are_equal(learned, tmp_path):
    one, space = learned
    files = one.export_files(space)
    space.vectors.write(tmp_path)
    served = Space(read_tower(files, space.vectors, where="here"), space.index)
    rng = np.random.default_rng(1)
    people = session_query(
        [],
        [5],
        [999, 5],
        *(rng.integers(0, KINDS * EACH, rng.integers(1, 30)).tolist() for _ in range(300)),
    )
    requests = len(people.offsets) - 1
    ours, exported = space.user_vectors(people, requests), served.user_vectors(people, requests)
    np.testing.assert_allclose(ours, exported, atol=TOLERANCE)
    # a thing that it does not know is skipped
    np.testing.assert_array_equal(exported[1], exported[2])
    each = [
        served.user_vectors(
            RaggedArrays(np.array([0, b - a]), people.item[a:b], people.ts[a:b]), 1
        )[0]
        for a, b in _ends(people)
    ]
    np.testing.assert_allclose(np.stack(each), exported, atol=TOLERANCE)
    request = np.repeat(np.arange(requests), 3).astype(np.intp)
    keys = hash64s(f"i{number}" for number in rng.integers(0, KINDS * EACH, len(request)))
    mine, other = (
        way.vector_columns(tuple(VECTOR_COLUMNS), keys, request, people, requests)
        for way in (space, served)
    )
    for name in VECTOR_COLUMNS:
        np.testing.assert_allclose(mine[name], other[name], atol=10 * TOLERANCE)


def test_an_export_is_compared_on_10_000_windows_and_rejected_if_it_differs(learned):
    one, space = learned
    compared = []

    def net(is_learned, inside, gap):
        compared.append(len(is_learned))
        return space.tower.net(is_learned, inside, gap)

    one.export_files(replace(space, tower=replace(space.tower, net=net)))
    assert compared == [10_000]
    off = replace(space.tower, net=lambda *window: space.tower.net(*window) + 2 * TOLERANCE)
    with pytest.raises(BundleError, match="the exported tower differs from the trained one by"):
        one.export_files(replace(space, tower=off))


def _ends(ragged):
    return zip(ragged.offsets[:-1].tolist(), ragged.offsets[1:].tolist(), strict=True)


def test_many_items_get_an_inverted_file_that_people_of_the_log_measured(
    learned, monkeypatch, tmp_path
):
    one, space = learned
    assert one.add_inverted_file(space).vectors.inverted is None  # so few are looked at one by one
    for module in (towers, vectors):
        monkeypatch.setattr(module, "INVERTED_ITEMS_MIN", 1)
    monkeypatch.setattr(inverted, "SAVINGS_MIN", 0.0)  # of so few it spares hardly any
    made = one.add_inverted_file(space)
    assert made.vectors.inverted.calibration.recall >= 0.99
    made.vectors.write(tmp_path)
    read = vectors.ItemVectors.read(
        {path.name: path.read_bytes() for path in tmp_path.iterdir()}, len(space.index)
    )
    served = replace(made, index=replace(made.index, vectors=read))
    for numbers in ([], [5], [5, 17, 29]):
        past = session_query(numbers)
        exact, nearest = (way.nearest(way.query(past), 50).rows for way in (space, served))
        assert np.isin(exact, nearest).mean() >= 0.9


def test_golden_windows_contain_no_user_data(learned, loyal):
    one, space = learned
    from tailorbird.retrieval.arrays import read_array

    rows = read_array(one.export_files(space)["golden_row.npy"])
    of = {tuple(sorted(each)) for each in (row[row >= 0].tolist() for row in rows) if len(each) > 2}
    assert of
    done = {}
    for person, item in zip(loyal["person"].to_pylist(), loyal["item_id"].to_pylist(), strict=True):
        done.setdefault(person, set()).add(int(space.index.find_ids([item])[0]))
    assert not any(set(window) <= mine for window in of for mine in done.values())


def test_a_tower_ignores_later_events(loyal):
    made = series(loyal, 1, 2)
    changed = loyal.set_column(
        loyal.column_names.index("item_id"), "item_id", [_shuffled_after(loyal, T0 + 2 * DAY)]
    )
    vectors, codes = [], IdVocabulary.of(loyal["item_id"])
    for events in (loyal, changed):
        one = learner(events, made.indexes[0], replace(SMALL, steps_min=8, steps_max=8), codes)
        vectors.append(
            [
                one.build_space(index, int(moment)).vectors.vectors
                for moment, index in zip(made.as_of_times, made.indexes, strict=True)
            ]
        )
    for first, second in zip(*vectors, strict=True):
        np.testing.assert_array_equal(first, second)
    # the second has learned of the day between
    assert not np.allclose(vectors[0][0], vectors[0][1])


def test_the_steps_of_an_update_follow_the_data(loyal):
    """A first tower of little data does not decide how long the later ones learn: each goes on for
    a quarter of its own steps.
    """
    made = series(loyal, 1, 4)
    settings = replace(SMALL, batch=8, steps_min=1, steps_max=1_000)
    one = learner(loyal, made.indexes[0], settings)
    steps = []
    for moment, index in zip(made.as_of_times.tolist(), made.indexes, strict=True):
        one.build_space(index, moment)
        steps.append(len(one._model.losses))
    counts = [one.count_interactions(moment) for moment in made.as_of_times.tolist()]
    assert counts[1] > 3 * counts[0]
    first, second = (
        int(settings.epochs * count / (settings.batch * settings.length)) for count in counts
    )
    assert steps == [first, first + second // 4]


def _shuffled_after(events, moment):
    ids, late = (
        np.array(events["item_id"].to_pylist()),
        events["ts"].cast(pa.int64()).to_numpy() >= moment,
    )
    ids[late] = np.random.default_rng(5).permutation(ids[late])
    return pa.array(ids.tolist())


def test_auto_chooses_vectors_if_recall_is_higher(loyal):
    choice = choose(loyal, "auto")
    assert choice.learner is not None
    assert len(choice.index_series.spaces) == 1
    figures = choice.measurements
    best = f"{choice.learner.vector_share:.0%} by vectors"
    assert figures[best]["recall"] > figures["tables"]["recall"] + 0.05
    assert figures[best]["candidates"] <= figures["tables"]["candidates"] == 45
    assert all(each["us"] > 0 for each in figures.values())
    assert "of the candidates come from vectors" in choice.summary
    assert "sequence" in choice.source_limits(SLOT)


def test_auto_leaves_vectors_where_nothing_follows_from_anything():
    choice = choose(log(loyal=False), "auto")
    assert (choice.learner, choice.index_series.spaces) == (None, ())
    assert "tables alone" in choice.summary
    assert choice.retriever() is None
    assert choice.source_limits(SLOT) == dict(SLOT.sources)


def test_unavailable_vectors_are_reported(loyal):
    made = series(loyal, 3)
    without = FeatureSet.from_declarations([count("clicks", entity("user"), "click", window="7d")])
    search = replace(SLOT, sources={"search": 10})
    for features, slot, why in ((without, SLOT, "no sequence"), (FEATURES, search, "does not ask")):
        with pytest.raises(UsageError, match=why):
            choose(loyal, "sequence", features=features, slot=slot, made=made)
        assert why in choose(loyal, "auto", features=features, slot=slot, made=made).summary


def test_vectors_give_nothing_that_had_not_come_yet(learned):
    """An index also holds what came until the next one, so that rows of that time find it."""
    _, space = learned
    late = space.index.first_seen.copy()
    late[::2] = T0 + 3 * DAY + HOUR
    made = IndexSeries(
        np.array([T0 + 3 * DAY]),
        (space.index,),
        (replace(space, index=replace(space.index, first_seen=late)),),
    )
    near, request = make_retriever(made), CandidateRequest(hash64s(["i5"]), np.array([T0]))
    before, after = (
        near(T0 + 3 * DAY + minutes * MINUTE, request, 60).keys for minutes in (30, 90)
    )
    assert not np.isin(before, space.index.keys[::2]).any()
    assert np.isin(after, space.index.keys[::2]).any()
    assert len(near(T0, request, 60)) == 0, "there was no index yet"
