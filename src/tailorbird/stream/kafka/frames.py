"""The message format of a log, and which messages count. Pure functions without a broker.

A block is one message, or several if it exceeds the broker's limit. A commit is a run of messages.

    key      none, since a log is one partition
    headers  place    AT BASE INDEX COUNT MORE TOTAL WRITER    decimal; WRITER is a random name
             kind     of the block
             rows     positions of the block; 0 in the message with which a writer begins
             receipt  of the block, with its first message
             crc      CRC-32 of all these and the value
    value    the payload, or a piece of it

AT is the offset at which the writer expected the message. A message at another offset does not
count: another writer came in between. So one of two writers continues, and a late retry changes
nothing, whatever the broker knows of them. A run counts if all COUNT messages stand in a row. BASE
is the position of the run's first row, TOTAL its number of rows: positions count rows, without
gaps.
"""

from collections.abc import Iterator, Sequence
from zlib import crc32

import msgspec

from tailorbird.errors import DamageError
from tailorbird.stream.protocol import Block, StoredBlock

OPENED_KIND = "opened"  # kind of the first message of a writer, which names it
Headers = list[tuple[str, bytes]]


class MessagePart(msgspec.Struct, frozen=True):
    """One message.

    Attributes:
        at: offset at which it must stand.
        base: position of the first row of its run.
        index, count: number of the message in the run, and of all its messages.
        is_continued: whether its block continues in the next message.
        total: number of rows of the run.
        writer: name of the writer, see `KafkaWriter`.
    """

    at: int
    base: int
    index: int
    count: int
    is_continued: bool
    total: int
    writer: str
    kind: str
    rows: int
    receipt: bytes
    payload: bytes

    @property
    def end(self) -> int:
        """The end of the log with this message: that of its run, if it completes it."""
        return self.base + self.total if self.is_last else self.base

    @property
    def is_last(self) -> bool:
        """True if the message completes its run."""
        return self.index + 1 == self.count

    def headers(self) -> Headers:
        """Encode the message's headers."""
        place_header = (
            f"{self.at} {self.base} {self.index} {self.count} {int(self.is_continued)} "
            f"{self.total} "
            f"{self.writer}"
        ).encode()
        pairs = [("place", place_header), ("kind", self.kind.encode()), ("rows", b"%d" % self.rows)]
        if self.receipt:
            pairs.append(("receipt", self.receipt))
        return [*pairs, ("crc", b"%d" % _compute_checksum(pairs, self.payload))]


def split_run(
    blocks: Sequence[Block], *, at: int, base: int, writer: str, bytes_max: int
) -> list[MessagePart]:
    """Split a run into messages of at most `bytes_max` of payload."""
    chunks = [
        (block, start)
        for block in blocks
        for start in range(0, max(1, len(block.payload)), bytes_max)
    ]
    result: list[MessagePart] = []
    total = sum(block.rows for block in blocks)
    for index, (block, start) in enumerate(chunks):
        has_more = start + bytes_max < len(block.payload)
        payload = (
            block.payload
            if start == 0 and not has_more
            else block.payload[start : start + bytes_max]
        )
        receipt = block.receipt if start == 0 else b""
        result.append(
            MessagePart(
                at + index,
                base,
                index,
                len(chunks),
                has_more,
                total,
                writer,
                block.kind,
                block.rows,
                receipt,
                payload,
            )
        )
    return result


def decode_message(headers: Headers | None, payload: bytes, where: str) -> MessagePart | None:
    """Decode a message; None if it is not one of ours.

    Raises:
        DamageError: it does not match its checksum.
    """
    header_values = dict(headers or ())
    if "place" not in header_values or "crc" not in header_values:
        return None
    pairs = [(name, value) for name, value in headers or () if name != "crc"]
    try:
        *numbers, writer = header_values["place"].split()
        offset, base, index, count, has_more, total = map(int, numbers)
        if int(header_values["crc"]) == _compute_checksum(pairs, payload):
            kind, receipt = header_values["kind"].decode(), header_values.get("receipt", b"")
            return MessagePart(
                offset,
                base,
                index,
                count,
                bool(has_more),
                total,
                writer.decode(),
                kind,
                int(header_values["rows"]),
                receipt,
                payload,
            )
    except (ValueError, KeyError, UnicodeDecodeError):
        pass
    raise DamageError(
        "the message does not match its checksum",
        where=where,
        fix="look at the broker's disks; restore it from the archive",
    )


def _compute_checksum(pairs: Headers, payload: bytes) -> int:
    total = 0
    for name, value in pairs:
        total = crc32(value, crc32(b"%s %d " % (name.encode(), len(value)), total))
    return crc32(payload, total)


class RunAssembler:
    """Assembles messages, fed by ascending offset, into blocks, without messages that do not count.

    Args:
        end: position at which the first message begins.
        where: name of the log for errors.
    Attributes:
        end: position after the last row of the completed runs.
    """

    def __init__(self, end: int, where: str = "") -> None:
        self.end, self._where = end, where
        self._run: list[MessagePart] = []

    def feed(self, offset: int, part: MessagePart | None) -> list[StoredBlock]:
        """Return the blocks of the run that this message completes, if any.

        Raises:
            DamageError: rows before it are missing.
        """
        if part is None or part.at != offset:
            return []
        if part.index == 0:
            self._run = []
            if part.base != self.end:
                raise DamageError(
                    f"the run at {part.base} follows rows that end at {self.end}: the "
                    "broker lost what it acknowledged, or has it twice",
                    where=self._where,
                    fix="look at its replication, restore what is missing from the archive",
                )
        elif not self._run or (self._run[-1].at + 1, self._run[-1].base) != (part.at, part.base):
            self._run = []
            return []
        self._run.append(part)
        if not part.is_last:
            return []
        run, self._run = self._run, []
        blocks = list(_decode_blocks(run))
        self.end = part.base + part.total
        return blocks


def _decode_blocks(run: Sequence[MessagePart]) -> Iterator[StoredBlock]:
    position = run[0].base
    block_pieces: list[MessagePart] = []
    for part in run:
        if part.rows == 0:
            continue
        block_pieces.append(part)
        if not part.is_continued:
            payload = (
                block_pieces[0].payload
                if len(block_pieces) == 1
                else b"".join(block_piece.payload for block_piece in block_pieces)
            )
            yield StoredBlock(
                position, Block(part.kind, part.rows, payload, block_pieces[0].receipt)
            )
            position += part.rows
            block_pieces = []
