"""What a server's model said of what was shown is said again by its bundle, from the features that
were logged.
"""

import json

import numpy as np
import pyarrow as pa
import pytest
from tests.support.routed import event
from tests.support.serving.pipeline import ResponseRecorder
from tests.support.shops import serving_shop

from tailorbird.events import HOUR, SimulatedClock
from tailorbird.events.answer_record import encode_responses
from tailorbird.lake.tables import RESPONSES_SCHEMA, TABLES
from tailorbird.lake.write.etl import response_rows
from tailorbird.ranking import Boost, Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.retrieval import NewItem, with_items
from tailorbird.retrieval.overlay import overlay_versions
from tailorbird.serving.messages import RecommendQuery, SearchQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle
from tailorbird.stream import Block, StoredBlock
from tailorbird.training.evaluation.rescore import (
    COLUMNS,
    ITEM_COLUMNS,
    ScoreReport,
    rescore_responses,
)

LATE = {"title": "Late coat", "price": 39.0, "stock": 5, "category": "coats"}


def item(item_id: str, recorded_at: int, **attributes) -> pa.Table:
    """A version of an item as the lake has it."""
    row = {
        "id": item_id,
        "valid_from": recorded_at,
        "received_at": recorded_at,
        "attributes": json.dumps(attributes),
        "timeless": False,
        "p": 1,
    }
    schema = pa.schema([TABLES["items"].schema.field(name) for name in ITEM_COLUMNS])
    return pa.Table.from_pylist([row], schema)


ADDED_AT = serving_shop.NOW - HOUR
CATALOGUE = item("late", ADDED_AT, **LATE)
HOME = Slot(
    "home",
    size=50,
    sources={"popular": 40, "new_items": 5},
    boosts=[Boost("item.price > 20", 3.0)],
    hide_seen=(),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, features):
    weights = {"price": 0.05, "age_days": 0.01, "popular_24h_score": 3.0, "item_knn_rank": 0.02}
    folder = serving_shop.write_shop_bundle(
        tmp_path_factory.mktemp("live") / "bundle",
        features,
        live_sources=["popular:24h", "item_knn"],
        weights=weights,
    )
    return Bundle.load(folder, schema_hash=features.schema_hash)


@pytest.fixture
def logged(features, bundle):
    """The lake's rows of answers to three people, with a boost and a search, over an index that
    knows a later item.
    """
    return answered(features, bundle, NewItem("late", LATE, ADDED_AT))


def answered(features, bundle, *items):
    response_log, later = ResponseRecorder(), with_items(bundle.index, items)
    live = serving_shop.LiveTables(
        events=serving_shop.make_routed_log(
            event("click", serving_shop.NOW - HOUR, f"q{n}", one.id) for n, one in enumerate(items)
        )
    )
    overlay = type("Overlay", (), {"overlay_for": lambda self, index: later})()
    pipeline = Pipeline(
        slots={"home": HOME},
        bundle_selector=FixedBundle(bundle),
        feature_provider=SingleSchema(
            features, serving_shop.FakeReader(features, {"u2": [(3, "click"), (5, "purchase")]})
        ),
        response_log=response_log,
        clock=SimulatedClock(serving_shop.NOW),
        rng=np.random.default_rng(0),
        index_overlay=overlay,
        table_provider=live,
    )
    for user in ("u1", "u2"):
        pipeline.answer(RecommendQuery(slot="home", user_id=user))
    pipeline.search(SearchQuery(slot="home", user_id="u3", query="coats"))
    return table(response_log.records)


def table(records) -> pa.Table:
    block = Block("answers", len(records), encode_responses(records))
    return response_rows([StoredBlock(0, block)], "serve-1").select(COLUMNS)


def put(rows: pa.Table, name: str, values: list) -> pa.Table:
    return rows.set_column(
        rows.column_names.index(name), name, pa.array(values, RESPONSES_SCHEMA.field(name).type)
    )


def test_every_score_has_the_same_bits(logged, bundle):
    report = rescore_responses(bundle, [logged], CATALOGUE)
    assert (report.answers, report.unequal, report.other_bits, report.skipped) == (3, 0, 0, 0)
    assert report.scores + report.moved == sum(len(items) for items in logged["items"].to_pylist())
    assert report.scores > 10
    assert report.moved == 0
    assert "late" in logged["items"].to_pylist()[0]


