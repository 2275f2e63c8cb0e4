"""Opening a log by its address: a path is a SQLite file, a `KafkaLog` is a topic."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

from tailorbird.stream.embedded import EmbeddedWriter
from tailorbird.stream.log_set import LogAddress, RawLogAddress, log_address
from tailorbird.stream.protocol import LogReader, LogWriter, RawWriter
from tailorbird.stream.reading import EmbeddedReader

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog, KafkaReader, KafkaWriter, MergedLog, MergedReader

ExpectedEnds: TypeAlias = Mapping[str, int] | None


@overload
def open_reader(address: str | Path) -> EmbeddedReader: ...
@overload
def open_reader(address: "KafkaLog") -> "KafkaReader": ...
@overload
def open_reader(address: "MergedLog") -> "MergedReader": ...
@overload
def open_reader(address: "str | Path | LogAddress") -> LogReader: ...
def open_reader(address: "str | Path | LogAddress") -> LogReader:
    """Open a log for reading. Raises NotReadyError if there is none yet."""
    return log_address(address).open_reader()


@overload
def open_writer(
    address: str | Path,
    *,
    partition: str,
    first_position: int = 0,
    on_damaged_tail: str = "set_aside",
    expected_ends: ExpectedEnds = None,
) -> EmbeddedWriter: ...
@overload
def open_writer(
    address: "KafkaLog",
    *,
    partition: str,
    first_position: int = 0,
    on_damaged_tail: str = "set_aside",
    expected_ends: ExpectedEnds = None,
) -> "KafkaWriter": ...
@overload
def open_writer(
    address: "str | Path | LogAddress",
    *,
    partition: str,
    first_position: int = 0,
    on_damaged_tail: str = "set_aside",
    expected_ends: ExpectedEnds = None,
) -> LogWriter: ...
@overload
def open_writer(
    address: "str | Path | RawLogAddress",
    *,
    partition: str,
    first_position: int = 0,
    on_damaged_tail: str = "set_aside",
    expected_ends: ExpectedEnds = None,
) -> RawWriter: ...
def open_writer(
    address: "str | Path | RawLogAddress",
    *,
    partition: str,
    first_position: int = 0,
    on_damaged_tail: str = "set_aside",
    expected_ends: ExpectedEnds = None,
) -> RawWriter:
    """Open or create a log as its only writer.

    Args:
        partition: name of the log, fixed at its creation.
        first_position: offset of the first row of a new log.
        on_damaged_tail: handling of a file's damaged last blocks, see `stream.embedded`.
        expected_ends: highest position that a reader has read, by the stem of the log, see
            `stream.locked`. A file that ends before is set aside; a topic is not written to.
    Raises:
        LockedError: another writer has the log.
        DamageError: a block does not match its checksum, or the file is no log; a topic lost rows.
        StorageError: the disk or the broker refuses.
    """
    return log_address(address).open_writer(
        partition=partition,
        first_position=first_position,
        on_damaged_tail=on_damaged_tail,
        expected_ends=expected_ends or {},
    )
