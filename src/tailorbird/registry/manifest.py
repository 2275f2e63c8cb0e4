"""The manifest of a bundle, and reading a bundle in such a way that what was checked is what is
used.

    FOLDER/manifest.json     this struct; names every other file with its length and SHA-256
    FOLDER/manifest.sha256   of manifest.json, in hexadecimal
    FOLDER/...               the files, in folders as the manifest names them; nothing else

`read_sealed` opens each file relative to an open folder and without following links, reads it once,
and returns the bytes that it hashed: there is no moment between the check and the use. What the
files mean stands in `ranking.bundle`; where bundles are kept, in `registry.store`.
"""

import errno
import hashlib
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
DIGEST = "manifest.sha256"
BYTES_MAX = 8 << 30
FILES_MAX = 10_000
_MANIFEST_BYTES_MAX = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}(/[A-Za-z0-9._-]{1,128}){0,7}")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of the bundle must be."""

    sha256: str
    bytes: int


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the feature columns that the bundle was trained on, in the order of the feature set."""

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One target that the bundle predicts.

    Attributes:
        name: the target, such as `click`.
        file: the ONNX file that computes it; several heads may share one.
        output: the name of the model's output, "" for its last one.
        column: the column of a two-dimensional output; -1 is the last.
        calibration: `none`, `isotonic`, `platt`, `beta` or `temperature`; the table itself is in
            the bundle's calibration file.
    """

    name: str
    file: str
    output: str = ""
    column: int = -1
    calibration: str = "none"


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The training window: `ts_from` <= t < `ts_to`, microseconds."""

    ts_from: int = 0
    ts_to: int = 0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle says of itself.

    Attributes:
        version: given by the registry; "" before.
        created_at: microseconds.
        schema_hash: of the feature set; serving refuses a bundle with another one.
        columns: the feature columns it reads.
        heads: the targets it predicts.
        formula: head → weight in the value, where a slot does not say otherwise.
        sources: candidate sources whose tables it reads, by name; the contract of a project has to
            cover them.
        baseline: sources joined by "+", by whose scores, added up, items are ordered; "" where
            heads order them.
        window: what it was trained on.
        metrics: figures of the evaluation, with their intervals; free form.
        libraries: name → version of what trained it.
        golden_rows: how many rows the golden file holds, which are scored and compared at load.
        engine: the version of Tailorbird that wrote it.
        index_as_of: the moment up to which the index knows items.
        card: the model card, Markdown.
        files: name → length and checksum, for every file but the manifest.
    """

    created_at: int
    schema_hash: str
    version: str = ""
    columns: Columns = Columns()
    heads: tuple[Head, ...] = ()
    formula: dict[str, float] = {}
    window: Window = Window()
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
class Sealed:
    """A bundle that was read and checked: the manifest, its checksum, and the bytes of every file
    by name.
    """

    path: Path
    manifest: Manifest
    digest: str
    files: Mapping[str, bytes]

    def folder(self, name: str) -> dict[str, bytes]:
        """The files below a folder, by their name within it."""
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): data
            for key, data in self.files.items()
            if key.startswith(prefix)
        }


def encode(manifest: Manifest) -> bytes:
    """The manifest as it is stored: indented, keys in a fixed order."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of the files that lie in `folder`, and return it with their checksums."""
    sealed = of_files(folder, manifest)
    data = encode(sealed)
    (folder / MANIFEST).write_bytes(data)
    (folder / DIGEST).write_text(hashlib.sha256(data).hexdigest() + "\n")
    return sealed


