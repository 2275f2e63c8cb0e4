"""After a kill between any two effects, the role restarts and every row is in the lake once."""

import os
import signal
import subprocess
import sys

import pytest

from tailorbird.events import SystemClock
from tailorbird.lake import Lake, LakeRole, verify

# One round a step, so that each site is passed several times.
CHILD = """
import sys
from pathlib import Path
from tailorbird.events import SystemClock
from tailorbird.storage_paths import open_storage
from tailorbird.lake import LakeRole
from tailorbird.lake.delta import compaction, table
from tailorbird.periodic import exit_process
table.CHECKPOINT_EVERY_COMMITS = compaction.SMALL_FILES_MIN = 2
with LakeRole(Path(sys.argv[1]), open_storage(sys.argv[2], Path()), clock=SystemClock()) as role:
    while not role.step(rows_max=10, flush=True).is_idle:
        while role.upkeep():
            pass
        role.vacuum(keep_us=0)
exit_process(0)
"""

SITES = [
    ("lake.after_create", 1),
    ("lake.after_create", 4),
    ("lake.before_folder_sync", 2),
    ("lake.after_data", 1),
    ("lake.after_data", 9),
    ("lake.after_commit", 1),
    ("lake.after_commit", 3),
    ("lake.after_commit", 10),
    ("lake.after_sync", 9),
    ("lake.after_sync", 16),
    ("lake.after_ledger", 8),
    ("lake.after_ledger", 12),
    ("lake.after_checkpoint", 1),
    ("compact.before_write", 1),
    ("compact.after_write", 3),
    ("compact.after_commit", 1),
    ("compact.after_commit", 7),
    ("vacuum.before_ledger", 2),
    ("vacuum.before_delete", 1),
    ("vacuum.between_deletes", 2),
    ("vacuum.between_deletes", 5),
    ("vacuum.after_delete", 4),
    ("lake.between_tables", 2),
    ("lake.before_positions", 1),
    ("lake.before_positions", 2),
    ("lake.after_positions", 1),
    ("archive.after_file", 1),
    ("archive.after_manifest", 1),
]


SOON = [
    ("lake.after_data", 9),
    ("lake.after_commit", 3),
    ("lake.after_ledger", 12),
    ("compact.after_write", 3),
    ("archive.after_file", 1),
]


def run_child(home, faults=""):
    environment = {**os.environ, "TAILORBIRD_FAULTS": faults}
    command = [sys.executable, "-c", CHILD, str(home / "stream"), str(home / "lake")]
    return subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("site_name", "hit"),
    [
        pytest.param(
            *each, marks=[] if each in SOON else [pytest.mark.slow, pytest.mark.long_on_s3]
        )
        for each in SITES
    ],
)
def test_a_kill_loses_nothing_and_repeats_nothing(home, site, site_name, hit):
    killed = run_child(home, f"{site_name}=kill@{hit}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    site.add()
    with LakeRole(home / "stream", home / "lake", clock=SystemClock()) as role:
        role.drain()
    lake = Lake(home / "lake")
    ids = lake.events(["event_id"]).column("event_id").to_pylist()
    assert sorted(ids) == sorted(f"e{10 * r + k}" for r in range(4) for k in range(8))
    assert sorted(lake.responses(["request_id"]).column("request_id").to_pylist()) == sorted(
        f"r{k}" for k in range(8)
    )
    assert (
        lake.count("users"),
        lake.count("items"),
        lake.count("quarantine"),
        lake.count("duplicates"),
    ) == (8, 8, 4, 4)
    report = verify(home / "lake")
    assert report.is_clean, str(report)
    assert report.partitions["collector"].archived == 40


def test_a_disk_that_refuses_stops_the_role_until_it_is_opened_again(home, site):
    refused = run_child(home, "lake.after_data=raise@2")
    assert refused.returncode == 1
    assert b"injected" in refused.stderr
    assert run_child(home).returncode == 0
    assert Lake(home / "lake").count("events") == 24
    assert verify(home / "lake").is_clean


def test_a_clean_run_ends_with_status_0(home, site):
    done = run_child(home)
    assert (done.returncode, done.stderr) == (0, b"")
