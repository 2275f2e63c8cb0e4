"""The manifest of a backup: its time, what it holds, and how far each log and table was."""

from pathlib import PurePosixPath

import msgspec

from tailorbird.errors import DamageError
from tailorbird.events import to_iso
from tailorbird.lake.delta.versions import TableVersion
from tailorbird.stream.released import decode_with_checksum, encode_with_checksum

MANIFEST_FORMAT = 1
# first part of a path: below which folder it is
PROJECT_PREFIX = "project"
DATA_PREFIX = "data"
LAKE_PREFIX = "lake"


class StoredFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of a backup.

    Attributes:
        path: path whose first part is `project`, `data` or `lake`.
        parts: SHA-256 of each of its blobs, in order.
        mode: permission bits; 0 for the default.
        grows: whether the file is an append-only tail of the lake, see `lake.files.append_only`.
    """

    path: str
    size: int
    parts: tuple[str, ...]
    mode: int = 0
    grows: bool = False


class LogSpan(msgspec.Struct, frozen=True):
    """The rows that a log in a backup holds; `end` is exclusive."""

    start: int
    end: int


class Manifest(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"tailorbird_version": "tailorbird"},
):
    """A backup.

    Attributes:
        taken_at: every event that was acknowledged before this time is in it, microseconds.
        revision: commit of the project's folder, if it is in Git.
        root, data, host: where the project was.
        cluster: address of the logs if they are topics, which the backup does not hold.
        lake: version of each table, and its position in each log.
        archived: end of each raw log in the lake's archive.
        routed: end of the rows of each raw log that the lake's tables have.
        logs: rows of each log file, by the file's stem.
        erased: number of ids on the suppression list.
    """

    format: int = MANIFEST_FORMAT
    name: str
    project: str
    taken_at: int
    tailorbird_version: str
    revision: str
    root: str
    data: str
    host: str
    cluster: str
    lake: dict[str, TableVersion]
    archived: dict[str, int]
    routed: dict[str, int]
    logs: dict[str, LogSpan]
    erased: int
    files: list[StoredFile]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def blobs(self) -> set[str]:
        """Names of all blobs."""
        return {part for file in self.files for part in file.parts}


def manifest_name(taken_at: int) -> str:
    """Return the name of a backup: its time, which sorts as text does.

    >>> manifest_name(1_790_000_000_000_000)
    '20260921T141320.000000Z'
    """
    return to_iso(taken_at).replace("-", "").replace(":", "")


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest with its checksum."""
    return encode_with_checksum(msgspec.to_builtins(manifest))


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Decode a manifest. Raises DamageError."""
    try:
        manifest = msgspec.convert(decode_with_checksum(data), Manifest)
    except ValueError as error:
        raise DamageError(
            f"the manifest of this backup is damaged: {error}",
            where=where,
            fix="delete this file: other backups are intact, and --at restores an earlier one",
        ) from error
    for file in manifest.files:
        top_folder, *path_below = PurePosixPath(file.path).parts
        if (
            top_folder not in (PROJECT_PREFIX, DATA_PREFIX, LAKE_PREFIX)
            or not path_below
            or ".." in path_below
        ):
            raise DamageError(f"names a file outside the project: {file.path}", where=where)
    return manifest