def of_files(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with the checksums of the files that lie in `folder`; writes nothing."""
    files: dict[str, FileEntry] = {}
    for name in sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    ):
        if name in (MANIFEST, DIGEST):
            continue
        data = (folder / name).read_bytes()
        files[name] = FileEntry(hashlib.sha256(data).hexdigest(), len(data))
    return msgspec.structs.replace(manifest, files=files)


def read_sealed(folder: Path) -> Sealed:
    """Read a bundle whole and check it against its manifest.

    Raises:
        BundleError: a file is missing, too many, changed, a link, or named outside the folder;
            names the file.
    """
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(
            f"cannot be opened as a folder: {error.strerror}", where=str(folder)
        ) from error
    try:
        manifest, digest = _read_manifest(root, folder)
        _check_names(manifest, folder)
        present = set(_walk(root, folder, ""))
        if missing := sorted(manifest.files.keys() - present):
            raise BundleError(
                f"{missing[0]} is missing", where=str(folder), fix="add the bundle again"
            )
        if extra := sorted(present - manifest.files.keys() - {MANIFEST, DIGEST}):
            raise BundleError(
                f"{extra[0]} is not in the manifest",
                where=str(folder),
                fix="remove it, or add the bundle again",
            )
        files = {
            name: _read_checked(root, folder, name, entry)
            for name, entry in sorted(manifest.files.items())
        }
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=str(folder)) from error
    finally:
        os.close(root)
    return Sealed(folder, manifest, digest, files)


def _read_manifest(root: int, folder: Path) -> tuple[Manifest, str]:
    data = _read(root, folder, MANIFEST, _MANIFEST_BYTES_MAX)
    stated = _read(root, folder, DIGEST, 100).strip()
    digest = hashlib.sha256(data).hexdigest()
    if stated != digest.encode():
        raise BundleError(
            f"{MANIFEST} does not match {DIGEST}", where=str(folder), fix="add the bundle again"
        )
    try:
        return msgspec.json.decode(data, type=Manifest), digest
    except (msgspec.DecodeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} cannot be read: {error}", where=str(folder)) from error


def _check_names(manifest: Manifest, folder: Path) -> None:
    if (
        len(manifest.files) > FILES_MAX
        or sum(entry.bytes for entry in manifest.files.values()) > BYTES_MAX
    ):
        raise BundleError(
            "the manifest names more files or bytes than a bundle may have", where=str(folder)
        )
    for name, entry in manifest.files.items():
        parts = name.split("/")
        if (
            not _NAME.fullmatch(name)
            or "." in parts
            or ".." in parts
            or name in (MANIFEST, DIGEST)
            or entry.bytes < 0
        ):
            raise BundleError(
                f"the manifest names {name!r}, which is no file inside the bundle",
                where=str(folder),
            )


def _walk(root: int, folder: Path, prefix: str, depth: int = 0) -> Iterator[str]:
    """Names of everything below an open folder that is not a folder; links are told by their own
    name, never followed.
    """
    if depth > 8:
        raise BundleError(f"{prefix} lies deeper than a bundle may", where=str(folder))
    for entry in sorted(os.listdir(root)):
        status = os.stat(entry, dir_fd=root, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(
                f"{prefix}{entry} is a link",
                where=str(folder),
                fix="a bundle holds plain files only",
            )
        if not stat.S_ISDIR(status.st_mode):
            yield f"{prefix}{entry}"
            continue
        child = os.open(
            entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root
        )
        try:
            yield from _walk(child, folder, f"{prefix}{entry}/", depth + 1)
        finally:
            os.close(child)


def _read_checked(root: int, folder: Path, name: str, entry: FileEntry) -> bytes:
    data = _read(root, folder, name, entry.bytes)
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError(
            f"{name} does not match its checksum",
            where=str(folder),
            fix="add the bundle again, or roll back",
        )
    return data


def _read(root: int, folder: Path, name: str, bytes_max: int) -> bytes:
    """The content of a plain file, reached step by step from the open folder, so that no part of
    its path can be a link.
    """
    *parents, last = name.split("/")
    opened: list[int] = []
    at = root
    try:
        for part in parents:
            at = os.open(
                part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at
            )
            opened.append(at)
        at = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        opened.append(at)
        status = os.fstat(at)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{name} is not a plain file", where=str(folder))
        if status.st_nlink != 1:
            raise BundleError(
                f"{name} is a hard link",
                where=str(folder),
                fix="copy the file instead of linking it",
            )
        with os.fdopen(os.dup(at), "rb") as file:
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
        for descriptor in opened:
            os.close(descriptor)
    if len(data) > bytes_max:
        raise BundleError(f"{name} is longer than its manifest says", where=str(folder))
    return data
