"""Old versions, checkpoints and states go; what something refers to stays."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.support.rollout_child import add_version

from tailorbird.cli.init import init
from tailorbird.config import open_project
from tailorbird.config.rollout_settings import RegistrySection
from tailorbird.errors import UsageError
from tailorbird.events import DAY, SimulatedClock
from tailorbird.platform.runtime.retention import prune_models
from tailorbird.registry import Experiments, Registry, StartedExperiment

NOW = int(time.time()) * 1_000_000
OLD = NOW - 200 * DAY


def start(registry: Registry, name: str, version: str) -> None:
    declaration = {"arms": {"new": version}}
    started = StartedExperiment(
        name=name, slot="home", layer="l", digest="", declaration=declaration, size=100
    )
    change(registry, "start", name, lambda all: all.start(started, by="ada", why="", at=NOW - DAY))


def change(
    registry: Registry, action: str, name: str, function: Callable[[Experiments], Experiments]
) -> None:
    registry.change_experiments(action, name, function, by="ada", why="")


@pytest.fixture
def shop(tmp_path) -> Any:
    """A project that keeps two versions, and others for 90 days. It has nine old ones."""
    init(tmp_path / "shop", json=True)
    project = open_project(tmp_path / "shop")
    settings = msgspec.structs.replace(project.settings, registry=RegistrySection(keep=2, days=90))
    data = project.paths.data
    for number in range(9):
        add_version(data, OLD + number * DAY)
    old = Registry(project.paths.registry, clock=SimulatedClock(OLD + 20 * DAY))
    for version in ("v0002", "v0003", "v0008"):
        old.promote(version, by="trainer", why="the gate accepted it")
    recent = Registry(project.paths.registry, clock=SimulatedClock(NOW - DAY))
    recent.record("end canary", "v0006", by="trainer", why="inconclusive")
    start(recent, "now", "v0004")
    start(recent, "then", "v0001")
    return replace(project, settings=settings)


def names(result) -> list[str]:
    return [f"{each.kind} {each.name}" for each in result.removed]


def test_old_versions_go_unless_something_refers_to_them(shop):
    reports = shop.paths.reports
    reports.mkdir(parents=True)
    (reports / "tuning-home.html").write_text("<p>started from v0005</p>")
    (reports / "v0008.html").write_text("<p>beside v0007</p>")
    clock = SimulatedClock(NOW)
    registry = Registry(shop.paths.registry, clock=clock)
    dry = prune_models(shop, clock, dry_run=True)
    assert names(dry) == ["version v0007"]
    assert dry.removed[0].size_bytes > 100
    assert dry.retained == {
        "v0001": "in the experiment then",
        "v0002": "an earlier champion, to roll back to",
        "v0003": "it is previous",
        "v0004": "in the experiment now",
        "v0005": "in the report tuning-home.html",
    }, "v0006 was a canary yesterday, v0008 and v0009 are the newest"
    assert len(registry.versions()) == 9
    change(registry, "stop", "then", lambda all: all.stop("then", by="ada", why="", at=NOW))
    change(
        registry, "decide", "then", lambda all: all.decide("then", "new", by="a", why="", at=NOW)
    )
    assert names(prune_models(shop, clock)) == ["version v0001", "version v0007"]
    left = [info.version for info in registry.versions()]
    assert left == ["v0002", "v0003", "v0004", "v0005", "v0006", "v0008", "v0009"]
    assert [entry.version for entry in registry.audit() if entry.action == "remove"] == [
        "v0001",
        "v0007",
    ]
    assert names(prune_models(shop, clock)) == []
    assert registry.rollback(by="ada", why="try") == "v0003"
    assert add_version(shop.paths.data, NOW) == "v0010", "numbers are not given again"


def test_what_is_needed_cannot_be_removed(shop):
    registry = Registry(shop.paths.registry, clock=SimulatedClock(NOW))
    for version, reason in (
        ("v0008", "champion"),
        ("v0002", "an earlier champion"),
        ("v0009", "the newest version"),
    ):
        with pytest.raises(UsageError, match=reason):
            registry.remove(version, by="ada", why="too large")


def test_checkpoints_and_states_that_nothing_writes_go(shop):
    training, state = shop.paths.data / "training", shop.paths.state
    age = time.time() - 100 * 86_400
    folders = [
        training / "unfinished" / "home",
        training / "logs" / "home-mlp-2025",
        training / "logs" / "home-mlp-2026",
        state / "0123456789ab",
        state / shop.features.schema_hash,
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x")
        if folder.name != "home-mlp-2026":
            for path in (folder / "file", folder):
                os.utime(path, (age, age))
    removed = ["checkpoint unfinished/home", "checkpoint logs/home-mlp-2025", "state 0123456789ab"]
    for dry_run in (True, False):
        result = prune_models(shop, SimulatedClock(NOW - 150 * DAY), dry_run=dry_run)
        assert names(result) == removed
    assert [folder.exists() for folder in folders] == [False, False, True, False, True]
