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
    """One message of a run: a block, or a piece of a large one.

    Attributes:
        expected_offset: offset at which it must stand.
        run_start: position of the first row of its run.
        index, run_length: number of the message in the run, and of all its messages.
        is_continued: whether its block continues in the next message.
        run_rows: number of rows of the run.
        writer: name of the writer, see `KafkaWriter`.
    """

    expected_offset: int
    run_start: int
    index: int
    run_length: int
    is_continued: bool
    run_rows: int
    writer: str
    kind: str
    rows: int
    receipt: bytes
    payload: bytes

    @property
    def end(self) -> int:
        """The end of the log with this message: that of its run, if it completes it."""
        return self.run_start + self.run_rows if self.is_last else self.run_start

    @property
    def is_last(self) -> bool:
        """True if the message completes its run."""
        return self.index + 1 == self.run_length

    def headers(self) -> Headers:
        """Encode the message's headers."""
        place = (
            f"{self.expected_offset} {self.run_start} {self.index} {self.run_length} "
            f"{int(self.is_continued)} {self.run_rows} {self.writer}"
        ).encode()
        header_pairs = [("place", place), ("kind", self.kind.encode()), ("rows", b"%d" % self.rows)]
        if self.receipt:
            header_pairs.append(("receipt", self.receipt))
        return [*header_pairs, ("crc", b"%d" % _compute_checksum(header_pairs, self.payload))]


def split_run(
    blocks: Sequence[Block], *, expected_offset: int, run_start: int, writer: str, bytes_max: int
) -> list[MessagePart]:
    """Split a run into messages of at most `bytes_max` of payload."""
    chunk_starts = [
        (block, start)
        for block in blocks
        for start in range(0, max(1, len(block.payload)), bytes_max)
    ]
    parts: list[MessagePart] = []
    run_rows = sum(block.rows for block in blocks)
    for index, (block, start) in enumerate(chunk_starts):
        is_continued = start + bytes_max < len(block.payload)
        payload = (
            block.payload
            if start == 0 and not is_continued
            else block.payload[start : start + bytes_max]
        )
        receipt = block.receipt if start == 0 else b""
        parts.append(
            MessagePart(
                expected_offset=expected_offset + index,
                run_start=run_start,
                index=index,
                run_length=len(chunk_starts),
                is_continued=is_continued,
                run_rows=run_rows,
                writer=writer,
                kind=block.kind,
                rows=block.rows,
                receipt=receipt,
                payload=payload,
            )
        )
    return parts


def decode_message(headers: Headers | None, payload: bytes, where: str) -> MessagePart | None:
    """Decode a message; None if it is not one of ours.

    Raises:
        DamageError: it does not match its checksum.
    """
    header_values = dict(headers or ())
    if "place" not in header_values or "crc" not in header_values:
        return None
    header_pairs = [(name, value) for name, value in headers or () if name != "crc"]
    try:
        *numbers, writer = header_values["place"].split()
        expected_offset, run_start, index, run_length, is_continued, run_rows = map(int, numbers)
        if int(header_values["crc"]) == _compute_checksum(header_pairs, payload):
            return MessagePart(
                expected_offset=expected_offset,
                run_start=run_start,
                index=index,
                run_length=run_length,
                is_continued=bool(is_continued),
                run_rows=run_rows,
                writer=writer.decode(),
                kind=header_values["kind"].decode(),
                rows=int(header_values["rows"]),
                receipt=header_values.get("receipt", b""),
                payload=payload,
            )
    except (ValueError, KeyError, UnicodeDecodeError):
        pass
    raise DamageError(
        "the message does not match its checksum",
        where=where,
        fix="look at the broker's disks; restore it from the archive",
    )


def _compute_checksum(header_pairs: Headers, payload: bytes) -> int:
    checksum = 0
    for name, value in header_pairs:
        checksum = crc32(value, crc32(b"%s %d " % (name.encode(), len(value)), checksum))
    return crc32(payload, checksum)


class RunAssembler:
    """Assembles messages, fed by ascending offset, into blocks, without messages that do not count.

    Args:
        end: position at which the first message begins.
        where: name of the log for errors.
    Attributes:
        end: position after the last row of the completed runs.
    """

    def __init__(self, end: int, where: str = "") -> None:
        self.end = end
        self._where = where
        self._run: list[MessagePart] = []

    def feed(self, offset: int, part: MessagePart | None) -> list[StoredBlock]:
        """Return the blocks of the run that this message completes, if any.

        Raises:
            DamageError: rows before it are missing.
        """
        if part is None or part.expected_offset != offset:
            return []
        if part.index == 0:
            self._run = []
            if part.run_start != self.end:
                raise DamageError(
                    f"the run at {part.run_start} follows rows that end at {self.end}: the "
                    "broker lost what it acknowledged, or has it twice",
                    where=self._where,
                    fix="look at its replication, restore what is missing from the archive",
                )
        elif not self._run or (self._run[-1].expected_offset + 1, self._run[-1].run_start) != (
            part.expected_offset,
            part.run_start,
        ):
            self._run = []
            return []
        self._run.append(part)
        if not part.is_last:
            return []
        run = self._run
        self._run = []
        blocks = list(_decode_blocks(run))
        self.end = part.run_start + part.run_rows
        return blocks


def _decode_blocks(run: Sequence[MessagePart]) -> Iterator[StoredBlock]:
    position = run[0].run_start
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
