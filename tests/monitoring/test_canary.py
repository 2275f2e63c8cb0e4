"""Canary decisions from responses and clicks."""

from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from tests.support.shops import serving_shop

from tailorbird.config.rollout_settings import CanarySection
from tailorbird.events import HOUR, MINUTE, SimulatedClock
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.experiments.statistics import Moments
from tailorbird.monitoring.canary import (
    CANARY_SHARES,
    EVENT_COLUMNS,
    GUARD_RAILS,
    RESPONSE_COLUMNS,
    GuardRails,
    VersionFigures,
    decide_canary,
    measure_version,
)
from tailorbird.monitoring.latency import LatencyComparison
from tailorbird.platform.runtime.canary import share_since
from tailorbird.registry import Registry

NOW = 1_800_000_000_000_000


def version(
    name: str, *, answers: int = 4_000, failed: int = 0, not_finite: int = 0, ctr: float = 0.1
) -> VersionFigures:
    draw = np.random.default_rng(len(name))
    seen = np.full(answers // 2, 20.0)
    return VersionFigures(
        name,
        answers,
        failed,
        not_finite,
        5.0,
        Moments.from_totals(draw.binomial(20, ctr, seen.size).astype(float), seen),
    )


CHAMPION = version("v1")


def test_guard_rails_are_set_in_the_projects_file():
    assert GuardRails(**msgspec.structs.asdict(CanarySection())) == GUARD_RAILS


@pytest.mark.parametrize(
    ("rails", "action"),
    [
        (GUARD_RAILS, "end"),
        (GuardRails(latency=2.0), "advance"),
        (GuardRails(latency_excess_ms=12.0), "advance"),
    ],
)
def test_a_canary_ends_if_it_is_slower_by_the_factor_and_by_the_milliseconds(rails, action):
    latency = LatencyComparison(
        champion_ms=12.0, canary_ms=24.0, low_ms=21.0, high_ms=27.0, blocks=60
    )
    verdict = decide_canary(version("v0002"), CHAMPION, 0.05, rails, latency)
    assert verdict.action == action
    if action == "end":
        assert "24.0 ms at the 95th percentile, the champion's 12.0" in verdict.reason
        assert "2.00 times (1.75 to 2.25) in the same 60 minutes" in verdict.reason


def test_one_that_is_as_good_continues_step_by_step_to_everyone():
    share, taken = CANARY_SHARES[0], []
    while share < 1:
        verdict = decide_canary(
            version("v0002", answers=40_000), version("v1", answers=40_000), share
        )
        taken.append(verdict.action)
        share = verdict.share
    assert taken == ["advance", "advance", "advance", "promote"]


def test_each_step_is_judged_by_what_happened_since_it_started(tmp_path):
    """Else clicks of an hour in which it had 1 % would stand beside those of an hour in which it
    has half, of which people click more.
    """
    clock, folder = (
        SimulatedClock(NOW),
        serving_shop.write_shop_bundle(tmp_path / "dear", serving_shop.feature_set()),
    )
    registry = Registry(tmp_path / "registry", clock=clock)
    for _ in range(2):
        registry.add(folder)
    registry.promote("v0001", by="test", why="first")
    for share in (0.01, 0.05):
        clock.advance_to(clock.now() + HOUR)
        registry.set_canary("v0002", share, by="test", why="try")
        clock.advance_to(clock.now() + MINUTE)
        registry.set_formula("home", "click", by="test", why="something else")
        assert share_since(registry) == clock.now() - MINUTE
    registry.end_canary(by="test", why="once more, from the beginning")
    registry.set_canary("v0002", 0.05, by="test", why="try")
    assert share_since(registry) == clock.now()


@pytest.mark.parametrize(
    ("canary", "reason"),
    [
        (version("v0002", answers=1, not_finite=1), "no finite number"),
        (version("v0002", failed=200), "failed 200 of 4,000 answers"),
        (version("v0002", ctr=0.05), "clicks per item seen"),
    ],
)
def test_one_that_is_worse_is_ended_and_the_reason_reported(canary, reason):
    verdict = decide_canary(canary, CHAMPION, 0.05)
    assert (verdict.action, verdict.share) == ("end", 0.0)
    assert reason in verdict.reason


def test_one_that_no_server_serves_is_reported():
    unserved = VersionFigures("v0002", 0, 0, 0, float("nan"), Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0))
    assert "0 answers of the canary's at 5%" in decide_canary(unserved, CHAMPION, 0.05).reason, (
        "the champion has 4,000, of which 200 would be its"
    )
    verdict = decide_canary(unserved, CHAMPION, 0.2)
    assert verdict.action == "wait"
    assert "servers refuse it, or wait for its features" in verdict.reason


