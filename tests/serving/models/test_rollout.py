"""Champion, canary and shadow over a registry: who is answered by which version, what is loaded
once, and what a rollback takes.
"""

import time

import pytest
from tests.support.serving.bundles import LoadCounter
from tests.support.serving.pipeline import ResponseRecorder
from tests.support.serving.rollout import CaughtUpSchemas, make_pipeline
from tests.support.shops import serving_shop

from tailorbird.errors import BundleError, NotReadyError, UsageError
from tailorbird.events import SystemClock
from tailorbird.experiments.assign import Experiment, assign, is_in_share
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry, StartedExperiment
from tailorbird.serving.experiments import LiveExperiments
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.models.rollout import Rollout
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.shadow import CHAMPION_TIMED_EVERY, ShadowScorer


@pytest.fixture
def registry(tmp_path, features, bundle_folder):
    registry = Registry(tmp_path / "registry", clock=SystemClock())
    registry.add(bundle_folder)
    registry.add(
        serving_shop.write_shop_bundle(tmp_path / "cheap", features, weights={"price": -0.05})
    )
    registry.promote("v0001", by="test", why="first")
    return registry


@pytest.fixture
def loads():
    return []


@pytest.fixture
def rollout(registry, loads):
    def load(folder):
        loads.append(folder.name)
        return Bundle.load(folder)

    rollout = Rollout(registry, load, LoadCounter([]), CaughtUpSchemas())
    rollout.tick()
    return rollout


def models_of(pipeline, people: int = 200) -> dict[str, str]:
    return {
        f"u{n}": pipeline.answer(RecommendQuery(slot="home", user_id=f"u{n}")).model
        for n in range(people)
    }


def test_a_canary_answers_its_share_always_the_same_people_and_more_when_it_is_advanced(
    registry, rollout, features
):
    pipeline = make_pipeline(rollout, features)
    registry.set_canary("v0002", 0.2, by="test", why="try")
    rollout.tick()
    small = models_of(pipeline)
    assert {person for person, model in small.items() if model == "v0002"} == {
        u for u in small if is_in_share("canary-v0002", 0.2, u)
    }
    registry.set_canary("v0002", 0.5, by="test", why="more")
    rollout.tick()
    large = models_of(pipeline)
    assert all(large[person] == "v0002" for person, model in small.items() if model == "v0002")
    assert 60 < sum(model == "v0002" for model in large.values()) < 140
    registry.end_canary(by="test", why="enough")
    rollout.tick()
    assert set(models_of(pipeline).values()) == {"v0001"}
    with pytest.raises(NotReadyError):
        registry.end_canary(by="test", why="again")


def test_promoting_the_canary_and_rolling_back_load_nothing(registry, rollout, loads):
    registry.set_canary("v0002", 0.1, by="test", why="try")
    rollout.tick()
    assert loads == ["v0001", "v0002"]
    registry.promote("v0002", by="test", why="good")
    rollout.tick()
    assert rollout.versions() == {"champion": "v0002", "previous": "v0001"}
    started_at = time.thread_time()
    registry.rollback(by="test", why="not so good")
    rollout.tick()
    assert time.thread_time() - started_at < 1.0
    assert rollout.current().version == "v0001"
    assert loads == ["v0001", "v0002"]


def test_a_server_that_starts_loads_the_champion_before_too(registry, rollout, loads):
    registry.promote("v0002", by="test", why="second")
    fresh = Rollout(registry, Bundle.load, LoadCounter([]), CaughtUpSchemas())
    fresh.tick()
    assert fresh.previous() is None, "the champion first"
    fresh.tick()
    assert fresh.versions() == {"champion": "v0002", "previous": "v0001"}


def test_a_server_that_starts_with_a_damaged_champion_says_that_the_one_before_answers(
    registry, features
):
    registry.promote("v0002", by="test", why="second")
    manifest = registry.path / "v0002" / "manifest.json"
    manifest.chmod(0o644)
    intact = manifest.read_bytes()
    manifest.write_bytes(b"{}")
    fresh = Rollout(registry, Bundle.load, LoadCounter([]), CaughtUpSchemas())
    fresh.start()
    fresh.stop()
    query, pipeline = RecommendQuery(slot="home", user_id="u1"), make_pipeline(fresh, features)
    answer = pipeline.answer(query)
    assert (answer.model, answer.degraded) == ("v0001", ["previous_model"])
    manifest.write_bytes(intact)
    registry.set_shadow("", by="test", why="any change is looked at")
    fresh.tick()
    answer = pipeline.answer(query)
    assert (answer.model, answer.degraded) == ("v0002", [])


