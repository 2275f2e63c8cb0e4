"""Declared experiments: assignment by layer, holdout and ramp, and each change in the registry."""

import json
from pathlib import Path

import numpy as np
import pytest
from deltalake import write_deltalake
from tests.support.monitored import write_events
from tests.support.shops import serving_shop

import tailorbird
from tailorbird.config.declarations import load_experiments
from tailorbird.config.schemas import served_versions
from tailorbird.errors import DeclarationError, NotReadyError, UsageError
from tailorbird.events import SimulatedClock, SystemClock
from tailorbird.experiments import Enrolment, Experiment, Metric, assign
from tailorbird.experiments.trial import TrialReport
from tailorbird.lake.tables import TABLES
from tailorbird.ranking import Slot
from tailorbird.ranking.policy.condition import compile_condition
from tailorbird.registry import Experiments, Registry, StartedExperiment, read_experiments
from tailorbird.serving.experiments import LiveExperiments
from tailorbird.serving.messages import QueryError

VECTORS = json.loads((Path(__file__).parent / "assignment_vectors.json").read_text())
PEOPLE = [f"u{number}" for number in range(4_000)]
HALVES = {"popular": 0.5, "model": 0.5}


def started(experiment: Experiment, **fields) -> StartedExperiment:
    return StartedExperiment(
        name=experiment.name,
        slot=experiment.slot,
        layer=experiment.layer_name,
        digest=experiment.digest,
        declaration=experiment.to_dict(),
        size=round(experiment.share * 10_000),
        **fields,
    )


def start(experiments: Experiments, experiment: Experiment) -> Experiments:
    return experiments.start(started(experiment), by="ada", why="try", at=1)


@pytest.mark.parametrize("vector", VECTORS)
def test_no_unit_is_moved_by_an_upgrade(vector) -> None:
    experiment = Experiment.from_dict(vector["experiment"])
    enrolment = Enrolment(experiment, vector["first"], vector["size"], vector["ramp"])
    assert {unit: enrolment.assign(unit) for unit in vector["arms"]} == vector["arms"]


def test_a_ramp_keeps_units_in_their_arm() -> None:
    experiment = Experiment("e", arms=HALVES, slot="home")
    before, after = (
        {unit: Enrolment(experiment, ramp=ramp).assign(unit) for unit in PEOPLE}
        for ramp in (0.2, 0.6)
    )
    enrolled = [unit for unit, arm in before.items() if arm]
    assert 0.17 < len(enrolled) / len(PEOPLE) < 0.23
    assert all(after[unit] == before[unit] for unit in enrolled)
    assert 0.56 < sum(map(bool, after.values())) / len(PEOPLE) < 0.64


def test_one_layer_shares_no_units_and_two_are_independent() -> None:
    a = Experiment("a", arms=HALVES, slot="home", layer="l", share=0.5)
    b = Experiment("b", arms=HALVES, slot="home", layer="l", share=0.5)
    c = Experiment("c", arms=HALVES, slot="side", layer="other")
    experiments = start(start(start(Experiments(), a), b), c)
    first = {each.name: (each.first, each.size) for each in experiments.experiments}
    assert first == {"a": (0, 5_000), "b": (5_000, 5_000), "c": (0, 10_000)}
    in_a = np.array([bool(Enrolment(a, 0, 5_000).assign(unit)) for unit in PEOPLE])
    in_b = np.array([bool(Enrolment(b, 5_000, 5_000).assign(unit)) for unit in PEOPLE])
    in_c = np.array([Enrolment(c).assign(unit) == "model" for unit in PEOPLE])
    assert not (in_a & in_b).any()
    assert (in_a | in_b).all()
    assert abs(np.corrcoef(in_a, in_c)[0, 1]) < 4 / np.sqrt(len(PEOPLE))


def test_a_holdout_is_the_same_people_in_each_experiment() -> None:
    held = [
        {u for u in PEOPLE if not Enrolment(Experiment(name, HALVES, holdout=0.1)).assign(u)}
        for name in ("a", "b")
    ]
    assert held[0] == held[1]
    assert 0.08 < len(held[0]) / len(PEOPLE) < 0.12


