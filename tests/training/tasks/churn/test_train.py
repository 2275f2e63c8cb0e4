"""Churn: labels that know their limits, features that do not look ahead, figures beside others'
figures, and a planted leak.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from tests.support.churn_columns import declare_habits
from tests.support.shops.churn_log import BEGIN, CHURN, day_start, make_purchase_log, make_purchases

from tailorbird.errors import DeclarationError, LeakError, NotReadyError
from tailorbird.events import DAY, ROUTED, SECOND
from tailorbird.events.merges import Merge, resolve_merged_user
from tailorbird.features import FeatureSet, attribute, count, entity, time_since, time_since_first
from tailorbird.features.declare.checks import collect_features
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.ranking import Churn, Contact
from tailorbird.ranking.churn.columns import user_only_columns
from tailorbird.ranking.churn.plan import ChurnPlan, Part
from tailorbird.training.tasks.churn.backtest import ChurnSettings, run_backtest
from tailorbird.training.tasks.churn.contact import contact_curve
from tailorbird.training.tasks.churn.evaluation import MODEL_NAME, SortedScores
from tailorbird.training.tasks.churn.fit import COUNT_MODELS, leakage_check_rows
from tailorbird.training.tasks.churn.labels import Activity, Window, build_activity
from tailorbird.training.tasks.churn.report import cut_to_dict
from tailorbird.training.tasks.churn.rolling_origin import backtest_windows, feature_horizon
from tailorbird.training.tasks.churn.rows import PeopleFeatures, needed_columns
from tailorbird.training.tasks.churn.training_rows import FitSettings

QUICK = ChurnSettings(
    FitSettings(gbdt=GbdtSettings(trees=30, rate=0.1, patience=10), rows=6_000),
    cuts=3,
    grid_rows=12_000,
    lateness_us=0,
    replicates=50,
)


def declared(*more):
    """Three features about the user, and what else a test declares by a function."""
    with collect_features() as declarations:
        user, item = entity("user"), entity("item")
        declare_habits(user)
        count("sold", item, "purchase", window="7d")
        for each in more:
            each(user)
    return FeatureSet.from_declarations(declarations)


def test_a_label_counts_from_the_end_of_the_gap_to_the_end_of_the_window():
    activity = build_activity(make_purchases(0, 12, 15, 19.99, 20), CHURN, day_start(40))
    who = activity.active_people(day_start(10))
    window = Window(day_start(10), 5 * DAY, 5 * DAY)
    assert activity.count_activity(who, window.start, window.stop).tolist() == [
        2.0
    ]  # 15 and 19.99; 12 lies in the gap, 20 is too late


def test_a_window_that_is_not_over_has_no_label():
    activity = build_activity(make_purchases(0, 1), CHURN, day_start(30))
    with pytest.raises(LeakError, match="its window is cut off"):
        activity.count_activity(activity.active_people(day_start(10)), day_start(10), day_start(31))
    with pytest.raises(LeakError, match="cut off"):
        activity.as_of(day_start(10)).count_activity(
            activity.active_people(day_start(5)), day_start(5), day_start(11)
        )


def test_a_window_before_its_origin_is_refused():
    with pytest.raises(LeakError, match="reaches back before it"):
        Window(day_start(10), -DAY, 5 * DAY)


def test_late_arrivals_are_not_known_earlier():
    late = make_purchases(5, received_at=day_start(9))
    activity = build_activity(late, CHURN, day_start(30))
    assert len(activity.as_of(day_start(8)).active_people(day_start(8))) == 0
    assert len(activity.as_of(day_start(10)).active_people(day_start(10))) == 1


def test_late_events_of_an_import_are_not_known_earlier_either():
    """It stands in the log in order of time: what came in on day 9 has its place before what came
    in on day 6.
    """
    events = pa.concat_tables(
        [
            make_purchases(5, received_at=day_start(9)),
            make_purchases(6, 10).set_column(0, ROUTED.field("p"), pa.array([2, 3])),
        ]
    )
    activity = build_activity(events, CHURN, day_start(30))
    people = PeopleFeatures(declared(), events, activity, user_only_columns(declared()))
    bought = people.columns.numeric.index("bought")
    who = np.zeros(4, np.int64)
    read = people.read_historical(
        who, np.array([day_start(5.5), day_start(7), day_start(9.5), day_start(11)])
    )
    assert np.nan_to_num(read.numeric[:, bought]).tolist() == [0, 1, 2, 3]
    assert people.find_leaks([day_start(7)], [who[:1]]) == {}


def test_purchases_of_a_day_are_one_by_default():
    table = make_purchases(0.1, 0.2, 3)
    who = np.zeros(1, np.int64)
    assert (
        build_activity(table, CHURN, day_start(9)).count_activity(who, day_start(0), day_start(9))
        == 2
    )
    assert (
        build_activity(table, Churn(per="event"), day_start(9)).count_activity(
            who, day_start(0), day_start(9)
        )
        == 3
    )


def test_no_unknown_user_is_scored():
    with pytest.raises(NotReadyError, match="by a known user"):
        build_activity(make_purchases(1, person="anon:x"), CHURN, day_start(9))


@pytest.mark.nightly
@pytest.mark.slow
def test_the_order_of_the_lake_changes_nothing():
    """Rows of the same past in another order, as compaction or another import leaves them: the same
    people are drawn and held back.
    """
    events = make_purchase_log(people=250, days=130)
    mixed = events.take(pa.array(np.random.default_rng(1).permutation(events.num_rows)))
    backtests = [
        run_backtest(
            declared(),
            CHURN,
            each,
            now=day_start(130),
            settings=replace(QUICK, cuts=1, scored_people_max=100),
        )
        for each in (events, mixed)
    ]
    one, two = (each.cuts[-1] for each in backtests)
    assert one.fitted.models["trees"].importance() == two.fitted.models["trees"].importance()
    np.testing.assert_array_equal(one.probability, two.probability)
    np.testing.assert_array_equal(one.churned, two.churned)


def test_only_columns_about_the_person_take_part():
    assert user_only_columns(declared()).numeric == ("since", "age", "bought")
    assert user_only_columns(declared(), leave_out=["age"]).numeric == ("since", "bought")


def test_projected_columns_are_those_of_an_inactive_user():
    """Read 10 days after the origin: what the person bought in between must not show, and time has
    passed.
    """
    events = make_purchase_log()
    activity = build_activity(events, CHURN, day_start(200))
    people = PeopleFeatures(declared(), events, activity, user_only_columns(declared()))
    who = activity.as_of(day_start(100)).active_people(day_start(100))
    now, later = people.read_projected(day_start(100), who, [day_start(100), day_start(110)])
    np.testing.assert_array_equal(
        now.numeric, people.read_historical(who, np.full(len(who), day_start(100))).numeric
    )
    since = later.numeric[:, 0] - now.numeric[:, 0]
    np.testing.assert_allclose(since, 10 * 86_400, atol=1)
    assert (later.numeric[:, 2] <= now.numeric[:, 2]).all()
    truly = people.read_historical(who, np.full(len(who), day_start(110)))
    assert (truly.numeric[:, 0] < later.numeric[:, 0]).any()  # somebody bought in between
    with pytest.raises(LeakError, match="before their origin"):
        people.read_projected(day_start(100), who, [day_start(99)])


def test_a_profile_without_a_time_is_valid_from_the_beginning_whenever_it_was_loaded():
    loaded = {
        "type": "user",
        "ts": BEGIN,
        "timeless": True,
        "received_at": day_start(190),
        "person": "u0",
    }
    events = make_purchase_log(profiles=[{**loaded, "properties": json.dumps({"closed": 1})}])
    features = declared(lambda user: attribute("closed", user, "closed", kind="numeric"))
    activity = build_activity(events, CHURN, day_start(200))
    people = PeopleFeatures(features, events, activity, user_only_columns(features))
    who = activity.as_of(day_start(100)).active_people(day_start(100))
    features_then = people.read_historical(who, np.full(len(who), day_start(100))).numeric
    assert np.count_nonzero(features_then[:, people.columns.numeric.index("closed")] == 1) == 1
    np.testing.assert_array_equal(
        features_then, people.read_projected(day_start(100), who, [day_start(100)])[0].numeric
    )


def test_a_planted_leak_is_refused_by_name():
    """A profile without a time says who closed the account in the end: valid from the beginning, it
    knows the future.
    """
    closed = [
        {
            "type": "user",
            "ts": BEGIN,
            "timeless": True,
            "person": f"u{number}",
            "properties": json.dumps({"closed": number % 2}),
        }
        for number in range(400)
    ]
    features = declared(lambda user: attribute("closed", user, "closed", kind="numeric"))
    events = make_purchase_log(profiles=closed)
    with pytest.raises(
        LeakError, match=r"column closed looks past the origin: .* from a profile without a time"
    ):
        run_backtest(features, CHURN, events, now=day_start(200), settings=QUICK)
    trusted = run_backtest(
        features,
        Churn(window="28d", period="7d", trust=("closed",)),
        events,
        now=day_start(200),
        settings=QUICK,
    )
    assert "closed" in trusted.people.columns.numeric


@pytest.mark.slow
def test_a_dominant_column_is_reported_unless_it_is_recency():
    """An account that is closed with the last purchase: some who stay do not buy within a window
    either, so it does not tell all.
    """
    leaks = {"type": "user", "raw_partition": "serve-1", "properties": json.dumps({"closed": 1})}
    last = make_purchase_log().group_by("person").aggregate([("ts", "max")]).to_pylist()
    profiles = [
        leaks | {"person": each["person"], "ts": int(each["ts_max"].timestamp() * SECOND)}
        for each in last
    ]
    user = entity("user")
    age, since = time_since_first("age", user, "purchase"), time_since("since", user, "purchase")
    closed = attribute("closed", user, "closed", kind="numeric")

    def backtest_of(*columns, **named):
        features = FeatureSet.from_declarations(columns)
        return run_backtest(
            features,
            Churn(window="28d", period="7d", **named),
            make_purchase_log(profiles=profiles),
            now=day_start(200),
            settings=QUICK,
        )

    leaks = backtest_of(age, closed)
    assert (list(leaks.dominant), leaks.leaks) == (["closed"], {})
    assert re.search(
        r"an AUC of 0\.8\d\d for leaving, while no other column is above 0\.\d+",
        leaks.dominant["closed"],
    )
    assert list(backtest_of(age, since).dominant) == ["since"]
    assert backtest_of(age, since, recency="since", frequency="age", age="age").dominant == {}, (
        "it is said to be what it is"
    )


def left(**more):
    """A profile a user that says who left in the end, dated to the first day, as a table imported
    today by the day of sign-up gives it.
    """
    one = {"type": "user", "ts": BEGIN, "ts_original": BEGIN, "raw_partition": "import", **more}
    return [
        one
        | {
            "person": f"u{number}",
            "properties": json.dumps({"left": "yes" if number % 2 else "no"}),
        }
        for number in range(400)
    ]


def with_left(user):
    attribute("left", user, "left", kind="categorical")


def leaking(profiles, features=None):
    """The columns that are told to look past the 100th day."""
    features = declared(with_left) if features is None else features
    events = make_purchase_log(profiles=profiles)
    activity = build_activity(events, CHURN, day_start(200))
    people = PeopleFeatures(features, events, activity, user_only_columns(features))
    return people.find_leaks(
        [day_start(100)], [activity.as_of(day_start(100)).active_people(day_start(100))]
    )


@pytest.mark.slow
def test_profiles_of_a_table_that_was_dated_back_are_refused_by_name():
    """Exported today, and valid from the sign-up on: the log has no word of when anybody knew what
    it says.
    """
    features, events = declared(with_left), make_purchase_log(profiles=left())
    with pytest.raises(
        LeakError,
        match=r"column left looks past the origin: .* from the one profile that was imported of "
        "them",
    ) as error:
        run_backtest(features, CHURN, events, now=day_start(200), settings=QUICK)
    assert 'trust=("left",)' in error.value.fix
    assert "received_at" in error.value.fix
    trusted = run_backtest(
        features,
        Churn(window="28d", period="7d", trust=("left",)),
        events,
        now=day_start(200),
        settings=QUICK,
    )
    assert "left" in trusted.people.columns.categorical
    again = left() + left(event_id="of-the-next-export")
    assert set(leaking(again)) == {"left"}, "the same table once more is no history"


@pytest.mark.parametrize(
    "more",
    [
        {"raw_partition": "serve-1"},  # by the collector, which saw it come
        {"received_at": day_start(120)},  # said when it was exported: before that nobody knew
        {"ts_original": None},  # of the moment of the import
        {"sent_at": BEGIN},  # a message of the time, from an archive of them
    ],
)
def test_profiles_known_at_their_time_are_not_refused(more):
    assert leaking(left(**more)) == {}


def test_profiles_of_several_times_are_not_backdated():
    assert leaking(left() + left(ts=day_start(50), ts_original=day_start(50))) == {}
    assert leaking(left() + left(ts=day_start(50), ts_original=day_start(50))[:20]) == {}, (
        "a row for each change, and few changed"
    )
    of_plans = [
        one | {"properties": json.dumps({"plan": "gold"})}
        for one in left()[:10] + left(ts=day_start(50), ts_original=day_start(50))[:10]
    ]
    assert set(leaking(left() + of_plans)) == {"left"}, (
        "another table is one of changes, and says nothing of this one"
    )


def test_a_single_attribute_update_does_not_count_as_a_full_profile():
    """Use a reason for leaving in the last row only, and `left` in all rows.

    No column reads the country.
    """
    more = {"why": "too dear", "country": "NO"}
    last = [
        one | {"properties": json.dumps(json.loads(one["properties"]) | more)}
        for one in left(ts=day_start(50), ts_original=day_start(50))
    ]
    assert leaking(left() + last) == {}
    both = declared(
        lambda user: (with_left(user), attribute("why", user, "why", kind="categorical"))
    )
    assert set(leaking(left() + last, both)) == {"why"}


def test_events_that_were_distinguished_by_a_profile_that_was_dated_back_are_refused_too():
    """Check that profile copies that the router stored with purchases count as the profile."""

    def bought_by(user):
        count("bought_by_leavers", user, "purchase", where="user.left == 'yes'")

    profile = json.dumps({"left": "yes"})
    profiles = left() + [
        {
            "type": "purchase",
            "ts": day_start(at),
            "person": "u1",
            "item_id": "i",
            "user_profile": profile,
        }
        for at in (3, 5)
    ]
    assert set(leaking(profiles, declared(bought_by))) == {"bought_by_leavers"}


@pytest.mark.slow
def test_a_study_learns_without_the_future_and_separates_people():
    events = make_purchase_log(people=900)
    backtest = run_backtest(declared(), CHURN, events, now=day_start(200), settings=QUICK)
    assert [cut.scores.window.stop <= day_start(200) for cut in backtest.cuts] == [True] * 3
    last = backtest.cut_metrics[-1]
    assert last.results[MODEL_NAME]["auc"].value > 0.7
    assert last.results[MODEL_NAME]["auc"].value > last.results["recency"]["auc"].value - 0.02
    assert abs(last.results[MODEL_NAME]["bias"].value) < 0.4
    assert set(last.results) == {MODEL_NAME, "recency", "rfm_logistic", "bg_nbd", "bg_nbd_count"}
    assert last.cut.fitted.count_models == tuple(last.cut.scores.purchases) == COUNT_MODELS
    np.testing.assert_allclose(
        last.cut.purchases,
        last.cut.scores.purchases[last.cut.choice.count_model] * last.cut.choice.scale,
    )
    assert (
        0.6
        < last.cut.scores.purchases["pareto_nbd"].sum() / last.cut.scores.purchases["bg_nbd"].sum()
        < 1.6
    )

    # What happens after the last origin changes its outcome, and nothing that was said of it.
    origin = last.cut.scores.window.origin
    earlier_events = events.filter(pa.array(np.asarray(events["ts"].cast(pa.int64())) < origin))
    cut_off = build_activity(earlier_events, CHURN, day_start(200))
    people = PeopleFeatures(declared(), earlier_events, cut_off, backtest.people.columns)
    names = backtest.activity.people.decode(last.cut.scores.person)
    who = cut_off.people.encode(pa.array(names))
    again = last.cut.fitted.churn_probabilities(people.read_projected(origin, who, [origin])[0], [])
    probabilities = last.cut.fitted.churn_probabilities(
        backtest.people.read_projected(origin, last.cut.scores.person, [origin])[0], []
    )
    np.testing.assert_array_equal(again["trees"], probabilities["trees"])


def test_windows_shrink_with_the_history_and_end_where_there_is_none():
    activity = build_activity(make_purchase_log(people=30), CHURN, day_start(200))
    assert {window.length for window in backtest_windows(activity, CHURN, 6)} == {28 * DAY}
    long = backtest_windows(activity, Churn(window="105d", period="7d"), 6)
    assert len(long) == 3
    assert all(window.stop <= activity.known_until and window.length == 63 * DAY for window in long)
    with pytest.raises(NotReadyError, match="too short for a window of 399d"):
        backtest_windows(activity.as_of(day_start(40)), Churn(window="399d", period="21d"), 6)


def test_features_are_not_read_where_they_begin_to_forget():
    assert feature_horizon(day_start(0), day_start(273)) == day_start(399)
    assert feature_horizon(day_start(0), day_start(500)) > day_start(10_000)
    plan = ChurnPlan(
        "churn",
        ("purchase",),
        60 * DAY,
        0,
        0,
        30 * DAY,
        2,
        day_start(399),
        (Part("hazard_trees", "hazard"),),
    )
    assert plan.moments(day_start(380)) == [day_start(380), day_start(380), day_start(399)]


def merge(user, into, at, **more):
    """A row of `make_purchase_log`: that a user is another one from a day on."""
    return {"type": "merge", "ts": day_start(at), "user_id": user, "person": into, **more}


def present_at(activity: Activity, at):
    return set(activity.people.decode(activity.as_of(day_start(at)).active_people(day_start(at))))


def test_merged_users_are_not_scored_until_the_merge_is_undone():
    rows = [
        {"type": "purchase", "ts": day_start(1), "person": person}
        for person in ("guest", "account", "late")
    ]
    rows += [
        merge("guest", "account", 10),
        merge("guest", "guest", 20),
        merge("late", "account", 10, received_at=day_start(15)),
    ]
    activity = build_activity(
        make_purchase_log(people=0, profiles=rows).select(needed_columns(declared())),
        CHURN,
        day_start(40),
    )
    assert present_at(activity, 9) == {"guest", "account", "late"}
    assert present_at(activity, 12) == {"account", "late"}, (
        "the merge of the second was not known yet"
    )
    assert present_at(activity, 16) == {"account"}
    assert present_at(activity, 21) == {"guest", "account"}


@pytest.mark.parametrize("seed", range(3))
def test_merged_users_follow_from_the_merges(seed):
    """Chains, circles and those taken back, known late or at once."""
    rng = np.random.default_rng(seed)
    names = [f"u{number}" for number in range(8)]
    rows = [{"type": "purchase", "ts": day_start(0), "person": name} for name in names]
    for _ in range(30):
        at = float(rng.integers(1, 40))
        rows.append(
            merge(
                *rng.choice(names, 2).tolist(),
                at,
                received_at=day_start(at + rng.choice([0, 0, 0, 7])),
            )
        )
    events = make_purchase_log(people=0, profiles=rows)
    activity = build_activity(events, CHURN, day_start(60))
    merges = [row for row in events.to_pylist() if row["type"] == "merge"]
    at = lambda row, name: int(row[name].timestamp()) * 1_000_000  # noqa: E731
    for cut in range(1, 50):
        merge_rows = [
            row
            for row in merges
            if at(row, "ts") < day_start(cut) and at(row, "received_at") <= day_start(cut)
        ]
        newest = {
            row["user_id"]: Merge(at(row, "ts"), row["p"], row["person"]) for row in merge_rows
        }
        assert present_at(activity, cut) == {
            name for name in names if resolve_merged_user(name, newest.get)[0] == name
        }


@pytest.mark.slow
def test_who_is_merged_within_a_window_teaches_nothing_and_counts_for_nothing():
    """A hundred people are other names of others from a day within the last window on, as if all of
    them had stayed away.
    """
    at, merged = 180.0, {f"u{number}" for number in range(100)}
    merges = [merge(name, f"u{int(name[1:]) + 100}", at) for name in sorted(merged)]
    settings = replace(QUICK, fit=replace(QUICK.fit, rows=1_000_000), grid_rows=1_000_000)
    backtest = run_backtest(
        declared(), CHURN, make_purchase_log(profiles=merges), now=day_start(200), settings=settings
    )
    last, names = backtest.cuts[-1], backtest.activity.people
    window = last.scores.window
    assert window.origin < day_start(at) < window.stop
    then = backtest.activity.as_of(window.origin).active_people(window.origin)
    assert merged & set(names.decode(then)), "nobody knew of it at the origin"
    assert not merged & set(names.decode(last.scores.person))
    assert last.merged == len(then) - len(last.scores.person) > 50
    assert cut_to_dict(backtest.cut_metrics[-1])["merged"] == last.merged

    grid, now = backtest.grid, Window(backtest.activity.known_until, 0, window.length)
    other = np.isin(grid.person, names.encode(pa.array(sorted(merged))))
    taught = grid.is_origin & (grid.moment + window.length <= day_start(200))
    cut_off = other & (grid.moment + window.length > day_start(at))
    assert np.count_nonzero(taught & cut_off) > 50
    _, label = leakage_check_rows(last.fitted, grid, backtest.activity, now, settings.fit)
    assert len(label) == np.count_nonzero(taught & ~cut_off)


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_ap_are_scikit_learns_also_with_weights_and_ties(seed):
    rng = np.random.default_rng(seed)
    score, label = rng.integers(0, 12, 300) / 10, rng.random(300) < 0.4
    weight = rng.poisson(1.0, 300).astype(float)
    area, average, lift = SortedScores(score, label).ranking_metrics(weight)
    assert area == pytest.approx(roc_auc_score(label, score, sample_weight=weight))
    assert average == pytest.approx(average_precision_score(label, score, sample_weight=weight))
    assert 0 <= lift <= 10
    assert SortedScores(np.arange(10.0), np.arange(10) == 9).ranking_metrics(np.ones(10))[
        2
    ] == pytest.approx(10.0)


def test_whom_to_contact_and_what_it_is_worth():
    curve = contact_curve(
        np.array([0.9, 0.2, 0.6]),
        np.array([True, True, False]),
        Contact(cost=1.0, value=10.0, success=0.5),
    )
    np.testing.assert_allclose(curve.expected_value, [3.5, 5.5, 5.5])
    np.testing.assert_allclose(curve.realised_value, [4.0, 3.0, 7.0])
    assert curve.best_k == 2
    assert curve.recall.tolist() == [0.5, 0.5, 1.0]
    assert contact_curve(np.array([0.1]), np.array([True]), Contact(cost=9.0)).best_k == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"types": "purchase"}, "needs a list"),
        ({"window": "soon"}, "window: expected a duration"),
        ({"window": "90d", "period": "7d"}, "no whole number of periods"),
        ({"per": "week"}, "unknown per"),
        ({"recency": "since"}, "together or not at all"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(given, message):
    with pytest.raises(DeclarationError, match=message):
        Churn(**given)
