"""Who was erased after a backup is erased again when it is restored."""

from pathlib import Path

import pytest
from tests.support.shops.backup_shop import CLOCK, collect_events, make_clicks

import tailorbird as tb
from tailorbird.config import Project, open_project
from tailorbird.events import to_iso
from tailorbird.lake import Lake, verify
from tailorbird.privacy import People, erase, search_project

ANN = People(frozenset({"ann"}), frozenset({"device-of-ann"}))


def users_of(project: Project) -> set[str]:
    return set(Lake(project.paths.lake).events(["user_id"])["user_id"].to_pylist())


@pytest.mark.parametrize("waits", [False, True], ids=["in the lake", "in a log"])
def test_erased_people_stay_erased(shop: Project, tmp_path: Path, waits: bool) -> None:
    project, vault = tb.Project(shop.root), tmp_path / "vault"
    collect_events(shop, make_clicks("ann", 3, first=100), route=not waits)
    before = project.backup(vault)
    collect_events(shop, [])
    erase(open_project(shop.root, use_applied=True), ["ann"], CLOCK)
    project.backup(vault)

    report = tb.restore(vault, tmp_path / "back", at=to_iso(before.taken_at))
    assert report.name == before.name
    assert report.erased >= 2, "the user and the device"
    assert Path(report.receipt).is_file()
    assert "erased again" in repr(report)
    back = open_project(tmp_path / "back", use_applied=True)
    assert search_project(back, ANN).matches == []
    assert {"ben", "cyd"} <= users_of(back)
    assert verify(back.paths.lake, stream=back.stream).is_clean

    collect_events(back, make_clicks("ann", 2, first=200))
    assert "ann" not in users_of(back), "what comes later is dropped"


def test_a_restore_without_a_later_erasure_erases_nobody(shop: Project, tmp_path: Path) -> None:
    erase(open_project(shop.root, use_applied=True), ["ann"], CLOCK)
    tb.Project(shop.root).backup(tmp_path / "vault")
    report = tb.restore(tmp_path / "vault", tmp_path / "back")
    assert (report.erased, report.receipt) == (0, "")
    back = open_project(tmp_path / "back")
    assert len(back.suppression_list()) == len(shop.suppression_list()) > 0
