"""Comparison of a new churn model with its champion, or with the champion's recipe."""

import json
import shutil

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events import DAY, ROUTED, SimulatedClock
from tailorbird.features import FeatureSet, attribute, count, entity, time_since, time_since_first
from tailorbird.features.declare.checks import collect_features
from tailorbird.lake import Lake
from tailorbird.lake.write.role import LakeRole
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.ranking import Churn
from tailorbird.ranking.churn.bundle import ChurnBundle
from tailorbird.registry import Registry, seal
from tailorbird.stream import Block, open_writer
from tailorbird.stream.partitions import routed_path
from tailorbird.training.evaluation.metrics import log_losses
from tailorbird.training.tasks.churn.backtest import ChurnSettings, run_backtest
from tailorbird.training.tasks.churn.model_choice import Cut
from tailorbird.training.tasks.churn.report import ChurnReport
from tailorbird.training.tasks.churn.rolling_origin import feature_horizon, score_people_at
from tailorbird.training.tasks.churn.rows import needed_columns
from tailorbird.training.tasks.churn.train import train_churn
from tailorbird.training.tasks.churn.training_rows import FitSettings

pytestmark = pytest.mark.slow

BEGIN, DAYS = 20_000 * DAY, 260
CHURN = Churn(window="28d", period="7d", recency="since", frequency="bought", age="age")
QUICK = ChurnSettings(
    FitSettings(gbdt=GbdtSettings(trees=30, rate=0.1, patience=10), rows=6_000),
    cuts=4,
    grid_rows=12_000,
    lateness_us=0,
    replicates=50,
)


def declared(bought="purchase", *, where=None, closed=False, more=False):
    """The declarations of a project; of which type `bought` is, whether `viewed` is what a profile
    says, and one that no person has.
    """
    with collect_features() as declarations:
        user = entity("user")
        if more:
            count("popular", entity("item"), "view")
        time_since("since", user, bought)
        time_since_first("age", user, bought)
        count("bought", user, bought, window="56d", hop="7d")
        if closed:
            attribute("viewed", user, "closed", kind="numeric")
        else:
            count("viewed", user, "view", window="14d", hop="1d", where=where)
    return FeatureSet.from_declarations(declarations)


