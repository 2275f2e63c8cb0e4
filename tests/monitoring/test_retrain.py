"""The retraining trigger: it stays quiet as often as it says, and sees a fall soon, small and late
ones included.
"""

import math

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.errors import UsageError
from tailorbird.events import DAY, HOUR
from tailorbird.events.contract.schema import ROUTED
from tailorbird.experiments.counts import COLUMNS
from tailorbird.experiments.statistics import proportion_interval
from tailorbird.monitoring import RetrainCriteria, decide_from_steps, decide_retrain
from tailorbird.monitoring.retrain import LogRatioStep, scan_threshold

TRIGGER = RetrainCriteria("home", "model", "popular", false_alarm=0.05, periods_max=30)
START = 1_790_553_600_000_000
ITEMS = list("abcdefgh")


def sequence(rng, lifts, error=0.1):
    """Steps with these true lifts, and errors as a real step would have."""
    return [
        LogRatioStep(START + n * TRIGGER.period, math.log1p(lift) + error * rng.normal(), error**2)
        for n, lift in enumerate(lifts)
    ]


def alarms(reference, watched, runs=1_000, seed=0, trigger=TRIGGER):
    rng = np.random.default_rng(seed)
    return sum(
        decide_from_steps(sequence(rng, reference), sequence(rng, watched), trigger).should_retrain
        for _ in range(runs)
    )


@pytest.mark.slow
@pytest.mark.parametrize("reference", [4, 16])
@pytest.mark.parametrize("false_alarm", [0.02, 0.10])
def test_the_false_alarm_rate_of_a_full_watch_is_the_stated_one(reference, false_alarm):
    trigger = RetrainCriteria(
        "home", "model", "popular", false_alarm=false_alarm, periods_max=30, fall=0.0
    )
    low, high = proportion_interval(
        alarms([0.3] * reference, [0.3] * 30, trigger=trigger), 1_000, level=0.999
    )
    assert low <= false_alarm <= high


def test_the_threshold_falls_with_the_false_alarm_rate_and_rises_with_the_length():
    assert scan_threshold(0.3, 30, 0.01) > scan_threshold(0.3, 30, 0.1)
    assert scan_threshold(0.3, 60, 0.05) > scan_threshold(0.3, 10, 0.05)


def test_a_steep_fall_is_seen_within_a_few_periods():
    rng = np.random.default_rng(1)
    decision = decide_from_steps(
        sequence(rng, [0.4] * 12), sequence(rng, [0.4] * 8 + [-0.1] * 8), TRIGGER
    )
    assert decision.should_retrain
    assert decision.value_before == pytest.approx(0.4, abs=0.15)
    assert decision.value_after == pytest.approx(-0.1, abs=0.2)
    assert START + 6 * TRIGGER.period <= decision.since <= START + 9 * TRIGGER.period
    assert decision.decided_at <= START + 11 * TRIGGER.period
    assert "more than chance allows" in decision.reason


def test_a_slight_fall_is_seen_when_it_lasts():
    few, many = alarms([0.4] * 20, [0.28] * 3, runs=200), alarms([0.4] * 20, [0.28] * 30, runs=200)
    assert few < 40 < 120 < many


def test_a_rise_is_no_reason_to_retrain():
    assert alarms([0.2] * 12, [0.5] * 30, runs=200) == 0


def test_a_fall_too_small_to_matter_is_left_alone():
    trigger = RetrainCriteria("home", "model", "popular", fall=0.2, periods_max=30)
    rng = np.random.default_rng(2)
    exact = [sequence(rng, [lift] * 30, error=0.01) for lift in (0.4, 0.3)]
    assert not decide_from_steps(exact[0], exact[1], trigger).should_retrain
    assert decide_from_steps(
        exact[0], exact[1], RetrainCriteria("home", "model", "popular", fall=0.02, periods_max=30)
    ).should_retrain


