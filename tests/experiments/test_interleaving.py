"""An interleaved experiment from its declaration to the report, and what keeps it apart."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

import tailorbird
from tailorbird.cli.experiments.report import report as print_report
from tailorbird.config import open_project
from tailorbird.config.declarations import load_experiments
from tailorbird.errors import DeclarationError, NotReadyError
from tailorbird.events import HOUR
from tailorbird.experiments import Experiment
from tailorbird.experiments.interleaving import interleaving_report
from tailorbird.lake import Lake
from tailorbird.platform.inprocess import InProcessServer
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.ranking import Pin, Slot
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.messages import RecommendQuery
from tailorbird.training.dataset.logged_answers import dataset_from_responses

HALVES = {"popular": 0.5, "recent": 0.5}
EXPERIMENT = Experiment("fresh", HALVES, slot="home", kind="interleaving", stopping="anytime")
ITEMS, USERS = 40, 240


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tailorbird.Project:
    """A shop whose visitors click on its newest items, with an interleaved experiment."""
    root = tmp_path_factory.mktemp("interleaved") / "shop"
    shop = tailorbird.Project.create(root)
    declaration = (
        'Experiment("fresh", {"popular": 0.5, "recent": 0.5}, slot="home", kind="interleaving")'
    )
    (root / "experiments.py").write_text(
        f"from tailorbird.experiments import Experiment\nfresh = {declaration}\n"
    )
    shop.experiments.start("fresh", reason="try")
    project = open_project(root)
    clock, sent = project.clock(), 0
    collector = EventCollector(project.paths.stream, "serve-1", project.plan, clock)

    def send(type_: str, **more) -> None:
        nonlocal sent
        sent += 1
        event = {"event_id": f"e{sent}", "type": type_, "ts": clock.now(), **more}
        [decision] = collector.submit(msgspec.json.encode(event))
        assert decision.accepted, decision

    with InProcessRoles(project, clock) as roles:
        for number in range(ITEMS):
            properties = {"category": f"c{number % 5}", "stock": 5, "price": 1.0, "title": "t"}
            send("item", item_id=f"i{number:02d}", properties=properties)
            for user in range(max(20 - number, 0)):
                send("click", item_id=f"i{number:02d}", user_id=f"early{user}")
        roles.drain()
        server = InProcessServer(project, clock, collector=collector, seed=1)
        for number in range(USERS):
            query = RecommendQuery(slot="home", user_id=f"u{number}")
            answer = server.pipeline.answer(query)
            newest = max(item.item_id for item in answer.items)
            for item in {newest, answer.items[number % 12].item_id}:
                request = {"user_id": f"u{number}", "request_id": answer.request_id}
                send("click", item_id=item, **request)
        server.close()
        collector.close()
        roles.drain()
    return shop


def test_the_report_names_the_preferred_ranking(
    shop: tailorbird.Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = shop.experiments.report("fresh").to_dict()
    assert result["verdict"].startswith("recent is preferred to popular")
    assert result["colour"] == "green"
    clicks = result["preferences"][0]
    assert 0.5 < clicks["low"] < clicks["share"] < clicks["high"] <= 1
    assert clicks["wins"] > 2 * clicks["losses"]
    assert clicks["p"] < 1e-6
    assert all(check["passed"] for check in result["checks"]), result["checks"]
    assert result["responses"] == USERS
    assert [row["control"] + row["treatment"] for row in result["positions"]] == [USERS] * 12
    monkeypatch.chdir(shop.root)
    print_report("fresh", html=tmp_path / "fresh.html")
    assert "recent is preferred" in capsys.readouterr().out
    page = (tmp_path / "fresh.html").read_text()
    assert f"<strong>{result['verdict']}</strong>" in page
    assert page.count("<circle") == 1  # the share of the clicks; nobody bought
    assert f"<h3>{USERS} responses</h3>" in page
    assert page.count("<tr>") == 2 + 1 + 12 + 1 + len(result["checks"])


def test_each_logged_item_has_a_team_and_an_exact_propensity(shop: tailorbird.Project) -> None:
    lake = Lake(shop.declarations.paths.lake)
    answers = lake.responses().to_pylist()
    assert len(answers) == USERS
    shown: dict[tuple[int, str], list[float]] = {}
    for answer in answers:
        assert (answer["experiment"], answer["arm"]) == ("fresh", "interleaved")
        assert set(answer["teams"]) == {"popular", "recent"}
        for at, (item, chance) in enumerate(
            zip(answer["items"], answer["propensities"], strict=True)
        ):
            assert 0 < answer["joint_propensities"][at] <= chance + 1e-12
            shown.setdefault((at, item), []).append(chance)
    # All people are alike here, so their drafts come from one distribution.
    for (at, item), chances in shown.items():
        assert len(set(chances)) == 1, (at, item)
        error = np.sqrt(chances[0] * (1 - chances[0]) / USERS)
        assert abs(len(chances) / USERS - chances[0]) <= 5 * error + 1e-12


def test_other_analyses_leave_drafts_out(shop: tailorbird.Project) -> None:
    lake = Lake(shop.declarations.paths.lake)
    events = lake.events()
    latest = pa.compute.max(events["ts"].cast(pa.int64())).as_py()
    span = {"ts_from": 0, "complete_until": latest + HOUR}
    data = dataset_from_responses(events, "home", ["click"], **span, denominator="answer")
    assert data.request_count == USERS
    assert (data.propensity == 1).all()
    with pytest.raises(NotReadyError):
        dataset_from_responses(events, "home", ["click"], **span, with_interleaved=False)


def test_a_biased_draft_is_reported(shop: tailorbird.Project) -> None:
    lake = Lake(shop.declarations.paths.lake)
    answers, events = lake.responses(), lake.events()
    latest = pa.compute.max(events["ts"].cast(pa.int64())).as_py()
    span = {"started_at": latest - HOUR, "now": latest + 1, "attribution": HOUR}
    teams = pa.array([["recent"] * 12] * USERS)
    biased = answers.set_column(answers.schema.get_field_index("teams"), "teams", teams)
    result = interleaving_report(events, biased, EXPERIMENT, **span)
    assert result.colour == "red"
    assert "position 1 has 0 : 240 items" in result.verdict
    lost = interleaving_report(events, answers.slice(20), EXPERIMENT, **span)
    assert lost.verdict.startswith("Do not decide by this experiment: 20 of 240 responses")
    early = interleaving_report(events, answers, replace(EXPERIMENT, stopping="fixed"), **span)
    assert early.colour == "amber"
    assert early.verdict.startswith("Not decided yet")
    assert (
        early.preferences[0].low
        > interleaving_report(events, answers, EXPERIMENT, **span).preferences[0].low
    )


@pytest.mark.parametrize(
    ("declaration", "match"),
    [
        ('{"popular": 0.3, "model": 0.3, "recent": 0.3}, slot="home"', "takes two arms"),
        ('{"popular": 0.3, "model": 0.6}, slot="home"', "equal shares"),
        ('{"popular": 0.5, "random": 0.5}, slot="home"', "no ranking to draft from"),
        ('{"popular": 0.5, "model": 0.5}, slot="pinned"', "has pins"),
    ],
)
def test_declarations_that_cannot_be_are_refused(
    tmp_path: Path, declaration: str, match: str
) -> None:
    file = tmp_path / "experiments.py"
    text = f'Experiment("e", {declaration}, kind="interleaving")'
    file.write_text(f"from tailorbird.experiments import Experiment\ne = {text}\n")
    slots = {"home": Slot("home"), "pinned": Slot("pinned", pins=[Pin("i1", 1)])}
    with pytest.raises(DeclarationError, match=match):
        load_experiments(file, slots)
