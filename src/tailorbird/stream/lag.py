"""How far those who read the logs are behind: router, lake, and the worker of each schema, of each
log, in rows, blocks and time.

Positions are asked of where each keeps them (the router's tables, the lake's file, a state), ends
of the logs themselves; so whoever died and stands still falls behind here too. Nothing is written.
A serve process measures for `/metrics`, `doctor` once.

    raw ──► router, lake (archive)        answers ──► lake        routed ──► lake, worker of each schema
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.loops import Loop
from tailorbird.places import Place
from tailorbird.stream.held import router_positions
from tailorbird.stream.opening import open_reader
from tailorbird.stream.partitions import (
    Address,
    Stream,
    answers_addresses,
    raw_addresses,
    raw_path,
    routed_address,
)
from tailorbird.stream.protocol import Backlog
from tailorbird.stream.released import try_read_released

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog
    from tailorbird.stream.kafka.waits import BacklogClient

EVERY_S = 10.0
_ROUTED = "routed"
_FIRST = 1  # of the routed log: whoever stands there has taken nothing
log = logging.getLogger(__name__)


class Lag(msgspec.Struct, frozen=True):
    """How far one reader is behind in one log.

    Attributes:
        reader: "router", "lake", or "worker" with the beginning of its schema and, where several
            share it, the part; or its "shuffle".
        log: as its file would be called, without the ending. rows, blocks: that it has yet to take;
        a block of a topic is a message.
        waiting_since: when the first of them came in, in microseconds; 0 if there is none, or it
            does not say.
        lost: rows that it took and that are behind the end of the log: the log was lost, or is
            another.
    """

    reader: str
    log: str
    rows: int
    blocks: int
    waiting_since: int
    lost: int = 0

    def seconds(self, now: int) -> float:
        """For how long the first of them has been waiting, at `now` (microseconds)."""
        return max(0, now - self.waiting_since) / 1e6 if self.waiting_since else 0.0


class _Receipt(msgspec.Struct, frozen=True):
    """Of a block's receipt, when it came in, or the newest that it was made of."""

    received_at: int = 0


_receipt = msgspec.json.Decoder(_Receipt).decode


class _Waits(Protocol):
    """Of `LogReader`, what is asked here."""

    def waiting(self, position: int) -> Backlog: ...

    def close(self) -> None: ...


class LagMeter:
    """Measures how far the readers of the logs in `stream` are behind. Holds the logs open between
    measurements; one thread at a time.

    Args:
        told: gives the positions in the routed log that its other readers told of, the workers, by
            a name of each.
        producer: where logs are topics, of all doors measure the logs of this one alone: each looks
            after its own, one role after all.
    """

    def __init__(
        self,
        stream: Stream,
        lake: Place,
        reader_positions: Callable[[], Mapping[str, int]],
        *,
        producer: str = "",
    ) -> None:
        self._stream, self._lake, self._told, self._producer = stream, lake, reader_positions, producer
        self._readers: dict[Address, _Waits] = {}
        self._client: BacklogClient | None = None

    def measure(self) -> list[Lag]:
        """As of now, by reader and log; a reader of which nothing is known here is left out. Raises
        StorageError, DamageError.
        """
        lags: list[Lag] = []
        routed = routed_address(self._stream)
        raw, responses = self._collector_logs()
        routed_positions = _router_positions(self._stream)
        if routed_positions is not None:
            if isinstance(self._stream, Path):
                lags += [
                    Lag("router", raw_path(self._stream, name).stem, 0, 0, 0, at)
                    for name, at in routed_positions.items()
                    if at and name not in raw
                ]
            lags += self._measure_logs(
                "router",
                ((name, address, routed_positions.get(name, 0)) for name, address in raw.items()),
            )
        lake = try_read_released(self._lake)
        if lake is not None:
            archived = (
                (name, address, lake.archive.get(address.stem, 0)) for name, address in raw.items()
            )
            lags += self._measure_logs("lake", archived)
            for address in responses.values():
                position = lake.tables.get("answers", {}).get(address.stem, 0)
                lags += self._measure_logs("lake", [(address.stem, address, position)])
            table_positions = [logs[_ROUTED] for logs in lake.tables.values() if _ROUTED in logs]
            lags += self._measure_logs("lake", [(_ROUTED, routed, min(table_positions, default=0))])
        for reader, position in self._told().items():
            lags += self._measure_logs(reader, [(_ROUTED, routed, position)])
        return lags

    def _measure_logs(
        self,
        reader: str,
        logs: "Iterator[tuple[str, Address, int]] | Sequence[tuple[str, Address, int]]",
    ) -> Iterator[Lag]:
        for _, address, position in logs:
            try:
                log_reader = self._readers.get(address) or self._open(address)
            except NotReadyError:  # its writer is just making it; or it was there, and was lost
                if position > _FIRST:
                    yield Lag(reader, address.stem, 0, 0, 0, position)
                continue
            self._readers[address] = log_reader
            waiting = log_reader.waiting(position)
            yield Lag(
                reader,
                address.stem,
                waiting.rows,
                waiting.blocks,
                _first_received_at(waiting.receipts),
                waiting.beyond,
            )

    def _collector_logs(
        self,
    ) -> "tuple[Mapping[str, Path | KafkaLog], Mapping[str, Path | KafkaLog]]":
        if isinstance(self._stream, Path) or not self._producer:
            return raw_addresses(self._stream), answers_addresses(self._stream)
        raw = {log.partition: log for log in self._stream.raw_parts(self._producer)}
        return raw, {self._producer: self._stream.answers(self._producer)}

    def _open(self, address: Address) -> "_Waits":
        if isinstance(address, Path):
            return open_reader(address)
        from tailorbird.stream.kafka.waits import BacklogClient

        if self._client is None:
            self._client = BacklogClient()
        return self._client.of(address)

    def close(self) -> None:
        """Let go of the logs."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> "LagMeter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LagWatch:
    """Measures every few seconds, in a thread, so that whoever asks never waits for a disk or a
    broker.

    Attributes:
        lags: as last measured.
        measured_at: when that was, by `time.time()`; 0 before the first.
        loop: the thread.
    """

    def __init__(self, meter: LagMeter, *, every_s: float = EVERY_S) -> None:
        self._meter = meter
        self.lags: list[Lag] = []
        self.measured_at = 0.0
        self.loop = Loop("lag", self._measure, every_s=every_s, failed=meter.close)

    def start(self) -> None:
        self.loop.start()

    def stop(self) -> None:
        self.loop.stop()
        self._meter.close()

    def _measure(self) -> None:
        try:
            self.lags = self._meter.measure()
            self.measured_at = time.time()
        except TailorbirdError as error:
            log.warning("how far others are behind is not known: %s", error)
            self._meter.close()  # a topic or a file that was made anew is opened anew


def _first_received_at(receipts: Sequence[bytes]) -> int:
    return next(filter(None, map(_received_at, receipts)), 0)


def _received_at(receipt: bytes) -> int:
    try:
        return (
            _receipt(receipt).received_at if receipt else 0
        )  # the router's own blocks say nothing
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0


def _router_positions(stream: Stream) -> dict[str, int] | None:
    """How far each raw log was routed, by its name; None where no router has its tables on this
    machine.
    """
    positions_by_router = router_positions(stream)
    if not positions_by_router:
        return None
    slowest: dict[str, int] = {}
    for positions in (
        positions_by_router
    ):  # all of them take from the logs of imports, and are behind by what the last one lacks
        for producer, offset in positions.items():
            slowest[producer] = min(offset, slowest.get(producer, offset))
    return slowest
