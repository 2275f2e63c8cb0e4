"""Drift: episodes, their cause, and no alarm without one."""

import re

import numpy as np
import pytest
from benchmarks.quality.monitoring.diagnosis import diagnose
from benchmarks.quality.monitoring.incidents import draw_incident
from benchmarks.quality.monitoring.sites import draw_site
from tests.support.monitored import make_visit, write_events, write_visits

from tailorbird.events import DAY, HOUR, MINUTE
from tailorbird.lake import Lake
from tailorbird.monitoring.drift import Episode, MovedSignal, Signal, find_episodes, name_cause
from tailorbird.monitoring.drift.causes import Change
from tailorbird.monitoring.drift.sketches import SketchStore
from tailorbird.training.sketches import signed_bins

MIDNIGHT = 1_790_553_600_000_000
WEEKS = 8 * 168


def signals_of(site):
    counts = site.counts.astype(float)
    return [
        Signal(f"f{index}", counts[:, index], bool(category))
        for index, category in enumerate(site.is_category)
    ]


def test_a_drift_is_an_episode_with_the_features_that_moved():
    site = draw_site(1_001, features=20, drift="missing")
    episodes = find_episodes(signals_of(site), WEEKS)
    (after,) = [each for each in episodes if each.stop > site.drift_at]
    assert after.detected - site.drift_at <= 24
    assert (after.is_open, after.compared_with) == (True, "hour and weekday")
    assert after.moved[0].name == "f0"
    assert after.moved[0].distance == pytest.approx(0.15, abs=0.03)


def test_the_stated_rate_bounds_false_alarms():
    counts = [
        len(find_episodes(signals_of(draw_site(seed, features=20)), WEEKS)) for seed in range(12)
    ]
    assert sum(counts) <= 24, "one a month is stated"


def test_an_outage_on_the_fifth_day_is_recognised():
    rng = np.random.default_rng(0)
    usual = 500 * (1 + 0.8 * np.sin(np.arange(5 * 24) * np.pi / 12))
    usual[4 * 24 + 10 : 4 * 24 + 18] = 0
    events = Signal("events", rng.poisson(usual)[:, None].astype(float), kind="traffic")
    (episode,) = find_episodes([events], 3 * 24)
    assert episode.start in (4 * 24 + 10, 4 * 24 + 11)
    assert name_cause(episode, [events], MIDNIGHT).name == "outage upstream"


def test_an_outage_is_an_episode_of_its_own_while_another_goes_on():
    rng = np.random.default_rng(0)
    hours, moved_at, out_at = 40 * 24, 35 * 24, 38 * 24 + 9
    rate = np.where(np.arange(hours) < out_at, 300.0, 0.0)
    rate[20 * 24 : 23 * 24] = 0.0  # an outage in the history must not hide another
    events = Signal("events", rng.poisson(rate)[:, None].astype(float), kind="traffic")
    share = np.where(np.arange(hours) < moved_at, 0.5, 0.8)
    low = rng.binomial(events.counts[:, 0].astype(int), share)
    scores = np.column_stack([np.zeros(hours), low, events.counts[:, 0] - low])
    signals = [events, Signal("score", scores, kind="score", bins=("missing", "0", "1"))]
    change = Change(MIDNIGHT + (out_at - 10) * HOUR, "trainer: canary v0004")
    first, last = find_episodes(signals, 34 * 24)
    assert first.start // 24 == 35
    assert first.stop in (out_at - 1, out_at)
    assert (last.start, last.stop, last.is_open) == (out_at, hours, True)
    assert [name_cause(each, signals, MIDNIGHT, [change]).name for each in (first, last)] == [
        "unknown",
        "outage upstream",
    ]


def test_half_a_day_without_events_is_an_outage_of_a_small_site():
    rate = np.where(np.arange(12 * 24) < 11 * 24 + 6, 12.0, 0.0)
    counts = np.random.default_rng(0).poisson(rate)[:, None].astype(float)
    (outage,) = find_episodes([Signal("events", counts, kind="traffic")], 9 * 24)
    assert (outage.start, outage.is_open, outage.is_outage) == (11 * 24 + 6, True, True)


