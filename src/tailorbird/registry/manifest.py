"""The manifest of a bundle, and reading a bundle such that what was verified is what is used.

    FOLDER/manifest.json     this struct; names every other file with its length and SHA-256
    FOLDER/manifest.sha256   of manifest.json, in hexadecimal
    FOLDER/...               the files, in folders as the manifest names them; nothing else

`read_sealed` opens each file relative to an open folder without following links, reads it once, and
returns the bytes that it hashed, so a file cannot change between check and use. `ranking.bundle`
interprets the files, `registry.store` stores bundles.
"""

import errno
import hashlib
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import BundleError, StorageError

MANIFEST = "manifest.json"
DIGEST_FILE = "manifest.sha256"
BUNDLE_BYTES_MAX = 8 << 30
BUNDLE_FILES_MAX = 10_000
MAPPED_SUFFIXES = (".npy", ".arrow")
MAPPED_BYTES_MIN = 1 << 20
Content = bytes | memoryview
_MANIFEST_BYTES_MAX = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}(/[A-Za-z0-9._-]{1,128}){0,7}")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Length and checksum of a file of the bundle."""

    sha256: str
    bytes: int


class ColumnNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the feature columns of a bundle, in the order of the feature set."""

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A target that the bundle predicts.

    Attributes:
        name: the target, such as `click`.
        file: the ONNX file that computes it; several heads may share one.
        output: the name of the model's output, "" for its last one.
        column: the column of a two-dimensional output; -1 is the last.
        calibration: `none`, `isotonic`, `platt`, `beta` or `temperature`; the bundle's
            calibration file has the table.
    """

    name: str
    file: str
    output: str = ""
    column: int = -1
    calibration: str = "none"


class TrainingWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The training window: `ts_from` <= t < `ts_to`, microseconds."""

    ts_from: int = 0
    ts_to: int = 0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Description of a bundle.

    Attributes:
        version: assigned by the registry; "" before.
        created_at: microseconds.
        schema_hash: of the feature set; serving rejects bundles with another one.
        columns: the feature columns it reads.
        heads: the targets it predicts.
        formula: head → weight in the value, unless a slot overrides it.
        sources: names of the candidate sources whose tables it reads; the project has to
            declare them.
        baseline: sources joined by "+" whose summed scores order items; "" if heads order them.
        window: the training window.
        metrics: results of the evaluation with intervals; free form.
        libraries: name → version of the training libraries.
        golden_rows: number of rows in the golden file, which are scored and compared at load.
        engine: the version of Tailorbird that wrote it.
        index_as_of: the moment up to which the index has items.
        card: the model card, Markdown.
        files: name → length and checksum, for every file but the manifest.
    """

    created_at: int
    schema_hash: str
    version: str = ""
    columns: ColumnNames = ColumnNames()
    heads: tuple[Head, ...] = ()
    formula: dict[str, float] = {}
    window: TrainingWindow = TrainingWindow()
    metrics: dict[str, Any] = {}
    libraries: dict[str, str] = {}
    golden_rows: int = 0
    engine: str = ""
    index_as_of: int = 0
    sources: tuple[str, ...] = ()
    baseline: str = ""
    card: str = ""
    files: dict[str, FileEntry] = {}


@dataclass(frozen=True)
class SealedBundle:
    """A verified bundle: manifest, its checksum, and the bytes of every file by name."""

    path: Path
    manifest: Manifest
    digest: str
    files: Mapping[str, Content]

    def folder(self, name: str) -> dict[str, Content]:
        """Return the files below a folder, by their name within it."""
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): data
            for key, data in self.files.items()
            if key.startswith(prefix)
        }


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as stored: indented, keys in a fixed order."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of the files in `folder`, and return it with their checksums."""
    sealed_manifest = with_checksums(folder, manifest)
    data = encode_manifest(sealed_manifest)
    (folder / MANIFEST).write_bytes(data)
    (folder / DIGEST_FILE).write_text(hashlib.sha256(data).hexdigest() + "\n")
    return sealed_manifest


def with_checksums(folder: Path, manifest: Manifest) -> Manifest:
    """Return the manifest with the checksums of the files in `folder`; writes nothing."""
    files: dict[str, FileEntry] = {}
    for name in sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    ):
        if name in (MANIFEST, DIGEST_FILE):
            continue
        data = (folder / name).read_bytes()
        files[name] = FileEntry(hashlib.sha256(data).hexdigest(), len(data))
    return msgspec.structs.replace(manifest, files=files)


def read_sealed(folder: Path, *, maps_arrays: bool = False) -> SealedBundle:
    """Read a whole bundle and verify it against its manifest.

    Args:
        maps_arrays: map large arrays (`MAPPED_SUFFIXES`) into memory instead of reading them, so
            that all servers of a machine share their pages. Only for a bundle that nobody changes
            any more.
    Raises:
        BundleError: a file is missing, unexpected, changed, a link, or outside the folder; the
            message names it.
    """
    try:
        folder_descriptor = os.open(
            folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        )
    except OSError as error:
        raise BundleError(
            f"cannot be opened as a folder: {error.strerror}", where=str(folder)
        ) from error
    try:
        manifest, digest = _read_manifest(folder_descriptor, folder)
        _check_names(manifest, folder)
        present_files = set(_list_files(folder_descriptor, folder, ""))
        if missing_names := sorted(manifest.files.keys() - present_files):
            raise BundleError(
                f"{missing_names[0]} is missing", where=str(folder), fix="add the bundle again"
            )
        if extra_names := sorted(present_files - manifest.files.keys() - {MANIFEST, DIGEST_FILE}):
            raise BundleError(
                f"{extra_names[0]} is not in the manifest",
                where=str(folder),
                fix="remove it, or add the bundle again",
            )
        files = {
            name: _read_checked(folder_descriptor, folder, name, entry, maps_arrays=maps_arrays)
            for name, entry in sorted(manifest.files.items())
        }
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=str(folder)) from error
    finally:
        os.close(folder_descriptor)
    return SealedBundle(folder, manifest, digest, files)