def test_it_waits_for_missing_data():
    assert (
        decide_canary(version("v0002", answers=GUARD_RAILS.answers_min - 1), CHAMPION, 0.05).action
        == "wait"
    )
    few = replace(version("v0002"), clicks=Moments.from_totals([1.0, 0.0], [20.0, 20.0]))
    assert decide_canary(few, CHAMPION, 0.05).action == "wait"
    slow_but_few = version("v0002", failed=3)
    assert decide_canary(slow_but_few, CHAMPION, 0.05).action != "end", (
        "three of 4,000 may be chance"
    )


def test_a_canary_as_good_as_the_champion_is_rarely_ended_however_often_one_checks():
    draw, ended = np.random.default_rng(1), 0
    for _ in range(100):
        clicks = [draw.binomial(10, 0.1, 6_000).astype(float) for _ in range(2)]
        for users in range(300, 6_000, 300):
            verdict = decide_canary(
                *(
                    version_of(name, x[:users])
                    for name, x in zip(("v0002", "v0001"), clicks, strict=True)
                ),
                0.5,
            )
            if verdict.action == "end":
                ended += 1
                break
    assert ended <= 5, "five of 100 at a level of 95 %, at most"


def version_of(name: str, clicks: np.ndarray) -> VersionFigures:
    return VersionFigures(
        name, 10_000, 0, 0, 5.0, Moments.from_totals(clicks, np.full(clicks.size, 10.0))
    )


def test_figures_are_of_the_answers_that_were_its_to_give():
    answers = pa.table(
        {
            "request_id": ["r1", "r2", "r3"],
            "slot": ["home"] * 3,
            "model": ["v0002", "v0001", "v0001"],
            "assigned_version": ["v0002", "v0002", "v0001"],
            "failure": [None, "not_finite", None],
            "latency_us": [4_000, 6_000, 5_000],
            "ts": [NOW] * 3,
            "producer": ["a"] * 3,
        }
    ).select(RESPONSE_COLUMNS)
    rows = [
        {
            "type": "answer",
            "request_id": "r1",
            "person": "u1",
            "items": ["i1", "i2"],
            "model": "v0002",
        },
        {
            "type": "impression",
            "request_id": "r1",
            "person": "u1",
            "items": ["i1", "i2"],
            "model": "v0002",
        },
        {
            "type": "click",
            "request_id": "r1",
            "person": "u1",
            "item_id": "i1",
            "model": "v0002",
            "position": 1,
        },
        {"type": "answer", "request_id": "r3", "person": "u3", "items": ["i1"], "model": "v0001"},
        {
            "type": "impression",
            "request_id": "r3",
            "person": "u3",
            "items": ["i1"],
            "model": "v0001",
        },
    ]
    defaults = {
        "ts": NOW,
        "slot": "home",
        "agent": "person",
        "experiment": None,
        "arm": "model",
        "position": None,
        "item_id": None,
    }
    events = pa.Table.from_pylist(
        [
            dict.fromkeys(EVENT_COLUMNS) | defaults | {"ts": NOW + n} | row
            for n, row in enumerate(rows)
        ]
    )
    events = events.set_column(
        events.schema.get_field_index("ts"), "ts", events["ts"].cast(pa.int64()).cast(TIME_TYPE)
    )
    for name in ("experiment", "item_id"):
        events = events.set_column(
            events.schema.get_field_index(name), name, events[name].cast(pa.string())
        )
    by_slot = {
        "denominator_by_slot": {"home": "impression"},
        "attribution_by_slot": {"home": 1_800_000_000},
    }
    canary, champion = (
        measure_version(events, answers, name, **by_slot) for name in ("v0002", "v0001")
    )
    assert (canary.answers, canary.failed, canary.not_finite) == (2, 1, 1)
    assert (canary.clicks.x, canary.clicks.y) == (1.0, 2.0)
    assert (champion.answers, champion.failed, champion.clicks.y) == (1, 0, 1.0)
    assert champion.latency_ms_p95 == 5.0
