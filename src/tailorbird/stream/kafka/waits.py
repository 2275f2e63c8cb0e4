"""How much of many topics is yet to be read, asked by one client for all of them: a reader each
would be two clients for each log.
"""

from typing import Any

from tailorbird.errors import NotReadyError
from tailorbird.stream.kafka.cluster import KafkaLog
from tailorbird.stream.kafka.merged import MergedLog
from tailorbird.stream.kafka.tail import Tail, tail_consumer
from tailorbird.stream.protocol import RECEIPTS, Backlog


class BacklogClient:
    """One client, and what it looks at. One thread at a time."""

    def __init__(self) -> None:
        self._consumer: Any = None

    def of(self, address: KafkaLog | MergedLog) -> "LogBacklog":
        """Of one log; of several partitions, by their order. Raises NotReadyError where there is
        none yet.
        """
        log = address.order if isinstance(address, MergedLog) else address
        if self._consumer is None:
            self._consumer = tail_consumer(log)
        return LogBacklog(Tail(log, self._consumer))

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


class LogBacklog:
    """What `LogReader.waiting` tells, of one log."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        if tail.watermarks()[1] == 0:
            raise NotReadyError(
                "this topic holds no log yet", where=str(tail.address), fix="start its writer first"
            )

    def waiting(self, position: int) -> Backlog:
        """See `LogReader.waiting`."""
        high, end = self._tail.watermarks()[1], self._tail.tip().end or 0
        requested, position = position, max(position, self._tail.start())
        if position >= end:
            return Backlog(0, 0, beyond=max(0, requested - end))
        first = self._tail.find(position)
        return Backlog(end - position, high - first, self._receipts(first, high, position))

    def _receipts(self, first: int, high: int, position: int) -> tuple[bytes, ...]:
        """Of the first blocks from `position` on."""
        receipts: list[bytes] = []
        block_end, is_continued = 0, False
        for offset in range(first, min(high, first + 16 * RECEIPTS)):
            piece = self._tail.piece(offset)
            if piece is None or piece.at != offset:
                continue
            if piece.index == 0:
                block_end, is_continued = piece.base, False
            if not is_continued and piece.rows:
                block_end += piece.rows
                if block_end > position:
                    receipts.append(piece.receipt)
            is_continued = piece.is_continued
            if len(receipts) == RECEIPTS:
                break
        return tuple(receipts)

    def close(self) -> None:
        """Nothing: the client is another's."""
