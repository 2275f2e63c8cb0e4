"""The location of backups: blobs named by their content, and a manifest for each backup.

    blobs/3f/3f8a…                        a file, or a part of a log file
    snapshots/20261201T010203.000000Z     manifest

A blob that is there is not written again, so a second backup writes what is new. A backup exists
once its manifest is written.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tailorbird.backup.manifest import Manifest, StoredFile, decode_manifest, encode_manifest
from tailorbird.errors import DamageError, NotReadyError, UsageError
from tailorbird.events import to_iso
from tailorbird.lake.files import durable
from tailorbird.storage_paths import StoragePath, open_storage

_BLOBS_FOLDER = "blobs"
_MANIFESTS_FOLDER = "snapshots"


def open_backup_storage(uri: str) -> "BackupStorage":
    """Open the backups at a folder or an `s3://` URI. Raises ConfigError for another scheme."""
    return BackupStorage(open_storage(uri, Path.cwd()))


class BackupStorage:
    """The backups of one project. Safe to use from several threads."""

    def __init__(self, storage: StoragePath) -> None:
        self.storage = storage
        self.written_bytes = 0
        self._lock = threading.Lock()
        self._present_blobs: set[str] | None = None

    def _blob_path(self, name: str) -> StoragePath:
        return self.storage / _BLOBS_FOLDER / name[:2] / name

    def _claim_blob(self, name: str) -> bool:
        """Return whether the caller has to write a blob."""
        with self._lock:
            if self._present_blobs is None:
                self._present_blobs = {blob.name for blob in self._stored_blobs()}
            if name in self._present_blobs:
                return False
            self._present_blobs.add(name)
            return True

    def _stored_blobs(self) -> Iterator[StoragePath]:
        blobs: Iterator[StoragePath] = iter((self.storage / _BLOBS_FOLDER).rglob("*"))
        yield from (blob for blob in blobs if len(blob.name) == 64)

    def put_blob(self, data: bytes) -> str:
        """Write a blob unless it is there, and return its name."""
        name = hashlib.sha256(data).hexdigest()
        if self._claim_blob(name):
            self._write(name, data)
        return name

    def put_known_blob(self, name: str, read_content: Callable[[], bytes], where: str) -> None:
        """Write a blob whose checksum is known; its content is read only if it is not there.

        Raises:
            DamageError: the content does not have this checksum.
        """
        if not self._claim_blob(name):
            return
        data = read_content()
        if hashlib.sha256(data).hexdigest() != name:
            raise DamageError(
                "does not match its checksum, so it was not backed up",
                where=where,
                fix="tailorbird lake verify names all that is corrupt, lake repair rebuilds it",
            )
        self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        path = self._blob_path(name)
        durable.make_folder(path.parent)
        durable.replace(path, data)
        with self._lock:
            self.written_bytes += len(data)

    def read_file(self, file: StoredFile) -> Iterator[bytes]:
        """Yield the content of a file, checked part by part.

        Raises:
            DamageError: a blob is missing or is not what was written; names it.
        """
        size = 0
        for blob_name in file.parts:
            blob = self._blob_path(blob_name)
            try:
                data = blob.read_bytes()
            except FileNotFoundError:
                raise _damage_error(file, "is missing", blob) from None
            if hashlib.sha256(data).hexdigest() != blob_name:
                raise _damage_error(file, "does not match its checksum", blob)
            size += len(data)
            yield data
        if size != file.size:
            raise DamageError(f"{file.path} has {size} bytes, expected {file.size}")

    def add_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the backup exist."""
        folder = self.storage / _MANIFESTS_FOLDER
        durable.make_folder(folder)
        durable.replace(folder / manifest.name, encode_manifest(manifest))

    def backup_names(self) -> list[str]:
        """Return the names of all backups, the oldest first."""
        folder = self.storage / _MANIFESTS_FOLDER
        entries = folder.iterdir() if folder.is_dir() else ()
        return sorted(entry.name for entry in entries if entry.name.endswith("Z"))

    def read_manifest(self, name: str) -> Manifest:
        """Read the manifest of a backup. Raises DamageError."""
        path = self.storage / _MANIFESTS_FOLDER / name
        return decode_manifest(path.read_bytes(), str(path))

    def newest_manifest(self) -> Manifest | None:
        """Return the newest backup, or None without any. Raises DamageError."""
        names = self.backup_names()
        return self.read_manifest(names[-1]) if names else None

    def manifest_at(self, at: int | None) -> Manifest:
        """Return the newest backup taken at this time or earlier, by default the newest.

        Raises:
            NotReadyError: there is no backup.
            UsageError: all backups are later.
        """
        backup_names = self.backup_names()
        if not backup_names:
            raise NotReadyError(
                "there is no backup here",
                where=str(self.storage),
                fix="tailorbird -C PROJECT backup URI makes one",
            )
        if at is None:
            return self.read_manifest(backup_names[-1])
        for name in reversed(backup_names):
            manifest = self.read_manifest(name)
            if manifest.taken_at <= at:
                return manifest
        oldest = self.read_manifest(backup_names[0])
        raise UsageError(
            f"no backup is from {to_iso(at)} or earlier",
            where=str(self.storage),
            fix=f"the first one is from {to_iso(oldest.taken_at)}",
        )

    def prune(self, keep: int) -> int:
        """Delete all but the newest `keep` backups, and the blobs that only they had.

        Returns:
            The number of deleted backups.
        """
        names = self.backup_names()
        old_names = names[:-keep]
        retained_names = names[-keep:]
        if not old_names:
            return 0
        used_blobs: set[str] = set()
        for name in retained_names:
            used_blobs |= self.read_manifest(name).blobs
        for name in old_names:
            (self.storage / _MANIFESTS_FOLDER / name).unlink()
        for blob in list(self._stored_blobs()):
            if blob.name not in used_blobs:
                with suppress(FileNotFoundError):
                    blob.unlink()
        return len(old_names)


def _damage_error(file: StoredFile, problem: str, blob: StoragePath) -> DamageError:
    return DamageError(
        f"{file.path} of this backup {problem}",
        where=str(blob),
        fix="restore another backup: --at with an earlier or a later time",
    )