def test_one_that_was_logged_otherwise_is_told(logged, bundle):
    values = logged["values"].to_pylist()
    values[1][2] *= 1.01
    values[0][0] = float(np.nextafter(values[0][0], 1))
    report = rescore_responses(bundle, [put(logged, "values", values)], CATALOGUE)
    place = (logged["request_id"][1].as_py(), logged["items"][1].as_py()[2])
    assert (report.unequal, report.other_bits) == (1, 1)
    assert [(one.request_id, one.item) for one in report.examples] == [place]


def test_other_features_give_other_scores(logged, bundle):
    numeric = logged["numeric"].to_pylist()
    numeric[0] = [value + 1 for value in numeric[0]]
    assert rescore_responses(bundle, [put(logged, "numeric", numeric)], CATALOGUE).unequal > 0


def test_what_was_read_live_is_taken_from_the_log(logged, bundle):
    live = logged["live"].to_pylist()
    assert [len(row) for row in live] == [4 * len(items) for items in logged["items"].to_pylist()]
    live[0] = [value + 1 for value in live[0]]
    assert rescore_responses(bundle, [put(logged, "live", live)], CATALOGUE).unequal > 0


def test_items_of_which_no_profile_tells_are_left_out(features, bundle):
    """A server knows of them, and since when, by what people do."""
    logged = answered(
        features, bundle, NewItem("late", LATE, ADDED_AT), NewItem("bare", {}, ADDED_AT)
    )
    assert "bare" in logged["items"].to_pylist()[0]
    report = rescore_responses(bundle, [logged], CATALOGUE)
    assert (report.answers, report.unequal, report.other_bits, report.moved) == (3, 0, 0, 2)


def test_what_hangs_on_items_that_moved_just_then_is_left_out(logged, bundle):
    all_rescored = rescore_responses(bundle, [logged], CATALOGUE)
    moved = pa.concat_tables(
        [CATALOGUE, item("i3", serving_shop.NOW + 1_000_000, price=99.0)]
    )  # u2 looked at it
    report = rescore_responses(bundle, [logged], moved)
    assert report.answers == all_rescored.answers - 1
    assert report.unequal == 0
    assert report.moved > len(logged["items"][1])


def test_an_item_is_scored_as_it_was_at_the_time(logged, bundle):
    then = rescore_responses(
        bundle,
        [logged],
        pa.concat_tables([CATALOGUE, item("i3", serving_shop.NOW + 60_000_000, price=99.0)]),
    )
    assert then == rescore_responses(bundle, [logged], CATALOGUE)


def test_what_cannot_be_told_is_counted(logged, bundle):
    nothing = [[]] * 3
    assert rescore_responses(bundle, [put(logged, "values", nothing)], CATALOGUE) == ScoreReport(
        skipped=3
    )
    assert rescore_responses(bundle, [put(logged, "values", [None] * 3)], CATALOGUE) == ScoreReport(
        skipped=3
    )
    assert (
        rescore_responses(bundle, [put(logged, "degraded", [["erased"]] * 3)], CATALOGUE).skipped
        == 3
    )
    assert (
        rescore_responses(bundle, [put(logged, "model", ["v9999"] * 3)], CATALOGUE) == ScoreReport()
    )


def test_an_index_is_laid_over_only_where_an_answer_hangs_on_what_changed(
    logged, bundle, monkeypatch
):
    overlaid = []

    def counted(index, newest, **how):
        overlaid.append(len(newest))
        return overlay_versions(index, newest, **how)

    monkeypatch.setattr("tailorbird.training.evaluation.rescore.overlay_versions", counted)
    of_coats = put(
        pa.concat_tables([logged.slice(2)] * 3),
        "ts",
        [serving_shop.NOW, serving_shop.NOW + 100_000_000, serving_shop.NOW + 200_000_000],
    )
    shown = logged["items"].to_pylist()[2]
    aside = next(each for each in bundle.index.ids if each not in shown)
    changes = [
        CATALOGUE,
        *(
            item(aside, serving_shop.NOW + seconds * 1_000_000, price=seconds)
            for seconds in (50, 150)
        ),
    ]
    expected = rescore_responses(bundle, [of_coats], CATALOGUE)
    assert (
        rescore_responses(
            bundle, [of_coats.slice(place, 1) for place in range(3)], pa.concat_tables(changes)
        )
        == expected
    )
    assert overlaid == [1, 1], "for what was new, in each comparison"
    rescore_responses(
        bundle,
        [of_coats],
        pa.concat_tables([*changes, item(shown[0], serving_shop.NOW + 150_000_000, price=1)]),
    )
    assert overlaid == [1, 1, 1, 3], "and for what was shown"
