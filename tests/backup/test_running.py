"""A site that runs is backed up while events come in, and restored: nothing is lost up to then."""

import sys
from pathlib import Path

import pytest
from tests.support.oracle import Ledger, Load, count_lake_events, find_unequal_state
from tests.support.roles import Up, make_project, until

import tailorbird as tb
from tailorbird.config import open_project
from tailorbird.events import SystemClock
from tailorbird.lake import verify
from tailorbird.platform.runtime.roles import drain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]


def test_a_running_site_comes_back_with_all_it_acknowledged(tmp_path: Path) -> None:
    project = make_project(tmp_path / "shop")
    vault, ledger = tmp_path / "vault", Ledger(tmp_path / "ledger.jsonl")
    shop = tb.Project(project.root)
    up = Up(project).wait()
    load = Load(up.port, ledger)
    try:
        load.start()
        until(lambda: len(count_lake_events(project)) > 50, 60, "nothing reaches the lake")
        first = shop.backup(vault)
        until(lambda: len(ledger.acked) > 400, 60, "too few events")
        acknowledged = set(ledger.acked)
        second = shop.backup(vault)
        after = set(ledger.acked)
        until(lambda: len(ledger.acked) > len(after) + 20, 60, "events stopped")
        load.stop()
    finally:
        up.stop()
    assert first.taken_at < second.taken_at

    report = tb.restore(vault, tmp_path / "back")
    assert report.taken_at == second.taken_at
    assert report.acknowledged_after is not None
    assert sum(report.acknowledged_after.values()) >= 20, "what came after it is told"
    back = open_project(tmp_path / "back")
    assert verify(back.paths.lake, stream=back.stream, deep=True).is_clean
    drain(back, SystemClock(), progress=lambda *_: None)

    counts = count_lake_events(back)
    assert acknowledged <= counts.keys(), "acknowledged before the backup, and lost"
    assert set(counts.values()) == {1}
    assert counts.keys() <= ledger.sent
    checked = verify(back.paths.lake, stream=back.stream, deep=True)
    assert checked.is_clean, checked
    assert not checked.waiting
    assert find_unequal_state(back) == []
