"""How far those who read the logs are behind: router, lake, and the worker of each schema, of each log, in rows, blocks and time.

Positions are asked of where each keeps them (the router's tables, the lake's file, a state), ends of the logs themselves; so
whoever died and stands still falls behind here too. Nothing is written. A serve process measures for `/metrics`, `doctor` once.

    raw ──► router, lake (archive)        answers ──► lake        routed ──► lake, worker of each schema
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import apsw
import msgspec

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.places import Place
from tailorbird.stream import sqlite
from tailorbird.stream.opening import open_reader
from tailorbird.stream.partitions import Address, Stream, answers_addresses, index_paths, raw_addresses, routed_address
from tailorbird.stream.protocol import LogReader
from tailorbird.stream.released import FILE

EVERY_S = 10.0
_ROUTED = "routed"
log = logging.getLogger(__name__)


class Lag(msgspec.Struct, frozen=True):
    """How far one reader is behind in one log.

    Attributes:
        reader: "router", "lake", or "worker" with the beginning of its schema.
        log: as its file would be called, without the ending.
        rows, blocks: that it has yet to take; a block of a topic is a message.
        waiting_since: when the first of them came in, in microseconds; 0 if there is none, or it does not say.
    """

    reader: str
    log: str
    rows: int
    blocks: int
    waiting_since: int

    def seconds(self, now: int) -> float:
        """For how long the first of them has been waiting, at `now` (microseconds)."""
        return max(0, now - self.waiting_since) / 1e6 if self.waiting_since else 0.0


class _Positions(msgspec.Struct, frozen=True):
    """Of the lake's file, how far tables and archive were brought."""

    tables: dict[str, dict[str, int]] = {}
    archive: dict[str, int] = {}


class _Receipt(msgspec.Struct, frozen=True):
    """Of a block's receipt, when it came in, or the newest that it was made of."""

    received_at: int = 0


_positions = msgspec.json.Decoder(_Positions).decode
_receipt = msgspec.json.Decoder(_Receipt).decode


class LagMeter:
    """Measures how far the readers of the logs in `stream` are behind. Holds the logs open between measurements; one thread at a time.

    Args:
        workers: gives the position of the worker of each schema, by the schema's hash.
    """

    def __init__(self, stream: Stream, lake: Place, workers: Callable[[], Mapping[str, int]]) -> None:
        self._stream, self._lake, self._workers = stream, lake, workers
        self._readers: dict[Address, LogReader] = {}

    def measure(self) -> list[Lag]:
        """As of now, by reader and log; a reader of which nothing is known here is left out. Raises StorageError, DamageError."""
        found: list[Lag] = []
        routed = routed_address(self._stream)
        raw = raw_addresses(self._stream)
        taken = _taken_by_router(self._stream)
        if taken is not None:
            found += self._behind("router", ((name, address, taken.get(name, 0)) for name, address in raw.items()))
        lake = _taken_by_lake(self._lake)
        if lake is not None:
            archived = ((name, address, lake.archive.get(address.stem, 0)) for name, address in raw.items())
            found += self._behind("lake", archived)
            for address in answers_addresses(self._stream).values():
                position = lake.tables.get("answers", {}).get(address.stem, 0)
                found += self._behind("lake", [(address.stem, address, position)])
            reached = [logs[_ROUTED] for logs in lake.tables.values() if _ROUTED in logs]
            found += self._behind("lake", [(_ROUTED, routed, min(reached, default=0))])
        for schema, position in self._workers().items():
            found += self._behind(f"worker {schema[:8]}", [(_ROUTED, routed, position)])
        return found

    def _behind(self, reader: str, logs: "Iterator[tuple[str, Address, int]] | Sequence[tuple[str, Address, int]]") -> Iterator[Lag]:
        for _, address, position in logs:
            try:
                log_ = self._readers.get(address) or open_reader(address)
            except NotReadyError:  # its writer is just making it
                continue
            self._readers[address] = log_
            waiting = log_.waiting(position)
            yield Lag(reader, address.stem, waiting.rows, waiting.blocks, next(filter(None, map(_received_at, waiting.receipts)), 0))

    def close(self) -> None:
        """Let go of the logs."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def __enter__(self) -> "LagMeter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LagWatch:
    """Measures every few seconds, in a thread, so that whoever asks never waits for a disk or a broker.

    Attributes:
        lags: as last measured.
        measured_at: when that was, by `time.time()`; 0 before the first.
    """

    def __init__(self, meter: LagMeter, *, every_s: float = EVERY_S) -> None:
        self._meter, self._every_s = meter, every_s
        self.lags: list[Lag] = []
        self.measured_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.lags = self._meter.measure()
                self.measured_at = time.time()
            except TailorbirdError as error:
                log.warning("how far others are behind is not known: %s", error)
                self._meter.close()  # a topic or a file that was made anew is opened anew
            self._stop.wait(self._every_s)
        self._meter.close()


def _received_at(receipt: bytes) -> int:
    try:
        return _receipt(receipt).received_at if receipt else 0  # the router's own blocks say nothing
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0


def _taken_by_router(stream: Stream) -> dict[str, int] | None:
    """How far each raw log was routed, by its name; None where no router has its tables on this machine."""
    parts: dict[str, dict[str, int]] = {}  # by partition: of several files of one, left by its routers so far, the newest counts
    for path in index_paths(stream):
        try:
            connection = sqlite.connect_reader(path)
        except NotReadyError:
            continue
        try:
            rows = connection.execute("SELECT producer, offset FROM raw_position").fetchall()
        except apsw.SQLError:  # it is just being made
            continue
        finally:
            connection.close()
        part = parts.setdefault(path.name, {})
        for producer, offset in rows:
            part[producer] = max(offset, part.get(producer, 0))
    if not parts:
        return None
    found: dict[str, int] = {}
    for part in parts.values():  # all of them take from the logs of imports, and are behind by what the last one lacks
        for producer, offset in part.items():
            found[producer] = min(offset, found.get(producer, offset))
    return found


def _taken_by_lake(lake: Place) -> _Positions | None:
    try:
        return _positions((lake / FILE).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