FEATURES = declared()
MISTAKEN = declared(
    "hide", where='country == "no"'
)  # looks at a column of events that FEATURES does not look at


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Purchases at each person's own rate until they leave, with chance, after each; who is still
    there looks in, unseen by baselines.
    """
    rng = np.random.default_rng(0)
    done = []
    for number in range(400):
        rate, at, leaves = (
            rng.gamma(1.5, 0.05),
            float(rng.uniform(0, DAYS / 1.5)),
            rng.beta(1.0, 6.0),
        )
        while at < DAYS:
            done.append((at, "purchase", f"u{number}"))
            is_leaving, until = rng.random() < leaves, at + rng.exponential(1 / max(rate, 1e-3)) + 1
            done += [
                (view, "view", f"u{number}")
                for view in np.arange(at, min(at + 3 if is_leaving else until, DAYS), 2.0).tolist()
            ]
            if is_leaving:
                break
            at = until
    last = {who: at for at, _, who in sorted(done)}
    done += [(0.0, "user", who) for who in last]
    day, kind, who = (list(column) for column in zip(*sorted(done), strict=True))
    ts = [BEGIN + int(at * DAY) for at in day]
    # Profiles without a time know who is there in the end.
    profile = [
        json.dumps({"closed": int(last[one] < DAYS - 14)}) if type_ == "user" else None
        for one, type_ in zip(who, kind, strict=True)
    ]
    n, folder = len(ts), tmp_path_factory.mktemp("lake")
    columns = {
        "p": range(1, n + 1),
        "event_id": [f"e{p}" for p in range(n)],
        "type": kind,
        "ts": ts,
        "received_at": ts,
        "person": who,
        "user_id": who,
        "item_id": ["i"] * n,
        "properties": profile,
        "counts": [True] * n,
        "agent": ["person"] * n,
        "timeless": [type_ == "user" for type_ in kind],
        "raw_partition": ["collector"] * n,
        "raw_offset": range(n),
        "raw_row": [0] * n,
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(n, field.type)
        for field in ROUTED
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ROUTED) as writer:
        writer.write_table(pa.table(arrays, schema=ROUTED))
    with open_writer(routed_path(folder / "stream"), partition="routed", first_position=1) as log:
        log.append([Block("events", n, sink.getvalue().to_pybytes())])
    with LakeRole(
        folder / "stream", folder / "lake", clock=SimulatedClock(BEGIN + DAYS * DAY)
    ) as role:
        role.drain()
    return folder / "lake"


@pytest.fixture(scope="module")
def young(lake, tmp_path_factory):
    """A registry whose champion was trained on day 230."""
    folder = tmp_path_factory.mktemp("young") / "registry"
    trained(lake, folder, 230, promoted=True)
    return folder


def trained(lake, registry, day, churn=CHURN, settings=QUICK, *, features=FEATURES, promoted=False):
    """A training as of a day; `promoted` lets it go live whatever the gate says."""
    clock = SimulatedClock(BEGIN + day * DAY)
    report = train_churn(
        features, churn, lake=lake, registry=registry, clock=clock, settings=settings
    )
    if promoted:
        Registry(registry, clock=clock).promote(report.version, by="test", why="a test")
    return report


def bundle_of(registry, version):
    return ChurnBundle.load(registry / version, schema_hash=None)


def compared(report: ChurnReport):
    """The sentence on the champion, and the gain that it tells."""
    (reason,) = [reason for reason in report.decision.reasons if "the champion" in reason]
    return reason, float(
        reason.partition("log loss ")[2].split()[0]
    ) if "log loss" in reason else None


def champion_notes(report: ChurnReport):
    return " ".join((*report.decision.reasons, *report.notes))


def test_a_newer_champion_is_judged_by_its_recipe(lake, young, tmp_path):
    """The same as the last cut of its own training, on the people of today's last origin."""
    registry = shutil.copytree(young, tmp_path / "registry")
    report = trained(lake, registry, 244)
    (note,) = [note for note in report.notes if "champion" in note]
    assert "in its place stands its recipe, learned as of its own last origin" in note
    trained_until = bundle_of(registry, "v0001").manifest.window.ts_to
    before = run_backtest(
        FEATURES,
        CHURN,
        Lake(lake).table("events", needed_columns(FEATURES)),
        now=trained_until,
        settings=QUICK,
    )
    cut, champion_cut = report.last.cut, before.cuts[-1]
    origin = champion_cut.scores.window.origin
    assert (
        report.last.cut.scores.window.origin - origin
        == bundle_of(registry, report.version).manifest.window.ts_to - trained_until
    )
    scored = score_people_at(
        champion_cut.fitted,
        before.people,
        cut.scores.person,
        cut.scores.window,
        CHURN,
        feature_horizon(before.activity.start_ts, origin),
    )
    probabilities = champion_cut.choice.calibrator.apply(
        scored.raw_probabilities[champion_cut.choice.model]
    )
    gain = float(
        (log_losses(probabilities, cut.churned) - log_losses(cut.probability, cut.churned)).mean()
    )
    assert compared(report)[1] == pytest.approx(gain, abs=1e-4)

    bundle = bundle_of(registry, "v0001")
    tables = before.people.read_projected(
        cut.scores.window.origin, cut.scores.person, bundle.moments(cut.scores.window.origin)
    )
    knows = bundle.score([(table.numeric, table.categorical) for table in tables]).churn_probability
    unfair = float(
        (log_losses(knows, cut.churned) - log_losses(cut.probability, cut.churned)).mean()
    )
    assert unfair < 0 < gain, "itself it would win by the two weeks of the window that it knows"


def test_the_same_recipe_on_the_same_data_gains_nothing(lake, young, tmp_path):
    report = trained(lake, shutil.copytree(young, tmp_path / "registry"), 230)
    reason, gain = compared(report)
    assert gain == 0.0
    assert not report.promoted
    assert reason.startswith("no gain that could not be chance")


