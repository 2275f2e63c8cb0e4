"""Lag of the readers of each log (router, lake, workers) in rows, blocks and time.

Positions are read where each reader keeps them (router tables, lake file, state), and ends from the
logs. So a reader that died shows its lag too. Nothing is written. Serve processes measure for
`/metrics`, `doctor` measures once.

    raw ──► router, lake (archive)    answers ──► lake    routed ──► lake, worker of each schema
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from tailorbird.errors import NotReadyError, StorageError, TailorbirdError
from tailorbird.periodic import PeriodicTask
from tailorbird.storage_paths import StoragePath
from tailorbird.stream.locked import router_positions
from tailorbird.stream.log_set import log_address, log_set
from tailorbird.stream.opening import open_reader
from tailorbird.stream.partitions import Address, Stream
from tailorbird.stream.protocol import BacklogReader
from tailorbird.stream.released import ReleasedPositions, try_read_released_positions

MEASUREMENT_INTERVAL_S = 10.0
_ROUTED_LOG = "routed"
_FIRST_ROUTED_POSITION = 1  # first position of the routed log: nothing was read
log = logging.getLogger(__name__)


class Lag(msgspec.Struct, frozen=True):
    """Lag of one reader in one log.

    Attributes:
        reader: "router", "lake", "shuffle", or "worker" with a prefix of its schema hash and the
            part, if there are several.
        log: name of the log's file without suffix.
        rows, blocks: number not yet read; a block of a topic is a message.
        waiting_since: time of receipt of the first of them in microseconds; 0 if unknown.
        lost_rows: number of rows read past the end of the log, which was lost or replaced.
    """

    reader: str
    log: str
    rows: int
    blocks: int
    waiting_since: int
    lost_rows: int = 0

    def seconds(self, now: int) -> float:
        """Return how long the first unread row has been waiting at `now` (microseconds)."""
        return max(0, now - self.waiting_since) / 1e6 if self.waiting_since else 0.0


class _Receipt(msgspec.Struct, frozen=True):
    """The time of receipt in a block's receipt."""

    received_at: int = 0


_decode_receipt = msgspec.json.Decoder(_Receipt).decode


