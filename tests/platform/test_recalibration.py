"""What the trainer does with a champion: calibrate it anew, or go on from its trees."""

import json
import random
import shutil
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from tests.support.training.shop import HOME, Shop

from tailorbird.config.contract_file import EventContract
from tailorbird.config.paths import Paths
from tailorbird.config.settings import Settings
from tailorbird.events import DAY, SimulatedClock
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.platform.drift import figure_store, find_drift
from tailorbird.platform.monitoring import read_status
from tailorbird.platform.rollout import advance_rollout
from tailorbird.platform.runtime import trainer
from tailorbird.platform.runtime.falls import read_decisions
from tailorbird.platform.runtime.training_kind import choose_kind, record_training
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import AuditEntry, Registry
from tailorbird.retrieval.arrays import read_array
from tailorbird.training.fit.towers import TowerSettings
from tailorbird.training.settings import TrainReport

START = 1_790_553_600_000_000  # of the simulated site
LIVE, CHANGE, NOW = START + 3 * DAY, START + 5 * DAY, START + 8 * DAY


def halve_purchases(history):
    """Let most clicks lead to a purchase, half as many from `CHANGE` on; v0001 answers."""
    rng, lines = random.Random(0), []
    for line in history.read_text().split("\n"):
        try:
            event = json.loads(line)
        except ValueError:  # a site sends broken lines too
            lines.append(line)
            continue
        if event["type"] == "answer":
            event["answer"]["model"] = "v0001"
        if event["type"] != "purchase":
            lines.append(json.dumps(event))
        if event["type"] != "click" or "request_id" not in event or isinstance(event["ts"], str):
            continue
        if rng.random() < (0.8 if event["ts"] < CHANGE else 0.4):
            bought = {"type": "purchase", "properties": {"price": 20.0, "quantity": 1}}
            times = {name: event[name] + 1_000 for name in ("ts", "received_at")}
            lines.append(json.dumps(event | bought | times | {"event_id": event["event_id"] + "b"}))
    history.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    shop = replace(Shop.open(folder, halve_purchases), clock=SimulatedClock(LIVE))
    shop.train("registry", lateness_us=0, promote=False)
    registry = Registry(folder / "registry", clock=SimulatedClock(LIVE))
    registry.promote("v0001", by="train", why="test")
    project = SimpleNamespace(
        paths=Paths(folder),
        settings=Settings(),
        slots={"home": HOME},
        features=shop.features,
        churn={},
        plan=SimpleNamespace(lateness_us=0),
        event_contract=EventContract(),
        meaning=None,
        root=folder,
        shop=shop,
    )
    figure_store(project).refresh(START, NOW)
    return project


@pytest.mark.slow
def test_a_training_goes_on_from_the_champions_trees(project, tmp_path):
    shutil.copytree(project.paths.registry, tmp_path / "registry")
    later = SimpleNamespace(**vars(project))
    later.paths = Paths(tmp_path, lake_storage=project.paths.lake)
    clock = SimulatedClock(LIVE + DAY)
    registry = Registry(later.paths.registry, clock=clock)
    first = trainer.train_once(later, clock, "home", quick=True, promote=False, incremental=None)
    (entry,) = [entry for entry in registry.audit() if entry.action == "trained"]
    assert entry.why.endswith("it is the first")
    assert entry.details["kind"] == "from scratch"
    verdict = "accepted" if registry.info(first.version).metrics["accepted"] else "refused"
    assert f", {verdict} by the gate, " in entry.why
    decisions = read_status(later, clock).lines[-1]
    assert f"trained {first.version}, {entry.why}" in decisions, "which a person reads"
    second = trainer.train_once(later, clock, "home", quick=True, promote=False, incremental=None)
    entry = registry.audit()[-1]
    assert entry.why.startswith("incremental in ")
    assert entry.why.endswith("both are measured in turn")
    counts = {}
    for version in ("v0001", first.version, second.version):
        about = registry.info(version).metrics["about"]
        trees = (registry.resolve(version) / "boosters/click.txt").read_text().count("Tree=")
        counts[version] = (about["requests"]["train"], trees)
    assert registry.info(second.version).metrics["about"]["went_on_from"] == "v0001"
    assert counts[second.version][0] < 0.7 * counts[first.version][0], "the newest rows alone"
    assert counts[second.version][1] > counts["v0001"][1], "trees were added"


@pytest.mark.slow
def test_a_training_goes_on_from_trees_that_read_vectors(project):
    pytest.importorskip("torch", reason="needs the extra `deep`")
    tower = TowerSettings(width=16, layers=1, length=8, steps_min=20, steps_max=20)
    small = {"requests": 3_000, "test_requests": 600, "gbdt": GbdtSettings(trees=20)}
    settings = {"retrieval": "sequence", "tower": tower, **small}
    shop = project.shop
    first = shop.train("vectors", **settings, lateness_us=0, promote=False)
    registry = Registry(shop.folder / "vectors", clock=shop.clock)
    registry.promote(first.version, by="train", why="test")
    later = replace(shop, clock=SimulatedClock(LIVE + DAY))
    second = later.train("vectors", **settings, lateness_us=0, promote=False, incremental=True)
    assert (second.is_incremental, second.not_incremental_reason) == (True, ""), second.notes
    assert second.row_counts["train"] < first.row_counts["train"], "the newest rows alone"

    old, new = (
        Bundle.load(registry.resolve(each.version), schema_hash=None) for each in (first, second)
    )
    assert new.encoder.names == old.encoder.names
    assert "vector_score" in new.encoder.names
    assert new.tower.plan.share == old.tower.plan.share
    assert new.tower.plan.trained_until - old.tower.plan.trained_until == DAY, "learned anew"
    trees = [
        (registry.resolve(each.version) / "boosters/click.txt").read_text().split("\nTree=")
        for each in (first, second)
    ]
    assert len(trees[1]) > len(trees[0]), "trees were added"
    last = len(trees[0]) - 1  # the file's end follows the last tree
    assert trees[1][1:last] == trees[0][1:last], "to those of the champion"