def test_a_canary_that_cannot_be_loaded_answers_nobody_and_is_counted(registry, features):
    def load(folder):
        if folder.name == "v0002":
            raise BundleError("it is broken")
        return Bundle.load(folder)

    seen = LoadCounter([])
    rollout = Rollout(registry, load, seen, CaughtUpSchemas())
    registry.set_canary("v0002", 0.9, by="test", why="try")
    rollout.tick()
    assert set(models_of(make_pipeline(rollout, features), 20).values()) == {"v0001"}
    assert seen.refused == 1


def test_a_champion_waits_for_the_candidate_tables_that_it_reads(registry, features, tmp_path):
    class Published:
        sources = {"popular:24h"}

        def covers(self, sources):
            return set(sources) <= self.sources

    tables = Published()
    rollout = Rollout(registry, Bundle.load, LoadCounter([]), CaughtUpSchemas(), tables=tables)
    rollout.tick()
    registry.add(
        serving_shop.write_shop_bundle(
            tmp_path / "live", features, live_sources=["popular:24h", "stan"]
        )
    )
    registry.promote("v0003", by="test", why="reads sessions")
    rollout.tick()
    assert rollout.current().version == "v0001"
    assert "its candidate tables are built" in rollout.champion.problem
    tables.sources = {"popular:24h", "stan"}
    rollout.tick()
    assert (rollout.current().version, rollout.champion.problem) == ("v0003", "")


def test_the_registry_keeps_a_canary_within_what_can_be_compared(registry):
    for share in (0.0, 1.0, float("nan"), 0.00001, 0.99999):
        with pytest.raises(UsageError):
            registry.set_canary("v0002", share, by="test", why="try")
    with pytest.raises(UsageError):
        registry.set_canary("v0001", 0.1, by="test", why="the champion itself")
    registry.set_canary("v0002", 0.1, by="test", why="try")
    canary_since = registry.aliases().canary_at
    registry.set_canary("v0002", 0.2, by="test", why="more")
    assert (registry.aliases().canary_at, registry.aliases().share) == (canary_since, 0.2), (
        "its figures go on"
    )
    assert registry.versions()[1].aliases == ("canary",)


def test_a_shadow_is_logged_and_changes_nothing_that_is_shown(registry, rollout, features):
    response_log = ResponseRecorder()
    pipeline = make_pipeline(rollout, features, response_log)
    query = RecommendQuery(slot="home", user_id="u1")
    before = pipeline.answer(query)
    registry.set_shadow("v0002", by="test", why="look")
    rollout.tick()
    after = pipeline.answer(query)
    assert [item.item_id for item in after.items] == [item.item_id for item in before.items]
    record = response_log.records[1]
    assert (record.shadow, record.model) == ("v0002", "v0001")
    assert record.shadow_scores == sorted(record.shadow_scores), (
        "it likes cheap items, of which the dear ones are shown first"
    )
    assert response_log.records[0].shadow is None
    for _ in range(CHAMPION_TIMED_EVERY):
        pipeline.answer(query)
    timed = [each for each in response_log.records if each.champion_us]
    assert timed, "the champion scores the same items again, now and then"
    assert all(0 < each.shadow_us < each.latency_us - each.champion_us for each in timed)
    registry.set_shadow("", by="test", why="enough")
    rollout.tick()
    pipeline.answer(query)
    assert response_log.records[-1].shadow is None


