"""Backups are incremental and checked, and know whose they are."""

import shutil
from pathlib import Path

import pytest
from tests.support.shops.backup_shop import CLOCK, collect_events, make_clicks

import tailorbird as tb
from tailorbird.backup.snapshot import (
    SnapshotMovedError,
    open_log_snapshots,
    read_lake,
    require_connected,
)
from tailorbird.config import Project, open_project
from tailorbird.errors import DamageError, NotReadyError, UsageError
from tailorbird.events import to_iso
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import drain
from tailorbird.registry import Manifest, Registry, read_sealed, seal
from tailorbird.stream import open_writer, raw_path


def events_of(project: Project) -> set[str]:
    return set(Lake(project.paths.lake).events(["event_id"])["event_id"].to_pylist())


def test_a_second_backup_copies_what_is_new(shop: Project, tmp_path: Path) -> None:
    project, vault = tb.Project(shop.root), tmp_path / "vault"
    first = project.backup(vault)
    assert first.written_bytes > 0
    assert project.backup(vault).written_bytes == 0
    collect_events(shop, make_clicks("dan", 5))
    third = project.backup(vault)
    assert 0 < third.written_bytes < first.written_bytes + third.size_bytes / 2

    before = tb.restore(vault, tmp_path / "before", at=to_iso(first.taken_at))
    assert before.name == first.name
    assert not any(one.startswith("dan") for one in events_of(open_project(tmp_path / "before")))
    tb.restore(vault, tmp_path / "after")
    assert events_of(open_project(tmp_path / "after")) == events_of(shop)
    with pytest.raises(UsageError, match="or earlier"):
        tb.restore(vault, tmp_path / "never", at="2020-01-01")


def test_events_that_wait_in_a_log_are_in_the_backup(shop: Project, tmp_path: Path) -> None:
    collect_events(shop, make_clicks("dan", 5), route=False)
    report = tb.Project(shop.root).backup(tmp_path / "vault")
    assert report.log_rows["raw-serve-1"] >= 5
    restored = tb.restore(tmp_path / "vault", tmp_path / "back")
    assert restored.next_commands[1].endswith(" up")
    back = open_project(tmp_path / "back")
    assert verify(back.paths.lake, stream=back.stream).waiting == {"raw-serve-1": 5}
    drain(back, CLOCK, progress=lambda *_: None)
    assert {f"dan-{number}" for number in range(5)} <= events_of(back)


def test_a_version_of_the_registry_comes_back_whole(shop: Project, tmp_path: Path) -> None:
    texts = tmp_path / "bundle" / "index" / "text"
    texts.mkdir(parents=True)
    (texts / ".managed.json").write_text("[]")  # As an index of texts has it.
    seal(tmp_path / "bundle", Manifest(created_at=5, schema_hash="abc"))
    version = Registry(shop.paths.registry, clock=CLOCK).add(tmp_path / "bundle", by="test")
    tb.Project(shop.root).backup(tmp_path / "vault")
    tb.restore(tmp_path / "vault", tmp_path / "back")
    paths = open_project(tmp_path / "back").paths
    assert read_sealed(paths.registry / version).files["index/text/.managed.json"] == b"[]"
    assert paths.data.stat().st_mode & 0o077 == 0, "closed to others, as init makes it"


def test_rows_that_are_pruned_between_lake_and_logs_are_noticed(shop: Project) -> None:
    lake = read_lake(shop.paths.lake)
    with open_log_snapshots(shop.paths.stream) as logs:
        require_connected(lake, logs)
    collect_events(shop, make_clicks("dan", 5))
    with open_writer(raw_path(shop.paths.stream, "serve-1"), partition="serve-1") as log:
        assert log.prune(log.end())
    with open_log_snapshots(shop.paths.stream) as logs:
        with pytest.raises(SnapshotMovedError, match="serve-1"):
            require_connected(lake, logs)
        require_connected(read_lake(shop.paths.lake), logs)