def test_a_better_recipe_replaces_a_champion_that_knows_the_last_window(lake, tmp_path):
    """A champion that reads next to nothing: what it knows of the last window must not keep it
    there.
    """
    trained(
        lake,
        tmp_path,
        244,
        Churn(window="28d", period="7d", leave_out=("since", "bought", "viewed")),
        promoted=True,
    )
    report = trained(lake, tmp_path, 245)
    assert compared(report)[1] > 0
    assert report.promoted, report.decision.reasons


def test_a_champion_from_before_the_last_origin_is_judged_itself(lake, tmp_path):
    trained(lake, tmp_path, 200, promoted=True)
    report = trained(lake, tmp_path, 244)
    assert not [note for note in report.notes if "champion" in note]
    cut, bundle = report.last.cut, bundle_of(tmp_path, "v0001")
    origin = cut.scores.window.origin
    assert bundle.manifest.window.ts_to <= origin
    now = run_backtest(
        FEATURES,
        CHURN,
        Lake(lake).table("events", needed_columns(FEATURES)),
        now=BEGIN + 244 * DAY,
        settings=QUICK,
    )
    tables = now.people.read_projected(origin, cut.scores.person, bundle.moments(origin))
    probabilities = bundle.score(
        [(table.numeric, table.categorical) for table in tables]
    ).churn_probability
    gain = float(
        (log_losses(probabilities, cut.churned) - log_losses(cut.probability, cut.churned)).mean()
    )
    assert compared(report)[1] == pytest.approx(gain, abs=1e-4)


@pytest.mark.parametrize(
    "reason", [{}, {"about": {"recipe": {"churn": {"window": "never"}, "fit": {}, "grid_rows": 1}}}]
)
def test_a_young_champion_that_does_not_report_its_recipe_is_not_judged(
    lake, young, tmp_path, reason
):
    shutil.copytree(young / "v0001", tmp_path / "old")
    seal(
        tmp_path / "old",
        msgspec.structs.replace(bundle_of(young, "v0001").manifest, metrics=reason),
    )
    store = Registry(tmp_path / "registry", clock=SimulatedClock(BEGIN + 230 * DAY))
    store.promote(store.add(tmp_path / "old", by="test", why="a test"), by="test", why="a test")
    report = trained(lake, tmp_path / "registry", 231)
    assert (
        "it was trained on what came after the last origin, and does not tell how"
        in champion_notes(report)
    )


def test_where_shorter_windows_stand_for_the_declared_one_the_recipe_is_learned_for_them(
    lake, tmp_path
):
    trained(lake, tmp_path, 54, promoted=True)
    report = trained(lake, tmp_path, 58)
    assert report.last.cut.scores.window.length < CHURN.window_us
    assert "in its place stands its recipe" in " ".join(report.notes)


def test_a_champion_of_too_short_a_history_is_not_judged(lake, tmp_path):
    """Check a champion whose recipe has too little data a window before its training."""
    trained(lake, tmp_path, 50, promoted=True)
    report = trained(lake, tmp_path, 72)
    assert "cannot be learned again as of its own last origin" in champion_notes(report)


def gain_over(probabilities, cut: Cut):
    return pytest.approx(
        float(
            (
                log_losses(probabilities, cut.churned) - log_losses(cut.probability, cut.churned)
            ).mean()
        ),
        abs=1e-4,
    )


def test_a_recipe_is_learned_by_the_declarations_of_the_champion(lake, tmp_path):
    """Columns declared of another type by mistake, then mended under the same names: the new
    training is worth what the mend is worth.
    """
    trained(lake, tmp_path, 230, features=MISTAKEN, promoted=True)
    report = trained(lake, tmp_path, 230)
    events = Lake(lake).table("events", needed_columns(MISTAKEN))
    champion_cut = run_backtest(
        MISTAKEN,
        CHURN,
        events,
        now=bundle_of(tmp_path, "v0001").manifest.window.ts_to,
        settings=QUICK,
    ).cuts[-1]
    assert np.array_equal(champion_cut.churned, report.last.cut.churned), (
        "the same people at the same origin"
    )
    reason, gain = compared(report)
    assert gain > 0.01
    assert gain == gain_over(champion_cut.probability, report.last.cut)
    assert "over the champion" in reason
    assert (
        "judged by its own declarations of since, age, bought, viewed, declared otherwise "
        "now; the champion v0001" in champion_notes(report)
    )


