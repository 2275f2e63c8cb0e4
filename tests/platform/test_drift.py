"""Drift of a project against what its champion learned from."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.support.monitored import draw_visits, write_visits
from tests.support.shops.ranking_world import make_bundle

from tailorbird.config import open_project
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import DAY, HOUR, SimulatedClock, to_iso, to_iso_minute
from tailorbird.monitoring.drift import Cause
from tailorbird.platform.drift import FALL_ACTION, fall_details, find_drift, read_open_episodes
from tailorbird.platform.monitoring import read_status
from tailorbird.ranking.bundle import SKETCHES_FILE
from tailorbird.registry import Registry
from tailorbird.training.sketches import count_numbers, to_bytes

START = 1_790_553_600_000_000
DAYS = 11
FEATURES = """
from tailorbird.features import count, entity

clicks_7d = count("clicks_7d", entity("user"), "click", window="7d")
views_7d = count("views_7d", entity("user"), "view", window="7d")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a project whose clicks_7d and vectors rise on the last day; views_7d always differ."""
    root = tmp_path_factory.mktemp("shop")
    (root / "tailorbird.toml").write_text("")
    (root / "features.py").write_text(FEATURES)
    (root / "slots.py").write_text("from tailorbird.ranking import Slot\n\nhome = Slot('home')\n")
    project = open_project(root)
    rng, own = np.random.default_rng(0), np.random.default_rng(7)
    visits = []
    for hour in range(DAYS * 24):
        mean = 9.0 if hour >= (DAYS - 1) * 24 else 3.0
        for visit in range(12):
            values = {"clicks_7d": rng.poisson(mean) + 1.0, "views_7d": rng.poisson(6.0) + 1.0}
            numeric = [values[name] for name in project.features.numeric] * 8
            visits += draw_visits(
                rng,
                START + hour * HOUR + visit,
                3_000,
                1,
                ctr=0.1,
                schema_hash=project.features.schema_hash,
                numeric=numeric,
                user_vector=own.normal(1.5 if hour >= (DAYS - 1) * 24 else 0.0, 1.0, 2).tolist(),
            )
    write_visits(project.paths.lake, visits)
    return project


@pytest.fixture
def clock(project, tmp_path):
    clock = SimulatedClock(START + DAYS * DAY + HOUR)
    if project.paths.registry.exists():
        return clock
    rng = np.random.default_rng(1)
    names = ["clicks_7d", "views_7d"]
    learned = np.column_stack([rng.poisson(3.0, 5_000), rng.poisson(2.0, 5_000)]) + 1.0
    labels = (rng.random((40_000, 1)) < 0.1).astype(float)
    rows = count_numbers("feature", names, learned) + count_numbers("label", ["click"], labels)
    window = {"from": START, "test_from": START + 5 * DAY}
    about = {"slot": "home", "source": "logged answers", "window": window}
    make_bundle(
        tmp_path / "bundle", extra_files={SKETCHES_FILE: to_bytes(rows)}, metrics={"about": about}
    )
    registry = Registry(project.paths.registry, clock=clock)
    registry.promote(registry.add(tmp_path / "bundle"), by="test", why="a champion")
    return clock


def test_drift_since_the_training_is_told_from_skew(project, clock):
    result = find_drift(project, clock, since="1d", against="training")
    assert result.against == "training of v0001"
    (row,) = result.episodes
    assert row.compared_with == "training of v0001"
    assert set(row.moved) == {"clicks_7d", "views_7d"}
    assert result.shift_by_signal["views_7d"].is_skew
    assert not result.shift_by_signal["clicks_7d"].is_skew
    assert not result.shift_by_signal["clicks"].is_skew
    assert result.shift_by_signal["clicks"].current_distance < 0.03, (
        "the labels of the training are as those of now"
    )
    strongest = next(iter(row.moved))
    assert row.cause == ("training-serving skew" if strongest == "views_7d" else "unknown")


def test_against_the_history_only_what_moved_is_an_episode(project, clock):
    result = find_drift(project, clock, since="1d")
    (row,) = result.episodes
    assert set(row.moved) & {"clicks_7d", "views_7d"} == {"clicks_7d"}
    assert {"vector 1 of v0001", "vector 2 of v0001"} < set(row.moved)
    assert (result.against, result.shift_by_signal) == ("history", {})


def test_a_view_of_the_past_changes_no_alarm_and_shows_nothing_later(project, clock):
    find_drift(project, clock)
    (alarm,) = read_open_episodes(project, clock)
    fell_at, ended = clock.now() - 3 * DAY, clock.now() - DAY
    details = fall_details(fell_at, "clicks fell", Cause("change of taste", ""))
    for at, action in ((fell_at, FALL_ACTION), (ended, "promote")):
        registry = Registry(project.paths.registry, clock=SimulatedClock(at))
        registry.record(action, "v0001", by="test", why="test", details=details)
    past = SimulatedClock(ended - HOUR)
    (fall,) = find_drift(project, past, is_live=False).episodes
    assert (fall.cause, fall.until) == ("change of taste", "")
    assert read_open_episodes(project, clock) == [alarm]
    assert read_open_episodes(project, past) == [fall]
    (line,) = [line for line in read_status(project, clock).lines if line.startswith("alarms")]
    assert line.endswith(f"drift was judged, as of {to_iso(clock.now())[:16]}Z")
    before_all = read_status(project, SimulatedClock(fell_at - DAY)).lines
    assert [text for text in before_all if text.startswith(("models", "decisions"))] == [
        f"models: champion v0001, promoted later, {to_iso_minute(ended)}",
        "decisions: none",
    ]


def test_status_says_why_drift_cannot_be_judged(project):
    with pytest.raises(NotReadyError):
        find_drift(project, SimulatedClock(START + 2 * DAY))
    status = read_status(project, SimulatedClock(START + 2 * DAY))
    (line,) = [line for line in status.lines if line.startswith("alarms")]
    assert line.startswith("alarms: none open; drift could not be judged, drift needs 7 days")


def test_a_comparison_without_logged_features_names_what_is_missing(project, clock, tmp_path):
    with pytest.raises(NotReadyError, match=r"needs 7 days of responses; there are \d"):
        find_drift(project, SimulatedClock(START + 2 * DAY), against="training")
    copy = Path(shutil.copytree(project.root, tmp_path / "copy"))
    without = open_project(copy)
    shutil.rmtree(without.paths.lake / "answers")
    shutil.rmtree(without.paths.monitoring)
    with pytest.raises(NotReadyError, match="no response of the last weeks has logged features"):
        find_drift(without, clock, against="training")


def test_a_comparison_that_cannot_be_made_says_why(project, clock):
    with pytest.raises(UsageError, match="use history or training"):
        find_drift(project, clock, against="yesterday")
    make_bundle(project.root / "plain")
    registry = Registry(project.paths.registry, clock=clock)
    registry.promote(registry.add(project.root / "plain"), by="test", why="without sketches")
    with pytest.raises(NotReadyError, match="has learned from no rows"):
        find_drift(project, clock, against="training")