class LagMeter:
    """A meter of the lag of all readers of `stream`.

    It keeps the logs open between measurements. One thread at a time.

    Args:
        read_worker_positions: returns the workers' positions in the routed log by name.
        producer: where logs are topics, measure only the logs of this producer.
    """

    def __init__(
        self,
        stream: Stream,
        lake: StoragePath,
        read_worker_positions: Callable[[], Mapping[str, int]],
        *,
        producer: str = "",
    ) -> None:
        self._logs = log_set(stream)
        self._lake = lake
        self._read_worker_positions = read_worker_positions
        self._producer = producer
        self._readers: dict[Address, BacklogReader] = {}
        self._backlog_client = self._logs.backlog_client()

    def measure(self) -> list[Lag]:
        """Measure the lag by reader and log, without readers that are unknown here.

        Raises:
            StorageError, DamageError: a log or a position cannot be read.
        """
        lags: list[Lag] = []
        routed_log = self._logs.routed
        raw_logs, response_logs = self._logs.measured_logs(self._producer)
        routed_positions = _find_slowest_positions(self._logs)
        if routed_positions is not None:
            lags += [
                _lost_log_lag("router", stem, routed_positions[name])
                for name, stem in self._logs.lost_raw_logs(routed_positions).items()
                if routed_positions[name]
            ]
            lags += self._measure_logs(
                "router",
                ((address, routed_positions.get(name, 0)) for name, address in raw_logs.items()),
            )
        released_positions = try_read_released_positions(self._lake)
        if released_positions is not None:
            archive_positions = (
                (address, released_positions.archive.get(address.stem, 0))
                for address in raw_logs.values()
            )
            lags += self._measure_logs("lake", archive_positions)
            for address in response_logs.values():
                position = released_positions.tables.get("answers", {}).get(address.stem, 0)
                lags += self._measure_logs("lake", [(address, position)])
            table_positions = [
                logs[_ROUTED_LOG]
                for logs in released_positions.tables.values()
                if _ROUTED_LOG in logs
            ]
            lags += self._measure_logs("lake", [(routed_log, min(table_positions, default=0))])
        for reader, position in self._read_worker_positions().items():
            lags += self._measure_logs(reader, [(routed_log, position)])
        return lags

    def _measure_logs(
        self, reader: str, log_positions: "Iterable[tuple[Address, int]]"
    ) -> Iterator[Lag]:
        for address, position in log_positions:
            try:
                log_reader = self._readers.get(address) or self._open(address)
            except NotReadyError:  # its writer is creating it, or it was lost
                if position > _FIRST_ROUTED_POSITION:
                    yield _lost_log_lag(reader, address.stem, position)
                continue
            self._readers[address] = log_reader
            backlog = log_reader.backlog_after(position)
            yield Lag(
                reader,
                address.stem,
                rows=backlog.rows,
                blocks=backlog.blocks,
                waiting_since=_first_received_at(backlog.receipts),
                lost_rows=backlog.rows_past_end,
            )

    def _open(self, address: Address) -> BacklogReader:
        return log_address(address).open_backlog(self._backlog_client)

    def close(self) -> None:
        """Close the logs."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        if self._backlog_client is not None:
            self._backlog_client.close()

    def __enter__(self) -> "LagMeter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LagWatch:
    """Periodic measurements in a thread, so that callers never wait for a disk or a broker.

    Attributes:
        lags: last measurement.
        measured_at: its time by `time.time()`; 0 before the first.
        periodic_task: the thread.
    """

    def __init__(self, meter: LagMeter, *, interval_s: float = MEASUREMENT_INTERVAL_S) -> None:
        self._meter = meter
        self.lags: list[Lag] = []
        self.measured_at = 0.0
        self.periodic_task = PeriodicTask(
            "lag", self._measure, interval_s=interval_s, on_failure=meter.close
        )

    def start(self) -> None:
        self.periodic_task.start()

    def stop(self) -> None:
        self.periodic_task.stop()
        self._meter.close()

    def _measure(self) -> None:
        try:
            self.lags = self._meter.measure()
            self.measured_at = time.time()
        except TailorbirdError as error:
            log.warning("how far others are behind is not known: %s", error)
            self._meter.close()  # reopens a recreated topic or file


def _lost_log_lag(reader: str, stem: str, position: int) -> Lag:
    return Lag(reader, stem, rows=0, blocks=0, waiting_since=0, lost_rows=position)


def _first_received_at(receipts: Sequence[bytes]) -> int:
    return next(filter(None, map(_received_at, receipts)), 0)


def _received_at(receipt: bytes) -> int:
    try:
        return (
            _decode_receipt(receipt).received_at if receipt else 0
        )  # some blocks of the router have no receipt
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0


def _find_slowest_positions(stream: Stream) -> dict[str, int] | None:
    """Return the routed position of each raw log; None without router tables on this machine."""
    positions_by_router = router_positions(stream)
    if not positions_by_router:
        return None
    slowest_positions: dict[str, int] = {}
    for positions in positions_by_router:  # all read the logs of imports, and the slowest counts
        for producer, offset in positions.items():
            slowest_positions[producer] = min(offset, slowest_positions.get(producer, offset))
    return slowest_positions


def unloaded_rows_by_log(released_positions: ReleasedPositions, stream: Stream) -> dict[str, int]:
    """Return the rows of raw and response logs that are in no table yet, by log name.

    Logs without such rows, and those that cannot be read, are left out.
    """
    rows_by_log: dict[str, int] = {}
    response_positions = released_positions.tables.get("answers", {})
    logs = log_set(stream)
    for kind, list_logs in (("raw", logs.raw_logs), ("answers", logs.response_logs)):
        try:
            addresses = list_logs()
        except StorageError:  # No broker answers.
            continue
        for address in addresses.values():
            try:
                with open_reader(address) as reader:
                    read_position = (
                        released_positions.routed.get(reader.partition, 0)
                        if kind == "raw"
                        else response_positions.get(address.stem, 0)
                    )
                    rows = reader.end() - max(read_position, reader.start())
            except (NotReadyError, StorageError):
                continue
            if rows > 0:
                rows_by_log[address.stem] = rows
    return rows_by_log
