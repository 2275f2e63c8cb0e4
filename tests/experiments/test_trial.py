"""The report and the plan of an experiment, over events whose truth is known."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, MINUTE, ROUTED
from tailorbird.experiments import Experiment, Metric, assign
from tailorbird.experiments.drawing import plan_svg, stages_svg
from tailorbird.experiments.measure import measure
from tailorbird.experiments.plan import plan_experiment
from tailorbird.experiments.trial import TrialReport, trial_report
from tailorbird.experiments.unit_values import metric_values
from tailorbird.experiments.units import UNIT_COLUMNS, UnitTable, load_units

START = 20_000 * DAY
PEEKED_SEED = 7  # of an A/A test whose statistic exceeds 1.96 on the third day
THREE_ARMS = {"old": 0.34, "new": 0.33, "bad": 0.33}
EXPERIMENT = Experiment(
    "fresh",
    {"old": 0.5, "new": 0.5},
    policies={"old": "popular", "new": "recent"},
    slot="home",
    effect=0.2,
    duration="10d",
    guardrails=[
        Metric("orders", "conversion", event="purchase"),
        Metric("revenue", "revenue", winsorise=0.99),
        Metric("dwell", "mean", event="click", value="dwell_s"),
        Metric("median clicks", "quantile", quantile=0.8),
        Metric("back", "return", window="3d"),
        Metric("views", "count", event="view", scope="site"),
    ],
)


def site_events(
    users: int = 1_500,
    days: int = 10,
    lift: float = 1.0,
    *,
    seed: int = 1,
    lose: str = "",
    skew: float = 0.0,
    wander: float = 0.0,
    history_days: int = 0,
    harm: float = 1.0,
    experiment: Experiment = EXPERIMENT,
) -> pa.Table:
    """Return events of users who come on some days, see five items, and click by taste.

    `lift` multiplies the clicks of the arm `new`, and `harm` those of `bad`. The faults: impressions of an arm are lost, units
    of the control are missing, or units change arms.
    """
    rng, rows = np.random.default_rng(seed), []
    for number in range(users):
        user = f"u{number}"
        arm = assign(experiment, user)
        if arm == "old" and rng.random() < skew:
            continue
        taste = 0.1 * rng.gamma(4, 0.25)
        device = "phone" if rng.random() < 0.5 else "desktop"
        for day in np.flatnonzero(rng.random(history_days + days) < 0.3).tolist():
            ts = START + (day - history_days) * DAY + int(rng.integers(1, 20 * 60)) * MINUTE
            runs = day >= history_days
            now = ("old" if arm == "new" else "new") if rng.random() < wander else arm
            request = f"{user}-{day}"
            base = {"person": user, "agent": "person", "slot": "home", "request_id": request}
            if runs:
                base |= {"experiment": "fresh", "arm": now}
            items = [f"i{n}" for n in range(5)]
            rows.append(base | {"type": "answer", "ts": ts, "items": items, "device": device})
            rows.append({"person": user, "type": "view", "ts": ts + 5 * MINUTE})
            if now == lose and runs and rng.random() < 0.4:
                continue
            for position, item in enumerate(items):
                seen = base | {"item_id": item, "position": position + 1}
                rows.append(seen | {"type": "impression", "ts": ts + 1})
                factor = {"new": lift, "bad": harm}.get(now, 1.0) if runs else 1.0
                if rng.random() < taste * factor:
                    rows.append(seen | {"type": "click", "ts": ts + MINUTE, "dwell_ms": 4_000.0})
                    if rng.random() < 0.3:
                        bought = {"type": "purchase", "price": 20.0, "quantity": 2.0}
                        rows.append(seen | bought | {"ts": ts + 2 * MINUTE})
    schema = pa.schema([ROUTED.field(name) for name in UNIT_COLUMNS])
    return pa.Table.from_pylist(rows, schema=schema)


def report(events: pa.Table, day: float = 10, **changes) -> TrialReport:
    experiment = replace(EXPERIMENT, **changes)
    return trial_report(
        events, experiment, started_at=START, now=START + int(day * DAY), attribution=30 * MINUTE
    )


@pytest.fixture(scope="module")
def winner() -> pa.Table:
    return site_events(lift=1.5)


def test_a_sequential_plan_stops_early_and_reports_what_it_may(winner: pa.Table) -> None:
    result = report(winner, day=9)
    assert result.colour == "green"
    assert result.verdict.startswith("new beats old: +")
    crossed = [each for each in result.stages["new"] if abs(each.z) >= each.bound]
    assert crossed
    assert crossed[0].at < START + 9 * DAY
    primary = result.primary[0]
    assert 0 < primary.low < 0.5 < primary.high
    assert result.advice.endswith("experiment decide fresh new")
    assert all(check.passed for check in result.checks)
    assert {each.metric for each in result.guardrails} == {m.name for m in EXPERIMENT.guardrails}
    stopped = trial_report(
        winner,
        EXPERIMENT,
        started_at=START,
        now=START + 9 * DAY,
        stopped_at=crossed[0].at,
        state="stopped",
        attribution=30 * MINUTE,
    )
    assert stopped.stages["new"] == result.stages["new"][: len(stopped.stages["new"])]
    assert stopped.verdict.startswith("new beats old: +")
    assert stopped.find_crossing("new") == len(stopped.stages["new"]) - 1
    assert stopped.advice == "Decide: tailorbird experiment decide fresh new --why …"
    early = report(winner, day=0.5)
    assert early.colour == "amber"
    assert early.verdict.startswith("Not decided yet")


def test_a_fixed_plan_says_nothing_before_its_end(winner: pa.Table) -> None:
    assert report(winner, 9, stopping="fixed").verdict.startswith("Not decided yet")
    assert report(winner, 10, stopping="fixed").verdict.startswith("new beats old")
    late = report(winner, 12, stopping="fixed")
    assert late.primary == report(winner, 10, stopping="fixed").primary
    assert report(winner, 9, stopping="anytime").verdict.startswith("new beats old")


@pytest.mark.parametrize("stopping", ["group_sequential", "fixed"])
def test_a_stop_by_hand_spends_no_alpha_and_a_decision_is_a_persons(stopping: str) -> None:
    """The statistic exceeds 1.96 on the third day, but not the boundary of that day."""
    experiment = replace(EXPERIMENT, stopping=stopping, guardrails=[], effect=0.1)
    events, day = site_events(600, 3, seed=PEEKED_SEED), START + 3 * DAY
    options = {"started_at": START, "attribution": 30 * MINUTE}
    running = trial_report(events, experiment, now=day, **options)
    assert abs(running.stages["new"][-1].z) > 1.96
    assert running.verdict.startswith("Not decided yet")
    options |= {"now": day + DAY, "stopped_at": day}
    stopped = trial_report(events, experiment, state="stopped", **options)
    assert stopped.stages == running.stages
    assert stopped.colour == "amber"
    assert stopped.verdict.startswith("Stopped 7.0 days before its planned end, without a verdict")
    assert "a decision is yours" in stopped.advice
    assert stopped.find_crossing("new") is None
    options |= {"state": "decided", "decision": "new", "decided_by": "ada"}
    decided = trial_report(events, experiment, **options)
    assert decided.advice.startswith("Nothing: ada decided for new. It is a person's decision")


def test_each_arm_that_crossed_is_named_and_those_that_harm_first() -> None:
    experiment = replace(EXPERIMENT, arms=THREE_ARMS, guardrails=[])
    options = {"started_at": START, "now": START + 6 * DAY, "attribution": 30 * MINUTE}
    events = site_events(lift=1.6, harm=0.4, experiment=experiment)
    both = trial_report(events, experiment, **options)
    assert both.colour == "red"
    assert both.verdict.index("bad is worse than old: -") < both.verdict.index("new beats old: +")
    assert "bad changes" in both.risk
    assert both.advice.endswith("experiment decide fresh new")
    events = site_events(users=1_200, harm=0.4, seed=7, experiment=experiment)
    one = trial_report(events, experiment, **options)
    assert one.colour == "red"
    assert one.verdict.startswith("bad is worse than old: -")
    assert "; not decided yet" in one.verdict
    assert one.advice.endswith("start one without bad, for new.")


@pytest.mark.parametrize("increase_is_good", [True, False])
def test_the_worst_case_of_a_guardrail_is_its_bad_end(
    winner: pa.Table, increase_is_good: bool
) -> None:
    guardrail = Metric("all clicks", "count", increase_is_good=increase_is_good)
    result = report(winner, guardrails=[guardrail])
    worst = result.guardrails[0].low if increase_is_good else result.guardrails[0].high
    assert f"all clicks by {worst:+.1%}" in result.risk


def test_a_loser_is_red_and_no_effect_is_not_shown() -> None:
    loser = report(site_events(lift=0.6))
    assert (loser.colour, "is worse than" in loser.verdict) == ("red", True)
    none = report(site_events(lift=1.0, seed=5))
    assert none.colour == "amber"
    assert none.verdict.startswith("No difference")


@pytest.mark.parametrize(
    ("fault", "check", "reason"),
    [
        ({"skew": 0.5}, "sample ratio", "The split is"),
        ({"lose": "new"}, "logs", "some are lost"),
        ({"wander": 0.2}, "multiple exposure", "in several arms"),
    ],
)
def test_faults_turn_the_verdict_red_with_the_reason(fault, check: str, reason: str) -> None:
    result = report(site_events(lift=1.5, **fault))
    assert result.colour == "red"
    assert result.verdict.startswith("Do not decide")
    failed = {each.name: each.reason for each in result.checks if not each.passed}
    assert reason in failed[check]


def test_metrics_count_what_they_declare() -> None:
    base = {"person": "a", "agent": "person", "slot": "home", "request_id": "r"}
    base |= {"experiment": "fresh", "arm": "new"}
    ts = START + MINUTE
    rows = [
        base | {"type": "answer", "ts": ts, "items": ["i", "j"]},
        *(base | {"type": "impression", "ts": ts + 1, "item_id": item} for item in "ij"),
        base | {"type": "click", "ts": ts + 2, "item_id": "i", "dwell_ms": 3_000.0},
        {"person": "a", "type": "view", "ts": ts + 3, "item_id": "i", "dwell_ms": 30_000.0},
        base | {"type": "purchase", "ts": ts + 3, "item_id": "i", "price": 5.0, "quantity": 3.0},
        {"person": "a", "type": "view", "ts": ts + 2 * DAY},
        {"person": "a", "type": "purchase", "ts": ts + 9 * DAY, "price": 7.0},
    ]
    schema = pa.schema([ROUTED.field(name) for name in UNIT_COLUMNS])
    table = load_units(
        pa.Table.from_pylist(rows, schema=schema),
        "home",
        ("old", "new"),
        experiment="fresh",
        start=START,
        stop=START + 30 * DAY,
        attribution=30 * MINUTE,
    )

    def value(**fields) -> tuple[float, float | None]:
        values = metric_values(table, Metric("m", **fields), START + 30 * DAY)
        assert values.arm.tolist() == [1]
        return float(values.x[0]), None if values.y is None else float(values.y[0])

    assert value() == (1.0, 2.0)
    assert value(per="answer") == (1.0, 2.0)
    assert value(kind="count", event="impression") == (2.0, None)
    assert value(kind="conversion", event="purchase") == (1.0, None)
    assert value(kind="revenue") == (15.0, None)
    assert value(kind="revenue", scope="site") == (22.0, None)
    assert value(kind="revenue", scope="site", window="7d") == (15.0, None)
    assert value(kind="mean", value="dwell_s") == (3.0, None)
    assert value(kind="return", window="1d") == (0.0, None)
    assert value(kind="return", window="7d") == (1.0, None)
    assert value(window="1m") == (1.0, 2.0)
    assert value(kind="success") == (1.0, 1.0)
    assert value(kind="success", dwell="10s") == (0.0, 1.0)
    assert value(kind="success", event="view", dwell="10s") == (1.0, 1.0)
    assert value(kind="mean", event="view", value="dwell_s") == (30.0, None)


def test_exposure_begins_with_the_impression_where_that_is_declared() -> None:
    """Both see a response at 1; `b` never looks at it, and `a` only at the one of 2."""
    rows = []
    for person, at, looks in (("a", 1, False), ("a", 2, True), ("b", 1, False), ("a", 3, False)):
        base = {"person": person, "agent": "person", "slot": "home", "request_id": f"{person}{at}"}
        base |= {"experiment": "fresh", "arm": "new"}
        ts = START + at * DAY
        rows.append(base | {"type": "answer", "ts": ts, "items": ["i"]})
        rows.append(base | {"type": "click", "ts": ts + MINUTE, "item_id": "i"})
        if looks:
            rows.append(base | {"type": "impression", "ts": ts + 5, "item_id": "i"})
    schema = pa.schema([ROUTED.field(name) for name in UNIT_COLUMNS])

    def table(exposure: str) -> UnitTable:
        return load_units(
            pa.Table.from_pylist(rows, schema=schema),
            "home",
            ("old", "new"),
            experiment="fresh",
            start=START,
            stop=START + 9 * DAY,
            attribution=30 * MINUTE,
            exposure=exposure,
        )

    clicks = Metric("clicks", "count")
    by_answer, by_impression = table("answer"), table("impression")
    assert by_answer.exposed_units_by_arm == {"old": 0, "new": 2}
    assert sorted(metric_values(by_answer, clicks, START + 9 * DAY).x) == [1.0, 3.0]
    assert by_impression.exposed_units_by_arm == {"old": 0, "new": 1}
    assert by_impression.first_exposure_ts.tolist() == [START + 2 * DAY + 5]
    assert metric_values(by_impression, clicks, START + 9 * DAY).x.tolist() == [2.0]


def test_history_reduces_the_variance_and_keeps_the_estimate() -> None:
    events = site_events(lift=1.2, days=10, history_days=28)
    table = load_units(
        events,
        "home",
        ("old", "new"),
        experiment="fresh",
        start=START,
        stop=START + 10 * DAY,
        attribution=30 * MINUTE,
    )
    metric = Metric("clicks", "count")
    plain, adjusted = (
        measure(table, metric, 1, START + 10 * DAY, is_adjusted=flag) for flag in (False, True)
    )
    assert plain.effect is not None
    assert adjusted.effect is not None
    assert adjusted.variance_ratio < 0.95
    assert adjusted.effect.standard_error < plain.effect.standard_error
    assert abs(adjusted.effect.log_ratio - plain.effect.log_ratio) < 2 * plain.effect.standard_error


def test_the_page_and_the_json_hold_the_verdict(winner: pa.Table) -> None:
    result = report(winner)
    page = result._repr_html_()
    assert result.summary in page
    assert "narrowest at 10,000 units" in page
    assert "<script" not in page
    assert stages_svg(result, "new").count("<circle") == len(result.stages["new"])
    data = result.to_dict()
    assert data["verdict"] == result.verdict
    assert data["primary"][0]["p"] is not None
    assert {each["column"] for each in data["segments"]} == {"device"}
    table = result.to_frame()
    assert len(table) == len(repr(result).splitlines()) - 2 == 1 + len(EXPERIMENT.guardrails)
    assert table["uplift"][0].as_py() == result.primary[0].uplift
    (axes,) = result.plot().axes
    drawn = np.asarray(axes.lines[0].get_ydata())
    assert drawn.tolist() == [stage.z for stage in result.stages["new"]]


def test_a_report_without_traffic_says_what_to_do() -> None:
    empty = site_events(users=0)
    result = report(empty)
    assert (result.colour, result.verdict) == ("amber", "No unit has been in this experiment yet.")
    assert "unbounded" not in result._repr_html_()


def test_a_plan_costs_what_its_rule_costs() -> None:
    events = site_events(days=10, history_days=10)
    plan = plan_experiment(
        events, EXPERIMENT, now=START + 10 * DAY, attribution=30 * MINUTE, days=10
    )
    rules = {(each.rule, each.is_adjusted): each for each in plan.rules}
    fixed, sequential = rules["fixed", False], rules["obrien_fleming", False]
    assert fixed.sample_ratio == 1.0
    assert 1.02 < sequential.sample_ratio < 1.06
    assert rules["anytime", False].sample_ratio > rules["pocock", False].sample_ratio > 1.15
    assert rules["fixed", True].units <= fixed.units
    assert sequential.detectable > fixed.detectable
    curve = plan.detectable_by_day["fixed"]
    assert all(later < earlier for earlier, later in pairwise(curve))
    assert plan_svg(plan).count("<polyline") == 5
    assert len(plan.plot().axes[0].lines) == 5
    assert len(plan.to_frame()) == len(repr(plan).splitlines()) - 2 == len(plan.rules)
    assert "<svg" in plan._repr_html_()
    assert math.isfinite(plan.variance_ratio)
    longer = replace(EXPERIMENT, duration="28d")
    young = plan_experiment(events, longer, now=START + 10 * DAY, attribution=30 * MINUTE, days=28)
    assert 18 <= young.observed_days <= 20, "the slot has 20 days of responses"
    with pytest.raises(NotReadyError, match="0 units"):
        plan_experiment(
            site_events(users=0), EXPERIMENT, now=START, attribution=30 * MINUTE, days=10
        )
