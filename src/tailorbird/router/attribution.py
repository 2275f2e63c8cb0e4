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


class Given(msgspec.Struct, frozen=True, array_like=True):
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

    def place(self, item_id: str) -> tuple[int | None, float | None]:
        """The item's position, from 1, and its propensity; None where the answer did not show it or
        did not say.
        """
        try:
            index = self.items.index(item_id)
        except ValueError:
            return None, None
        return index + 1, self.propensities[index] if self.propensities else None


class _Run(msgspec.Struct):
    id: int
    producer: int
    newest: int
    answers: list[Given]


class Answers:
    """The answers that may still be named, in memory, and in the table `answer_run` once saved."""

    def __init__(self, connection: apsw.Connection, answer_us: int) -> None:
        self._answer_us = answer_us
        self._by_request: dict[str, Given] = {}
        self._runs: dict[int, deque[_Run]] = {}
        self._new: dict[int, list[Given]] = {}
        self._last_run = 0
        decode = msgspec.msgpack.Decoder(list[Given]).decode
        for id_, producer, newest, answers in connection.execute(
            "SELECT id, producer, newest, answers FROM answer_run ORDER BY id"
        ):
            self._remember(_Run(id_, producer, newest, decode(answers)))

    def put(self, producer: int, given: Given) -> None:
        """Remember an answer, which came in from `producer`; a later one with the same request
        takes its place.
        """
        self._by_request[given.request_id] = given
        self._new.setdefault(producer, []).append(given)

    def get(self, request_id: str, received_at: int) -> Given | None:
        """The answer that an event received at `received_at` may still name."""
        given = self._by_request.get(request_id)
        if given is None or received_at - given.received_at > self._answer_us:
            return None
        return given

    def save(self, connection: apsw.Connection, newest: dict[int, int]) -> None:
        """Write what is new and forget what is too old; `newest` is each partition's newest time of
        receipt so far.
        """
        for producer, answers in self._new.items():
            run = _Run(
                self._last_run + 1, producer, max(given.received_at for given in answers), answers
            )
            self._remember(run)
            row = (run.id, producer, run.newest, msgspec.msgpack.encode(answers))
            connection.execute("INSERT INTO answer_run VALUES (?, ?, ?, ?)", row)
        self._new = {}
        for producer, moment in newest.items():
            self._forget(connection, producer, moment - self._answer_us)

    def _remember(self, run: _Run) -> None:
        self._last_run = run.id
        runs = self._runs.setdefault(run.producer, deque())
        for earlier in reversed(
            runs
        ):  # of a clock that was ahead and is set back: they would keep all behind them until then
            if earlier.newest <= run.newest:
                break
            earlier.newest = run.newest
        runs.append(run)
        for given in run.answers:
            self._by_request[given.request_id] = given

    def _forget(self, connection: apsw.Connection, producer: int, before: int) -> None:
        runs = self._runs.get(producer)
        while runs and runs[0].newest < before:
            run = runs.popleft()
            connection.execute("DELETE FROM answer_run WHERE id = ?", (run.id,))
            for given in run.answers:
                if self._by_request.get(given.request_id) is given:
                    del self._by_request[given.request_id]
