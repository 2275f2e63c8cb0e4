"""The backlog of many topics through one client; a reader each would need two clients per log."""

from typing import Any

from tailorbird.errors import NotReadyError
from tailorbird.stream.kafka.cluster import KafkaTopic
from tailorbird.stream.kafka.tail import MessageReader, create_tail_consumer
from tailorbird.stream.protocol import BACKLOG_RECEIPTS, Backlog


class BacklogClient:
    """A client shared by the backlogs of several logs. One thread at a time."""

    def __init__(self) -> None:
        self._consumer: Any = None

    def open(self, log: KafkaTopic) -> "LogBacklog":
        """Return the backlog of a log.

        Raises:
            NotReadyError: there is no such topic yet.
        """
        if self._consumer is None:
            self._consumer = create_tail_consumer(log)
        return LogBacklog(MessageReader(log, self._consumer))

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


class LogBacklog:
    """The backlog of one log."""

    def __init__(self, messages: MessageReader) -> None:
        self._messages = messages
        if messages.watermarks()[1] == 0:
            raise NotReadyError(
                "this topic holds no log yet",
                where=str(messages.address),
                fix="start its writer first",
            )

    def backlog_after(self, position: int) -> Backlog:
        """Return the backlog after a position, see `LogReader.backlog_after`."""
        high = self._messages.watermarks()[1]
        end = self._messages.find_end().end or 0
        requested_position = position
        position = max(position, self._messages.start())
        if position >= end:
            return Backlog(0, 0, rows_past_end=max(0, requested_position - end))
        first_offset = self._messages.find_offset(position)
        return Backlog(
            end - position, high - first_offset, self._read_receipts(first_offset, high, position)
        )

    def _read_receipts(self, first_offset: int, high: int, position: int) -> tuple[bytes, ...]:
        """Return the receipts of the first blocks from `position` on."""
        receipts: list[bytes] = []
        block_end = 0
        is_continued = False
        for offset in range(first_offset, min(high, first_offset + 16 * BACKLOG_RECEIPTS)):
            part = self._messages.read_part(offset)
            if part is None or part.expected_offset != offset:
                continue
            if part.index == 0:
                block_end = part.run_start
                is_continued = False
            if not is_continued and part.rows:
                block_end += part.rows
                if block_end > position:
                    receipts.append(part.receipt)
            is_continued = part.is_continued
            if len(receipts) == BACKLOG_RECEIPTS:
                break
        return tuple(receipts)

    def close(self) -> None:
        """Do nothing, since the client is shared."""
