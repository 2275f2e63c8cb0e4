"""Lag of the readers of each log (router, lake, workers) in rows, blocks and time.

Positions are read where each reader keeps them (router tables, lake file, state), and ends from the
logs. So a reader that died shows its lag too. Nothing is written. Serve processes measure for
`/metrics`, `doctor` measures once.

    raw ──► router, lake (archive)    answers ──► lake    routed ──► lake, worker of each schema
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from tailorbird.errors import NotReadyError, StorageError, TailorbirdError
from tailorbird.periodic import PeriodicTask
from tailorbird.storage_paths import StoragePath
from tailorbird.stream.locked import router_positions
from tailorbird.stream.log_set import log_address, log_set
from tailorbird.stream.opening import open_reader
from tailorbird.stream.partitions import Address, Stream
from tailorbird.stream.protocol import BacklogReader
from tailorbird.stream.released import ReleasedPositions, try_read_released

EVERY_S = 10.0
_ROUTED = "routed"
_FIRST = 1  # first position of the routed log: nothing was read
log = logging.getLogger(__name__)


class Lag(msgspec.Struct, frozen=True):
    """Lag of one reader in one log.

    Attributes:
        reader: "router", "lake", "shuffle", or "worker" with a prefix of its schema hash and the
            part, if there are several.
        log: name of the log's file without suffix.
        rows, blocks: number not yet read; a block of a topic is a message.
        waiting_since: time of receipt of the first of them in microseconds; 0 if unknown.
        lost: number of rows read past the end of the log, which was lost or replaced.
    """

    reader: str
    log: str
    rows: int
    blocks: int
    waiting_since: int
    lost: int = 0

    def seconds(self, now: int) -> float:
        """Return how long the first unread row has been waiting at `now` (microseconds)."""
        return max(0, now - self.waiting_since) / 1e6 if self.waiting_since else 0.0


class _Receipt(msgspec.Struct, frozen=True):
    """The time of receipt in a block's receipt."""

    received_at: int = 0


_receipt = msgspec.json.Decoder(_Receipt).decode


class LagMeter:
    """A meter of the lag of all readers of `stream`.

    It keeps the logs open between measurements. One thread at a time.

    Args:
        reader_positions: returns the workers' positions in the routed log by name.
        producer: where logs are topics, measure only the logs of this producer.
    """

    def __init__(
        self,
        stream: Stream,
        lake: StoragePath,
        reader_positions: Callable[[], Mapping[str, int]],
        *,
        producer: str = "",
    ) -> None:
        self._logs, self._lake, self._reported, self._producer = (
            log_set(stream),
            lake,
            reader_positions,
            producer,
        )
        self._readers: dict[Address, BacklogReader] = {}
        self._client = self._logs.backlog_client()

    def measure(self) -> list[Lag]:
        """Measure the lag by reader and log, without readers that are unknown here.

        Raises:
            StorageError, DamageError: a log or a position cannot be read.
        """
        lags: list[Lag] = []
        routed = self._logs.routed
        raw, responses = self._logs.measured_logs(self._producer)
        routed_positions = _router_positions(self._logs)
        if routed_positions is not None:
            lags += [
                Lag("router", stem, 0, 0, 0, routed_positions[name])
                for name, stem in self._logs.lost_raw_logs(routed_positions).items()
                if routed_positions[name]
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
        for reader, position in self._reported().items():
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
            except NotReadyError:  # its writer is creating it, or it was lost
                if position > _FIRST:
                    yield Lag(reader, address.stem, 0, 0, 0, position)
                continue
            self._readers[address] = log_reader
            backlog = log_reader.backlog_after(position)
            yield Lag(
                reader,
                address.stem,
                backlog.rows,
                backlog.blocks,
                _first_received_at(backlog.receipts),
                backlog.rows_past_end,
            )

    def _open(self, address: Address) -> BacklogReader:
        return log_address(address).open_backlog(self._client)

    def close(self) -> None:
        """Close the logs."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        if self._client is not None:
            self._client.close()

    def __enter__(self) -> "LagMeter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LagWatch:
    """Periodic measurements in a thread, so that callers never wait for a disk or a broker.

    Attributes:
        lags: last measurement.
        measured_at: its time by `time.time()`; 0 before the first.
        loop: the thread.
    """

    def __init__(self, meter: LagMeter, *, every_s: float = EVERY_S) -> None:
        self._meter = meter
        self.lags: list[Lag] = []
        self.measured_at = 0.0
        self.loop = PeriodicTask("lag", self._measure, interval_s=every_s, on_failure=meter.close)

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
            self._meter.close()  # reopens a recreated topic or file


def _first_received_at(receipts: Sequence[bytes]) -> int:
    return next(filter(None, map(_received_at, receipts)), 0)


def _received_at(receipt: bytes) -> int:
    try:
        return (
            _receipt(receipt).received_at if receipt else 0
        )  # some blocks of the router have no receipt
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0


def _router_positions(stream: Stream) -> dict[str, int] | None:
    """Return the routed position of each raw log; None without router tables on this machine."""
    positions_by_router = router_positions(stream)
    if not positions_by_router:
        return None
    slowest: dict[str, int] = {}
    for positions in positions_by_router:  # all read the logs of imports, and the slowest counts
        for producer, offset in positions.items():
            slowest[producer] = min(offset, slowest.get(producer, offset))
    return slowest


def waiting_rows(released_positions: ReleasedPositions, stream: Stream) -> dict[str, int]:
    """Return the rows of raw and response logs that are in no table yet, by log name.

    Logs without such rows, and those that cannot be read, are left out.
    """
    backlog: dict[str, int] = {}
    responses = released_positions.tables.get("answers", {})
    logs_of = log_set(stream)
    for kind, list_logs in (("raw", logs_of.raw_logs), ("answers", logs_of.response_logs)):
        try:
            logs = list_logs()
        except StorageError:  # No broker answers.
            continue
        for log in logs.values():
            try:
                with open_reader(log) as reader:
                    reached_row = (
                        released_positions.routed.get(reader.partition, 0)
                        if kind == "raw"
                        else responses.get(log.stem, 0)
                    )
                    rows = reader.end() - max(reached_row, reader.start())
            except (NotReadyError, StorageError):
                continue
            if rows > 0:
                backlog[log.stem] = rows
    return backlog
