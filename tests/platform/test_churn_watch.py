"""Churn models are judged once outcomes are known, trained again when they fell, and rolled back."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.support.shops.leaving_shop import (
    BEGIN,
    KNOWN_AT,
    TRAINED_AT,
    train_champion,
    write_leaving_shop,
)

from tailorbird.cli.monitor import figures
from tailorbird.config.paths import Paths
from tailorbird.config.rollout_settings import RolloutSection
from tailorbird.config.settings import Settings
from tailorbird.config.training_settings import TrainSection
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import DAY, RoutePlan, SimulatedClock, to_iso
from tailorbird.monitoring.churn import ChurnRecord, ChurnWeek, measure_week, store_record
from tailorbird.platform.drift import find_drift, read_falls
from tailorbird.platform.models.churn_figures import describe_churn, read_churn_figures
from tailorbird.platform.monitoring import FiguresTask, read_status
from tailorbird.platform.notify import collect_messages
from tailorbird.platform.rollout import approve
from tailorbird.platform.runtime import churn as watching
from tailorbird.platform.runtime.churn import describe_waiting_steps, watch_churn
from tailorbird.ranking import Churn
from tailorbird.registry import Manifest, Registry, seal
from tailorbird.training.evaluation.gate import Decision

DECLARED = Churn(window="28d")
METRICS = {
    "results": {"tailorbird": {"auc": 0.8, "auc_low": 0.78, "auc_high": 0.82}},
    "about": {"origins": [to_iso(BEGIN - 30 * DAY)], "window": {"to": BEGIN}},
}


class Shop:
    """A project with a churn champion of a time, and a training that only adds a version."""

    def __init__(self, folder, monkeypatch, approval=()):
        settings = Settings(
            train=TrainSection(every="7d"), rollout=RolloutSection(approval=list(approval))
        )
        self.project: Any = SimpleNamespace(
            paths=Paths(folder),
            settings=settings,
            slots={},
            churn={"churn": DECLARED},
            churn_model={"churn": DECLARED}.__getitem__,
            plan=RoutePlan(),
        )
        self.folder = folder / "new"
        self.promote(BEGIN, "ada")
        monkeypatch.setattr(watching, "train_churn_model", self._train)

    def registry(self, now):
        return Registry(self.project.paths.churn("churn"), clock=SimulatedClock(now))

    def add(self, now, by, *, is_accepted=True):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "model.bin").write_bytes(b"weights")
        decision = {"accepted": is_accepted, "decision": ["no gain beyond chance"]}
        seal(self.folder, Manifest(created_at=now, schema_hash="s", metrics=METRICS | decision))
        return self.registry(now).add(self.folder, by=by, why="test")

    def promote(self, now, by):
        version = self.add(now, by)
        self.registry(now).promote(version, by=by, why="test")

    def _train(self, project, name, options, clock, *, promote, by):
        version = self.add(clock.now(), by)
        decision = SimpleNamespace(is_accepted=True, reason="the gate accepted it")
        if promote:
            self.registry(clock.now()).promote(version, by=by, why=decision.reason)
        return SimpleNamespace(version=version, promoted=promote, decision=decision)

    def judged(self, **changes):
        """Store a week of the champion, whose outcome is known 29 days later."""
        figures = {"people": 2_000, "auc": 0.8, "auc_se": 0.01, "brier": 0.2}
        figures |= {"predicted": 0.4, "observed": 0.4, "version": "v0001"}
        self.week = ChurnWeek(BEGIN, BEGIN + 29 * DAY, **(figures | changes))
        store_record(self.project.paths.monitoring, "churn", ChurnRecord(weeks=[self.week]))

    def watch(self, day):
        return watch_churn(self.project, SimulatedClock(BEGIN + day * DAY), "churn")

    def recent_actions(self):
        return [(e.action, e.version, e.by) for e in self.registry(0).audit()]


@pytest.fixture
def shop(tmp_path, monkeypatch):
    return Shop(tmp_path, monkeypatch)


def test_a_champion_that_fell_is_trained_again_once_a_week(shop):
    shop.judged(auc=0.7)
    assert shop.watch(30) == "train"
    assert shop.recent_actions()[2:4] == [("fall", "v0001", "trainer"), ("add", "v0002", "trainer")]
    assert shop.recent_actions()[4] == ("promote", "v0002", "trainer")
    (row,) = read_falls(shop.project, SimulatedClock(BEGIN + 31 * DAY))
    assert (row.cause, row.runbook) == ("stale churn model", "docs/operate/churn.md")
    assert "AUC fell from 0.80 at the gate to 0.70" in row.evidence
    assert shop.watch(31) == "", "the new champion's outcomes are not known yet"


@pytest.mark.parametrize("figures", [{"auc": 0.79}, {"predicted": 0.43}])
def test_what_chance_explains_is_no_fall(shop, figures):
    shop.judged(**figures)
    assert shop.watch(30) == ""


def test_scores_that_promise_too_much_are_a_fall(shop):
    shop.judged(predicted=0.55)
    assert shop.watch(30) == "train"
    assert "40% of the people left, while 55% were expected" in shop.registry(0).audit()[2].why


def test_a_champion_worse_than_the_one_before_is_rolled_back(shop):
    shop.promote(BEGIN + DAY, "trainer")
    shop.judged(version="v0002", previous="v0001", gain=-0.05, gain_se=0.01)
    assert shop.watch(31) == "roll_back"
    assert shop.recent_actions()[-1] == ("rollback", "v0001", "trainer")
    assert "log loss is 0.0500 higher than that of v0001" in shop.registry(0).audit()[-1].why
    messages = collect_messages(shop.project, SimulatedClock(BEGIN + 31 * DAY))
    assert [each.kind for each in messages] == ["rollback"]
    assert shop.watch(32) == ""


def test_a_step_waits_for_a_person(tmp_path, monkeypatch):
    shop = Shop(tmp_path, monkeypatch, approval=["promote"])
    shop.judged(auc=0.7)
    assert [shop.watch(30), shop.watch(30)] == ["propose", ""]
    assert shop.recent_actions()[-1] == ("propose promote", "v0002", "trainer")
    clock = SimulatedClock(BEGIN + 30 * DAY)
    (text,) = describe_waiting_steps(shop.project, clock)
    assert text.startswith("promote of churn v0002 waits for you since ")
    assert text.endswith('tailorbird monitor approve --churn churn --why "…"')
    metrics = FiguresTask(shop.project, clock)
    assert metrics.waiting_actions() == ["promote"]
    assert metrics.recent_actions() == ["fall", "add", "propose promote"]
    assert approve(shop.project, clock, by="ada", why="fine") == ("promote", "churn v0002")
    assert shop.recent_actions()[-2:] == [
        ("approve promote", "v0002", "ada"),
        ("promote", "v0002", "trainer"),
    ]
    assert metrics.waiting_actions() == describe_waiting_steps(shop.project, clock) == []


@pytest.mark.parametrize("every", ["7d", "0 0 * * 1"])
def test_a_model_that_the_gate_refuses_is_tried_again_after_a_longer_time(
    tmp_path, monkeypatch, every
):
    shop = Shop(tmp_path, monkeypatch)
    shop.project.settings = Settings(train=TrainSection(every=every))
    days = []

    def refuse(project, name, options, clock, *, promote, by):
        days.append((clock.now() - BEGIN) // DAY)
        shop.add(clock.now(), by, is_accepted=False)
        return SimpleNamespace(version="v", decision=Decision(False, ("no gain",)))

    shop.judged()
    monkeypatch.setattr(watching, "train_churn_model", refuse)
    monkeypatch.setattr(watching, "last_activity_time", lambda *_: BEGIN + 400 * DAY)
    assert describe_churn(shop.project, SimulatedClock(BEGIN)) == [
        f"churn v0001 ({shop.week.describe()})"
    ]
    for day in range(180):
        shop.watch(day)
    assert days == [7, 21, 49, 105, 161], "after 1, 2, 4, and then 8 weeks each"
    (phrase,) = describe_churn(shop.project, SimulatedClock(BEGIN + 22 * DAY))
    assert "the gate refused the newest 5: no gain beyond chance" in phrase
    assert f"next try {to_iso(BEGIN + 217 * DAY)[:10]}" in phrase
    assert phrase.endswith("after 8 times train.every)")


def test_why_there_are_no_figures_is_told(shop):
    def why(day, since=0):
        clock = SimulatedClock(BEGIN + day * DAY)
        with pytest.raises(NotReadyError) as raised:
            read_churn_figures(shop.project, clock, "churn", since)
        return str(raised.value)

    assert f"wait until {to_iso(BEGIN + 29 * DAY)[:10]}" in why(5)
    shop.judged()
    assert "no week in this time" in (message := why(30, BEGIN + 29 * DAY))
    assert "--since 180d" in message
    assert "--since 400d" in why(400, BEGIN + 220 * DAY), "half a year is too short then"
    few = ChurnRecord(weeks_until=BEGIN)
    store_record(shop.project.paths.monitoring, "churn", few)
    assert "no week had the 100 people" in why(40)
    (phrase,) = describe_churn(shop.project, SimulatedClock(BEGIN + 40 * DAY))
    assert phrase == "churn v0001 (no figures: too few people whose outcome is known)"


def test_options_of_live_figures_are_refused_beside_churn(tmp_path):
    with pytest.raises(UsageError, match="--slot, --plot cannot stand beside --churn"):
        figures(churn="churn", slot="home", plot=tmp_path / "x.png")


def test_the_figures_of_a_week_are_those_of_the_known_people():
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.1, 0.9, 20_000)
    gone = (rng.random(20_000) < chance).astype(np.float64)
    gone[::2] = np.nan
    week = measure_week(0, 1, "v2", chance, gone, "v1", np.full(20_000, 0.5))
    assert week is not None
    assert week.people == 10_000
    assert 0.74 < week.auc < 0.78
    assert abs(week.calibration - 1.0) < 0.03
    assert week.gain > 10 * week.gain_se, "a constant is worse"
    assert measure_week(0, 1, "v2", chance[:50], gone[:50]) is None, "too few people"


@pytest.mark.nightly
@pytest.mark.slow
def test_outcomes_judge_a_trained_champion_by_week(tmp_path, monkeypatch):
    project = write_leaving_shop(tmp_path)
    train_champion(project)
    registry = Registry(project.paths.churn("churn"), clock=SimulatedClock(TRAINED_AT))
    monkeypatch.setattr(watching, "train_churn_model", lambda *a, **k: pytest.fail("no fall yet"))
    young = SimulatedClock(BEGIN + 300 * DAY)
    assert watch_churn(project, young, "churn") == ""
    weeks = read_churn_figures(project, young, "churn").weeks
    assert [week.week for week in weeks] == [BEGIN + day * DAY for day in (252, 259, 266)]
    assert min(week.auc for week in weeks) > 0.6
    (models,) = [line for line in read_status(project, young).lines if line.startswith("models")]
    assert f"churn v0001 ({weeks[-1].describe()})" in models

    def refuse(project, name, *rest, **options):
        return SimpleNamespace(version="v0002", decision=Decision(False, ("no gain",)))

    monkeypatch.setattr(watching, "train_churn_model", refuse)
    later = SimulatedClock(KNOWN_AT)
    assert watch_churn(project, later, "churn") == "train"
    assert [entry.action for entry in registry.audit()][-1] == "fall"
    assert "of the people left, while" in registry.audit()[-1].why
    without = replace(project, churn={})
    assert find_drift(project, later).signal_count == find_drift(without, later).signal_count + 1
