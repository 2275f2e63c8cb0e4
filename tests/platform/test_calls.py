"""Calls that do what commands do, on one small project."""

from pathlib import Path

import pytest

import tailorbird as tb
from tailorbird.config import open_project
from tailorbird.platform.clocks import clock_as_of
from tailorbird.registry import Registry


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tb.Project:
    folder = tmp_path_factory.mktemp("calls")
    lines = [
        f"u{number % 7},i{number % 11},2025-11-{1 + number % 28:02}T{number % 24:02}:00:00Z,click"
        for number in range(400)
    ]
    (folder / "clicks.csv").write_text("\n".join(["user_id,item_id,timestamp,event_type", *lines]))
    project = tb.Project.create(folder / "shop", data=folder / "clicks.csv")
    project.import_files(folder / "clicks.csv")
    return project


def test_the_lake_is_checked_kept_and_read(shop: tb.Project) -> None:
    check = shop.lake.verify()
    assert check.is_sound
    assert "400" in repr(check)
    assert repr(shop.lake.repair()) == "Nothing is corrupt."
    assert shop.lake.quarantine().reasons == []
    assert shop.lake.compact(all_days=True).removed_file_count >= 0
    assert set(shop.lake.vacuum(dry_run=True).columns) == {"table", "files", "log_files", "bytes"}
    events = shop.lake.events()
    assert len(events) == shop.lake.counts()["events"]


def test_declarations_and_their_state_are_described(shop: tb.Project) -> None:
    check = shop.check()
    assert "all declarations load" in repr(check)
    features = shop.features.list()
    assert check.to_dict()["numeric"] == [
        row["name"] for row in features.to_pylist() if row["kind"] == "numeric"
    ]
    assert len(shop.settings()) > 50
    assert shop.features.plan().is_unchanged
    diagnosis = shop.diagnose()
    assert not diagnosis.is_broken
    assert any(row["what"] == "project" for row in diagnosis.to_frame().to_pylist())


def test_features_are_applied_and_agree_with_the_lake(shop: tb.Project) -> None:
    applied = shop.features.apply()
    assert applied.log_position == 400
    parity = shop.features.verify(answers=0, samples=20)
    assert parity.is_sound
    assert parity.state_report.compared > 0
    assert shop.features.prune().retained_schemas == [applied.schema]


def test_keys_are_made_listed_and_revoked(shop: tb.Project) -> None:
    key = shop.keys.create("backend", scopes=["read"])
    assert key.token not in repr(key)
    assert shop.keys.list()["name"].to_pylist() == ["backend"]
    shop.keys.revoke(key.record.id)
    assert not len(shop.keys.list())


def test_formulas_are_shown_and_kept_apart(shop: tb.Project) -> None:
    slots = shop.formulas.current().to_pylist()
    assert {row["slot"] for row in slots} == set(shop.slots)
    assert {row["version"] for row in slots} == {""}
    assert not len(shop.formulas.history())


def test_a_day_is_checked(shop: tb.Project) -> None:
    day = shop.check_day("2025-11-20")
    assert day.page_path.is_file()
    assert "volume" in " ".join(day.to_frame()["check"].to_pylist())


def test_a_history_is_written_once(tmp_path: Path) -> None:
    history = tb.simulator.write_history(tmp_path / "h.jsonl", days=1, users=20, items=20)
    assert history.lines == len((tmp_path / "h.jsonl").read_text().splitlines())
    with pytest.raises(tb.UsageError, match="already there"):
        tb.simulator.write_history(tmp_path / "h.jsonl")


def test_the_audit_log_is_read_by_the_time_at_which_the_imported_log_ended(
    shop: tb.Project,
) -> None:
    project = open_project(shop.root)
    registry = Registry(project.paths.registry, clock=clock_as_of("", project))
    registry.record("note", "v0001", by="ann", why="within the last week of the log")
    [entry] = shop.registry.audit(since="7d").to_pylist()
    assert (entry["by"], entry["at"][:7]) == ("ann", "2025-11")


def test_a_churn_model_has_an_audit_log_of_its_own(tmp_path: Path) -> None:
    tb.Project.create(tmp_path / "shop")
    declared = 'from tailorbird.ranking import Churn\n\nchurn = Churn(window="28d")\n'
    (tmp_path / "shop" / "churn.py").write_text(declared)
    shop = tb.Project(str(tmp_path / "shop"))
    Registry(
        shop.declarations.paths.churn("churn"), clock=clock_as_of("", shop.declarations)
    ).record("fall", "v0001", by="trainer", why="test")
    assert [row["action"] for row in shop.registry.audit(churn="churn").to_pylist()] == ["fall"]
    assert len(shop.registry.audit()) == 0
    with pytest.raises(tb.errors.UsageError, match="declares no 'chrun'"):
        shop.registry.audit(churn="chrun")