def test_each_scheduled_training_says_how_it_ended(tmp_path):
    registry = Registry(tmp_path, clock=SimulatedClock(LIVE))
    decision, evaluation = SimpleNamespace(is_accepted=False), SimpleNamespace(differences={})
    because = "there is no champion to go on from"
    notes = (f"trained from scratch, though --incremental was asked for: {because}",)
    report = TrainReport(
        "v0001", False, "", decision, evaluation, {}, ("click",), notes, {}, {"fit": 58.0}
    )
    for expected in ("from scratch", "incremental", "incremental"):
        kind, why = choose_kind(registry.audit(), "home")
        assert kind == expected
        record_training(registry, "home", report, why, "trainer")
    entries = registry.audit()
    assert [(entry.details["kind"], entry.details["accepted"]) for entry in entries] == [
        ("from scratch", "no")
    ] * 3
    assert entries[-1].why == (
        "from scratch in 58 s, refused by the gate, no model was champion; both are measured in "
        f"turn, but incremental was impossible: {because}"
    )


def trained(kind, seconds, gain, error=0.004):
    bounds = {"low": f"{gain - 1.96 * error}", "high": f"{gain + 1.96 * error}"}
    details = {"slot": "home", "kind": kind, "seconds": f"{seconds}", "gain": f"{gain}"}
    return AuditEntry(0, "trained", "v0002", "trainer", "test", details=details | bounds)


def test_the_cheaper_kind_of_training_is_taken_unless_it_is_behind():
    assert choose_kind([], "home")[0] == "from scratch"
    assert choose_kind([trained("from scratch", 90, 0.0)], "home")[0] == "incremental"
    both = [trained("from scratch", 90, 0.004), trained("incremental", 20, 0.001)] * 2
    kind, why = choose_kind(both, "home")
    assert kind == "incremental"
    assert "incremental takes 20 s, +0.0010; from scratch 90 s, +0.0040" in why
    assert choose_kind(both, "search")[0] == "from scratch", "of another slot nothing is known"
    behind = [trained("from scratch", 90, 0.03), trained("incremental", 20, 0.001)] * 2
    kind, why = choose_kind(behind, "home")
    assert (kind, why.split(", but ")[1]) == ("from scratch", "behind beyond chance")
    long = [*both, *[trained("incremental", 20, 0.001)] * 7]
    assert choose_kind(long, "home")[0] == "from scratch", "it is measured again"


@pytest.mark.slow
def test_a_level_that_halves_is_recalibrated(project):
    clock = SimulatedClock(NOW)
    (decision,) = read_decisions(project, clock)
    assert decision.action == "recalibrate", decision.reason
    registry = Registry(project.paths.registry, clock=clock)
    assert [info.version for info in registry.versions()] == ["v0001"], "a dry run"

    assert trainer.retrain_on_fall(project, clock, HOME) is None
    audit = registry.audit()
    assert [entry.action for entry in audit[-3:]] == ["fall", "recalibrate", "add"]
    assert "conversion of v0001" in audit[-2].why
    (row,) = find_drift(project, clock).episodes
    assert "conversion of v0001" in row.evidence
    assert any("recalibrate v0001" in line for line in read_status(project, clock).lines)

    heads = registry.info("v0002").metrics["about"]["recalibrated"]["heads"]
    assert list(heads) == ["click", "purchase"]
    purchase = heads["purchase"]
    assert 1.5 < purchase["level"] < 2.7
    assert purchase["error_new"] < purchase["error"] / 2
    assert purchase["log_loss_new"] < purchase["log_loss"]
    old, new = (
        Bundle.load(registry.resolve(name), schema_hash=None) for name in ("v0001", "v0002")
    )
    golden = read_array((registry.resolve("v0001") / "golden_input.npy").read_bytes())
    before, after = old.score_matrix(golden), new.score_matrix(golden)
    assert heads["click"]["level"] < 0.85, "clicks were promised too seldom"
    assert after.heads["click"].mean() > before.heads["click"].mean()
    assert after.heads["purchase"].mean() < 0.75 * before.heads["purchase"].mean()

    # It takes the steps of a trained model: here the traffic is too little for a canary.
    human = msgspec.structs.replace(
        project.settings.rollout, approval=["shadow", "canary", "promote", "roll_back"]
    )
    waiting = SimpleNamespace(**vars(project))
    waiting.settings = msgspec.structs.replace(project.settings, rollout=human)
    assert advance_rollout(waiting, clock) == "propose"
    assert registry.aliases().champion == "v0001"
    assert advance_rollout(project, clock) == "promote"
    assert registry.aliases().champion == "v0002"