@pytest.mark.nightly
def test_a_champion_from_before_the_last_origin_reads_columns_by_its_own_declarations(
    lake, tmp_path
):
    trained(lake, tmp_path, 200, features=MISTAKEN, promoted=True)
    report = trained(lake, tmp_path, 244)
    cut, bundle = report.last.cut, bundle_of(tmp_path, "v0001")
    origin, events = cut.scores.window.origin, Lake(lake).table("events", needed_columns(MISTAKEN))
    now = run_backtest(MISTAKEN, CHURN, events, now=BEGIN + 244 * DAY, settings=QUICK)
    tables = now.people.read_projected(origin, cut.scores.person, bundle.moments(origin))
    probabilities = bundle.score(
        [(table.numeric, table.categorical) for table in tables]
    ).churn_probability
    assert compared(report)[1] == gain_over(probabilities, cut)
    assert (
        "judged by its own declarations of since, age, bought, viewed, declared otherwise now"
        in champion_notes(report)
    )


def test_a_feature_more_changes_nothing_between_them(lake, young, tmp_path):
    report = trained(
        lake, shutil.copytree(young, tmp_path / "registry"), 230, features=declared(more=True)
    )
    assert compared(report)[1] == 0.0
    assert "its own declarations" not in champion_notes(report)


def test_a_champion_with_a_leaking_column_is_not_judged(lake, tmp_path):
    """Trusted then, and mended since under the same name: it would win by what it knows of the
    window.
    """
    trusting = Churn(
        window="28d", period="7d", recency="since", frequency="bought", age="age", trust=("viewed",)
    )
    trained(lake, tmp_path, 244, trusting, features=declared(closed=True), promoted=True)
    report = trained(lake, tmp_path, 244)
    assert (
        "it reads the column viewed, which looks past the origin as it was declared then"
        in champion_notes(report)
    )


@pytest.mark.parametrize("day", [pytest.param(200, marks=pytest.mark.nightly), 230])
def test_what_is_left_out_now_is_compared_with_the_champion_that_has_it(lake, tmp_path, day):
    """To leave out what is worth something is no way past the gate."""
    trained(lake, tmp_path, day, promoted=True)
    report = trained(
        lake,
        tmp_path,
        244,
        Churn(window="28d", period="7d", leave_out=("since", "bought", "viewed")),
    )
    reason, gain = compared(report)
    assert gain < 0
    assert not report.promoted
    assert reason.startswith("falls too far behind")
    assert "reads since, bought, viewed too" in champion_notes(report)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"types": ("purchase", "view")},
            "predicts whether somebody does no purchase any more, and not purchase, view",
        ),
        ({"per": "event"}, "what counts as one purchase (per)"),
    ],
)
@pytest.mark.parametrize("day", [200, pytest.param(230, marks=pytest.mark.nightly)])
def test_a_champion_that_answers_another_question_is_not_judged(lake, tmp_path, day, changes, why):
    trained(lake, tmp_path, day, promoted=True)
    report = trained(lake, tmp_path, 244, Churn(window="28d", period="7d", **changes))
    assert why in champion_notes(report)
    assert "over the champion" not in champion_notes(report)


def test_a_champion_that_does_not_bring_other_declarations_is_not_judged(lake, tmp_path):
    trained(lake, tmp_path / "before", 230, features=MISTAKEN, promoted=True)
    bare = shutil.copytree(tmp_path / "before" / "v0001", tmp_path / "bare")
    (bare / "features.json").unlink()
    seal(bare, bundle_of(tmp_path / "before", "v0001").manifest)
    store = Registry(tmp_path / "registry", clock=SimulatedClock(BEGIN + 230 * DAY))
    store.promote(store.add(bare, by="test", why="a test"), by="test", why="a test")
    report = trained(lake, tmp_path / "registry", 231)
    assert (
        "it does not bring the declarations of its columns, and features.py has others now"
        in champion_notes(report)
    )
