"""The candidate tables that a project maintains, by its slots and live bundles."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tailorbird.candidates.contract import Board
from tailorbird.candidates.folder import CURRENT_FILE, set_current_contract
from tailorbird.config.candidates import (
    exposure_event,
    maintained_contracts,
    required_contract,
    slots_contract,
)
from tailorbird.config.paths import Paths
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
    assert required_contract(project) == contract


def test_tables_of_live_bundles_are_maintained(project: SimpleNamespace) -> None:
    """Also the one before: a rollback must find its tables. What neither serves nor may is let
    go.
    """
    first, second, third = (
        bundle(project, *sources) for sources in (["popular:15m"], ["stan"], ["popular:28d"])
    )
    promote(project, first)
    assert Board(HOUR // 4) in required_contract(project).boards
    promote(project, second)
    required = required_contract(project)
    assert Board(HOUR // 4) in required.boards
    assert required.session_knn is not None
    promote(project, third)
    required = required_contract(project)
    assert Board(HOUR // 4) not in required.boards
    assert required.session_knn is not None
    assert required.covers(slots_contract(project))


def test_the_current_tables_stay_until_the_required_ones_are_ready(
    project: SimpleNamespace,
) -> None:
    before = slots_contract(project)
    assert maintained_contracts(project) == [before]
    set_current_contract(project.paths.candidates, before)
    assert maintained_contracts(project) == [before]
    project.slots["home"] = Slot("home", sources={"session_knn": 5})
    required = required_contract(project)
    assert required != before
    assert maintained_contracts(project) == [before, required]
    set_current_contract(project.paths.candidates, required)
    assert maintained_contracts(project) == [required]


def test_a_record_that_cannot_be_read_stops_nothing(
    project: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    (project.paths.candidates / CURRENT_FILE).write_text("{")
    assert maintained_contracts(project) == [required_contract(project)]
    assert "remove data/candidates" in caplog.text


def test_answers_say_what_was_shown_where_no_slot_reports_impressions(
    project: SimpleNamespace,
) -> None:
    assert exposure_event(project) == "impression"
    project.slots = {name: Slot(name, denominator="answer") for name in ("home", "cart")}
    assert exposure_event(project) == slots_contract(project).shown == "answer"
    project.slots["other"] = Slot("other")
    assert exposure_event(project) == "impression"
