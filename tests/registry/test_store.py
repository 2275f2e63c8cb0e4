"""Versions are there whole or not at all, whatever dies; aliases move with who and why; damage is
found.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird.errors import BundleError, DamageError, NotReadyError, UsageError
from tailorbird.registry import Manifest, Registry, read_sealed, seal
from tailorbird.registry.manifest import MAPPED_BYTES_MIN


class Clock:
    def __init__(self):
        self.time = 1_700_000_000_000_000

    def now(self):
        self.time += 1
        return self.time


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry", clock=Clock())


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def make_bundle(folder, content=b"weights"):
    (folder / "index").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "index" / "items.arrow").write_bytes(b"")
    seal(folder, Manifest(created_at=5, schema_hash="abc", metrics={"auc": 0.7}, card="# Card"))
    return folder


def test_a_version_holds_what_was_added(registry: Registry, bundle):
    assert registry.champion_folder() is None
    assert registry.versions() == []
    assert registry.add(bundle, by="ann", why="nightly") == "v0001"
    assert registry.add(bundle) == "v0002"
    sealed = read_sealed(registry.resolve("v0001"))
    assert sealed.manifest.version == "v0001"
    assert sealed.files["model.onnx"] == b"weights"
    assert sealed.folder("index") == {"items.arrow": b""}
    first, second = registry.versions()
    assert (first.version, first.metrics, first.schema_hash, second.version) == (
        "v0001",
        {"auc": 0.7},
        "abc",
        "v0002",
    )


def test_promotion_and_rollback_with_who_and_why(registry: Registry, bundle):
    for _ in range(3):
        registry.add(bundle)
    for version in ("v0001", "v0002", "v0003"):
        registry.promote(version, by="ann", why="beats the last")
    assert registry.champion_folder() == registry.resolve("champion") == registry.path / "v0003"
    assert registry.previous_folder() == registry.path / "v0002"
    assert registry.versions()[1].aliases == ("previous",)
    assert registry.rollback(by="bob", why="clicks fell") == "v0002"
    assert registry.rollback(by="bob", why="still") == "v0001"
    assert registry.champion_folder() == registry.path / "v0001"
    with pytest.raises(NotReadyError, match="no earlier champion"):
        registry.rollback(by="bob", why="once more")
    last = registry.audit()[-1]
    assert (last.action, last.version, last.by, last.why) == ("rollback", "v0001", "bob", "still")
    times = [entry.at for entry in registry.audit()]
    assert times == sorted(times)
    assert len(times) == 3 + 3 + 2


def test_a_challenger_that_is_promoted_challenges_no_more(registry: Registry, bundle):
    registry.add(bundle)
    registry.add(bundle)
    registry.promote("v0001", by="ann", why="first")
    registry.set_challenger("v0002", by="ann", why="shadow")
    assert registry.challenger_folder() == registry.path / "v0002"
    registry.promote("v0002", by="ann", why="won")
    assert registry.challenger_folder() is None
    registry.promote("v0002", by="ann", why="again")  # no change
    assert registry.previous_folder() == registry.path / "v0001"


def test_unknown_versions_are_named(registry: Registry, bundle):
    registry.add(bundle)
    for name in ("v0009", "../v0001", "champion", "", "v1"):
        with pytest.raises(UsageError, match="there is no version"):
            registry.resolve(name)


def test_ten_thousand_is_a_number_like_any_other(registry: Registry, bundle):
    registry.add(bundle)
    os.rename(registry.path / "v0001", registry.path / "v9999")
    assert registry.add(bundle) == "v10000"
    assert registry.add(bundle) == "v10001"
    assert [info.version for info in registry.versions()] == ["v9999", "v10000", "v10001"]


def test_a_damaged_version_is_neither_promoted_nor_hidden(registry: Registry, bundle):
    registry.add(bundle)
    registry.add(bundle)
    registry.promote("v0001", by="ann", why="first")
    (registry.path / "v0002" / "model.onnx").write_bytes(b"weighty")
    with pytest.raises(BundleError, match=r"model\.onnx does not match its checksum"):
        registry.promote("v0002", by="ann", why="second")
    assert registry.champion_folder() == registry.path / "v0001"
    (registry.path / "v0002" / "manifest.json").write_bytes(b"{")
    assert registry.versions()[1].metrics == {"damaged": True}
    assert [info.is_readable for info in registry.versions()] == [True, False]


def test_a_version_swapped_for_another_valid_one_is_detected(registry: Registry, bundle, tmp_path):
    registry.add(bundle)
    other = Registry(tmp_path / "other", clock=Clock())
    other.add(make_bundle(tmp_path / "evil", b"evil"))
    shutil.rmtree(registry.path / "v0001")
    shutil.copytree(other.path / "v0001", registry.path / "v0001")
    with pytest.raises(BundleError, match="not the one that was added"):
        registry.verify("v0001")


def test_what_is_not_sealed_is_not_added(registry: Registry, bundle):
    (bundle / "late.txt").write_text("after sealing")
    with pytest.raises(BundleError, match=r"late\.txt is not in the manifest"):
        registry.add(bundle)
    assert registry.versions() == []


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/hostname",
        "a/../../b",
        "./a",
        "a//b",
        "",
        "a\\b\n",
        "manifest.json",
        "x" * 200,
    ],
)
def test_a_manifest_that_names_a_file_outside_is_refused(bundle, name):
    document = json.loads((bundle / "manifest.json").read_bytes())
    document["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    rewrite(bundle, document)
    with pytest.raises(BundleError, match="no file inside the bundle"):
        read_sealed(bundle)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"created_at": 1},
        {"created_at": 1, "schema_hash": "a", "more": 1},
        [],
        {"created_at": "x"},
    ],
)
def test_a_manifest_of_another_shape_is_refused(bundle, document):
    rewrite(bundle, document)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        read_sealed(bundle)


def test_a_length_that_would_fill_the_memory_is_refused_before_reading(bundle):
    document = json.loads((bundle / "manifest.json").read_bytes())
    document["files"]["model.onnx"]["bytes"] = 1 << 60
    rewrite(bundle, document)
    with pytest.raises(BundleError, match="more files or bytes"):
        read_sealed(bundle)


def test_servers_share_the_pages_of_large_arrays(tmp_path, bundle):
    array = bytes(range(256)) * (MAPPED_BYTES_MIN // 256)
    (bundle / "index" / "vectors.npy").write_bytes(array)
    seal(bundle, read_sealed(make_bundle(tmp_path / "other")).manifest)
    files = read_sealed(bundle, maps_arrays=True).files
    assert files["index/vectors.npy"] == array
    assert str(bundle / "index" / "vectors.npy") in Path("/proc/self/maps").read_text()
    (bundle / "index" / "vectors.npy").write_bytes(array[:-1] + b"?")
    with pytest.raises(BundleError, match="does not match its checksum"):
        read_sealed(bundle, maps_arrays=True)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BundleError, match="cannot be opened as a folder"):
        read_sealed(tmp_path / "nothing")


def test_a_cut_audit_line_does_not_swallow_the_next(registry: Registry, bundle):
    registry.add(bundle)
    with (registry.path / "audit.jsonl").open("ab") as file:
        file.write(b'{"at":1,"action":"prom')
    registry.add(bundle)
    assert [entry.version for entry in registry.audit()] == ["v0001", "v0002"]


def test_damaged_aliases_stop_with_a_sentence(registry: Registry, bundle):
    registry.add(bundle)
    (registry.path / "aliases.json").write_text("{")
    with pytest.raises(DamageError, match=r"aliases\.json: cannot be read"):
        registry.champion_folder()


STEPS = """
import sys
from pathlib import Path
from tailorbird.registry import Registry
class Clock:
    def now(self): return 7