def test_the_decision_does_not_change_when_more_is_seen():
    rng = np.random.default_rng(3)
    reference, watched = sequence(rng, [0.4] * 12), sequence(rng, [-0.2] * 20)
    first = next(
        n for n in range(1, 21) if decide_from_steps(reference, watched[:n], TRIGGER).should_retrain
    )
    assert decide_from_steps(reference, watched, TRIGGER).decided_at == watched[first - 1].start


def test_without_data_it_states_what_is_missing():
    decision = decide_from_steps([], sequence(np.random.default_rng(4), [0.3]), TRIGGER)
    assert not decision.should_retrain
    assert "too few clicks in the reference window" in decision.reason


def routed(rates_by_day, people=120, seed=0):
    """A table of impressions and clicks: each person sees two lists a day in its arm."""
    rng = np.random.default_rng(seed)
    rows = []
    for day, rates in enumerate(rates_by_day):
        for arm, rate in rates.items():
            for person in range(people):
                ts = START + day * DAY + int(rng.integers(0, DAY - HOUR))
                base = {
                    "person": f"{arm}{person}",
                    "agent": "person",
                    "slot": "home",
                    "experiment": "test",
                    "arm": arm,
                }
                requests = [f"{arm}{person}-{day}-{number}" for number in range(2)]
                rows += [
                    base | {"type": "impression", "ts": ts, "items": ITEMS, "request_id": request}
                    for request in requests
                ]
                for place in rng.permutation(2 * len(ITEMS))[
                    : int(rng.binomial(2 * len(ITEMS), rate))
                ].tolist():
                    request, position = requests[place % 2], place // 2 + 1
                    click = {
                        "type": "click",
                        "ts": ts + 5_000_000,
                        "request_id": request,
                        "item_id": ITEMS[position - 1],
                    }
                    rows.append(base | click | {"position": position})
    return pa.table(
        {
            name: pa.array([row.get(name) for row in rows], ROUTED.field(name).type)
            for name in COLUMNS
        }
    )


def watch(events, control="popular", **more):
    trigger = RetrainCriteria("home", "model", control, experiment="test", period=6 * HOUR, **more)
    return decide_retrain(events, trigger, reference_from=START, reference_to=START + 3 * DAY)


def test_a_fallen_lift_in_events_triggers_retraining():
    decision = watch(
        routed([{"popular": 0.06, "model": 0.10}] * 3 + [{"popular": 0.06, "model": 0.05}] * 3)
    )
    assert decision.should_retrain
    assert decision.metric_name == "lift"
    assert decision.value_before > 0.4
    assert decision.value_after < 0.1
    assert decision.since >= START + 3 * DAY


def test_when_both_arms_fall_the_model_is_not_to_blame_but_its_click_rate_alone_would_say_so():
    events = routed([{"popular": 0.10, "model": 0.14}] * 3 + [{"popular": 0.05, "model": 0.07}] * 3)
    assert not watch(events).should_retrain
    alone = watch(events, control="")
    assert alone.should_retrain
    assert alone.metric_name == "ctr"
    assert alone.value_before == pytest.approx(0.14, abs=0.02)


def test_only_periods_that_have_ended_are_judged():
    events = routed([{"popular": 0.06, "model": 0.10}] * 3 + [{"popular": 0.06, "model": 0.02}] * 2)
    trigger = RetrainCriteria("home", "model", "popular", period=DAY, clicks_min=10)
    early = decide_retrain(
        events,
        trigger,
        reference_from=START,
        reference_to=START + 3 * DAY,
        until=START + 4 * DAY - HOUR,
    )
    assert early.periods == 0
    later = decide_retrain(
        events, trigger, reference_from=START, reference_to=START + 3 * DAY, until=START + 4 * DAY
    )
    assert later.periods == 1


def test_thin_periods_are_joined():
    events = routed([{"popular": 0.06, "model": 0.10}] * 6, people=30)
    fine = watch(events, clicks_min=5)
    joined = watch(events, clicks_min=60)
    assert 0 < joined.periods < fine.periods


def test_a_reference_that_ends_before_it_begins_is_refused():
    with pytest.raises(UsageError, match="ends after it begins"):
        decide_retrain(routed([]), TRIGGER, reference_from=START, reference_to=START)
