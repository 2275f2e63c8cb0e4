"""What the demo says of each decision, and how it goes on from it, without running it."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tailorbird.cli.demo import story as story_module
from tailorbird.cli.demo.figures import (
    describe_canary,
    describe_cause,
    describe_retraining,
    interval_figures,
)
from tailorbird.cli.demo.scale import SMALL_SCALE
from tailorbird.cli.demo.story import FIRST_MODEL_WAITS, Story
from tailorbird.cli.demo.traffic import PairedLists
from tailorbird.cli.demo.world import make_site
from tailorbird.events import DAY, EPOCH_WEEKDAY, SimulatedClock
from tailorbird.monitoring.drift.causes import TASTE
from tailorbird.monitoring.retrain import LogRatioStep, RetrainCriteria, decide_from_steps
from tailorbird.platform.runtime.trainer import TrainOutcome
from tailorbird.registry import Manifest, Registry, seal

NOW = 1_790_553_600_000_000
SCALE = SMALL_SCALE


def test_the_shop_is_the_same_on_any_day() -> None:
    events_by_day = []
    for day in range(8):
        now = NOW + day * DAY
        site = make_site(SCALE, seed=5, now=now)
        end = site.start + SCALE.history_days * DAY
        assert now - 7 * DAY < end <= now
        history = site.history(1)
        lines = [arrival.received_at - site.start for arrival in history]
        start = site.start + DAY
        visits = [
            (request.at - start, request.visitor)
            for request in site.live(start, history.population).requests(start + DAY // 4)
        ]
        events_by_day.append((lines, visits))
    assert len(events_by_day[0][1]) > 10
    assert all(events == events_by_day[0] for events in events_by_day)


def test_seeds_draw_every_weekday() -> None:
    sites = [make_site(SCALE, seed, NOW) for seed in range(40)]
    assert len({(site.start // DAY + EPOCH_WEEKDAY) % 7 for site in sites}) == 7


class Gate:
    """A training whose gate refuses the first models."""

    def __init__(self, folder: Path, clock: SimulatedClock, refusals: int) -> None:
        self.registry, self.refusals, self.clock = (
            Registry(folder / "registry", clock=clock),
            refusals,
            clock,
        )
        self.registry.promote(self._add(folder, baseline="popular:7d"), by="train", why="baseline")
        self._folder = folder

    def _add(self, folder: Path, **manifest: Any) -> str:
        bundle = folder / "new"
        bundle.mkdir(exist_ok=True)
        (bundle / "model.bin").write_bytes(b"weights")
        seal(bundle, Manifest(created_at=self.clock.now(), schema_hash="s", **manifest))
        return self.registry.add(bundle, by="train", why="drawn")

    def train(self, *_: Any, **__: Any) -> TrainOutcome:
        version = self._add(self._folder)
        is_promoted = self.refusals == 0
        self.refusals -= 1
        if is_promoted:
            self.registry.promote(version, by="train", why="it won")
        # Without a champion that has heads a training names none.
        return TrainOutcome(version, "", is_promoted, "a reason", None, {})


class PairedTraffic:
    """Advances the clock; the truth of each pair is +10 %."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock

    def pair_versions(self, *_: str) -> Any:
        return SimpleNamespace(true_uplift=lambda *_: 0.1)

    def run(self, until: int, *_: object) -> None:
        self._clock.advance_to(until)


@pytest.mark.parametrize("refusals", [0, 1, FIRST_MODEL_WAITS + 1])
def test_a_refused_first_model_is_told_and_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, refusals: int
) -> None:
    clock = SimulatedClock(NOW)
    gate = Gate(tmp_path, clock, refusals)
    monkeypatch.setattr(story_module, "train_once", gate.train)
    project: Any = SimpleNamespace(paths=SimpleNamespace(registry=tmp_path / "registry"))
    traffic: Any = PairedTraffic(clock)
    story = Story(tmp_path, SCALE, seed=1, port=None, quiet=False, progress=lambda *_: None)
    site: Any = None
    story._await_first_model(project, site, clock, traffic, gate.train())
    output = " ".join(capsys.readouterr().out.split())
    waits = min(refusals, FIRST_MODEL_WAITS)
    assert clock.now() == NOW + waits * SCALE.wait_days * DAY
    assert output.count("the gate refused") == output.count("over it: +10.0%") == waits
    assert story.figures.first_model["promoted"] == (refusals <= FIRST_MODEL_WAITS)
    assert ("the best baseline, popular:7d" in output) == (refusals > FIRST_MODEL_WAITS)


