"""Data is synced before it is published: the order of syncs, observed through `os.fsync`."""

import os
from pathlib import Path

import pytest

from tailorbird import faults
from tailorbird.errors import StorageError
from tailorbird.events import SystemClock
from tailorbird.lake import LakeRole, verify
from tailorbird.lake.files import durable


class Watch:
    """Notes which path each sync was of, and which commits were there by then."""

    def __init__(self, monkeypatch, lake: Path):
        self.syncs: list[str] = []
        self.commits_at: list[set[str]] = []
        real_fsync = os.fsync

        def fsync(handle):
            self.commits_at.append(
                {path.relative_to(lake).as_posix() for path in lake.glob("*/_delta_log/*.json")}
            )
            path = Path(os.readlink(f"/proc/self/fd/{handle}"))
            self.syncs.append(
                path.relative_to(lake).as_posix() if path.is_relative_to(lake) else str(path)
            )
            real_fsync(handle)

        monkeypatch.setattr(os, "fsync", fsync)

    def index(self, ending: str, start: int = 0) -> int:
        return next(at for at in range(start, len(self.syncs)) if self.syncs[at].endswith(ending))


def test_data_is_synced_before_its_commit_and_the_commit_before_the_ledger(
    tmp_path, site, monkeypatch
):
    lake = tmp_path / "lake"
    with LakeRole(tmp_path / "stream", lake, clock=SystemClock()) as role:
        watch = Watch(monkeypatch, lake)
        role.drain()
    commit = "events/_delta_log/00000000000000000001.json"
    files = [
        path.relative_to(lake).as_posix() for path in (lake / "events").glob("day=*/*.parquet")
    ]
    synced = watch.index(commit)
    for file in files:
        assert watch.index(file) < synced
        assert (
            commit not in watch.commits_at[watch.index(str(Path(file).parent), watch.index(file))]
        )
    log = watch.index("events/_delta_log", synced)
    ledger = watch.index("ledger.jsonl", synced)
    assert synced < log < ledger < watch.index("positions.json.new", ledger)


def test_the_archive_is_synced_before_its_manifest(tmp_path, site, monkeypatch):
    lake = tmp_path / "lake"
    with LakeRole(tmp_path / "stream", lake, clock=SystemClock()) as role:
        watch = Watch(monkeypatch, lake)
        role.drain()
    file = watch.index(".blocks.zst")
    assert file < watch.index("archive/collector", file) < watch.index("manifest.jsonl", file)


def test_a_failed_sync_is_not_tried_again(tmp_path, site, monkeypatch):
    lake = tmp_path / "lake"
    role = LakeRole(tmp_path / "stream", lake, clock=SystemClock())
    real_fsync, calls = os.fsync, []

    def refuse(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if not path.is_relative_to(tmp_path):  # a thread of an earlier test
            return real_fsync(handle)
        calls.append(path)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="Input/output error"):
        role.step()
    monkeypatch.setattr(os, "fsync", real_fsync)
    with pytest.raises(StorageError, match="the lake role stopped"):
        role.step()
    assert len(calls) == 1
    role.close()
    with LakeRole(tmp_path / "stream", lake, clock=SystemClock()) as again:
        again.drain()
    assert verify(lake).is_clean


def test_replace_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    durable.replace(path, b"old")
    monkeypatch.setattr(
        Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(StorageError, match="No space left"):
        durable.replace(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_mutant_without_syncs_is_noticed(tmp_path, site, monkeypatch):
    """Show that the test above can fail: with the syncs cut, it sees none."""
    lake = tmp_path / "lake"
    monkeypatch.setenv("TAILORBIRD_FAULTS", "lake.sync=cut")
    faults._load_faults.cache_clear()
    try:
        with LakeRole(tmp_path / "stream", lake, clock=SystemClock()) as role:
            watch = Watch(monkeypatch, lake)
            role.drain()
        assert [path for path in watch.syncs if not path.startswith("/")] == []
    finally:
        faults._load_faults.cache_clear()