def test_states_follow_each_other_and_keep_who_when_and_why(tmp_path: Path) -> None:
    registry = Registry(tmp_path, clock=SimulatedClock(7))
    experiment = Experiment("e", arms=HALVES, slot="home")
    for action, change in (
        ("start", lambda each: start(each, experiment)),
        ("ramp", lambda each: each.ramp("e", 0.5, by="bob", why="calm", at=2)),
        ("stop", lambda each: each.stop("e", by="ada", why="crossed", at=3)),
        ("decide", lambda each: each.decide("e", "model", by="ada", why="+4 %", at=4)),
    ):
        registry.change_experiments(action, "e", change, by="ada", why=action)
    stored = read_experiments(tmp_path).get("e")
    assert stored is not None
    assert (stored.state, stored.decision, stored.ramp) == ("decided", "model", 0.5)
    assert [(each.action, each.by, each.at) for each in stored.changes] == [
        ("start", "ada", 1),
        ("ramp", "bob", 2),
        ("stop", "ada", 3),
        ("decide", "ada", 4),
    ]
    assert [entry.action for entry in registry.audit()] == [
        f"experiment {action}" for action in ("start", "ramp", "stop", "decide")
    ]
    assert Experiment.from_dict(stored.declaration).digest == experiment.digest == stored.digest


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda e: e.stop("other", by="", why="", at=1), "never started"),
        (lambda e: e.decide("a", "model", by="", why="", at=1), "must be stopped"),
        (lambda e: e.ramp("a", 1.5, by="", why="", at=1), "expected a ramp"),
        (lambda e: start(e, Experiment("a", HALVES, slot="home", share=0.6)), "is running already"),
        (lambda e: start(e, Experiment("a", HALVES, slot="home", effect=0.9)), "changed while"),
        (lambda e: start(e, Experiment("b", HALVES, slot="home", share=0.5)), "has no 50% free"),
        (lambda e: start(e, Experiment("b", HALVES, slot="home", layer="l")), "in the layer"),
    ],
)
def test_changes_that_cannot_be_are_refused(change, match: str) -> None:
    experiments = start(Experiments(), Experiment("a", HALVES, slot="home", share=0.6))
    with pytest.raises(UsageError, match=match):
        change(experiments)


def test_a_running_server_follows_and_a_forced_arm_is_not_logged(tmp_path: Path) -> None:
    registry = Registry(tmp_path, clock=SimulatedClock(1))
    slots = {name: Slot(name) for name in ("home", "margin")}
    live = LiveExperiments(registry, slots)
    assert live.assign(slots["home"], "u1", "s1").arm == ""
    experiment = Experiment(
        "e", {"popular": 0.5, "margin": 0.5}, slot="home", slots={"margin": "margin"}
    )
    registry.change_experiments("start", "e", lambda e: start(e, experiment), by="ada", why="try")
    assert live.tick()
    arms = {live.assign(slots["home"], unit, "s") for unit in PEOPLE[:50]}
    assert {(each.experiment, each.arm, each.policy, each.slot) for each in arms} == {
        ("e", "popular", "popular", ""),
        ("e", "margin", "model", "margin"),
    }
    forced = live.assign(slots["home"], "u1", "s1", "margin")
    assert (forced.experiment, forced.logged_experiment, forced.arm) == ("e", "", "margin")
    with pytest.raises(QueryError, match="runs no arm"):
        live.assign(slots["home"], "u1", "s1", "nothing")
    registry.change_experiments(
        "stop", "e", lambda e: e.stop("e", by="ada", why="done", at=2), by="ada", why="done"
    )
    live.tick()
    assert live.assign(slots["home"], "u1", "s1").arm == ""


