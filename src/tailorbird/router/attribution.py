"""Answers kept for a while, so that what names a `request_id` gets what the answer knew: slot,
query, arm, position, propensity.

An answer is found by events received up to `answer_us` after it. Answers are saved one blob a step
and partition, and forgotten once their partition's newest event is further ahead than that.
"""

from collections import deque

import apsw
import msgspec

TABLE = """
CREATE TABLE IF NOT EXISTS answer_run(
    id INTEGER PRIMARY KEY, producer INTEGER NOT NULL, newest INTEGER NOT NULL, answers BLOB NOT NULL
) STRICT;
"""


class RememberedResponse(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it is remembered."""

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
        """The item's position, from 1, and its propensity; None where the answer did not show it or
        did not say.
        """
        try:
            index = self.items.index(item_id)
        except ValueError:
            return None, None
        return index + 1, self.propensities[index] if self.propensities else None


class _Batch(msgspec.Struct):
    id: int
    producer: int
    newest: int
    responses: list[RememberedResponse]


class ResponseMemory:
    """The answers that may still be named, in memory, and in the table `answer_run` once saved."""

    def __init__(self, connection: apsw.Connection, attribution_window_us: int) -> None:
        self._window_us = attribution_window_us
        self._by_request: dict[str, RememberedResponse] = {}
        self._batches: dict[int, deque[_Batch]] = {}
        self._unsaved: dict[int, list[RememberedResponse]] = {}
        self._last_batch_id = 0
        decode = msgspec.msgpack.Decoder(list[RememberedResponse]).decode
        for id_, producer, newest, encoded in connection.execute(
            "SELECT id, producer, newest, answers FROM answer_run ORDER BY id"
        ):
            self._remember(_Batch(id_, producer, newest, decode(encoded)))

    def put(self, producer: int, response: RememberedResponse) -> None:
        """Remember an answer, which came in from `producer`; a later one with the same request
        takes its place.
        """
        self._by_request[response.request_id] = response
        self._unsaved.setdefault(producer, []).append(response)

    def get(self, request_id: str, received_at: int) -> RememberedResponse | None:
        """The answer that an event received at `received_at` may still name."""
        response = self._by_request.get(request_id)
        if response is None or received_at - response.received_at > self._window_us:
            return None
        return response

    def save(self, connection: apsw.Connection, newest: dict[int, int]) -> None:
        """Write what is new and forget what is too old; `newest` is each partition's newest time of
        receipt so far.
        """
        for producer, responses in self._unsaved.items():
            batch = _Batch(
                self._last_batch_id + 1,
                producer,
                max(given.received_at for given in responses),
                responses,
            )
            self._remember(batch)
            row = (batch.id, producer, batch.newest, msgspec.msgpack.encode(responses))
            connection.execute("INSERT INTO answer_run VALUES (?, ?, ?, ?)", row)
        self._unsaved = {}
        for producer, received_at in newest.items():
            self._evict(connection, producer, received_at - self._window_us)

    def _remember(self, batch: _Batch) -> None:
        self._last_batch_id = batch.id
        batches = self._batches.setdefault(batch.producer, deque())
        for earlier in reversed(
            batches
        ):  # of a clock that was ahead and is set back: they would keep all behind them until then
            if earlier.newest <= batch.newest:
                break
            earlier.newest = batch.newest
        batches.append(batch)
        for response in batch.responses:
            self._by_request[response.request_id] = response

    def _evict(self, connection: apsw.Connection, producer: int, before: int) -> None:
        batches = self._batches.get(producer)
        while batches and batches[0].newest < before:
            batch = batches.popleft()
            connection.execute("DELETE FROM answer_run WHERE id = ?", (batch.id,))
            for response in batch.responses:
                if self._by_request.get(response.request_id) is response:
                    del self._by_request[response.request_id]
