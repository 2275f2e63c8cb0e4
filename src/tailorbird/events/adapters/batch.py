"""Batches of events in the wire format, with the source line of each: what every adapter yields.

An adapter passes on unreadable records as they are. The contract refuses them, and they go to the
quarantine unchanged.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.files import BATCH_ROWS

if TYPE_CHECKING:
    from tailorbird.events.adapters.record import Convert

BATCH_BYTES = 64 << 20  # rows that are no events may be of any length
ROW_ID_PREFIX = "row:"  # begins the ids of rows that have none of their own


@dataclass(frozen=True)
class Batch:
    """Events as JSON lines.

    Attributes:
        file: the source file, for messages.
        lines: one JSON document an event.
        line_numbers: for each, the line or row in the source, from 1.
        skipped_counts: kind of record → how many were skipped, since they say nothing about
            people and items.
    """

    file: str
    lines: list[bytes]
    line_numbers: list[int]
    skipped_counts: dict[str, int] = field(default_factory=dict)


class Adapter(Protocol):
    """A reader of one foreign format.

    `digests` maps each file to its SHA-256, from which ids of profiles are made where the format
    has none.
    """

    def __call__(self, files: dict, options: "AdapterOptions") -> Iterator[Batch]: ...


@dataclass(frozen=True)
class AdapterOptions:
    """The import options besides the path.

    Attributes:
        slot: the slot that imported answers belong to.
        mapping: text of a mapping file (format `mapping` only), and its name for messages.
        root: the folder or file that was named.
    """

    slot: str = "home"
    mapping: str = ""
    mapping_name: str = ""
    root: str = ""


_encode = msgspec.json.Encoder().encode


def encode_event(event: Event) -> bytes:
    """Encode an event in the wire format, as one line."""
    return _encode(event)


def derive_row_id(format_: str, content: bytes) -> str:
    """Derive the id of a row without one from its content.

    Equal rows have equal ids, whichever file they are in.
    """
    return ROW_ID_PREFIX + sha256(b"\0".join((format_.encode(), content))).hexdigest()[:32]


def with_content_id(format_: str, event: Event) -> Event:
    """Return the event with an id derived from the rest of its content."""
    return msgspec.structs.replace(
        event, event_id=derive_row_id(format_, _encode(msgspec.structs.replace(event, event_id="")))
    )


def to_batches(file: str, rows: Iterator[tuple[int, bytes]]) -> Iterator[Batch]:
    """Group numbered lines of one file into batches."""
    lines: list[bytes] = []
    line_numbers: list[int] = []
    pending_bytes = 0
    for number, line in rows:
        lines.append(line)
        line_numbers.append(number)
        pending_bytes += len(line)
        if len(lines) >= BATCH_ROWS or pending_bytes >= BATCH_BYTES:
            yield Batch(file, lines, line_numbers)
            lines = []
            line_numbers = []
            pending_bytes = 0
    if lines:
        yield Batch(file, lines, line_numbers)


def _never(*_: Any) -> bool:
    return False


@dataclass(frozen=True)
class FormatAdapter:
    """All that an import format consists of.

    Attributes:
        read: reads files of the format.
        patterns: names of its files in a folder.
        convert: converts a self-contained record, by which refused records are converted again.
        is_table: recognises a table by file name and columns.
        is_record: recognises a JSON record, given as a dict.
        is_text: recognises a file of lines by its name and first line.
        has_csv: whether a CSV file may be of the format.
        may_lack_suffix: whether files of an export may have no telling name.
    """

    read: Adapter
    patterns: tuple[str, ...]
    convert: "Convert | None" = None
    is_table: Callable[[str, list[str]], bool] = _never
    is_record: Callable[[dict[str, Any]], bool] = _never
    is_text: Callable[[str, bytes], bool] = _never
    has_csv: bool = False
    may_lack_suffix: bool = False
