"""The bundle holder: what serves after a promotion, a refusal, a crash of the loader."""

import time

import pytest
from tests.support.serving.bundles import LoadCounter

from tailorbird.errors import BundleError
from tailorbird.events import SystemClock
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry
from tailorbird.serving.models.bundles import BundleHolder, probe_in_child


@pytest.fixture
def seen():
    return LoadCounter([])


@pytest.fixture
def registry(tmp_path, bundle_folder):
    registry = Registry(tmp_path / "registry", clock=SystemClock())
    for _ in range(3):
        registry.add(bundle_folder)
    return registry


@pytest.fixture
def load(features):
    return lambda folder: Bundle.load(folder, schema_hash=features.schema_hash)


def test_nothing_serves_before_the_first_promotion(registry, load, seen):
    holder = BundleHolder(registry, load, seen)
    holder.tick()
    assert (holder.current(), holder.problem, seen.refused) == (None, "", 0)


def test_the_champion_serves_and_an_unchanged_registry_is_left_alone(registry, load, seen):
    registry.promote("v0001", by="test", why="first")
    holder = BundleHolder(registry, load, seen)
    assert holder.tick()
    assert not holder.tick()
    registry.promote("v0002", by="test", why="second")
    assert holder.tick()
    bundle = holder.current()
    assert isinstance(bundle, Bundle)
    assert (bundle.version, seen.loaded) == ("v0002", ["v0001", "v0002"])


def test_a_damaged_champion_is_refused_and_the_previous_one_serves_on(registry, load, seen):
    registry.promote("v0001", by="test", why="first")
    holder = BundleHolder(registry, load, seen)
    holder.tick()
    registry.promote("v0002", by="test", why="second")
    encoder = registry.path / "v0002" / "encoder.json"
    encoder.chmod(0o644)
    encoder.write_bytes(encoder.read_bytes().replace(b"price", b"prize"))
    assert not holder.tick()
    assert holder.current().version == "v0001"
    assert (seen.refused, "v0002" in holder.problem) == (1, True)
    registry.promote("v0003", by="test", why="third")
    assert holder.tick()
    assert (holder.current().version, holder.problem) == ("v0003", "")


def test_a_server_that_starts_with_a_damaged_champion_takes_the_one_before(registry, load, seen):
    registry.promote("v0001", by="test", why="first")
    registry.promote("v0002", by="test", why="second")
    manifest = registry.path / "v0002" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(b"{}")
    holder = BundleHolder(registry, load, seen)
    holder.start()
    holder.stop()
    assert (holder.current().version, holder.is_fallback) == ("v0001", True)
    registry.rollback(by="test", why="it is damaged")
    holder.tick()
    assert (holder.current().version, holder.is_fallback) == ("v0001", False)


def test_a_server_starts_without_a_model_where_what_names_the_champion_is_damaged(
    registry, load, seen
):
    registry.promote("v0001", by="test", why="first")
    names = registry.path / "aliases.json"
    intact = names.read_bytes()
    names.write_bytes(b"{")
    holder = BundleHolder(registry, load, seen, poll_s=0.01)
    holder.start()
    try:
        assert (holder.current(), seen.refused) == (None, 1)
        assert "restore it from audit.jsonl" in holder.problem
        names.write_bytes(intact)
        until(lambda: holder.current() is not None, "what was mended is not taken")
    finally:
        holder.stop()


def test_a_refused_champion_serves_once_it_is_mended_in_its_place(
    registry, load, seen, monkeypatch
):
    monkeypatch.setattr("tailorbird.serving.models.bundles.RETRY_INTERVAL_S", 0.01)
    registry.promote("v0001", by="test", why="first")
    registry.promote("v0002", by="test", why="second")
    encoder = registry.path / "v0002" / "encoder.json"
    encoder.chmod(0o644)
    intact = encoder.read_bytes()
    encoder.write_bytes(intact.replace(b"price", b"prize"))
    holder = BundleHolder(registry, load, seen, poll_s=0.01)
    holder.start()
    try:
        assert (holder.current().version, "v0002" in holder.problem) == ("v0001", True)
        refusals = seen.refused
        encoder.write_bytes(intact)
        until(
            lambda: (holder.current().version, holder.problem) == ("v0002", ""),
            "it is not tried again",
        )
        assert seen.loaded[-1] == "v0002"
        assert refusals == 1
    finally:
        holder.stop()


def test_what_nobody_mended_is_not_tried_at_each_look(registry, load, seen, monkeypatch):
    monkeypatch.setattr("tailorbird.serving.models.bundles.RETRY_INTERVAL_S", 0.0)
    tried = []

    def counted(folder):
        tried.append(folder.name)
        return load(folder)

    registry.promote("v0001", by="test", why="first")
    manifest = registry.path / "v0001" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(b"{}")
    holder = BundleHolder(registry, counted, seen)
    for _ in range(5):
        assert not holder.tick()
    assert (tried, seen.refused) == (["v0001"], 1)
    monkeypatch.setattr("tailorbird.serving.models.bundles.FORCED_RETRY_INTERVAL_S", 0.0)
    holder.tick()
    assert seen.refused == 2, "what it lacked may be there by now"


def until(holds, why):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


def test_an_old_bundle_lives_as_long_as_a_request_holds_it(registry, load, seen):
    registry.promote("v0001", by="test", why="first")
    holder = BundleHolder(registry, load, seen)
    holder.tick()
    bundle = holder.current()
    registry.promote("v0002", by="test", why="second")
    holder.tick()
    assert bundle.version == "v0001"
    assert len(bundle.index)


class Gate:
    """Lets a version serve once it is named."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.serving: list[str] = []

    def is_caught_up(self, bundle, serving_bundle) -> bool:
        return bundle.version in self.open

    def set_serving(self, bundle) -> None:
        self.serving.append(bundle.version)


def test_a_champion_whose_features_are_not_there_waits_beside_the_one_that_serves(
    registry, load, seen
):
    gate = Gate()
    registry.promote("v0001", by="test", why="first")
    holder = BundleHolder(registry, load, seen, gate=gate)
    assert holder.tick(), "without one that serves there is nothing to wait beside"
    registry.promote("v0002", by="test", why="second")
    assert not holder.tick()
    assert (holder.current().version, "v0002 waits" in holder.problem) == ("v0001", True)
    gate.open.add("v0002")
    assert holder.tick()
    assert (holder.current().version, holder.problem, seen.refused) == ("v0002", "", 0)
    assert (seen.loaded, gate.serving) == (["v0001", "v0002"], ["v0001", "v0002"])


def test_a_champion_that_waits_is_forgotten_when_another_is_named(registry, load, seen):
    gate = Gate()
    registry.promote("v0001", by="test", why="first")
    holder = BundleHolder(registry, load, seen, gate=gate)
    holder.tick()
    registry.promote("v0002", by="test", why="second")
    holder.tick()
    registry.rollback(by="test", why="not yet")
    assert not holder.tick()
    gate.open.add("v0002")
    assert not holder.tick()
    assert (holder.current().version, holder.problem) == ("v0001", "")


def test_a_loader_that_dies_of_a_bundle_dies_alone(registry, bundle_folder, monkeypatch):
    probe_in_child(bundle_folder)
    monkeypatch.setenv("TAILORBIRD_FAULTS", "serving.probe=kill")
    with pytest.raises(BundleError, match="by signal 9"):
        probe_in_child(bundle_folder)