def _read_manifest(folder_descriptor: int, folder: Path) -> tuple[Manifest, str]:
    data = _read_file(folder_descriptor, folder, MANIFEST, _MANIFEST_BYTES_MAX)
    expected_digest = _read_file(folder_descriptor, folder, DIGEST_FILE, 100)
    digest = hashlib.sha256(data).hexdigest()
    if bytes(expected_digest).strip() != digest.encode():
        raise BundleError(
            f"{MANIFEST} does not match {DIGEST_FILE}",
            where=str(folder),
            fix="add the bundle again",
        )
    try:
        return msgspec.json.decode(data, type=Manifest), digest
    except (msgspec.DecodeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} cannot be read: {error}", where=str(folder)) from error


def _check_names(manifest: Manifest, folder: Path) -> None:
    if (
        len(manifest.files) > BUNDLE_FILES_MAX
        or sum(entry.bytes for entry in manifest.files.values()) > BUNDLE_BYTES_MAX
    ):
        raise BundleError(
            "the manifest names more files or bytes than a bundle may have", where=str(folder)
        )
    for name, entry in manifest.files.items():
        path_parts = name.split("/")
        if (
            not _NAME.fullmatch(name)
            or "." in path_parts
            or ".." in path_parts
            or name in (MANIFEST, DIGEST_FILE)
            or entry.bytes < 0
        ):
            raise BundleError(
                f"the manifest names {name!r}, which is no file inside the bundle",
                where=str(folder),
            )


def _list_files(folder_descriptor: int, folder: Path, prefix: str, depth: int = 0) -> Iterator[str]:
    """Yield names of everything below an open folder that is not a folder.

    Links are reported by their own name and never followed.
    """
    if depth > 8:
        raise BundleError(f"{prefix} lies deeper than a bundle may", where=str(folder))
    for entry in sorted(os.listdir(folder_descriptor)):
        status = os.stat(entry, dir_fd=folder_descriptor, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(
                f"{prefix}{entry} is a link",
                where=str(folder),
                fix="a bundle holds plain files only",
            )
        if not stat.S_ISDIR(status.st_mode):
            yield f"{prefix}{entry}"
            continue
        child_descriptor = os.open(
            entry,
            os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
            dir_fd=folder_descriptor,
        )
        try:
            yield from _list_files(child_descriptor, folder, f"{prefix}{entry}/", depth + 1)
        finally:
            os.close(child_descriptor)


def _read_checked(
    folder_descriptor: int, folder: Path, name: str, entry: FileEntry, *, maps_arrays: bool
) -> Content:
    data = _read_file(
        folder_descriptor,
        folder,
        name,
        entry.bytes,
        is_mapped=maps_arrays and name.endswith(MAPPED_SUFFIXES),
    )
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError(
            f"{name} does not match its checksum",
            where=str(folder),
            fix="add the bundle again, or roll back",
        )
    return data


def _read_file(
    folder_descriptor: int, folder: Path, name: str, bytes_max: int, *, is_mapped: bool = False
) -> Content:
    """Return the content of a plain file, opened step by step from the open folder.

    No part of its path can therefore be a link.
    """
    *parents, file_name = name.split("/")
    open_descriptors: list[int] = []
    current_descriptor = folder_descriptor
    try:
        for folder_name in parents:
            current_descriptor = os.open(
                folder_name,
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=current_descriptor,
            )
            open_descriptors.append(current_descriptor)
        current_descriptor = os.open(
            file_name,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
            dir_fd=current_descriptor,
        )
        open_descriptors.append(current_descriptor)
        status = os.fstat(current_descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{name} is not a plain file", where=str(folder))
        if status.st_nlink != 1:
            raise BundleError(
                f"{name} is a hard link",
                where=str(folder),
                fix="copy the file instead of linking it",
            )
        if is_mapped and MAPPED_BYTES_MIN <= status.st_size <= bytes_max:
            return memoryview(mmap.mmap(current_descriptor, 0, access=mmap.ACCESS_READ))
        with os.fdopen(os.dup(current_descriptor), "rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise BundleError(
                f"{name} is missing", where=str(folder), fix="add the bundle again"
            ) from error
        if error.errno == errno.ELOOP:
            raise BundleError(
                f"{name} is a link", where=str(folder), fix="a bundle holds plain files only"
            ) from error
        raise StorageError(f"{name} cannot be read: {error.strerror}", where=str(folder)) from error
    finally:
        for descriptor in open_descriptors:
            os.close(descriptor)
    if len(data) > bytes_max:
        raise BundleError(f"{name} is longer than its manifest says", where=str(folder))
    return data
