"""The whole loop, small: `tailorbird demo --once --small --json` as a user would run it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks.first_hour import processes_of
from tests.support.monitored import draw_visits, write_visits
from tests.support.rollout_child import add_version, open_shop

from tailorbird.cli.demo.rollout import ModelRollout
from tailorbird.events import DAY, HOUR, SimulatedClock
from tailorbird.registry import Registry

pytestmark = pytest.mark.slow

KEYS = {
    "events",
    "parity",
    "offline",
    "online",
    "latency_ms",
    "freshness_ms",
    "drift",
    "retrained",
    "broken",
    "status",
    "http",
    "first_page_s",
    "stages_s",
}


def _demo(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "demo",
        "--once",
        "--small",
        "--folder",
        str(folder),
        "--port",
        "0",
        *more,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict:
    done = _demo(tmp_path_factory.mktemp("demo") / "demo", "--json")
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout)  # one object and nothing else


def test_prints_every_figure(figures: dict) -> None:
    assert figures.keys() >= KEYS
    assert figures["first_page_s"] > 0
    for name in ("latency_ms", "freshness_ms"):
        assert 0 < figures[name]["p50"] <= figures[name]["p99"]
    for metrics in figures["offline"].values():
        assert metrics["ndcg_10_low"] <= metrics["ndcg_10"] <= metrics["ndcg_10_high"]
    assert {"tailorbird", "popular:7d", "item_knn+popular:7d"} <= figures["offline"].keys()
    assert figures["offline"]["tailorbird"].keys() >= {"auc", "log_loss", "calibration_error"}


def test_finds_every_injected_fault(figures: dict) -> None:
    events = figures["events"]
    assert events["expected"]["duplicates"] > 10
    assert events["expected"]["quarantined"] > 10
    assert events["answers"] > 100
    for name, expected in events["expected"].items():
        assert events[name] == expected, f"{name}: {events}"
    assert events["found"]


def test_logged_features_equal_those_recomputed_from_the_lake(figures: dict) -> None:
    assert figures["parity"]["compared"] > 2_000
    assert figures["parity"]["unequal"] == 0


def test_the_experiment_reports_both_arms_and_the_true_uplift(figures: dict) -> None:
    online = figures["online"]
    assert online["arms"].keys() == {"model", "popular"}
    assert all(arm["impressions"] > 0 for arm in online["arms"].values())
    assert online["low"] <= online["uplift"] <= online["high"]
    assert -1 < online["true_uplift"] < 5
    assert 0 <= online["srm_p"] <= 1


def test_no_request_over_http_failed(figures: dict) -> None:
    assert figures["http"]["requests"] >= 60
    assert figures["http"]["failed"] == 0
    assert figures["http"]["unchanged"] == 0


def test_a_broken_model_is_rolled_back(figures: dict) -> None:
    broken = figures["broken"]
    assert broken["rolled_back"]
    assert broken["champion"] != broken["broken"]
    assert broken["after_min"] > 0
    assert len(figures["status"]) <= 10
    assert any("rollback" in line for line in figures["status"])


def test_a_model_is_led_through_shadow_if_there_are_enough_clicks_a_day(tmp_path: Path) -> None:
    now = 1_790_553_600_000_000
    clock = SimulatedClock(now - DAY)
    registry = Registry(tmp_path / "registry", clock=clock)
    registry.promote(add_version(tmp_path, now - DAY), by="train", why="first")
    visits = draw_visits(np.random.default_rng(0), now - HOUR, 3_000, 1_200, ctr=0.5)
    write_visits(tmp_path / "lake", visits)
    clock.advance_to(now)
    version = add_version(tmp_path, now)
    traffic = NoTraffic(clock)
    models = ModelRollout(open_shop(tmp_path), clock, traffic, lambda *_: None)
    assert not models.roll_out(version), "without traffic no canary passes"
    steps = [line.split(": ")[1] for line in models.new_audit_lines()]
    assert steps[0] == f"shadow {version}, the gate accepted it"
    assert steps[1].startswith(f"canary {version}, ")


class NoTraffic:
    """Advances the clock, and serves nobody."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock, self.server = clock, SimpleNamespace(refresh=lambda: None)

    def pair_versions(self, *_: str) -> None:
        return None

    def run(self, until: int, *_: object) -> None:
        self._clock.advance_to(until)


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = _demo(tmp_path)
    assert done.returncode == 2
    assert "not from an earlier demo" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.nightly
def test_it_prints_its_stages_and_a_sigterm_ends_its_roles_within_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "demo",
        "--small",
        "--folder",
        str(folder),
        "--port",
        "0",
    ]
    demo = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if "/shop" in line:
            break
    assert [line[:6] for line in lines if " of 11 " in line] == [
        "1 of 1",
        "2 of 1",
        "3 of 1",
        "4 of 1",
    ]
    deadline = time.monotonic() + 30  # The servers start before the other roles.
    while len(list(processes_of(folder))) <= 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    demo.terminate()
    deadline = time.monotonic() + 5
    while (left := list(processes_of(folder))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    demo.wait(5)
