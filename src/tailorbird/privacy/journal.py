"""What an erasure remembers until its end: whose data, the footprint, the key of the hashes, and
which steps are done.

The file `data/erasure/journal.json`, which only its owner can read, is the one place that holds the
erased ids meanwhile. At the end it is overwritten and deleted, and the key with it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tailorbird import atomic_write
from tailorbird.errors import DamageError
from tailorbird.events.suppression import ERASURE_FOLDER, JOURNAL_FILE
from tailorbird.lake.files import durable
from tailorbird.privacy.footprint import Footprint
from tailorbird.privacy.people import People

if TYPE_CHECKING:
    from tailorbird.stream.kafka.topic_reset import TopicSpec


class Journal(msgspec.Struct, kw_only=True):
    """The state of an erasure.

    Attributes:
        key: of the hashes that replace ids, hexadecimal.
        unknown: which of the given ids the project has nothing of, counted from 1.
        done: steps that are through; `counts` what they changed, by place.
        models: versions to rewrite, by folder below the registry; None: not searched yet.
        topics: how each topic is made again, where the logs are topics.
    """

    begun_at: int
    people: People
    key: str
    footprint: Footprint
    unknown: list[int] = []
    done: list[str] = []
    models: list[str] | None = None
    counts: dict[str, Any] = {}
    topics: list[dict[str, Any]] = []


def journal_path(data: Path) -> Path:
    """Return where the journal of a data folder is."""
    return data / ERASURE_FOLDER / JOURNAL_FILE


def is_unfinished(data: Path) -> bool:
    """Return whether an erasure was cut off."""
    return journal_path(data).exists()


def read_topic_specs(journal: Journal) -> "list[TopicSpec]":
    """Return how the topics of an erasure are made again."""
    if not journal.topics:
        return []
    from tailorbird.stream.kafka.topic_reset import TopicSpec

    return msgspec.convert(journal.topics, list[TopicSpec])


def read_journal(data: Path) -> Journal | None:
    """Return the journal of an erasure that was cut off, if there is one. Raises DamageError."""
    path = journal_path(data)
    with durable.translate_disk_errors(path):
        atomic_write.finish_shredding(path)
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
    """Write the journal durably."""
    write_private(journal_path(data), msgspec.json.encode(journal))


def write_private(path: Path, content: bytes) -> None:
    """Replace a file, durably, by one that only its owner can read."""
    durable.make_folder(path.parent)
    with durable.translate_disk_errors(path):
        atomic_write.write_private(path, content)


def destroy_journal(data: Path) -> None:
    """Overwrite the journal and delete it."""
    path = journal_path(data)
    with durable.translate_disk_errors(path):
        atomic_write.shred(path)