def test_one_visitor_without_an_account_is_no_lost_field():
    rng = np.random.default_rng(3)
    carts = rng.poisson(4.0, 40 * 24)
    missing = rng.binomial(carts, 0.02)
    carts[-30], missing[-30] = 3, 3
    counts = np.column_stack([missing, carts - missing]).astype(float)
    field = Signal("cart.user_id", counts, True, "field", ("missing", "set"))
    assert find_episodes([field], 33 * 24) == []


@pytest.mark.parametrize("kind", ["outage", "lost_field", "slow_store"])
def test_the_cause_of_a_drawn_incident_is_named(kind):
    incident = draw_incident(kind, 0)
    assert diagnose(incident) in incident.causes


def test_numbers_have_bins_by_sign_and_size():
    values = np.array([0.0, 1.0, 1.1, 2.0, -1.0, 1e-300, 1e300])
    zero, one, close, two, minus, tiny, huge = signed_bins(values).tolist()
    assert (zero, close, two, minus) == (0, one, one + 4, -one)
    assert tiny < one < huge


def test_a_lost_field_is_named_with_its_share(tmp_path):
    rng = np.random.default_rng(0)
    visits = []
    for hour in range(9 * 24):
        for index in range(30):
            ts = MIDNIGHT + hour * HOUR + index * MINUTE
            events, record = make_visit(f"{hour}-{index}", ts, clicks=(0,), person=f"p{index}")
            is_lost = hour >= 8 * 24 and rng.random() < 0.6
            for event in events:
                event["session_id"] = None if is_lost else f"s{index}"
            visits.append((events, record))
    write_visits(tmp_path / "lake", visits)
    store = SketchStore(tmp_path / "sketches", Lake(tmp_path / "lake"), [], "")
    now = MIDNIGHT + 9 * DAY + HOUR
    assert store.refresh(MIDNIGHT, now) == 9 * 24
    assert store.refresh(MIDNIGHT, now) == 0
    signals, first = store.read(MIDNIGHT, now)
    assert first == MIDNIGHT
    (episode,) = find_episodes(signals, 8 * 24)
    assert episode.start >= 8 * 24
    cause = name_cause(episode, signals, first)
    assert (cause.name, cause.runbook_page) == ("tracker lost a field", "lost-field.md")
    assert ".session_id is missing in" in cause.evidence


def test_hours_are_computed_again_when_the_lake_gets_older_events(tmp_path):
    lake, now = tmp_path / "lake", MIDNIGHT + 2 * DAY + HOUR
    store = SketchStore(tmp_path / "sketches", Lake(lake), [], "")
    profile = {"type": "item", "item_id": "a", "p": 0, "ts": MIDNIGHT - 9 * DAY}
    write_events(lake, [profile])
    assert store.refresh(MIDNIGHT, now) == 48
    assert store.read(MIDNIGHT, now) == ([], now), "profiles are no visits"
    imported = [MIDNIGHT + 3 * HOUR, MIDNIGHT + 3 * HOUR + MINUTE, MIDNIGHT + DAY]
    write_events(
        lake,
        [
            {"type": "view", "ts": ts, "p": p, "item_id": "a", "person": "p"}
            for p, ts in enumerate(imported, 1)
        ],
    )
    assert store.refresh(MIDNIGHT - 10 * DAY, now) == 10 * 24 + 2
    assert store.refresh(MIDNIGHT - 10 * DAY, now) == 0
    signals, first = store.read(MIDNIGHT - 10 * DAY, now)
    assert first == imported[0], "the history begins with the first visit"
    (events,) = [signal for signal in signals if signal.name == "events"]
    assert (events.counts[0], events.counts[21]) == (2, 1)


