"""What an erasure has to remember until it is through: whose data, what was found, the key of the
fresh ids, and which steps are done.

One file, `data/erasure/journal.json`, which only its owner can read. It is the one place that holds
the erased ids meanwhile; when the erasure is through it is overwritten and deleted, and the key
with it.
"""

from pathlib import Path
from typing import Any

import msgspec

from tailorbird import whole
from tailorbird.errors import DamageError
from tailorbird.events.erased import FOLDER, JOURNAL
from tailorbird.features.erase import Needs
from tailorbird.lake import durable
from tailorbird.privacy.marks import Marks
from tailorbird.privacy.person import People


class Journal(msgspec.Struct, kw_only=True):
    """See above. `counts` are of what was done so far, by place; `topics`, where the logs are such,
    how each is made again.

    `strangers` are which of the ids that were given nothing here was of, counted from 1; `unnamed`:
    see `privacy.person.unnamed`.
    """

    begun_at: int
    people: People
    key: str
    marks: Marks
    salts: dict[str, int] = {}
    strangers: list[int] = []
    unnamed: int = 0
    missed: int = 0  # ids that could not be kept in the place that states of items need
    done: list[str] = []
    models: list[str] | None = (
        # whose indexes say something of them, by their folders below the registry; None: not looked
        # for yet
        None
    )
    needs: Needs | None = (
        # of the declarations that it began with: all steps leave the same; journals of before have
        # none
        None
    )
    counts: dict[str, Any] = {}
    topics: list[dict[str, Any]] = []


def journal_path(data: Path) -> Path:
    return data / FOLDER / JOURNAL


def read_journal(data: Path) -> Journal | None:
    """The journal of an erasure that was cut short; None where there is none. Raises DamageError."""
    path = journal_path(data)
    with durable.disk_errors(path):
        whole.end_destroying(path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Journal)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(path),
            fix="delete it, and erase the same people again",
        ) from error


def write_journal(data: Path, journal: Journal) -> None:
    write_private(journal_path(data), msgspec.json.encode(journal))


def write_private(path: Path, content: bytes) -> None:
    """Replace a file, durably, with one that only its owner can read."""
    durable.make_folder(path.parent)
    with durable.disk_errors(path):
        whole.write_private(path, content)


def destroy(data: Path) -> None:
    """Overwrite the journal and delete it; from the first moment on there is none."""
    path = journal_path(data)
    with durable.disk_errors(path):
        whole.destroy(path)