def test_a_forced_arm_of_two_experiments_needs_the_name_of_one(tmp_path: Path) -> None:
    registry, slots = Registry(tmp_path, clock=SimulatedClock(1)), {"home": Slot("home")}
    for name, other in (("a", "recent"), ("b", "popular")):
        experiment = Experiment(name, {"model": 0.5, other: 0.5}, slot="home", share=0.5)
        registry.change_experiments(
            "start", name, lambda e, new=experiment: start(e, new), by="ada", why="try"
        )
    live = LiveExperiments(registry, slots)
    live.tick()
    with pytest.raises(QueryError, match=r"runs 2 arms 'model'.*") as refused:
        live.assign(slots["home"], "u1", "s1", "model")
    assert refused.value.fix == "use one of a:model, b:model"
    forced = live.assign(slots["home"], "u1", "s1", "b:model")
    assert (forced.experiment, forced.arm, forced.is_forced) == ("b", "model", True)
    assert live.assign(slots["home"], "u1", "s1", "recent").experiment == "a"


def test_only_eligible_requests_get_an_arm(tmp_path: Path) -> None:
    registry = Registry(tmp_path, clock=SimulatedClock(1))
    slots = {"home": Slot("home")}
    experiment = Experiment(
        "e", HALVES, slot="home", where="context.device == 'phone' and missing(user.clicks)"
    )
    registry.change_experiments("start", "e", lambda e: start(e, experiment), by="ada", why="try")
    live = LiveExperiments(registry, slots)
    live.tick()

    def arm(unit: str, device: str, **user: float) -> str:
        return live.assign(
            slots["home"], unit, "s", "", lambda each: each.holds(user, {"device": device})
        ).arm

    for unit in PEOPLE[:20]:
        assert arm(unit, "phone") == assign(experiment, unit)
        assert arm(unit, "tablet") == arm(unit, "phone", clicks=2.0) == ""
    for where, match in (("item.price > 3", "reads items"), ("seen(3d)", "reads items")):
        with pytest.raises(DeclarationError, match=match):
            compile_condition(where)
    with pytest.raises(DeclarationError, match="clicks_7"):
        compile_condition("user.clicks_7 > 1", user_fields=["user_clicks_7d"], where="e")


def test_sessions_are_units_too(tmp_path: Path) -> None:
    registry = Registry(tmp_path, clock=SimulatedClock(1))
    slots = {"home": Slot("home")}
    experiment = Experiment("e", HALVES, slot="home", unit="session")
    registry.change_experiments("start", "e", lambda e: start(e, experiment), by="ada", why="try")
    live = LiveExperiments(registry, slots)
    live.tick()
    assert len({live.assign(slots["home"], "u1", f"s{n}").arm for n in range(30)}) == 2


@pytest.mark.parametrize(
    ("declaration", "match"),
    [
        ('Experiment("e", {"popular": 1.0}, slot="home")', "no control"),
        ('Experiment("e", {"popular": 0.5, "model": 0.5})', "names no slot"),
        ('Experiment("e", {"popular": 0.7, "model": 0.5}, slot="home")', "sum to at most 1"),
        ('Experiment("e", {"popular": 0.5, "best": 0.5}, slot="home")', "names no policy"),
        ('Experiment("e", {"popular": 0.5, "model": 0.5}, slot="split")', "permanent split"),
        ('Experiment("e", {"a": 1.0}, metric=Metric("m", event="sale"))', "nothing logs 'sale'"),
        ('Experiment("e", {"a": 1.0}, stopping="whenever")', "unknown stopping"),
        ('Experiment("e", {"a": 1.0}, exposure="seen")', "unknown exposure"),
        (
            'Experiment("e", {"a": 1.0}, policies={"a": "popular"}, versions={"a": "v0001"})',
            "which no model serves",
        ),
        ('Experiment("e", {"a": 1.0}, metric=Metric("m", "success", dwell="x"))', "no duration"),
        ('Experiment("e", {"a": 1.0}, metric="clicks")', "is no Metric"),
        ('Experiment("e", {"a": 1.0}, segments="device")', "use a list"),
        ('Experiment("e", {"a": float("nan"), "b": 0.5})', "shares above 0"),
        *(
            (f'Experiment({rest}, slot="home")', match)
            for rest, match in (
                ('"e", {"popular": 0.5, "model": 0.5}, segments=("colour",)', "device, country"),
                ('"e", {"popular": 0.5, "model": 0.00001}', "so nobody gets it"),
                ('"e", {"popular": 0.5, "model": 0.5}, interval="15d"', "exceeds the duration"),
                ('"bad name/../x", {"popular": 0.5, "model": 0.5}', "is no name"),
            )
        ),
    ],
)
def test_declarations_that_cannot_be_are_refused(
    tmp_path: Path, declaration: str, match: str
) -> None:
    file = tmp_path / "experiments.py"
    file.write_text(f"from tailorbird.experiments import Experiment, Metric\ne = {declaration}\n")
    slots = {
        "home": Slot("home"),
        "split": Slot("split", experiment=Experiment("s", {"popular": 1.0})),
    }
    with pytest.raises(DeclarationError, match=match):
        load_experiments(file, slots)


