"""Validation on a simulated shop, and the controls that over-fitting and leaks must not pass: each
is planted and must be found by name.
"""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.support.training.shop import HOME, Shop

from tailorbird.errors import UsageError
from tailorbird.events import DAY, HOUR, MINUTE, ROUTED, SECOND, micros
from tailorbird.features import FeatureSet, attribute, count, entity
from tailorbird.lake import Lake
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.models.interactions import Interactions
from tailorbird.registry import Registry
from tailorbird.training.backtests import leaks
from tailorbird.training.backtests.leaks import (
    find_backdated_imports,
    find_backdated_items,
    find_lookahead,
    find_repeated_events,
    find_target_leakage,
    findings_from_ranking,
)
from tailorbird.training.backtests.page import write_validation
from tailorbird.training.backtests.report import ValidationReport, holm_adjust
from tailorbird.training.backtests.run import MODEL_NAME, ValidateSettings, validate
from tailorbird.training.backtests.variants import build_variants, group_columns
from tailorbird.training.dataset.matrix import iterate_features
from tailorbird.training.dataset.rows import load_training_data
from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.fit import inputs
from tailorbird.training.leakage.backdated import PROFILE_COLUMNS
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tuning import rows as tune_rows

pytestmark = pytest.mark.slow

QUICK = TrainSettings(quick=True, gbdt=GbdtSettings(trees=40))
SETTINGS = ValidateSettings(train=QUICK, splits=2, judged=1_000)
SIGNALS = {
    "signals": [
        {"name": "device", "verdict": "too good: leak?", "why": "so it was said"},
        {"name": "price", "verdict": "signal"},
    ],
    "subset": {"keep": ["item_ctr_7d", "popularity", "item_clicks_7d"]},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.open(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def training_data(shop):
    return load_training_data(
        Lake(shop.lake), shop.features, HOME, QUICK.row_settings(shop.clock.now())
    )


def validated(shop, settings=SETTINGS, **more):
    return validate(
        shop.features, HOME, lake=shop.lake, clock=shop.clock, settings=settings, **more
    )


@pytest.fixture(scope="module")
def report(shop):
    return validated(shop, signals=SIGNALS)


def with_the_answer(column, share=1.0):
    """`featured` with a column that was filled in after the fact, for a share of the rows."""

    def made(data, features, events, **more):
        rng = np.random.default_rng(5)
        for piece in iterate_features(data, features, events, **more):
            numeric = piece.rows.numeric.copy()
            is_marked = rng.random(len(numeric)) < share
            place = piece.rows.numeric_names.index(column)
            numeric[is_marked, place] = 10 * piece.data.labels["click"][is_marked] + rng.random(
                int(is_marked.sum())
            )
            yield replace(piece, rows=replace(piece.rows, numeric=numeric))

    return made


def test_every_origin_is_learned_from_its_past_and_judged_next_to_all_baselines(
    report: ValidationReport,
):
    evaluation = report.evaluation
    assert {MODEL_NAME, "popular:1h", "popular:7d"} <= set(evaluation.intervals)
    origins = [name for name in evaluation.slices if name.startswith("from 20")]
    assert len(origins) == len(report.about["splits"]) == 2
    assert sum(evaluation.slices[name][0] for name in origins) == evaluation.request_count
    for one in report.about["splits"]:
        assert one["learned_until"] <= one["judged_from"] < one["judged_to"]
    # the newest requests are judged too: nothing is chosen by these figures
    assert report.about["splits"][-1]["judged_to"] > report.about["splits"][0]["judged_to"]


def test_the_long_tail_new_items_and_new_users_stand_in_the_report_with_their_intervals(
    shop, report: ValidationReport, tmp_path
):
    for name in ("long-tail items", "new items", "new users", "known users"):
        count, figures = report.evaluation.slices[name]
        assert count > 0, name
        assert figures[MODEL_NAME].low <= figures[MODEL_NAME].value <= figures[MODEL_NAME].high
    text = write_validation(tmp_path, report).read_text()
    assert "long-tail items" in text
    assert "Learning curve" in text
    assert "Over-fit gap" in text
    saved = json.loads((tmp_path / "validation-home.json").read_text())
    assert saved["slices"]["long-tail items"][MODEL_NAME]["ndcg_10"] == pytest.approx(
        report.evaluation.slices["long-tail items"][1][MODEL_NAME].value, abs=1e-6
    )
    trained = shop.train("registry", page=True)
    assert trained.evaluation.slices["long-tail items"][0] > 0
    assert "long-tail items" in trained.page_path.read_text()
    card = Registry(shop.folder / "registry", clock=shop.clock).verify(trained.version).card
    assert "| long-tail items |" in card


def test_the_model_is_compared_with_itself_with_less_data_fewer_columns_and_unseen_people(
    report: ValidationReport,
):
    kinds = {one.competitor: one.kind for one in report.tests}
    assert kinds["unseen people"] == "people"
    assert kinds["columns that rank keeps"] == "columns"
    assert kinds["without columns of item"] == "columns"
    assert set(report.learning_curve) == {0.125, 0.25, 0.5, 1.0}
    assert report.learning_curve[1.0] == report.evaluation.intervals[MODEL_NAME]["ndcg_10"]
    for one in report.tests:
        assert one.gain.value == pytest.approx(
            report.evaluation.intervals[MODEL_NAME]["ndcg_10"].value
            - report.evaluation.intervals[one.competitor]["ndcg_10"].value
        )
        assert not one.p > one.p_adjusted


def test_column_groups_hold_every_column_once(shop, report: ValidationReport):
    names = [
        *shop.features.numeric,
        *shop.features.categorical,
        "age_days",
        "popular_1h_rank",
        "item_knn_score",
        "position",
    ]
    groups = group_columns(names, shop.features)
    listed = [name for each in groups.values() for name in each]
    assert sorted(listed) == sorted(set(names) - {"position"})
    assert groups["columns of the index"] == ("age_days",)
    assert set(groups["columns of candidates"]) == {"popular_1h_rank", "item_knn_score"}
    assert "item_ctr_7d" in groups["columns of item"]


@pytest.mark.parametrize(
    ("keep", "tried"), [((), False), (("gone",), False), (("item_ctr_7d",), True)]
)
def test_the_ranked_subset_is_tried_only_if_not_empty(shop, keep, tried):
    variants = build_variants(["item_ctr_7d", "popularity", "position"], shop.features, keep)
    assert ("columns that rank keeps" in {one.name for one in variants}) == tried


def test_the_gap_is_of_rows_that_stand_for_the_same(report: ValidationReport):
    assert {one.head for one in report.overfit_gaps} == {"click", "purchase"}
    for one in report.overfit_gaps:
        if one.head == "click":
            assert 0.5 < one.auc[2] < one.auc[0] < 0.95
            assert max(one.log_loss) < 2 * min(
                one.log_loss
            )  # positives are as frequent in all three


def test_an_honest_shop_has_no_leak_but_that_of_the_ranking(report: ValidationReport):
    assert [one.subject for one in report.leaks] == ["device"]
    assert "`features rank` called it too good" in report.leaks[0].why


def test_a_planted_column_is_reported_by_name(shop, monkeypatch):
    monkeypatch.setattr(tune_rows, "iterate_features", with_the_answer("price", share=0.6))
    report = validated(shop, replace(SETTINGS, variants=False, splits=1))
    assert [one.subject for one in report.leaks] == ["price"]
    assert "while no other column is above" in report.leaks[0].why


def test_a_planted_column_is_refused_by_the_gate_by_name(shop, monkeypatch):
    monkeypatch.setattr(inputs, "iterate_features", with_the_answer("price"))
    report = shop.train("planted", page=True)
    assert not report.promoted
    assert any(
        "column price looks as if it knew the answer" in reason
        for reason in report.decision.reasons
    )
    assert "column price looks as if it knew the answer" in report.page_path.read_text()
    assert (
        Registry(shop.folder / "planted", clock=shop.clock).champion_folder().name
        == report.fallback_version
    ), "a baseline serves"


def test_a_feature_computed_after_the_label_is_reported_by_name(shop, training_data, monkeypatch):
    assert not [
        one
        for one in find_lookahead(training_data, training_data.dataset, shop.features)
        if one.severity == "leak"
    ]

    def late(data, features, events, **more):
        for piece in iterate_features(
            replace(data, t=data.t + HOUR, log_position=data.log_position + (1 << 40)),
            features,
            events,
            **more,
        ):
            yield replace(piece, data=data)

    monkeypatch.setattr(leaks, "iterate_features", late)
    findings = {
        one.subject: one
        for one in find_lookahead(training_data, training_data.dataset, shop.features)
    }
    assert findings["item_clicks_1d"].severity == "leak"
    assert (
        "once what came, or came in, after the request is taken away"
        in findings["item_clicks_1d"].why
    )
    assert findings["sequence user_recent"].severity == "leak"  # which a net reads as it is
    assert "device" not in findings


def test_a_feature_that_knows_what_arrived_late_is_reported_by_name(
    shop, training_data, monkeypatch
):
    ts, p = micros(training_data.events["ts"]), training_data.events["p"].to_numpy()
    late_positions = np.where(
        np.arange(len(p)) % 2, p + (1 << 40), p
    )  # every other event is routed when all requests are answered
    place = training_data.events.column_names.index("p")
    changed = replace(
        training_data,
        events=training_data.events.set_column(place, "p", pa.chunked_array([late_positions])),
    )
    assert (ts < training_data.dataset.t.max()).any()
    assert not [
        one
        for one in find_lookahead(changed, training_data.dataset, shop.features)
        if one.severity == "leak"
    ]

    def late(data, features, events, **more):
        for piece in iterate_features(
            replace(data, log_position=data.log_position + (1 << 41)), features, events, **more
        ):
            yield replace(piece, data=data)

    monkeypatch.setattr(leaks, "iterate_features", late)
    findings = {
        one.subject: one for one in find_lookahead(changed, training_data.dataset, shop.features)
    }
    assert findings["item_clicks_1d"].severity == "leak"
    assert "device" not in findings


def test_profiles_without_a_time_are_reported_with_the_columns_that_read_them(shop, training_data):
    events = training_data.events
    profile = pc.equal(events["type"], "item")
    place = events.column_names.index("timeless")
    changed = replace(
        training_data, events=events.set_column(place, "timeless", pa.chunked_array(profile))
    )
    findings = {
        one.subject: one for one in find_lookahead(changed, training_data.dataset, shop.features)
    }
    assert {"price", "category"} <= set(findings)
    assert findings["price"].severity == "look"
    assert "profile without a time" in findings["price"].why
    assert "item_clicks_1d" not in findings


class Imported:
    """A lake of a profile each of users or items, imported by the day since which there is one."""

    def __init__(self, of="user", **more):
        of_all = {"type": of, "ts": DAY, "ts_original": DAY, "raw_partition": "import", **more}
        rows = [
            of_all
            | {f"{of}_id": f"u{number}", "properties": json.dumps({"plan": "gold", "sold_ever": 3})}
            for number in range(30)
        ]
        self._events = pa.Table.from_pylist(
            rows,
            pa.schema([ROUTED.field(name) for name in (*PROFILE_COLUMNS, "item_id", "properties")]),
        )

    def exists(self, name):
        return name == "events"

    def table(self, name, columns, where):
        return self._events.select(list(columns)).filter(where)


def test_profiles_that_were_imported_dated_back_are_reported_where_a_column_reads_them(shop):
    plan = FeatureSet.from_declarations(
        [attribute("plan", entity("user"), "plan", kind="categorical")]
    )
    (finding,) = find_backdated_imports(Imported(), plan)
    assert (finding.severity, finding.subject) == ("look", "users")
    assert "30 of 30 profiles are the one that was imported of their user" in finding.why
    assert "(plan)" in finding.why
    assert find_backdated_imports(Imported(received_at=DAY + 60 * SECOND), plan) == [], (
        "it says when it came in"
    )
    (later,) = find_backdated_imports(Imported(received_at=2 * DAY), plan)
    assert (
        "30 of 30 profiles came in over an hour after the time that they are dated to" in later.why
    )
    assert (later.subject, "(plan)" in later.why) == ("users", True)
    assert find_backdated_imports(Imported(received_at=2 * DAY, timeless=True), plan) == [], (
        "it is told with the columns that read it"
    )
    assert find_backdated_imports(Imported(raw_partition="serve-1"), plan) == [], (
        "the collector saw it come"
    )
    assert (
        find_backdated_imports(
            Imported(),
            FeatureSet.from_declarations([count("clicks", entity("user"), "click", window="1d")]),
        )
        == []
    )
    sold = FeatureSet.from_declarations(
        [attribute("sold", entity("item"), "sold_ever", kind="numeric")]
    )
    assert [one.subject for one in find_backdated_imports(Imported("item"), sold)] == ["items"]
    assert find_backdated_imports(Imported(), sold) == []
    assert find_backdated_imports(Lake(shop.lake), plan) == []


def test_profiles_of_items_that_are_dated_back_are_reported(training_data):
    assert find_backdated_items(training_data) == []
    items = training_data.item_profiles
    later = pa.array(micros(items["valid_from"]) + 2 * DAY).cast(
        items.schema.field("received_at").type
    )
    changed = items.set_column(items.column_names.index("received_at"), "received_at", later)
    (finding,) = find_backdated_items(replace(training_data, item_profiles=changed))
    assert (finding.severity, finding.subject) == ("look", "items")
    assert (
        f"{items.num_rows:,} of {items.num_rows:,} profiles with a time came in over an hour "
        "after it, at most 2.0 days" in finding.why
    )


def test_a_log_that_was_imported_again_is_reported():
    rng = np.random.default_rng(2)
    person, item = rng.integers(0, 300, 4_000), rng.integers(0, 40, 4_000)
    ts = np.sort(rng.integers(0, 10**12, 4_000))
    border = [5 * 10**11]
    assert find_repeated_events({"click": Interactions(person, item, ts, 300, 40)}, border) == []
    again = rng.random(4_000) < 0.1
    doubled = [np.concatenate([each, each[again]]) for each in (person, item)]
    later = np.concatenate([ts, ts[again] + 3_600 * SECOND])
    (finding,) = find_repeated_events({"click": Interactions(*doubled, later, 300, 40)}, border)
    assert finding.severity == "leak"
    assert "exactly 3,600 s later" in finding.why
    assert "both sides of a border" in finding.why


def test_rounded_times_and_views_after_clicks_are_no_repeats():
    rng = np.random.default_rng(0)
    person, item = rng.integers(0, 2_000, 60_000), rng.integers(0, 100, 60_000)
    for unit, many in ((DAY, 60), (HOUR, 24 * 60)):
        for offset in (0, 90 * MINUTE):  # of days by the time of some zone
            ts = rng.integers(0, many, 60_000) * unit + offset
            assert (
                find_repeated_events(
                    {"purchase": Interactions(person, item, ts, 2_000, 100)}, [40 * DAY]
                )
                == []
            )
    exact = rng.integers(0, 60 * DAY, 60_000)
    assert (
        find_repeated_events(
            {each: Interactions(person, item, exact, 2_000, 100) for each in ("click", "view")},
            [40 * DAY],
        )
        == []
    )
    assert find_repeated_events({}, [40 * DAY]) == []


def test_a_dominant_column_is_reported_and_close_ones_are_not():
    rng = np.random.default_rng(3)
    label = rng.random(5_000) < 0.2
    near = np.stack(
        [rng.normal(size=5_000) + strength * label for strength in (1.0, 1.1)], axis=1
    ).astype(np.float32)
    assert find_target_leakage(("a", "b"), near, label, "click") == []
    far = np.stack([near[:, 0] * 0, rng.normal(size=5_000) + 2 * label, near[:, 0]], axis=1).astype(
        np.float32
    )
    assert [
        one.subject for one in find_target_leakage(("nothing", "far", "a"), far, label, "click")
    ] == ["far"]
    assert findings_from_ranking({}) == []


def test_holm_matches_its_source():
    clear, weak, none = (
        Interval(0.02, 0.01, 0.03),
        Interval(0.01, 0.0001, 0.0199),
        Interval(0.0, -0.01, 0.01),
    )
    tests_by_name = {
        one.competitor: one
        for one in holm_adjust(
            [
                ("weak", "", weak),
                ("clear", "", clear),
                ("none", "", none),
                ("unknown", "", replace(none, low=np.nan)),
            ]
        )
    }
    assert tests_by_name["clear"].p_adjusted == pytest.approx(3 * tests_by_name["clear"].p)
    assert tests_by_name["weak"].p_adjusted == pytest.approx(2 * tests_by_name["weak"].p)
    assert tests_by_name["weak"].p < 0.05 < tests_by_name["weak"].p_adjusted
    assert [tests_by_name[name].verdict for name in ("clear", "weak", "none", "unknown")] == [
        "ahead",
        *["may be chance"] * 3,
    ]
    assert holm_adjust([("behind", "", Interval(-0.02, -0.03, -0.01))])[0].verdict == "behind"


def test_a_wrong_use_is_reported():
    with pytest.raises(UsageError, match="at least 1, got 0"):
        ValidateSettings(splits=0)


def test_the_report_starts_with_a_note_if_another_architecture_is_tuned(
    shop, report: ValidationReport, tmp_path
):
    other_report = validated(shop, replace(SETTINGS, tuned_to="dcn", splits=1, variants=False))
    assert (
        other_report.substitution
        == "All figures are of gbdt, which was asked for, not of dcn, which the slot is tuned to"
    )
    assert other_report.to_dict()["about"]["tuned"] == other_report.substitution
    page = write_validation(tmp_path, other_report).read_text()
    assert page.index(other_report.substitution) < page.index("<h2>")
    assert not report.substitution
    assert report.to_dict()["about"]["tuned"] == "no"
