"""Opening a log by its address: a path is a SQLite file, a `KafkaLog` is a topic.

The Kafka client is loaded only for topics.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

from tailorbird.stream import embedded, reading
from tailorbird.stream.embedded import EmbeddedWriter
from tailorbird.stream.reading import EmbeddedReader

if TYPE_CHECKING:
    from tailorbird.stream.kafka import (
        KafkaLog,
        KafkaReader,
        KafkaWriter,
        KeyedLog,
        KeyedWriter,
        MergedLog,
        MergedReader,
    )

Held: TypeAlias = Mapping[str, int] | None


@overload
def open_reader(address: str | Path) -> EmbeddedReader: ...
@overload
def open_reader(address: "KafkaLog") -> "KafkaReader": ...
@overload
def open_reader(address: "MergedLog") -> "MergedReader": ...
@overload
def open_reader(
    address: "str | Path | KafkaLog | MergedLog",
) -> "EmbeddedReader | KafkaReader | MergedReader": ...
def open_reader(
    address: "str | Path | KafkaLog | MergedLog",
) -> "EmbeddedReader | KafkaReader | MergedReader":
    """Open a log for reading. Raises NotReadyError if there is none yet."""
    if isinstance(address, str | Path):
        return reading.open_reader(Path(address))
    from tailorbird.stream.kafka import KafkaReader, MergedLog, MergedReader

    return MergedReader(address) if isinstance(address, MergedLog) else KafkaReader(address)


@overload
def open_writer(
    address: str | Path,
    *,
    partition: str,
    first: int = 0,
    damaged_tail: str = "set_aside",
    held: Held = None,
) -> EmbeddedWriter: ...
@overload
def open_writer(
    address: "KafkaLog",
    *,
    partition: str,
    first: int = 0,
    damaged_tail: str = "set_aside",
    held: Held = None,
) -> "KafkaWriter": ...
@overload
def open_writer(
    address: "str | Path | KafkaLog",
    *,
    partition: str,
    first: int = 0,
    damaged_tail: str = "set_aside",
    held: Held = None,
) -> "EmbeddedWriter | KafkaWriter": ...
@overload
def open_writer(
    address: "str | Path | KafkaLog | KeyedLog",
    *,
    partition: str,
    first: int = 0,
    damaged_tail: str = "set_aside",
    held: Held = None,
) -> "EmbeddedWriter | KafkaWriter | KeyedWriter": ...
def open_writer(
    address: "str | Path | KafkaLog | KeyedLog",
    *,
    partition: str,
    first: int = 0,
    damaged_tail: str = "set_aside",
    held: Held = None,
) -> "EmbeddedWriter | KafkaWriter | KeyedWriter":
    """Open or create a log as its only writer.

    Args:
        partition: name of the log, fixed at its creation.
        first: offset of the first row of a new log.
        damaged_tail: handling of a file's damaged last blocks, see `stream.embedded`.
        held: highest position that a reader has read, by the stem of the log, see `stream.locked`.
        A
            file that ends before is set aside and replaced; a topic is not written to.
    Raises:
        LockedError: another writer has the log.
        DamageError: a block does not match its checksum, or the file is no log; a topic lost rows.
        StorageError: the disk or the broker refuses.
    """
    if isinstance(address, str | Path):
        return embedded.open_writer(
            Path(address),
            partition=partition,
            first=first,
            damaged_tail=damaged_tail,
            expected_end=(held or {}).get(Path(address).stem, 0),
        )
    from tailorbird.stream.kafka import KafkaWriter, KeyedLog, KeyedWriter

    if isinstance(address, KeyedLog):
        return KeyedWriter(address, held)
    return KafkaWriter(address, first=first, expected_end=(held or {}).get(address.stem, 0))
