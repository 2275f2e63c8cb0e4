"""Opening a log by its address: a path is a SQLite file, a `KafkaLog` a topic. The client of Kafka is loaded only then."""

from pathlib import Path
from typing import TYPE_CHECKING, overload

from tailorbird.stream import embedded, reading
from tailorbird.stream.embedded import EmbeddedWriter
from tailorbird.stream.reading import EmbeddedReader

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog, KafkaReader, KafkaWriter, KeyedLog, KeyedWriter, MergedLog, MergedReader


@overload
def open_reader(address: str | Path) -> EmbeddedReader: ...
@overload
def open_reader(address: "KafkaLog") -> "KafkaReader": ...
@overload
def open_reader(address: "MergedLog") -> "MergedReader": ...
@overload
def open_reader(address: "str | Path | KafkaLog | MergedLog") -> "EmbeddedReader | KafkaReader | MergedReader": ...
def open_reader(address: "str | Path | KafkaLog | MergedLog") -> "EmbeddedReader | KafkaReader | MergedReader":
    """Open a log for reading. Raises NotReadyError if there is none yet."""
    if isinstance(address, str | Path):
        return reading.open_reader(Path(address))
    from tailorbird.stream.kafka import KafkaReader, MergedLog, MergedReader

    return MergedReader(address) if isinstance(address, MergedLog) else KafkaReader(address)


@overload
def open_writer(address: str | Path, *, partition: str, first: int = 0, damaged_tail: str = "set_aside") -> EmbeddedWriter: ...
@overload
def open_writer(address: "KafkaLog", *, partition: str, first: int = 0, damaged_tail: str = "set_aside") -> "KafkaWriter": ...
@overload
def open_writer(
    address: "str | Path | KafkaLog", *, partition: str, first: int = 0, damaged_tail: str = "set_aside"
) -> "EmbeddedWriter | KafkaWriter": ...
@overload
def open_writer(
    address: "str | Path | KafkaLog | KeyedLog", *, partition: str, first: int = 0, damaged_tail: str = "set_aside"
) -> "EmbeddedWriter | KafkaWriter | KeyedWriter": ...
def open_writer(
    address: "str | Path | KafkaLog | KeyedLog", *, partition: str, first: int = 0, damaged_tail: str = "set_aside"
) -> "EmbeddedWriter | KafkaWriter | KeyedWriter":
    """Open or make a log as its only writer.

    Args:
        partition: its name; a log keeps the one it was made with.
        first: the offset of the first row, if the log is made now.
        damaged_tail: what a file's damaged last blocks are to the writer, see `stream.embedded`; a topic has none.
    Raises:
        LockedError: another writer has it.
        DamageError: a block does not match its checksum, or the file is no log.
        StorageError: the disk or the broker refuses.
    """
    if isinstance(address, str | Path):
        return embedded.open_writer(Path(address), partition=partition, first=first, damaged_tail=damaged_tail)
    from tailorbird.stream.kafka import KafkaWriter, KeyedLog, KeyedWriter

    return KeyedWriter(address) if isinstance(address, KeyedLog) else KafkaWriter(address, first=first)
