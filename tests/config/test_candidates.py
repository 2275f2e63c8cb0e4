"""Which candidate tables a project keeps: of its slots, and of the bundles that answer or may."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tailorbird.candidates.contract import Board
from tailorbird.candidates.folder import CURRENT, keep_current
from tailorbird.config.candidates import (
    exposure_event,
    maintained_contracts,
    slots_contract,
    wanted_contract,
)
from tailorbird.config.project import Paths
from tailorbird.events import DAY, HOUR, SystemClock
from tailorbird.ranking import Slot
from tailorbird.registry import Manifest, Registry, seal

HOME = Slot(
    "home", sources={"popular:6h": 50, "editorial:front": 5}, columns=["popular:24h:device"]
)


@pytest.fixture
def project(tmp_path: Path) -> SimpleNamespace:
    paths = Paths(tmp_path)
    paths.candidates.mkdir()
    return SimpleNamespace(paths=paths, slots={"home": HOME})


def bundle(project: SimpleNamespace, *sources: str) -> str:
    folder = project.paths.registry.with_name("new")
    folder.mkdir(exist_ok=True)
    manifest = Manifest(created_at=0, schema_hash="s", sources=sources)
    (folder / "model.bin").write_bytes(b"weights")
    seal(folder, manifest)
    return Registry(project.paths.registry, clock=SystemClock()).add(folder, by="test", why="test")


def promote(project: SimpleNamespace, version: str) -> None:
    Registry(project.paths.registry, clock=SystemClock()).promote(version, by="test", why="test")


def test_slots_keep_what_they_name_and_what_their_rankers_read(project: SimpleNamespace) -> None:
    contract = slots_contract(project)
    assert {Board(6 * HOUR), Board(DAY, "device"), Board(DAY)} <= set(contract.boards)
    assert contract.session_knn is None
    assert slots_contract(project, ["session_knn"]).session_knn is not None
    assert wanted_contract(project) == contract


def test_bundles_that_answer_or_may_have_their_tables_kept(project: SimpleNamespace) -> None:
    """Also the one before: a rollback must find its tables. What neither serves nor may is let go.
    """
    first, second, third = (
        bundle(project, *sources) for sources in (["popular:15m"], ["stan"], ["popular:28d"])
    )
    promote(project, first)
    assert Board(HOUR // 4) in wanted_contract(project).boards
    promote(project, second)
    wanted = wanted_contract(project)
    assert Board(HOUR // 4) in wanted.boards
    assert wanted.session_knn is not None
    promote(project, third)
    wanted = wanted_contract(project)
    assert Board(HOUR // 4) not in wanted.boards
    assert wanted.session_knn is not None
    assert wanted.covers(slots_contract(project))


def test_the_current_tables_stay_until_the_wanted_ones_are_there(project: SimpleNamespace) -> None:
    before = slots_contract(project)
    assert maintained_contracts(project) == [before]
    keep_current(project.paths.candidates, before)
    assert maintained_contracts(project) == [before]
    project.slots["home"] = Slot("home", sources={"session_knn": 5})
    wanted = wanted_contract(project)
    assert wanted != before
    assert maintained_contracts(project) == [before, wanted]
    keep_current(project.paths.candidates, wanted)
    assert maintained_contracts(project) == [wanted]


def test_a_record_that_cannot_be_read_stops_nothing(
    project: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    (project.paths.candidates / CURRENT).write_text("{")
    assert maintained_contracts(project) == [wanted_contract(project)]
    assert "remove data/candidates" in caplog.text


def test_answers_say_what_was_shown_where_no_slot_reports_impressions(
    project: SimpleNamespace,
) -> None:
    assert exposure_event(project) == "impression"
    project.slots = {name: Slot(name, denominator="answer") for name in ("home", "cart")}
    assert exposure_event(project) == slots_contract(project).shown == "answer"
    project.slots["other"] = Slot("other")
    assert exposure_event(project) == "impression"