registry = Registry(Path(sys.argv[1]), clock=Clock())
registry.promote(registry.add(Path(sys.argv[2])), by="child", why="test")
"""


@pytest.mark.parametrize(
    "site",
    [
        "registry.before_rename",
        "registry.after_rename",
        "registry.before_alias",
        "registry.after_alias",
    ],
)
def test_a_kill_at_any_step_leaves_a_valid_registry(registry: Registry, bundle, site):
    registry.promote(registry.add(bundle), by="ann", why="first")
    environment = os.environ | {"TAILORBIRD_FAULTS": f"{site}=kill"}
    died = subprocess.run(
        [sys.executable, "-c", STEPS, registry.path, bundle],
        env=environment,
        check=False,
        timeout=30,
    )
    assert died.returncode == -9

    promoted = site == "registry.after_alias"
    assert registry.champion_folder() == registry.path / ("v0002" if promoted else "v0001")
    for info in registry.versions():
        registry.verify(info.version)
    added = registry.add(bundle)
    assert added == ("v0002" if site == "registry.before_rename" else "v0003")
    registry.promote(added, by="ann", why="after the crash")
    assert registry.verify("champion").version == added
    assert not (registry.path / ".incoming").exists()


def rewrite(folder, document):
    data = json.dumps(document).encode()
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sha256").write_text(hashlib.sha256(data).hexdigest())
