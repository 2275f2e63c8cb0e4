"""From the gate to the champion and back, each step in the audit log, whatever is killed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.support.monitored import draw_visits, write_visits
from tests.support.rollout_child import add_version, open_shop

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, MINUTE, SECOND, SimulatedClock
from tailorbird.platform.drift import figure_store
from tailorbird.platform.monitoring import read_status
from tailorbird.platform.notify import collect_messages
from tailorbird.platform.rollout import advance_rollout, approve, is_cooling, waiting_steps
from tailorbird.registry import Registry

NOON = 1_790_553_600_000_000 + 12 * HOUR
ROOT = Path(__file__).parents[3]


def registry_at(folder, now=NOON):
    return Registry(folder / "registry", clock=SimulatedClock(now))


def actions(folder):
    return [(entry.action, entry.version) for entry in registry_at(folder).audit()]


@pytest.fixture
def shop(tmp_path):
    """A shop with a champion and enough clicks a day for a canary."""
    add_version(tmp_path, NOON - DAY, by="train")
    registry_at(tmp_path, NOON - DAY).promote("v0001", by="train", why="first")
    rng = np.random.default_rng(0)
    visits = draw_visits(rng, NOON - HOUR, 3_000, 1_200, ctr=0.5, assigned_version="v0001")
    write_visits(tmp_path / "lake", visits)
    project = open_shop(tmp_path)
    figure_store(project).refresh(NOON - DAY, NOON)
    return project


def advance(project, now):
    return advance_rollout(project, SimulatedClock(now))


def shadowed(start, count, scores, *, shadow_us=900):
    rng = np.random.default_rng(1)
    more = {"shadow": "v0002", "shadow_scores": scores}
    more |= {"shadow_us": shadow_us, "champion_us": 800}
    return draw_visits(rng, start, 60, count, ctr=0.5, assigned_version="v0001", **more)


def test_a_model_goes_through_shadow_to_a_canary(shop, tmp_path):
    assert advance(shop, NOON) == ""
    add_version(tmp_path, NOON)
    assert [advance(shop, NOON + SECOND), advance(shop, NOON + MINUTE)] == ["shadow", "wait"]
    assert is_cooling(shop, registry_at(tmp_path), NOON + MINUTE)
    write_visits(tmp_path / "lake", shadowed(NOON + 2 * MINUTE, 150, [0.25] * 8))
    assert advance(shop, NOON + HOUR) == "canary"
    aliases = registry_at(tmp_path).aliases()
    assert (aliases.canary, aliases.shadow, aliases.champion) == ("v0002", "", "v0001")
    assert aliases.share == 0.5, "with less, its limit would not suffice for an answer"
    why = registry_at(tmp_path).audit()[-2].why
    assert "150 answers scored" in why
    assert why.endswith("0.90 ms for the items of an answer, the champion 0.80 ms")


def test_a_shadow_with_broken_scores_is_ended_and_nothing_is_tried_for_a_while(shop, tmp_path):
    add_version(tmp_path, NOON)
    advance(shop, NOON + SECOND)
    write_visits(tmp_path / "lake", shadowed(NOON + 2 * MINUTE, 3, [float("nan")] * 8))
    assert advance(shop, NOON + HOUR) == "end"
    assert registry_at(tmp_path).aliases().shadow == ""
    assert advance(shop, NOON + HOUR + SECOND) == ""
    assert is_cooling(shop, registry_at(tmp_path), NOON + HOUR)
    assert not is_cooling(shop, registry_at(tmp_path), NOON + 2 * DAY)


def test_a_slow_shadow_is_ended(shop, tmp_path):
    add_version(tmp_path, NOON)
    advance(shop, NOON + SECOND)
    visits = shadowed(NOON + 2 * MINUTE, 150, [0.25] * 8, shadow_us=3_200)  # of 5 ms an answer
    write_visits(tmp_path / "lake", visits)
    assert advance(shop, NOON + HOUR) == "end"
    assert "it takes 3.20 ms" in registry_at(tmp_path).audit()[-1].why


def test_an_inconclusive_canary_ends_at_its_time_limit(shop, tmp_path):
    add_version(tmp_path, NOON)
    registry_at(tmp_path).set_canary("v0002", 0.2, by="trainer", why="the shadow passed")
    assert advance(shop, NOON + HOUR) == "wait"
    assert advance(shop, NOON + 2 * DAY) == "end"
    assert registry_at(tmp_path).aliases().canary == ""
    assert advance(shop, NOON + 2 * DAY + SECOND) == "", "it is not tried again"


def test_too_little_traffic_for_a_canary_promotes_at_once(tmp_path):
    add_version(tmp_path, NOON, by="train")
    registry_at(tmp_path).promote("v0001", by="train", why="first")
    add_version(tmp_path, NOON)
    assert advance(open_shop(tmp_path), NOON + SECOND) == "promote"
    assert "too few for a canary" in registry_at(tmp_path).audit()[-1].why


def test_a_step_waits_for_a_person(shop, tmp_path):
    human = open_shop(tmp_path, approval=["shadow"])
    add_version(tmp_path, NOON)
    assert [advance(human, NOON + SECOND), advance(human, NOON + MINUTE)] == ["propose"] * 2
    assert [each.action for each in waiting_steps(registry_at(tmp_path).audit())] == ["shadow"]
    assert registry_at(tmp_path).aliases().shadow == ""
    later = SimulatedClock(NOON + 3 * DAY)
    lines = read_status(human, later).lines
    assert len(lines) <= 10
    waits = (
        "to do: shadow of v0002 waits for you since 2026-09-28T12:00Z: tailorbird monitor approve"
    )
    assert [line for line in lines if line.startswith(waits)], "whatever its age"
    (message,) = collect_messages(human, later)
    assert (message.kind, message.repeats) == ("approval", True)
    approve(human, SimulatedClock(NOON + HOUR), by="ada", why="looks right")
    assert collect_messages(human, SimulatedClock(NOON + HOUR)) == []
    assert registry_at(tmp_path).aliases().shadow == "v0002"
    assert [action for action, _ in actions(tmp_path)][-3:] == [
        "propose shadow",
        "approve shadow",
        "shadow",
    ]
    with pytest.raises(NotReadyError, match="no step waits"):
        approve(human, SimulatedClock(NOON + HOUR), by="ada", why="again")


def test_a_rollback_that_waits_and_a_canary_that_waits_are_each_proposed_once(shop, tmp_path):
    add_version(tmp_path, NOON)
    registry = registry_at(tmp_path)
    for step, version in (("roll_back", "v0001"), ("promote", "v0002")):
        registry.record(f"propose {step}", version, by="trainer", why="test")
    steps = [(each.action, each.version) for each in waiting_steps(registry.audit())]
    assert steps == [("roll_back", "v0001"), ("promote", "v0002")]
    registry.set_canary("v0002", 0.5, by="trainer", why="test")
    assert [each.action for each in waiting_steps(registry.audit())] == ["roll_back"]
    registry.set_canary("v0002", 0.2, by="ada", why="a person takes over")
    assert waiting_steps(registry.audit()) == []


FAULTS = {
    "errors": {"failure": "error", "ctr": 0.5},
    "NaN": {"failure": "not_finite", "ctr": 0.5},
    "empty": {"items": [], "ctr": 0.0},
    "CTR halved": {"ctr": 0.25},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_champion_is_rolled_back_within_a_minute(shop, tmp_path, fault):
    add_version(tmp_path, NOON, by="train")
    registry_at(tmp_path).promote("v0002", by="train", why="looked good")
    rng = np.random.default_rng(2)
    for second in range(0, 60, 10):
        now = NOON + second * SECOND
        visits = draw_visits(rng, now, 10, 1_000, assigned_version="v0002", **FAULTS[fault])
        write_visits(tmp_path / "lake", visits)
        if advance(shop, now + 10 * SECOND) == "roll_back":
            break
    assert registry_at(tmp_path).aliases().champion == "v0001"
    entry = registry_at(tmp_path).audit()[-1]
    assert (entry.action, entry.by) == ("rollback", "trainer")
    assert entry.at <= NOON + MINUTE
    assert advance(shop, NOON + 2 * MINUTE) != "roll_back", "there is no other for a while"


def test_a_good_champion_stays(shop, tmp_path):
    add_version(tmp_path, NOON, by="train")
    registry_at(tmp_path).promote("v0002", by="train", why="is as good")
    rng = np.random.default_rng(3)
    write_visits(
        tmp_path / "lake", draw_visits(rng, NOON, 60, 3_000, assigned_version="v0002", ctr=0.48)
    )
    for second in range(10, 60, 10):
        assert advance(shop, NOON + second * SECOND) == "wait"


def test_the_holdout_shows_a_slight_fall_later(shop, tmp_path):
    add_version(tmp_path, NOON, by="train")
    registry_at(tmp_path).promote("v0002", by="train", why="looked good")
    rng = np.random.default_rng(4)
    for assigned_version, count, ctr in (("v0002", 9_000, 0.45), ("v0001", 1_000, 0.5)):
        visits = draw_visits(rng, NOON, 4_000, count, assigned_version=assigned_version, ctr=ctr)
        write_visits(tmp_path / "lake", visits)
    later = NOON + 2 * HOUR
    figure_store(shop).refresh(NOON, later)
    assert advance(shop, later) == "roll_back"
    assert "holdout" in registry_at(tmp_path).audit()[-1].why


@pytest.mark.parametrize("fault", ["registry.before_alias", "registry.after_alias"])
@pytest.mark.parametrize("step", ["shadow", "canary", "promote", "rollback"])
def test_a_trainer_killed_at_a_step_goes_on(shop, tmp_path, step, fault):
    add_version(tmp_path, NOON)
    now = NOON + HOUR
    if step == "canary":
        registry_at(tmp_path).set_shadow("v0002", by="trainer", why="accepted")
        write_visits(tmp_path / "lake", shadowed(NOON + MINUTE, 150, [0.25] * 8))
    if step == "promote":
        registry_at(tmp_path).set_canary("v0002", 0.5, by="trainer", why="the shadow passed")
        rng = np.random.default_rng(6)
        for assigned_version, ctr in (("v0001", 0.4), ("v0002", 0.6)):
            visits = draw_visits(
                rng, NOON + MINUTE, 600, 300, assigned_version=assigned_version, ctr=ctr
            )
            write_visits(tmp_path / "lake", visits)
    if step == "rollback":
        registry_at(tmp_path, now - 20 * SECOND).promote("v0002", by="trainer", why="passed")
        rng = np.random.default_rng(5)
        bad = draw_visits(
            rng, now - 20 * SECOND, 10, 500, assigned_version="v0002", ctr=0, failure="error"
        )
        write_visits(tmp_path / "lake", bad)
    done = run_child(tmp_path, now, 1, f"{fault}=kill")
    assert done.returncode == -9
    registry = registry_at(tmp_path)
    assert registry.aliases().champion in ("v0001", "v0002")
    assert [info.is_readable for info in registry.versions()] == [True, True]
    done = run_child(tmp_path, now + SECOND, 3, "")
    assert done.returncode == 0, done.stderr
    aliases = registry.aliases()
    where = {"shadow": aliases.shadow, "canary": aliases.canary}.get(step, aliases.champion)
    assert where == ("v0001" if step == "rollback" else "v0002")
    taken = [action for action, version in actions(tmp_path) if version == aliases.champion]
    assert step != "promote" or taken[-1] == "promote"


def run_child(folder, now, steps, faults):
    return subprocess.run(
        [sys.executable, "-m", "tests.support.rollout_child", str(folder), str(now), str(steps)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TAILORBIRD_FAULTS": faults},
        check=False,
    )
