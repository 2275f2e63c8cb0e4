"""`kill -9` of every role under load: nothing acknowledged is lost or counts twice, the state stays
true.
"""

import os
import sys
from pathlib import Path

import pytest
from tests.support.oracle import Ledger, Load, count_lake_events, find_violations, kill_under_load
from tests.support.roles import ROLES, Up, make_project, until

from tailorbird.events import SystemClock
from tailorbird.platform.runtime.roles import drain

KILLS = 20 if os.environ.get("NIGHTLY") else 5  # of each role

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]


def _settle(project, ledger: Ledger) -> None:
    """Process everything that was acknowledged."""
    drain(project, SystemClock(), progress=lambda *_: None)


def test_kills_of_each_role_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    project = make_project(tmp_path / "shop")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    up = Up(project, train=True).wait()
    load = Load(up.port, ledger)
    kill_under_load(up, load, ROLES, KILLS)
    _settle(project, ledger)
    up_log = up.log.read_text()
    assert {role for role in ROLES if f"{role:<8} ended with signal SIGKILL" in up_log} == set(
        ROLES
    )
    assert "trainer  ended with status" not in up_log, "it ran until it was killed"
    assert len(ledger.acked) > 500
    assert ledger.refused, "the load sends events that must be refused"
    assert find_violations(project, ledger) == []


@pytest.mark.parametrize(
    ("mutant", "kills", "caught"),
    [
        # acknowledged before it is on the disk, and killed in between
        (
            "collector.sync_before_ack=cut;collector.before_append=stall:0.5@25;collector.before_sync=kill@25",
            "serve",
            "acknowledged and lost",
        ),
        # no deduplication, and clients that send again
        pytest.param("router.dedup=cut", "", "times:", marks=pytest.mark.nightly),
    ],
)
def test_the_oracle_catches_an_unsafe_change(
    tmp_path: Path, mutant: str, kills: str, caught: str
) -> None:
    project = make_project(tmp_path / "shop")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    up = Up(project, faults=mutant).wait()
    load = Load(up.port, ledger)
    try:
        load.start()
        first = set(up.pids(kills)) if kills else set()
        until(
            lambda: (
                len(ledger.acked) > 60
                and (
                    bool(set(up.pids(kills)) - first)
                    if kills
                    else len(count_lake_events(project)) > 60
                )
            ),
            90,
            "the mutant had no chance",
        )
        load.stop()
    finally:
        up.stop()
    _settle(project, ledger)
    assert any(caught in each for each in find_violations(project, ledger))


def test_a_second_up_on_the_same_project_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path / "shop")
    up = Up(project).wait()
    try:
        second = Up(project)
        second.process.wait(60)
        assert second.process.returncode == 1
        assert "these roles are running already" in second.log.read_text()
    finally:
        up.stop()
    assert up.process.returncode == 0
