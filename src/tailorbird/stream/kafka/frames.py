"""What a log's messages look like, and which of them count. Pure functions; nothing here knows a
broker.

A block is one message, or several where it is larger than the broker takes; what is committed as
one is a run of messages.

    key      none, since a log is one partition
    headers  place    AT BASE INDEX COUNT MORE TOTAL WRITER    all decimal but the last, a name drawn by the writer
             kind     of the block
             rows     positions that the block takes; 0 in the message with which a writer begins
             receipt  of the block, with its first message
             crc      CRC-32 of all these and the value
    value    the payload, or a piece of it

AT is the offset at which the writer expected the message to stand. One that stands elsewhere does
not count: somebody else wrote in between, and his message counts. So of two writers one goes on,
whatever the broker knows of them, and a retry that comes late changes nothing. A run counts when
all of its COUNT messages stand in a row. BASE is the position of the run's first row, TOTAL its
rows: positions are numbers of rows, without holes, as in a file.
"""

from collections.abc import Iterator, Sequence
from zlib import crc32

import msgspec

from tailorbird.errors import DamageError
from tailorbird.stream.protocol import Block, Stored

OPENED = "opened"  # the kind of the message with which a writer begins; it says who writes
Headers = list[tuple[str, bytes]]


class Piece(msgspec.Struct, frozen=True):
    """One message.

    Attributes:
        at: the offset where it must stand.
        base: the position of the first row of its run.
        index, count: which message of the run it is, and how many there are.
        more: whether its block goes on in the next message.
        total: the rows of the run.
        writer: who wrote it, see `KafkaWriter`.
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
        """Where the log ends with this message: behind its run, if that is whole with it."""
        return self.base + self.total if self.last else self.base

    @property
    def last(self) -> bool:
        """Whether its run is whole with it."""
        return self.index + 1 == self.count

    def headers(self) -> Headers:
        """The message's headers."""
        place = (
            f"{self.at} {self.base} {self.index} {self.count} {int(self.is_continued)} {self.total} "
            f"{self.writer}"
        ).encode()
        pairs = [("place", place), ("kind", self.kind.encode()), ("rows", b"%d" % self.rows)]
        if self.receipt:
            pairs.append(("receipt", self.receipt))
        return [*pairs, ("crc", b"%d" % _checksum(pairs, self.payload))]


def split_run(
    blocks: Sequence[Block], *, at: int, base: int, writer: str, bytes_max: int
) -> list[Piece]:
    """The messages of a run, of at most `bytes_max` of payload each."""
    chunks = [
        (block, start)
        for block in blocks
        for start in range(0, max(1, len(block.payload)), bytes_max)
    ]
    result: list[Piece] = []
    total = sum(block.rows for block in blocks)
    for index, (block, start) in enumerate(chunks):
        more = start + bytes_max < len(block.payload)
        payload = (
            block.payload if start == 0 and not more else block.payload[start : start + bytes_max]
        )
        receipt = block.receipt if start == 0 else b""
        result.append(
            Piece(
                at + index,
                base,
                index,
                len(chunks),
                more,
                total,
                writer,
                block.kind,
                block.rows,
                receipt,
                payload,
            )
        )
    return result


def decode_piece(headers: Headers | None, payload: bytes, where: str) -> Piece | None:
    """A message as a piece; None if it is not one of ours. Raises DamageError if it is not what was
    written.
    """
    header_values = dict(headers or ())
    if "place" not in header_values or "crc" not in header_values:
        return None
    pairs = [(name, value) for name, value in headers or () if name != "crc"]
    try:
        *numbers, writer = header_values["place"].split()
        at, base, index, count, more, total = map(int, numbers)
        if int(header_values["crc"]) == _checksum(pairs, payload):
            kind, receipt = header_values["kind"].decode(), header_values.get("receipt", b"")
            return Piece(
                at,
                base,
                index,
                count,
                bool(more),
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


def _checksum(pairs: Headers, payload: bytes) -> int:
    total = 0
    for name, value in pairs:
        total = crc32(value, crc32(b"%s %d " % (name.encode(), len(value)), total))
    return crc32(payload, total)


class RunAssembler:
    """Puts messages, fed in order of their offsets, together to blocks; drops what does not count.
    Begins with a run that counts.

    Args:
        end: the position at which the first message begins.
        where: the log, for errors.
    Attributes:
        end: the position behind the last row of the runs that were whole.
    """

    def __init__(self, end: int, where: str = "") -> None:
        self.end, self._where = end, where
        self._run: list[Piece] = []

    def feed(self, offset: int, piece: Piece | None) -> list[Stored]:
        """The blocks of the run that this message completes, if it does. Raises DamageError if rows
        before it are missing.
        """
        if piece is None or piece.at != offset:
            return []
        if piece.index == 0:
            self._run = []
            if piece.base != self.end:
                raise DamageError(
                    f"the run at {piece.base} follows rows that end at {self.end}: the "
                    "broker lost what it acknowledged, or has it twice",
                    where=self._where,
                    fix="look at its replication, restore what is missing from the archive",
                )
        elif not self._run or (self._run[-1].at + 1, self._run[-1].base) != (piece.at, piece.base):
            self._run = []
            return []
        self._run.append(piece)
        if not piece.last:
            return []
        run, self._run = self._run, []
        blocks = list(_blocks(run))
        self.end = piece.base + piece.total
        return blocks


def _blocks(run: Sequence[Piece]) -> Iterator[Stored]:
    position = run[0].base
    block_pieces: list[Piece] = []
    for piece in run:
        if piece.rows == 0:
            continue
        block_pieces.append(piece)
        if not piece.is_continued:
            payload = (
                block_pieces[0].payload
                if len(block_pieces) == 1
                else b"".join(each.payload for each in block_pieces)
            )
            yield Stored(position, Block(piece.kind, piece.rows, payload, block_pieces[0].receipt))
            position += piece.rows
            block_pieces = []
