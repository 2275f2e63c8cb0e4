"""Recent responses, so that an event that names a `request_id` gets the slot, query, arm, position
and propensity of the response.

A response is matched by events received within the attribution window after it. Each step saves one
blob per partition. A blob is deleted once the newest event of its partition is past the window.
"""

from collections import deque

import apsw
import msgspec

SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS answer_run(
    id INTEGER PRIMARY KEY, producer INTEGER NOT NULL, newest INTEGER NOT NULL,
    answers BLOB NOT NULL
) STRICT;
"""


class RememberedResponse(msgspec.Struct, frozen=True, array_like=True):
    """A response as it is stored for attribution."""

    request_id: str
    ts: int
    received_at: int
    slot: str
    experiment: str
    arm: str
    model: str
    query: str | None
    items: list[str]
    propensities: list[float]

    def find_item(self, item_id: str) -> tuple[int | None, float | None]:
        """Return the item's position, from 1, and propensity; None where unknown or not shown."""
        try:
            index = self.items.index(item_id)
        except ValueError:
            return None, None
        return index + 1, self.propensities[index] if self.propensities else None


class _Batch(msgspec.Struct):
    id: int
    producer: int
    newest_received_at: int
    responses: list[RememberedResponse]


class ResponseMemory:
    """Responses within the attribution window, in memory and in the table `answer_run`."""

    def __init__(self, connection: apsw.Connection, attribution_window_us: int) -> None:
        self._window_us = attribution_window_us
        self._response_by_request_id: dict[str, RememberedResponse] = {}
        self._batches_by_producer: dict[int, deque[_Batch]] = {}
        self._unsaved_by_producer: dict[int, list[RememberedResponse]] = {}
        self._last_batch_id = 0
        decode_responses = msgspec.msgpack.Decoder(list[RememberedResponse]).decode
        for id_, producer, newest_received_at, encoded in connection.execute(
            "SELECT id, producer, newest, answers FROM answer_run ORDER BY id"
        ):
            self._remember(_Batch(id_, producer, newest_received_at, decode_responses(encoded)))

    def put(self, producer: int, response: RememberedResponse) -> None:
        """Add a response of `producer`, which replaces an earlier one of the same request."""
        self._response_by_request_id[response.request_id] = response
        self._unsaved_by_producer.setdefault(producer, []).append(response)

    def get(self, request_id: str, received_at: int) -> RememberedResponse | None:
        """Return the response, if an event received at `received_at` is within its window."""
        response = self._response_by_request_id.get(request_id)
        if response is None or received_at - response.received_at > self._window_us:
            return None
        return response

    def save(self, connection: apsw.Connection, newest_by_producer: dict[int, int]) -> None:
        """Write new responses and evict old ones.

        Args:
            newest_by_producer: newest time of receipt of each producer.
        """
        for producer, responses in self._unsaved_by_producer.items():
            batch = _Batch(
                self._last_batch_id + 1,
                producer,
                max(response.received_at for response in responses),
                responses,
            )
            self._remember(batch)
            row = (batch.id, producer, batch.newest_received_at, msgspec.msgpack.encode(responses))
            connection.execute("INSERT INTO answer_run VALUES (?, ?, ?, ?)", row)
        self._unsaved_by_producer = {}
        for producer, received_at in newest_by_producer.items():
            self._evict(connection, producer, received_at - self._window_us)

    def _remember(self, batch: _Batch) -> None:
        self._last_batch_id = batch.id
        batches = self._batches_by_producer.setdefault(batch.producer, deque())
        # Batches of a clock that was ahead would keep all later ones until their own time is past.
        for earlier_batch in reversed(batches):
            if earlier_batch.newest_received_at <= batch.newest_received_at:
                break
            earlier_batch.newest_received_at = batch.newest_received_at
        batches.append(batch)
        for response in batch.responses:
            self._response_by_request_id[response.request_id] = response

    def _evict(self, connection: apsw.Connection, producer: int, before: int) -> None:
        batches = self._batches_by_producer.get(producer)
        while batches and batches[0].newest_received_at < before:
            batch = batches.popleft()
            connection.execute("DELETE FROM answer_run WHERE id = ?", (batch.id,))
            for response in batch.responses:
                if self._response_by_request_id.get(response.request_id) is response:
                    del self._response_by_request_id[response.request_id]