def test_a_shadow_that_fails_or_takes_too_long_is_left_out(rollout, features, bundle, monkeypatch):
    class Failing:
        version, heads, schema_hash, index, encoder, calls = (
            "v0009",
            ("click",),
            bundle.schema_hash,
            bundle.index,
            bundle.encoder,
            0,
        )

        def with_index(self, index):
            return self

        def score(self, rows, item_keys, *, objective, live_columns):
            self.calls += 1
            raise RuntimeError("no")

    failing = Failing()
    monkeypatch.setattr(rollout, "shadow", lambda: failing)
    pipeline = make_pipeline(rollout, features)
    degraded = [
        pipeline.answer(RecommendQuery(slot="home", user_id="u1")).degraded for _ in range(6)
    ]
    assert degraded == [[]] * 6
    assert failing.calls == 3
    shadows = ShadowScorer(SingleSchema(features, None), pipeline._metrics)
    shadows._credit_s = -1.0
    assert not shadows._has_credit(0.1), "it has had its time"
    assert shadows._has_credit(10.0)


def test_a_holdout_stays_with_the_previous_champion(registry, loads, features):
    rollout = Rollout(registry, Bundle.load, LoadCounter([]), CaughtUpSchemas(), holdout_share=0.2)
    registry.promote("v0002", by="test", why="better")
    for _ in range(2):  # the previous champion is loaded after the champion
        rollout.tick()
    models = models_of(make_pipeline(rollout, features))
    held_out = {person for person, model in models.items() if model == "v0001"}
    assert held_out == {u for u in models if is_in_share("holdout-v0002", 0.2, u)}
    assert held_out
    registry.rollback(by="test", why="worse")
    for _ in range(2):
        rollout.tick()
    assert set(models_of(make_pipeline(rollout, features)).values()) == {"v0001"}


ARMS = Experiment(
    "cheap", {"old": 0.5, "new": 0.5}, slot="home", versions={"old": "v0001", "new": "v0002"}
)


def start(registry) -> None:
    """Start the experiment whose arms two versions serve."""
    started = StartedExperiment(
        name=ARMS.name,
        slot="home",
        layer="home",
        digest=ARMS.digest,
        declaration=ARMS.to_dict(),
        versions=dict(ARMS.versions),
    )
    registry.change_experiments(
        "start", "cheap", lambda old: old.start(started, by="a", why="try", at=1), by="a", why="try"
    )


def test_an_arm_is_served_by_the_version_that_it_names(registry, rollout, features, loads):
    live = LiveExperiments(registry, serving_shop.slots(), versions=rollout.arms)
    response_log = ResponseRecorder()
    pipeline = make_pipeline(rollout, features, response_log, live)
    start(registry)
    live.refresh()
    models = models_of(pipeline, 40)
    expected = {u: "v0001" if assign(ARMS, u) == "old" else "v0002" for u in models}
    assert models == expected
    assert set(expected.values()) == {"v0001", "v0002"}
    assert loads == ["v0001", "v0002"], "the champion is loaded once for both"
    assert {(each.arm, each.model, each.assigned_version) for each in response_log.records} == {
        ("old", "v0001", "v0001"),
        ("new", "v0002", "v0002"),
    }
    assert not any(each.degraded for each in response_log.records)
    registry.promote("v0002", by="test", why="the arms stay as they are")
    rollout.tick()
    assert models_of(pipeline, 40) == expected
    forced = pipeline.answer(RecommendQuery(slot="home", user_id="qa", arm="old"))
    assert (forced.arm, forced.model) == ("old", "v0001")
    registry.change_experiments(
        "stop", "cheap", lambda old: old.stop("cheap", by="a", why="", at=2), by="a", why="done"
    )
    live.tick()
    assert set(models_of(pipeline, 40).values()) == {"v0002"}
    assert rollout.for_version("v0001") is None


def test_an_experiment_waits_until_its_versions_are_loaded(registry, features):
    broken = {"v0002"}

    def load(folder):
        if folder.name in broken:
            raise BundleError("it is broken")
        return Bundle.load(folder)

    rollout = Rollout(registry, load, LoadCounter([]), CaughtUpSchemas())
    rollout.arms._retry_s = 0.0
    rollout.tick()
    live = LiveExperiments(registry, serving_shop.slots(), versions=rollout.arms)
    pipeline = make_pipeline(rollout, features, None, live)
    start(registry)
    live.refresh()
    answers = [pipeline.answer(RecommendQuery(slot="home", user_id=f"u{n}")) for n in range(9)]
    assert {(each.arm, each.model) for each in answers} == {("", "v0001")}
    broken.clear()
    assert live.refresh()
    assert set(models_of(pipeline, 40).values()) == {"v0001", "v0002"}
