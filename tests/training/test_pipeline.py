"""The whole of training on a simulated shop's lake: what it promises, and what it refuses."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.support.training.shop import HOME, Shop

from tailorbird.errors import DeclarationError, NotReadyError, UsageError
from tailorbird.events import DAY, SimulatedClock
from tailorbird.features import FeatureSet, count, entity, similarity
from tailorbird.features.transforms import (
    clip,
    frequency,
    impute,
    log,
    standardise,
    target,
    transform,
)
from tailorbird.lake import Lake
from tailorbird.models import architectures
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import SKETCHES_FILE, Bundle
from tailorbird.registry import Registry
from tailorbird.training.dataset import matrix
from tailorbird.training.dataset.replay import select_live_columns
from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.evaluation.gate import NON_INFERIORITY, SUPERIORITY
from tailorbird.training.fit import inputs
from tailorbird.training.pipeline import train
from tailorbird.training.report.pareto import compare_serving_costs
from tailorbird.training.settings import TrainSettings


def keep_answers(path, last):
    """Leave only the last answers in a history, as where a site had logged none before it got its
    first ones from here.
    """
    lines = path.read_text().rstrip("\n").split("\n")
    shown = [place for place, line in enumerate(lines) if line.startswith('{"type":"answer"')]
    dropped = set(shown[:-last])
    path.write_text(
        "".join(f"{line}\n" for place, line in enumerate(lines) if place not in dropped)
    )


def leak_through_device(path):
    """Write a log whose device nearly always reveals whether a response was clicked."""
    lines = path.read_text().rstrip("\n").split("\n")
    clicked = set(re.findall(r'\{"type":"click".*"request_id":"(\w+)"', "\n".join(lines)))
    rng = np.random.default_rng(0)
    for place, line in enumerate(lines):
        if line.startswith('{"type":"answer"'):
            named = re.search(r'"request_id":"(\w+)"', line)
            device = ("tablet", "phone")[
                (named is not None and named[1] in clicked) == (rng.random() < 0.03)
            ]
            lines[place] = re.sub(r'"device":"\w+"', f'"device":"{device}"', line)
    path.write_text("".join(f"{line}\n" for line in lines))


def receive_users_later(path):
    """Delay the arrival of user profiles by two days, as in a late import of dated traits."""
    lines = path.read_text().rstrip("\n").split("\n")
    for place, line in enumerate(lines):
        if line.startswith('{"type":"user"'):
            lines[place] = re.sub(
                r'"received_at":(\d+)',
                lambda match: f'"received_at":{int(match[1]) + 2 * DAY}',
                line,
            )
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.open(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def report(shop):
    return shop.train("registry", page=True)


def test_the_report_describes_the_training(report):
    fields = report.to_dict()
    assert report.version == "v0001"
    assert set(fields["results"]) == {
        "tailorbird",
        "popular:1h",
        "popular:24h",
        "popular:7d",
        "item_knn+popular:7d",
    }
    for figures in fields["results"].values():
        assert figures["ndcg_10_low"] <= figures["ndcg_10"] <= figures["ndcg_10_high"]
    assert fields["results"]["tailorbird"]["list_auc_low"] > 0.5, "better than chance"
    assert {"new users", "known users", "long-tail items"} <= set(fields["slices"])
    assert fields["heads"]["click"]["log_loss"] < fields["heads"]["click"]["log_loss_mean"] + 0.01
    window = fields["about"]["window"]
    assert window["from"] < window["train_until"] < window["test_from"] < window["test_to"]
    assert min(fields["rows"].values()) > 1_000


def test_the_bundle_is_what_was_trained_over_an_index_of_now(shop, report):
    path = shop.folder / "registry" / report.version
    bundle = Bundle.load(path, schema_hash=shop.features.schema_hash)
    assert bundle.heads == report.heads
    assert bundle.manifest.index_as_of == shop.clock.now()
    assert bundle.manifest.window.ts_to == report.about["window"]["test_from"]
    assert (
        bundle.manifest.metrics["results"]["tailorbird"]
        == report.to_dict()["results"]["tailorbird"]
    )
    assert "## Limits" in bundle.manifest.card
    read = bundle.manifest.metrics["about"]["lake"]["events"]
    assert read["version"] == Lake(shop.lake).version("events")
    assert read["positions"]["routed"] > 1
    assert f"events at version {read['version']}" in bundle.manifest.card


def test_the_bundle_has_histograms_of_what_it_learned_from(shop, report):
    table = pq.read_table(shop.folder / "registry" / report.version / SKETCHES_FILE)
    totals: dict[tuple[str, str], float] = {}
    for row in table.to_pylist():
        key = row["kind"], row["name"]
        totals[key] = totals.get(key, 0.0) + row["count"]
    features = (*shop.features.numeric, *shop.features.categorical)
    requests = report.about["requests"]
    assert {name for kind, name in totals if kind == "feature"} == set(features)
    assert {totals["feature", name] for name in features} == {requests["train"]}
    assert totals["score", "score"] == requests["validation"]
    assert totals["label", "click"] > requests["train"], "labels are of all rows"


def test_the_card_describes_data_slices_and_owner(shop, report):
    folder = shop.folder / "registry" / report.version
    card = (folder / "card.md").read_text()
    assert card == Registry(shop.folder / "registry", clock=shop.clock).verify(report.version).card
    headings = [line for line in card.splitlines() if line.startswith("#")]
    sections = ("Owner", "Data", "Columns", "Quality", "For whom", "Calibration", "Gate", "Limits")
    assert headings == ["# Ranker of slot home", *(f"## {one}" for one in sections)]
    owner, limits = card.split("## Owner")[1].split("##")[0], card.split("## Limits")[1]
    assert "project.owner" in owner
    best = report.evaluation.best_baseline
    for name, (requests, figures) in report.evaluation.slices.items():
        assert f"| {name} | {requests:,} |" in card
        is_worse = requests >= 100 and figures[best].value > figures["tailorbird"].value
        assert (f"{name}: {best} orders them better" in limits) == is_worse
    for head in report.heads:
        assert f"- {head}: " in card.split("## Calibration")[1]


def test_the_page_holds_tables_and_pictures_and_nothing_from_the_net(report):
    page = report.page_path.read_text()
    assert page.count("<svg") >= 4
    assert "popular:7d" in page
    assert "long-tail items" in page
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', re.sub(r'xlink:href="#[^"]*"', "", page))


def test_the_report_has_cost_and_quality(report):
    costs = {one["name"]: one for one in report.to_dict()["serving"]}
    assert set(costs) == set(report.evaluation.intervals)
    assert [one["us"] for one in report.serving_costs] == sorted(
        one["us"] for one in report.serving_costs
    )
    for one in costs.values():
        mine = (one["ndcg_10"], one["us"])
        other_costs = [other for other in costs.values() if (other["ndcg_10"], other["us"]) != mine]
        better = [
            other["name"]
            for other in other_costs
            if other["ndcg_10"] >= mine[0] and other["us"] <= mine[1]
        ]
        assert one["on_front"] == (not better)
        assert one["better"] in (better or [""])
    assert "What it costs" in report.page_path.read_text()


def test_the_front_is_what_nothing_else_is_both_as_good_and_as_cheap_as(report):
    quality = {"model": 0.6, "slow": 0.59, "popular": 0.5, "random": 0.4}
    figures = {
        name: {"ndcg_10": Interval(value, value - 0.01, value + 0.01)}
        for name, value in quality.items()
    }
    costs = compare_serving_costs(
        replace(report.evaluation, intervals=figures),
        {"model": 300.0, "slow": 900.0, "popular": 20.0, "random": 20.0},
    )
    assert {one.name: one.dominated_by for one in costs} == {
        "model": "",
        "slow": "model",
        "popular": "",
        "random": "popular",
    }


def test_evaluating_a_version_again_gives_its_figures_again(shop, report):
    evaluation = shop.evaluate("registry", HOME, report.version)
    again, first = (
        evaluation.intervals[report.version]["ndcg_10"],
        report.evaluation.intervals["tailorbird"]["ndcg_10"],
    )
    assert again.value == pytest.approx(
        first.value, abs=2e-3
    )  # ONNX in float32 for LightGBM in float64: a rank or two


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model(shop, report):
    other = shop.train("other")
    files = [
        (shop.folder / name / "v0001" / "model" / "click.onnx").read_bytes()
        for name in ("registry", "other")
    ]
    assert files[0] == files[1]
    assert other.to_dict()["results"] == report.to_dict()["results"]


@pytest.mark.slow
def test_another_seed_gives_other_trees_of_the_same_rows(shop, report):
    other = shop.train("seeded", seed=8)
    assert other.row_counts == report.row_counts
    assert other.about["requests"] == report.about["requests"]
    files = [
        (shop.folder / name / "v0001" / "model" / "click.onnx").read_bytes()
        for name in ("registry", "seeded")
    ]
    assert files[0] != files[1]


@pytest.mark.slow
def test_shuffled_labels_are_rejected_and_stored_with_the_reason(shop):
    report = shop.train("shuffled", shuffle=True)
    assert not report.promoted
    assert "over the best baseline" in report.decision.reason
    registry = Registry(shop.folder / "shuffled", clock=shop.clock)
    assert {info.version for info in registry.versions()} == {"v0001", report.fallback_version}
    reasons = next(info for info in registry.versions() if info.version == "v0001").metrics[
        "decision"
    ]
    assert reasons == list(report.decision.reasons)
    assert report.to_dict()["instead"] == report.fallback_version


@pytest.mark.slow
def test_where_nothing_serves_and_the_gate_refuses_the_best_judged_baseline_does(shop, report):
    """Like a model's bundle, it has items and names the sources whose tables it reads; a model that
    wins takes its place.
    """
    refused = shop.train("baseline", shuffle=True)
    registry = Registry(shop.folder / "baseline", clock=shop.clock)
    assert registry.champion_folder().name == refused.fallback_version
    bundle = Bundle.load(registry.champion_folder(), schema_hash=shop.features.schema_hash)
    assert (bundle.heads, bundle.baseline) == ((), refused.evaluation.best_baseline)
    assert bundle.baseline == report.evaluation.best_baseline, (
        "they are judged without regard to the model"
    )
    assert set(bundle.sources) == set(bundle.baseline.split("+"))
    assert len(bundle.index) >= 250
    assert "the gate refused the model" in bundle.manifest.card
    again = shop.train("baseline", shuffle=True)
    assert (again.champion, again.fallback_version) == ("", ""), "it serves already"
    assert registry.champion_folder().name == refused.fallback_version


@pytest.mark.slow
def test_a_champion_that_was_judged_stays_where_the_gate_refuses(shop):
    first = shop.train("stays", promote=False)
    Registry(shop.folder / "stays", clock=shop.clock).promote(
        first.version, by="test", why="a champion"
    )
    refused = shop.train("stays", shuffle=True)
    assert (refused.champion, refused.promoted, refused.fallback_version) == (
        first.version,
        False,
        "",
    )
    assert Registry(shop.folder / "stays", clock=shop.clock).champion_folder().name == first.version


@pytest.mark.slow
def test_the_champion_is_judged_on_the_same_requests_and_by_its_recipe(shop):
    """One of the same recipe may take its place if it is not worse; of another recipe an equal is
    refused. The last one that won by superiority is judged beside them for as long as fresher ones
    take its place.
    """
    registry = Registry(shop.folder / "twice", clock=shop.clock)
    first = shop.train("twice", promote=False)
    registry.promote(first.version, by="test", why="to have a champion")
    second = shop.train("twice", seed=8, promote=False)
    assert (second.champion, second.decision.rule, second.about["recipe"]) == (
        first.version,
        NON_INFERIORITY,
        first.about["recipe"],
    )
    assert first.version in second.evaluation.intervals
    assert any(
        f"over the champion, {first.version}, where it may lose 1%" in reason
        for reason in second.decision.reasons
    )
    assert second.about["anchor"] == first.version
    registry.promote(second.version, by="test", why="as if it had been let through")
    other = shop.train("twice", leave_out=("price",))
    assert {first.version, second.version} <= set(other.evaluation.intervals)
    assert (other.champion, other.decision.rule, other.promoted) == (
        second.version,
        SUPERIORITY,
        False,
    )
    assert any(
        f"over the champion, {second.version}" in reason for reason in other.decision.reasons
    )
    assert registry.champion_folder().name == second.version


@pytest.mark.slow
def test_a_champion_of_another_schema_is_judged_with_its_own_features(shop):
    first = shop.train("evolving")
    Registry(shop.folder / "evolving", clock=shop.clock).promote(
        first.version, by="test", why="a champion"
    )
    fewer = [one for one in shop.features.features if one.name not in ("item_clicks_1d", "device")]
    changed = replace(
        shop,
        features=FeatureSet.from_declarations(
            [*fewer, count("item_views_3d", entity("item"), "view", window="3d")]
        ),
    )
    assert changed.features.schema_hash != shop.features.schema_hash
    second = changed.train("evolving")
    assert second.champion == first.version
    own, judged = (
        first.evaluation.intervals["tailorbird"]["ndcg_10"],
        second.evaluation.intervals[first.version]["ndcg_10"],
    )
    assert judged.value == pytest.approx(own.value, abs=2e-3), (
        "on the same requests, the champion is as good as it was found to be"
    )
    again = changed.evaluate("evolving", HOME, first.version)
    assert again.intervals[first.version]["ndcg_10"].value == judged.value


def test_a_time_before_the_log_raises(shop):
    with pytest.raises(NotReadyError, match="holds no event before 1970-01-02"):
        replace(shop, clock=SimulatedClock(DAY)).train("too-early")


@pytest.mark.slow
def test_a_head_with_too_few_positives_is_left_out_with_a_note(shop):
    report = shop.train("share", slot=Slot("home", objective={"click": 1.0, "share": 3.0}))
    assert report.heads == ("click",)
    assert any("head share was left out: 0 positives" in note for note in report.notes)
    card = Bundle.load(shop.folder / "share" / report.version, schema_hash=None).manifest.card
    assert (
        "Orders items by 1 · P(click). The slot asks for share too, which could not be "
        "learned: see the limits." in card
    )


@pytest.mark.slow
def test_a_column_far_ahead_is_named_without_rejection(tmp_path_factory, report):
    messages = Shop.open(tmp_path_factory.mktemp("told"), leak_through_device).train("registry")
    notes = [note for note in messages.notes if "far ahead" in note]
    assert [note.split(":")[0] for note in notes] == ["column device is far ahead of all others"]
    assert re.search(
        r"alone it reaches an AUC of 0\.8\d\d for click, "
        r"while no other column is above 0\.\d+; if it knows",
        notes[0],
    )
    assert not any("looks as if" in reason for reason in messages.decision.reasons)
    assert not [note for note in report.notes if "far ahead" in note]


@pytest.mark.slow
def test_backdated_user_attributes_are_named(tmp_path_factory, report):
    later = Shop.open(tmp_path_factory.mktemp("later"), receive_users_later).train("registry")
    (note,) = [note for note in later.notes if note.startswith("users: ")]
    assert "came in over an hour after the time that they are dated to" in note
    assert "must have been known then" in note
    assert not [note for note in report.notes if note.startswith("users: ")]


CLICKS = Slot("home", objective={"click": 1.0})
CARTS = Slot("home", objective={"purchase": 1.0})


@pytest.fixture(scope="module")
def several(shop):
    """Trained for one slot of several."""
    return shop.train("several", slot=CLICKS, heads=("purchase", "click", "share"))


@pytest.mark.slow
def test_the_bundle_carries_heads_of_all_slots(shop, several):
    assert several.heads == ("click", "purchase")
    bundle = Bundle.load(
        shop.folder / "several" / several.version, schema_hash=shop.features.schema_hash
    )
    assert bundle.heads == ("click", "purchase")
    assert bundle.manifest.formula == {"click": 1.0}
    assert any("head share was left out: 0 positives" in note for note in several.notes)
    assert any(note.startswith("carries purchase for other slots") for note in several.notes)
    assert (
        shop.evaluate("several", CARTS, several.version)
        .intervals[several.version]["ndcg_10"]
        .has_bounds
    )


@pytest.mark.slow
def test_other_slots_heads_have_no_part_in_the_judgement(shop, several):
    alone = shop.train("alone", slot=CLICKS)
    assert several.to_dict()["results"] == alone.to_dict()["results"]
    assert several.decision == alone.decision
    assert several.row_counts == alone.row_counts


@pytest.mark.slow
def test_a_champion_without_the_slots_heads_is_not_evaluated(shop):
    first = shop.train("lacking", slot=CLICKS)
    Registry(shop.folder / "lacking", clock=shop.clock).promote(
        first.version, by="test", why="to have a champion"
    )
    second = shop.train("lacking", slot=CARTS)
    assert second.champion == first.version
    assert first.version not in second.evaluation.intervals
    messages = " ".join((*second.decision.reasons, *second.notes))
    assert (
        messages.count(
            "v0001 could not be judged on this test part: it predicts click, while slot home "
            "asks for purchase"
        )
        == 1
    )
    assert any(
        "does not predict click, as the champion v0001 does" in note for note in second.notes
    )
    with pytest.raises(UsageError, match="v0001 predicts click, while slot home asks for purchase"):
        shop.evaluate("lacking", CARTS, first.version)


def test_probabilities_are_calibrated_by_what_was_best_on_the_next_day(shop, report):
    bundle = Bundle.load(
        shop.folder / "registry" / report.version, schema_hash=shop.features.schema_hash
    )
    assert (
        report.evaluation.head_metrics["click"].positive_count
        > 300
        > report.evaluation.head_metrics["purchase"].positive_count
    )
    for head in bundle.manifest.heads:
        description = report.about["calibration"][head.name]
        assert bundle.calibration[head.name].name == head.calibration
        assert (
            description.startswith(f"{head.calibration}, by log loss on the next of")
            or "too little to choose by" in description
        )
    assert "isotonic" in report.about["calibration"]["click"]
    assert "isotonic" not in report.about["calibration"]["purchase"]  # a table needs more positives


def test_calibration_is_reported_per_slice(report):
    head = report.evaluation.to_dict()["heads"]["click"]
    slices = head["calibration_slices"]
    assert slices["new users"]["rows"] + slices["known users"]["rows"] == head["rows"]
    for each in slices.values():
        assert abs(each["predicted"] - each["observed"]) < 0.05
        assert 0 <= each["calibration_error_debiased"] < 0.1


@pytest.mark.slow
def test_without_answers_requests_are_drawn_from_the_log(shop):
    report = shop.train(
        "drawn", slot=Slot("elsewhere", objective={"click": 1.0}), requests=800, test_requests=300
    )
    assert report.about["source"].startswith("what people chose")
    assert "slot 'elsewhere' has no logged answer" in report.notes[0]
    assert report.about["scheme"]["candidates_mean"] > 50
    assert (
        "150 by item_knn, 150 by trending, 150 by popular, 50 by new_items, as of each moment"
        in report.evaluation.data_summary["candidates"]
    )
    assert 0.5 < report.evaluation.data_summary["candidate_recall"] <= 1
    assert 0.5 < report.about["scheme"]["candidate_recall"] <= 1
    assert report.evaluation.intervals["tailorbird"]["list_auc"].low > 0.5, "better than chance"


@pytest.mark.slow
def test_a_slot_with_responses_learns_from_clicks_on_request(shop, report):
    assert "rows are logged answers" in report.notes[0]
    other = shop.train("clicks", rows="clicks", requests=1_500, test_requests=300)
    assert other.about["source"].startswith("what people chose")
    assert "as asked for" in other.notes[0]
    assert other.heads == ("click", "purchase")
    assert (
        0
        < other.evaluation.head_metrics["purchase"].positive_count
        < other.evaluation.head_metrics["click"].positive_count
    )


@pytest.mark.slow
def test_the_first_answers_do_not_make_a_history_of_clicks_useless(tmp_path):
    young = Shop.open(tmp_path, lambda history: keep_answers(history, 1_100))
    report = young.train("registry", requests=800, test_requests=300)
    assert report.about["source"].startswith("what people chose")
    assert re.search(
        r"only \d+ answers of slot 'home' have an outcome that is known by now, and 300 are needed",
        report.notes[0],
    )
    assert "click" in report.heads


@pytest.mark.slow
def test_columns_that_are_left_out_are_not_seen(shop):
    report = shop.train("without", leave_out=("popularity", "item_ctr_7d"))
    bundle = Bundle.load(
        shop.folder / "without" / report.version, schema_hash=shop.features.schema_hash
    )
    assert not {"popularity", "item_ctr_7d"} & set(bundle.encoder.names)


TRANSFORMS = (
    transform("price", log(), clip(), standardise(), impute("median"), indicator=True),
    transform("category"),
    transform("category", target("click", smoothing=50)),
    transform("user_last_category", frequency()),
    transform("goes_with_scaled", log()),
)
SIMILARITIES = (
    similarity("goes_with", of="user_recent", length=5),
    similarity("goes_with_scaled", of="user_recent", how="max"),
)


def transformed(shop, **more):
    return replace(
        shop,
        features=replace(shop.features, transforms=TRANSFORMS, similarities=SIMILARITIES),
        **more,
    )


@pytest.mark.slow
def test_session_sources_are_drawn_ranked_and_stored_in_the_bundle(shop):
    slot = replace(HOME, sources={"session_knn": 60, "stan": 40, "popular": 100})
    report = shop.train("sessions", slot=slot, rows="clicks", requests=1_500, test_requests=300)
    assert report.about["sources"] == dict(slot.sources)
    assert (
        "60 by session_knn, 40 by stan, 100 by popular, as of each moment"
        in report.evaluation.data_summary["candidates"]
    )
    bundle = Bundle.load(
        shop.folder / "sessions" / report.version, schema_hash=shop.features.schema_hash
    )
    assert {"session_knn_rank", "session_knn_score", "stan_score"} <= set(bundle.encoder.names)
    assert {"session_knn", "stan"} <= set(bundle.sources), (
        "the project keeps their tables up as long as it serves"
    )
    assert "session_knn_score" not in select_live_columns(shop.features, HOME).names


@pytest.fixture(scope="module")
def declared(shop):
    return transformed(shop).train("transforms", page=True)


@pytest.mark.slow
def test_declared_transforms_are_in_the_bundle_the_card_and_the_report(shop, declared):
    bundle = Bundle.load(
        shop.folder / "transforms" / declared.version, schema_hash=shop.features.schema_hash
    )
    names = bundle.encoder.names
    assert {
        "price",
        "price_missing",
        "category",
        "category_target_click",
        "user_last_category_frequency",
    } <= set(names)
    assert "user_last_category" not in names
    assert names.count("price") == 1
    assert "item_clicks_7d" in bundle.encoder.numeric  # what no transform names is taken as it is
    description = declared.about["columns"]["price"]
    assert description.startswith("price: log, clip to [")
    assert f"| price | {description} |" in bundle.manifest.card
    assert "rate of click by" in declared.page_path.read_text()
    assert names.count("goes_with") == names.count("goes_with_scaled") == 1
    assert declared.about["columns"]["goes_with"].startswith(
        "sum of what goes with the last 5 items of user_recent"
    )
    assert bundle.encoder.categorical_names == ("device", "category")


class Seen(Exception):
    """Ends a training as soon as its rows are known."""


def matrices(shop, monkeypatch, rows_max):
    """The training and the validation rows as trees are grown on them, with features made in pieces
    of at most so many rows.
    """

    def seen(train, watch, columns, *_, **__):
        raise Seen(train, watch, columns)

    monkeypatch.setattr(architectures, "fit_gbdt", seen)
    monkeypatch.setattr(
        inputs, "iterate_features", partial(matrix.iterate_features, rows_max=rows_max)
    )
    with pytest.raises(Seen) as caught:
        transformed(shop).train("seen")
    return caught.value.args


@pytest.mark.slow
def test_training_rows_get_encodings_of_their_time_and_later_ones_the_final_table(
    shop, monkeypatch
):
    train, watch, columns = matrices(shop, monkeypatch, 1_000_000)
    in_time, later = (
        sample.matrix[:, columns.index("category_target_click")] for sample in (train, watch)
    )
    first = int(train.lengths[0])
    assert np.isnan(in_time[:first]).all()  # nothing was known yet
    assert not np.isnan(in_time[len(in_time) // 2 :]).any()
    assert len(np.unique(in_time)) > 10 * len(
        np.unique(later)
    )  # rates that move, and one for each category
    assert not np.isnan(later).any()
    pieces, _, _ = matrices(shop, monkeypatch, 2_000)
    np.testing.assert_array_equal(pieces.matrix, train.matrix)


@pytest.mark.slow
def test_a_transformed_model_is_judged_as_it_will_serve(shop, declared):
    evaluation = transformed(shop).evaluate("transforms", HOME, declared.version)
    again, first = (
        evaluation.intervals[declared.version]["ndcg_10"],
        declared.evaluation.intervals["tailorbird"]["ndcg_10"],
    )
    assert again.value == pytest.approx(first.value, abs=2e-3)


@pytest.mark.slow
def test_transforms_are_learned_from_the_training_part_alone(shop):
    """Data after the border, and its labels, do not change the fitted transforms."""
    now = shop.clock.now()
    borders = {"validation_from": now - 3 * DAY, "test_from": now - 2 * DAY}
    encoders = []
    for name, later in (("sooner", DAY), ("later", 0)):
        earlier = transformed(shop, clock=SimulatedClock(now - later))
        report = earlier.train(name, window_us=7 * DAY - later, lateness_us=0, **borders)
        encoders.append(Bundle.load(shop.folder / name / report.version, schema_hash=None).encoder)
    assert encoders[0] == encoders[1]


@pytest.mark.slow
def test_a_target_encoding_of_shuffled_labels_is_refused(shop):
    report = transformed(shop).train("shuffled-transforms", shuffle=True)
    assert not report.promoted
    assert "over the best baseline" in report.decision.reason


@pytest.mark.slow
def test_the_preset_for_nets_leaves_nothing_missing(shop):
    extended = replace(shop.features, similarities=SIMILARITIES)
    report = replace(shop, features=extended).train("nets", preset="nets")
    encoder = Bundle.load(
        shop.folder / "nets" / report.version, schema_hash=shop.features.schema_hash
    ).encoder
    assert encoder.numeric == encoder.vocabularies == encoder.computed == ()
    assert {
        "price",
        "price_missing",
        "item_knn_score",
        "popular_24h_rank_missing",
        "goes_with",
        "goes_with_missing",
        "category",
    } <= set(encoder.names)
    assert np.isfinite(encoder.missing_row).all()
    assert encoder.code_counts.keys() == set(shop.features.categorical)


@pytest.mark.slow
def test_a_transform_on_a_head_without_labels_raises(shop):
    features = replace(shop.features, transforms=(transform("category", target("share")),))
    with pytest.raises(DeclarationError, match="learns from share, which has no labels here"):
        replace(shop, features=features).train("unlabelled")


def test_a_young_lake_raises(shop, tmp_path):
    with pytest.raises(NotReadyError, match="outcomes are known"):
        train(
            shop.features,
            HOME,
            lake=shop.lake,
            registry=tmp_path,
            clock=shop.clock,
            settings=TrainSettings(window_us=60, lateness_us=0),
        )


def test_borders_that_leave_a_part_empty_raise(shop, tmp_path):
    late = TrainSettings(test_from=shop.clock.now() + DAY)
    with pytest.raises(UsageError, match=r"the .* part is empty"):
        train(
            shop.features, HOME, lake=shop.lake, registry=tmp_path, clock=shop.clock, settings=late
        )


@pytest.mark.slow
def test_progress_names_its_stages(shop, tmp_path):
    seen: dict[str, list[tuple[int, int]]] = {}
    train(
        shop.features,
        HOME,
        lake=shop.lake,
        registry=tmp_path,
        clock=shop.clock,
        settings=TrainSettings(quick=True),
        progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
    )
    assert {"read", "index", "features", "trees of click", "judge", "bundle"} <= set(seen)
    assert all(calls[-1][0] <= calls[-1][1] for calls in seen.values())
    assert np.all(np.diff([done for done, _ in seen["judge"]]) >= 0)
