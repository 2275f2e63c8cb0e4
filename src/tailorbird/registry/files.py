"""Durable changes of a registry's folder, one at a time."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tailorbird import faults
from tailorbird.atomic_write import sync_folder
from tailorbird.errors import StorageError
from tailorbird.registry.manifest import DIGEST_FILE, MANIFEST, SealedBundle, encode_manifest


@contextmanager
def lock_for_change(folder: Path) -> Iterator[None]:
    """Hold the lock of the registry; changes are short, so other processes wait."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StorageError(
            f"the registry cannot be changed: {error.strerror or error}", where=str(folder)
        ) from error


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file atomically and durably."""
    _write_file(folder / f"{name}.new", data)
    faults.fire_if_armed("registry.before_alias")
    os.replace(folder / f"{name}.new", folder / name)
    sync_folder(folder)
    faults.fire_if_armed("registry.after_alias")


def write_bundle(folder: Path, sealed_bundle: SealedBundle, version: str) -> str:
    """Write a verified bundle under its version, synced, and return its manifest's checksum."""
    folders = {folder}
    for name, data in sealed_bundle.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.update(parent for parent in path.parents if parent.is_relative_to(folder))
        _write_file(path, data)
    folder.mkdir(exist_ok=True)
    data = encode_manifest(msgspec.structs.replace(sealed_bundle.manifest, version=version))
    digest = hashlib.sha256(data).hexdigest()
    _write_file(folder / MANIFEST, data)
    _write_file(folder / DIGEST_FILE, f"{digest}\n".encode())
    for synced_folder in folders:
        sync_folder(synced_folder)
    return digest


def _write_file(path: Path, data: bytes | memoryview) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
