"""The candidates role as a process: killed at any commit it loses and doubles nothing, and what it
publishes is what the lake gives.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.roles import until

from tailorbird.candidates.batch import EVENT_COLUMNS, to_event_batch
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.folder import current_contract, folder_of, open_tables
from tailorbird.candidates.protocol import BOARDS, GROUPS
from tailorbird.candidates.publish import Publisher
from tailorbird.cli.import_files import import_files
from tailorbird.cli.init import init
from tailorbird.cli.simulate import simulate
from tailorbird.config import Project, open_project
from tailorbird.config.candidates import required_contract
from tailorbird.lake import Lake
from tailorbird.store import open_store

ROOT = Path(__file__).parents[2]
SITES = ("candidates.before_publish", "candidates.after_publish", "candidates.before_snapshot")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    simulate(days=2, users=80, items=60, out=path, json=True)
    return path


@pytest.fixture
def project(tmp_path: Path, history: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    init(tmp_path / "shop", json=True)
    monkeypatch.chdir(tmp_path / "shop")
    import_files("tailorbird", history, json=True)
    return open_project(tmp_path / "shop")


def start(project: Project) -> subprocess.Popen:
    command = [sys.executable, "-m", "tailorbird", "-C", str(project.root), "run", "candidates"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def follow(project: Project, faults: str = "") -> int:
    """Take in the log to its end, in small steps; how the process ended."""
    environment = {**os.environ, "TAILORBIRD_FAULTS": faults}
    command = [sys.executable, "-m", "tests.support.programs.candidates_child", str(project.root)]
    return subprocess.run(command, env=environment, cwd=ROOT, timeout=120, check=False).returncode


def stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def records(folder: Path) -> dict[bytes, bytes]:
    store = open_store(folder)
    with store.snapshot() as snapshot:
        by_key = {key: value for key, value in snapshot.scan(b"") if key[:1] in b"bnkis"}
    store.close()
    return by_key


def check_published(project: Project, tmp_path: Path) -> None:
    """Assert that published records equal those of a fold over the lake, byte by byte."""
    contract = current_contract(project.paths.candidates)
    assert contract == required_contract(project)
    events = Lake(project.paths.lake).table("events", EVENT_COLUMNS).sort_by("p")
    fold = CandidateFold(contract)
    fold.update(to_event_batch(events, contract, events["p"][-1].as_py()))
    store = open_store(tmp_path / f"expected-{time.monotonic_ns()}", create=True)
    Publisher(store, contract).publish(fold, GROUPS, now=0)
    store.close()
    assert records(folder_of(project.paths.candidates, contract)) == records(
        Path(sorted(tmp_path.glob("expected-*"))[-1])
    )


def published(project: Project) -> int:
    """The position that every group of published tables has reached; 0 before there are any."""
    contract = current_contract(project.paths.candidates)
    if contract is None:
        return 0
    reader = open_tables(project.paths.candidates, contract)
    try:
        published_epoch = reader.published()
        return (
            min(published_epoch.groups[name].position for name in GROUPS)
            if published_epoch is not None
            else 0
        )
    finally:
        reader.close()


def test_an_import_publishes_what_the_lake_gives(project: Project, tmp_path: Path) -> None:
    check_published(project, tmp_path)


@pytest.mark.parametrize(
    "site", [SITES[0], *(pytest.param(site, marks=pytest.mark.nightly) for site in SITES[1:])]
)
def test_kills_at_any_commit_lose_nothing_and_double_nothing(
    project: Project, tmp_path: Path, site: str
) -> None:
    end = published(project)
    contract = current_contract(project.paths.candidates)
    folder = folder_of(project.paths.candidates, contract)
    for path in folder.iterdir():
        path.unlink()
    for hit in (1, 1, 2):  # each start goes on from what the one before left behind
        assert follow(project, f"{site}=kill@{hit}") == -signal.SIGKILL
    assert follow(project) == 0
    assert published(project) == end
    check_published(project, tmp_path)


def test_a_new_contract_is_built_while_the_old_one_serves(project: Project, tmp_path: Path) -> None:
    before = current_contract(project.paths.candidates)
    slots = project.root / "slots.py"
    slots.write_text(
        slots.read_text().replace(
            '"trending": 60', '"trending": 60, "session_knn": 40, "popular:6h:device": 10'
        )
    )
    changed = open_project(project.root)
    assert required_contract(changed) != before
    process = start(changed)
    try:
        until(
            lambda: current_contract(project.paths.candidates) == required_contract(changed),
            90,
            "the new tables are not current",
        )
    finally:
        stop(process)
    check_published(changed, tmp_path)
    reader = open_tables(project.paths.candidates, required_contract(changed))
    with reader.tables() as tables:
        assert tables.epochs[BOARDS].position
        assert tables.sessions() is not None
    reader.close()