def test_old_backups_are_deleted_with_what_only_they_had(shop: Project, tmp_path: Path) -> None:
    project, vault = tb.Project(shop.root), tmp_path / "vault"
    first = project.backup(vault)
    collect_events(shop, make_clicks("dan", 5))
    blobs = {path.name for path in (vault / "blobs").rglob("*") if path.is_file()}
    second = project.backup(vault, keep=1)
    assert second.pruned == 1
    left = {path.name for path in (vault / "blobs").rglob("*") if path.is_file()}
    assert blobs - left, "blobs of the first alone are gone"
    with pytest.raises(UsageError):
        tb.restore(vault, tmp_path / "first", at=to_iso(first.taken_at))
    tb.restore(vault, tmp_path / "second")
    assert events_of(open_project(tmp_path / "second")) == events_of(shop)


def test_a_damaged_file_of_a_backup_is_named(shop: Project, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    tb.Project(shop.root).backup(vault)
    blob = max((path for path in (vault / "blobs").rglob("*") if path.is_file()), key=_size)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    with pytest.raises(DamageError, match="does not match its checksum") as refused:
        tb.restore(vault, tmp_path / "back")
    assert refused.value.where == str(blob)
    assert not (tmp_path / "back" / "tailorbird.toml").exists(), "a part of a project is none"

    blob.unlink()
    with pytest.raises(DamageError, match="is missing"):
        tb.restore(vault, tmp_path / "back-2")
    manifest = next((vault / "snapshots").iterdir())
    manifest.write_bytes(manifest.read_bytes().replace(b"serve-1", b"serve-2", 1))
    with pytest.raises(DamageError, match="manifest"):
        tb.restore(vault, tmp_path / "back-3")


def _size(path: Path) -> int:
    return path.stat().st_size


def test_a_damaged_file_of_the_lake_is_not_backed_up(shop: Project, tmp_path: Path) -> None:
    lake = shop.paths.data / "lake"
    file = next((lake / "events").rglob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamageError) as refused:
        tb.Project(shop.root).backup(tmp_path / "vault")
    assert refused.value.where == str(file)
    with pytest.raises(NotReadyError):
        tb.restore(tmp_path / "vault", tmp_path / "back")


def test_places_that_are_taken_are_refused(shop: Project, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    tb.Project(shop.root).backup(vault)
    with pytest.raises(UsageError, match="not empty"):
        tb.restore(vault, shop.root)
    with pytest.raises(UsageError, match="inside the project's folder"):
        tb.Project(shop.root).backup(shop.root / "vault")
    other = tmp_path / "other"
    shutil.copytree(shop.root, other)
    settings = other / "tailorbird.toml"
    name = shop.settings.project.name
    settings.write_text(settings.read_text().replace(f'name = "{name}"', 'name = "other"'))
    with pytest.raises(UsageError, match="holds backups of project"):
        tb.Project(other).backup(vault)


@pytest.mark.slow
def test_a_bucket_holds_backups_too(shop: Project, tmp_path: Path, bucket_uri: str) -> None:
    project = tb.Project(shop.root)
    assert project.backup(bucket_uri).written_bytes > 0
    assert project.backup(bucket_uri, keep=1).written_bytes == 0
    tb.restore(bucket_uri, tmp_path / "back")
    back = open_project(tmp_path / "back")
    assert events_of(back) == events_of(shop)
    assert verify(back.paths.lake, stream=back.stream).is_clean


@pytest.mark.slow
def test_a_lake_in_a_bucket_is_restored_into_an_empty_prefix(
    tmp_path: Path, bucket_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.roles import make_project

    root = make_project(tmp_path / "shop").root
    monkeypatch.setenv("TAILORBIRD_LAKE__URL", f"{bucket_uri}/lake")
    shop = open_project(root)
    collect_events(shop, make_clicks("ann", 20))
    tb.Project(root).backup(tmp_path / "vault")
    with pytest.raises(UsageError, match="TAILORBIRD_LAKE__URL"):
        tb.restore(tmp_path / "vault", tmp_path / "back")
    monkeypatch.setenv("TAILORBIRD_LAKE__URL", f"{bucket_uri}/restored")
    tb.restore(tmp_path / "vault", tmp_path / "again")
    back = open_project(tmp_path / "again")
    assert verify(back.paths.lake, stream=back.stream).is_clean
    assert events_of(back) == events_of(shop)
    collect_events(back, make_clicks("ann", 5, first=20))
    assert verify(back.paths.lake, stream=back.stream).is_clean
