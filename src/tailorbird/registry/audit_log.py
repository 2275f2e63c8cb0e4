"""The audit log of a registry: one line for each change, written before the change is made."""

import os
from pathlib import Path

import msgspec

from tailorbird.atomic_write import sync_folder

_AUDIT_FILE = "audit.jsonl"


class AuditEntry(msgspec.Struct, frozen=True):
    """A change: action, version, author, reason and time.

    Attributes:
        digest: SHA-256 of the manifest that was added.
        details: what programs read of a decision; the likely cause of a fall.
    """

    at: int
    action: str
    version: str
    by: str
    why: str
    digest: str = ""
    details: dict[str, str] = {}


def read_audit(folder: Path) -> list[AuditEntry]:
    """Return every change, oldest first, without a last line that a crash cut short."""
    try:
        lines = (folder / _AUDIT_FILE).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    entries: list[AuditEntry] = []
    for line in lines:
        try:
            entries.append(msgspec.json.decode(line, type=AuditEntry))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return entries


def append_audit(folder: Path, entry: AuditEntry) -> None:
    """Log a change durably, before it is made.

    A change that then fails is in the log; one that happened is never missing.
    """
    # A leading newline ends a line that a crash cut short, so that it cannot swallow this one.
    with open(folder / _AUDIT_FILE, "ab") as file:
        is_cut_short = file.tell() > 0 and not _ends_with_newline(folder / _AUDIT_FILE)
        file.write((b"\n" if is_cut_short else b"") + msgspec.json.encode(entry) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