def test_the_digest_follows_the_declaration() -> None:
    a = Experiment("e", HALVES, guardrails=[Metric("orders", "conversion", event="purchase")])
    assert Experiment.from_dict(a.to_dict()).digest == a.digest
    assert Experiment("e", HALVES).digest != a.digest


def test_a_project_runs_an_experiment_from_start_to_decision(tmp_path: Path) -> None:
    shop = tailorbird.Project.create(tmp_path / "shop")
    file = tmp_path / "shop" / "experiments.py"
    text = (
        "from tailorbird.experiments import Experiment\n"
        'e = Experiment("fresh", {"popular": 0.5, "recent": 0.5}, slot="home", effect=0.05)\n'
    )
    file.write_text(text)

    def state() -> tuple[str, str, str]:
        row = shop.experiments.list().to_pylist()[0]
        return row["experiment"], row["state"], row["decision"]

    assert state() == ("fresh", "declared", "")
    with pytest.raises(NotReadyError, match="not started"):
        shop.experiments.report("fresh")
    with pytest.raises(UsageError, match="declares no experiment 'frsh'"):
        shop.experiments.start("frsh", reason="try")
    shop.experiments.start("fresh", reason="try", ramp=0.1, by="ada")
    frozen = read_experiments(shop.declarations.paths.registry).get("fresh")
    file.write_text(text.replace("0.05", "0.01"))
    shop.experiments.ramp("fresh", 1.0, reason="calm")
    after = read_experiments(shop.declarations.paths.registry).get("fresh")
    assert frozen is not None
    assert after is not None
    assert (after.digest, after.declaration["effect"]) == (frozen.digest, 0.05)
    shop.experiments.stop("fresh", reason="done")
    shop.experiments.decide("fresh", "recent", reason="better")
    assert state() == ("fresh", "decided", "recent")


@pytest.fixture
def shop(tmp_path: Path) -> tailorbird.Project:
    """A project with two versions of its features, a third of others, and an empty lake."""
    shop = tailorbird.Project.create(tmp_path / "shop")
    project = shop.declarations
    registry = Registry(project.paths.registry, clock=SystemClock())
    features, own = serving_shop.feature_set(), project.features.schema_hash
    for name, schema in (("a", own), ("b", own), ("c", "")):
        registry.add(serving_shop.write_shop_bundle(tmp_path / name, features, schema_hash=schema))
    events = TABLES["events"].schema.empty_table()
    write_deltalake(shop.root / "data" / "lake" / "events", events, partition_by=["day"])
    registry.promote("v0001", by="test", why="first")
    (tmp_path / "shop" / "experiments.py").write_text(
        "from tailorbird.experiments import Experiment\n"
        'e = Experiment("e", {"old": 0.5, "new": 0.5}, slot="home",\n'
        '    versions={"old": "champion", "new": "challenger"})\n'
    )
    return shop