@pytest.mark.parametrize("is_promoted", [False, True])
def test_a_baseline_may_be_the_champion_that_is_retrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_promoted: bool
) -> None:
    clock = SimulatedClock(NOW)
    gate = Gate(tmp_path, clock, refusals=1)
    outcome = gate.train()
    monkeypatch.setattr(story_module, "train_once", lambda *_, **__: outcome)
    champion = gate.registry.aliases().champion

    def roll_out(version: str) -> bool:
        if is_promoted:
            gate.registry.promote(version, by="canary", why="it won")
        return is_promoted

    monkeypatch.setattr(
        gate.registry, "info", lambda _: SimpleNamespace(metrics={"accepted": True})
    )
    rollout: Any = SimpleNamespace(
        registry=gate.registry, roll_out=roll_out, compare=lambda *_: {}, new_audit_lines=list
    )
    traffic: Any = PairedTraffic(clock)
    traffic.pair_arms = lambda: SimpleNamespace(true_uplift=lambda *_: 0.1)
    reference = [LogRatioStep(NOW + hour, 0.3, 0.01) for hour in range(4)]
    watched = [LogRatioStep(NOW + 4 + hour, -0.3, 0.01) for hour in range(4)]
    verdict = decide_from_steps(reference, watched, RetrainCriteria("home", "model", "popular"))
    story = Story(tmp_path, SCALE, seed=1, port=None, quiet=True, progress=lambda *_: None)
    monkeypatch.setattr(story, "_measure_lift", lambda *_: interval_figures(0.1, 0.0, 0.2))
    anything: Any = None
    story._retrain(anything, anything, clock, traffic, rollout, verdict, NOW)
    retrained = story.figures.retrained
    assert (retrained["old"], retrained["new"]) == (champion, outcome.version)
    assert retrained["promoted"] == is_promoted
    assert retrained["figure_fallen"]["value"] == verdict.value_after


RETRAINED = {
    "trigger": "the lift fell",
    "old": "v0002",
    "new": "v0003",
    "gate": "no gain",
    "figure_before": interval_figures(0.4, 0.2, 0.6),
    "figure_fallen": interval_figures(-0.1, -0.2, 0.05),
    "figure_after": interval_figures(math.nan, math.nan, math.nan),
    "true_after": 0.103,
}


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        ({"promoted": True, "canary": {}}, "v0002 → v0003 (promoted)"),
        ({"promoted": False, "canary": {"true": 0.1}}, "the canary v0003 did not replace v0002"),
        ({"promoted": False, "canary": {}}, "v0003 did not replace v0002: no gain"),
    ],
)
def test_each_fate_of_the_new_model_is_told(decision: dict[str, Any], expected: str) -> None:
    text = describe_retraining({**RETRAINED, **decision})
    assert expected in text
    assert "lift +40.0% (95 %: +20.0% to +60.0%) → -10.0% (95 %: -20.0% to +5.0%)" in text
    assert text.endswith("then too little data to tell, true +10.3%")


def test_nothing_to_retrain_is_told_with_its_reason() -> None:
    figures = {"trigger": "", "reason": "within what chance allows"}
    assert describe_retraining(figures) == "nothing was retrained: within what chance allows"


def test_a_canary_without_clicks_is_told() -> None:
    measured = interval_figures(math.nan, math.nan, math.nan)
    canary = {"estimate": "+2 %", "measured": measured, "true": 0.1}
    assert "measured by the canary: too little data to tell" in describe_canary(canary)


def test_a_wrong_cause_is_called_wrong() -> None:
    assert "right" in describe_cause({"name": TASTE, "is_injected": True, "injected": TASTE})
    bots = describe_cause({"name": "bots", "is_injected": False, "injected": TASTE})
    assert bots == f"bots (wrong: a {TASTE} was injected)"


def test_the_fall_has_the_interval_of_the_window_that_its_reason_names() -> None:
    reference = [LogRatioStep(hour, 0.3, 0.01) for hour in range(4)]
    watched = [LogRatioStep(4 + hour, -0.3, 0.01) for hour in range(4)]
    verdict = decide_from_steps(reference, watched, RetrainCriteria("home", "model", "popular"))
    assert verdict.should_retrain
    assert f"{verdict.value_after:+.1%} after" in verdict.reason
    low, high = np.log1p(verdict.bounds_after)
    assert (low + high) / 2 == pytest.approx(np.log1p(verdict.value_after))
    steps = verdict.decided_at - verdict.since + 1
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.01 / steps), rel=1e-3)


def test_the_truth_of_a_stopped_experiment_is_of_its_own_days() -> None:
    site: Any = SimpleNamespace(
        truth=SimpleNamespace(uplift=lambda visitors, *lists_and_times: float(sum(visitors)))
    )
    lists = {"a": [["x"]] * 4, "b": [["y"]] * 4}
    pairs = PairedLists({}, [1, 2, 4, 8], [10, 20, 30, 40], lists)
    assert pairs.true_uplift(site, "a", "b") == 15
    assert pairs.true_uplift(site, "a", "b", until=30) == 3
    assert math.isnan(pairs.true_uplift(site, "a", "b", until=10))
