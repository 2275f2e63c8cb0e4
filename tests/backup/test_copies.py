"""A plain copy of a project is recognised, and what it lacks is named."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from tests.support.commands import must_json, tailorbird
from tests.support.oracle import Ledger, Load, count_lake_events
from tests.support.roles import Up, make_project, until
from tests.support.shops.backup_shop import collect_events, make_clicks

from tailorbird.backup import inspect_copy, record_origin
from tailorbird.client import Client
from tailorbird.config import Project, open_project
from tailorbird.errors import DamageError
from tailorbird.lake import Lake
from tailorbird.platform.diagnostics.diagnose import diagnose


@pytest.fixture
def known(shop: Project) -> Project:
    """The project, after `up` has recorded where it is."""
    shop.paths.run.mkdir(parents=True, exist_ok=True)
    assert record_origin(shop) is None
    assert record_origin(shop) is None
    return shop


def copy(project: Project, target: Path) -> Project:
    shutil.copytree(project.root, target)
    return open_project(target)


def event_ids(project: Project) -> list[str]:
    return Lake(project.paths.lake).events(["event_id"]).column("event_id").to_pylist()


def test_a_copy_of_a_project_at_rest_is_named_and_runs(known: Project, tmp_path: Path) -> None:
    collect_events(known, make_clicks("dan", 4), route=False)
    copied = copy(known, tmp_path / "copy")
    report = inspect_copy(copied)
    assert report is not None
    assert report.copied_from == str(known.paths.data)
    assert not report.was_running
    assert report.waiting == {"raw-serve-1": 4}
    assert report.missing == {}
    assert record_origin(copied) == report
    assert inspect_copy(known) is None, "the original is none"


def test_a_moved_project_is_no_copy(known: Project, tmp_path: Path) -> None:
    known.root.rename(tmp_path / "elsewhere")
    assert inspect_copy(open_project(tmp_path / "elsewhere")) is None


@pytest.mark.slow
def test_a_copy_whose_logs_are_behind_its_lake_is_refused(known: Project, tmp_path: Path) -> None:
    early = tmp_path / "early"
    shutil.copytree(known.paths.stream, early)
    collect_events(known, make_clicks("dan", 6))
    copied = copy(known, tmp_path / "copy")
    shutil.copy(early / "raw-serve-1.db", copied.paths.stream / "raw-serve-1.db")
    report = inspect_copy(copied)
    assert report is not None
    assert "6 rows" in report.missing["raw-serve-1"]
    with pytest.raises(DamageError, match="lacks 6 rows"):
        record_origin(copied)
    done = tailorbird("-C", copied.root, "lake", "verify")
    assert done.returncode == 1
    assert "lacks 6 rows" in done.stdout
    assert "accounted for" not in done.stdout
    for words in ("features verify", "run serve", "run router", "run lake"):
        assert "lacks 6 rows" in tailorbird("-C", copied.root, *words.split()).stderr
    (finding,) = [each for each in diagnose(copied.root).findings if each[0] == "copy"]
    assert finding[1] == "error"
    assert "lacks 6 rows" in finding[2]
    (copied.paths.stream / "routed.db").unlink()
    with pytest.raises(DamageError) as refused:
        record_origin(copied)
    assert "origin.json" not in refused.value.fix, "positions would be given twice"
    assert "missing" in (inspect_copy(copied) or report).missing["routed"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_short_log_that_no_server_opens_is_set_aside(known: Project, tmp_path: Path) -> None:
    """A log of a server that only the original ran: here the third, and `up` starts two."""
    early = tmp_path / "early"
    collect_events(known, make_clicks("dan", 4), producer="serve-3")
    shutil.copytree(known.paths.stream, early)
    collect_events(known, make_clicks("eve", 6), producer="serve-3")
    copied = copy(known, tmp_path / "copy")
    shutil.copy(early / "raw-serve-3.db", copied.paths.stream / "raw-serve-3.db")
    with pytest.raises(DamageError, match="lacks 6 rows") as refused:
        record_origin(copied)
    origin = copied.paths.run / "origin.json"
    assert str(origin) in refused.value.fix
    origin.unlink()
    up = Up(copied).wait()
    try:
        with Client(f"http://127.0.0.1:{up.port}") as client:
            client.send(make_clicks("fay", 5))
        until(lambda: "fay-4" in event_ids(copied), 60, f"the router does not go on; see {up.log}")
    finally:
        up.stop()
    assert len(event_ids(copied)) == 60 + 4 + 6 + 5
    (aside,) = copied.paths.stream.glob("raw-serve-3.db.damaged-*")
    assert any(aside.name in each[2] for each in diagnose(copied.root).findings)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_verify_says_what_a_copy_of_a_running_project_lacks(tmp_path: Path) -> None:
    project = make_project(tmp_path / "shop")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    up = Up(project).wait()
    load = Load(up.port, ledger)
    try:
        load.start()
        until(lambda: len(count_lake_events(project)) > 50, 60, "nothing reaches the lake")
        until(
            lambda: ledger.acked - count_lake_events(project).keys() != set(), 60, "nothing waits"
        )
        sockets = shutil.ignore_patterns("*.sock")
        shutil.copytree(project.root, tmp_path / "copy", ignore=sockets)
        load.stop()
    finally:
        up.stop()
    done = tailorbird("-C", tmp_path / "copy", "lake", "verify", "--json")
    outcome = json.loads(done.stdout)
    assert outcome["copy"]["copied_from"] == str(project.paths.data)
    assert outcome["copy"]["was_running"] is True
    assert outcome["waiting"] == outcome["copy"]["waiting"]
    own = must_json("-C", project.root, "lake", "verify")
    assert own["copy"] is None