def test_clicks_that_fall_alone_are_a_change_of_taste(tmp_path):
    rng = np.random.default_rng(1)
    visits, days = [], 30
    for hour in range(days * 24):
        rate = 0.2 if hour >= (days - 1) * 24 else 0.3
        for index in range(8):
            clicks = np.flatnonzero(rng.random(8) < rate).tolist()
            ts = MIDNIGHT + hour * HOUR + index * MINUTE
            visits.append(make_visit(f"{hour}-{index}", ts, clicks=clicks, person=f"p{index}"))
    write_visits(tmp_path / "lake", visits)
    store = SketchStore(tmp_path / "sketches", Lake(tmp_path / "lake"), [], "")
    now = MIDNIGHT + days * DAY + HOUR
    store.refresh(MIDNIGHT, now)
    signals, first = store.read(MIDNIGHT, now)
    (episode,) = find_episodes(signals, (days - 1) * 24)
    cause = name_cause(episode, signals, first)
    assert (cause.name, cause.runbook_page) == ("change of taste", "taste.md")
    assert cause.evidence.startswith("19.5% of the seen items are clicked, 29.9% before")
    change = Change(MIDNIGHT + (days - 1) * DAY, "trainer: promote v0002")
    assert name_cause(episode, signals, first, [change]).name == "model change"


def episode_of(*moved, compared_with="hour and weekday"):
    return Episode(
        240, 264, 241, compared_with, True, tuple(MovedSignal(*m, 0.2, 2.0) for m in moved)
    )


def two_phases(name, kind, before, during, bins):
    counts = np.vstack([np.tile(before, (240, 1)), np.tile(during, (24, 1))]).astype(float)
    return Signal(name, counts, True, kind, bins)


EVENTS = two_phases("events", "traffic", [100], [100], ("all",))


@pytest.mark.parametrize(
    ("signal", "cause"),
    [
        (two_phases("events", "traffic", [100], [0], ("all",)), "outage upstream"),
        (two_phases("events", "traffic", [100], [200], ("all",)), "promotion"),
        (
            two_phases("agent", "agent", [0, 90, 10], [0, 60, 40], ("missing", "person", "bot")),
            "bots",
        ),
        (
            two_phases(
                "degraded", "degraded", [0, 95, 5], [0, 60, 40], ("missing", "nothing", "features")
            ),
            "slow store",
        ),
        (
            two_phases(
                "sources", "source", [0, 60, 40], [0, 99, 1], ("missing", "popular", "item_knn")
            ),
            "stale source",
        ),
        (
            two_phases(
                "event device", "event_device", [0, 90, 0], [0, 60, 40], ("missing", "web", "app")
            ),
            "new app version or device",
        ),
        (
            two_phases("clicks", "label", [0, 90, 10], [0, 93, 7], ("missing", "seen", "clicked")),
            "change of taste",
        ),
        (two_phases("item profiles", "traffic", [10], [90], ("all",)), "catalogue swap"),
        (two_phases("f", "feature", [0, 9, 1], [0, 1, 9], ("missing", "0", "1")), "unknown"),
    ],
)
def test_each_cause_is_told_from_what_moved(signal, cause):
    signals = [signal] if signal.name == "events" else [signal, EVENTS]
    assert name_cause(episode_of((signal.name, signal.kind)), signals, MIDNIGHT).name == cause


def test_a_slow_store_is_named_with_its_latency():
    bins = ("missing", *(str(bin_) for bin_ in signed_bins(np.array([10_000.0, 160_000.0]))))
    latency = two_phases("latency", "latency", [0, 100, 0], [0, 80, 20], bins)
    cause = name_cause(episode_of(("latency", "latency")), [latency, EVENTS], MIDNIGHT)
    assert cause.name == "slow store"
    assert re.fullmatch(
        r"95% of the answers take up to 1\d\d\.\d ms, (9|10|11)\.\d ms before", cause.evidence
    )
    faster = two_phases("latency", "latency", [0, 80, 20], [0, 100, 0], bins)
    cause = name_cause(episode_of(("latency", "latency")), [faster, EVENTS], MIDNIGHT)
    assert cause.name == "unknown"


def test_scores_that_moved_after_a_promotion_are_explained_by_it():
    scores = two_phases("score", "score", [0, 9, 1], [0, 1, 9], ("missing", "0", "1"))
    episode = episode_of(("score", "score"))
    change = Change(MIDNIGHT + 239 * HOUR, "trainer: promote v0002")
    assert name_cause(episode, [scores, EVENTS], MIDNIGHT, [change]).evidence == change.what
    assert name_cause(episode, [scores, EVENTS], MIDNIGHT).name == "unknown"