def test_arms_name_versions_that_can_serve_and_a_decision_promotes_one(
    shop: tailorbird.Project,
) -> None:
    registry = Registry(shop.declarations.paths.registry, clock=SystemClock())
    with pytest.raises(UsageError, match="no version 'challenger'"):
        shop.experiments.start("e", reason="try")
    registry.set_challenger("v0003", by="test", why="other features")
    with pytest.raises(UsageError, match="v0003 was trained on the features"):
        shop.experiments.start("e", reason="try")
    registry.set_challenger("v0002", by="test", why="try")
    shop.experiments.start("e", reason="try")
    registry.set_challenger("", by="test", why="the arm stays as it was")
    started = read_experiments(registry.path).get("e")
    assert started is not None
    assert started.versions == {"old": "v0001", "new": "v0002"}
    assert served_versions(registry) == ["v0001", "v0002"]
    with pytest.raises(UsageError, match="it is running, and has decided for no version"):
        shop.registry.promote("v0002", because="e")
    shop.experiments.stop("e", reason="enough")
    shop.experiments.decide("e", "new", reason="better")
    with pytest.raises(UsageError, match="it decided for new, which v0002 served"):
        shop.registry.promote("v0003", because="e")
    shop.registry.promote("v0002", because="e")
    assert registry.aliases().champion == "v0002"
    assert registry.audit()[-1].why.startswith("experiment e: it decided for new. No unit")
    shop.registry.promote("v0001", because="e", despite="the other is slow")
    assert registry.audit()[-1].why.endswith("Promoted despite that: the other is slow.")


def notes_of(shop: tailorbird.Project, experiment: str) -> tuple[str, ...]:
    report = shop.experiments.report(experiment)
    assert isinstance(report, TrialReport)
    return report.notes


def test_an_arm_without_a_version_stands_for_the_one_that_served_it(
    shop: tailorbird.Project,
) -> None:
    file, lake = shop.root / "experiments.py", shop.declarations.paths.lake
    text = (
        "from tailorbird.experiments import Experiment, Metric\n"
        'e = Experiment("e", {"popular": 0.5, "model": 0.5}, slot="home", segments=("colour",),\n'
        '    metric=Metric("dwell", "mean", event="impression", value="dwell_s"))\n'
    )
    file.write_text(text)
    with pytest.raises(DeclarationError, match="no response has 'colour'"):
        shop.experiments.start("e", reason="try")
    file.write_text(text := text.replace("colour", "device"))
    seen = {"type": "impression", "person": "p", "ts": SystemClock().now()}
    write_events(lake, [seen | {"p": p} for p in range(300)])
    with pytest.raises(UsageError, match="nothing logs dwell_ms of 'impression'"):
        shop.experiments.start("e", reason="try")
    file.write_text(text.replace("dwell_s", "count"))
    shop.experiments.start("e", reason="try")
    answer = {"type": "answer", "experiment": "e", "arm": "model", "person": "p", "slot": "home"}
    answer |= {"ts": SystemClock().now(), "p": 300, "agent": "person"}
    write_events(lake, [answer | {"model": version} for version in ("v0002", "popular")])
    slots = shop.root / "slots.py"
    slots.write_text(slots.read_text().replace("size=12", 'size=12, attribution="20s"', 1))
    assert any("attribution is 20s" in note for note in notes_of(shop, "e"))
    shop.experiments.stop("e", reason="enough")
    shop.experiments.decide("e", "model", reason="better")
    with pytest.raises(UsageError, match="it decided for model, which v0002 served"):
        shop.registry.promote("v0001", because="e")
    shop.registry.promote("v0002", because="e")
    write_events(lake, [answer | {"model": "v0001"}])
    with pytest.raises(UsageError, match=r"v0001 and v0002 served.* versions=\{"):
        shop.registry.promote("v0002", because="e")


def test_a_frozen_segment_that_does_not_exist_is_left_out(shop: tailorbird.Project) -> None:
    registry = Registry(shop.declarations.paths.registry, clock=SystemClock())
    experiment = Experiment("old", HALVES, slot="home", segments=("colour", "device"))
    registry.change_experiments("start", "old", lambda e: start(e, experiment), by="a", why="b")
    notes = notes_of(shop, "old")
    assert any("No response has the segments colour" in note for note in notes)
    assert any("the start of old kept none" in note for note in notes)
