"""What an erasure has to remember until it is through: whose data, what was found, the key of the fresh ids, and which steps are done.

One file, `data/erasure/journal.json`, which only its owner can read. It is the one place that holds the erased ids meanwhile; when the
erasure is through it is overwritten and deleted, and the key with it.
"""

import os
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import DamageError
from tailorbird.events.erased import FOLDER, JOURNAL
from tailorbird.lake import durable
from tailorbird.privacy.marks import Marks
from tailorbird.privacy.person import People


class Journal(msgspec.Struct, kw_only=True):
    """See above. `counts` are of what was done so far, by place."""

    begun_at: int
    people: People
    key: str
    marks: Marks
    salts: dict[str, int] = {}
    missed: int = 0  # ids that could not be kept in the place that states of items need
    done: list[str] = []
    counts: dict[str, Any] = {}


def journal_path(data: Path) -> Path:
    return data / FOLDER / JOURNAL


def read_journal(data: Path) -> Journal | None:
    """The journal of an erasure that was cut short; None where there is none. Raises DamageError."""
    path = journal_path(data)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Journal)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise DamageError(f"cannot be read: {error}", where=str(path), fix="delete it, and erase the same people again") from error


def write_journal(data: Path, journal: Journal) -> None:
    write_private(journal_path(data), msgspec.json.encode(journal))


def write_private(path: Path, content: bytes) -> None:
    """Replace a file, durably, with one that only its owner can read."""
    durable.make_folder(path.parent)
    draft = path.with_name(path.name + ".new")
    with durable.disk_errors(path):
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    durable.sync_folder(path.parent)


def destroy(path: Path) -> None:
    """Overwrite a file, then delete it; harmless where there is none."""
    for each in (path, path.with_name(path.name + ".new")):
        if not each.exists():
            continue
        with durable.disk_errors(each):
            with each.open("r+b") as file:
                file.write(bytes(each.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            each.unlink()
    durable.sync_folder(path.parent)
