"""The shuffle: reads the routed log once, and writes for each of a schema's workers a log of the
events that concern its entities.

    routed     1 ─────────── 40 │ 41 ──────────── 66 │ 67 ──────────── 90
    part 0     1 ─────────────────── 66 (7 events)   │ 67 ── 90 (none)          a block takes as many positions as it stands for
    part 1     1 ─────────────────── 66 (51 events)  │ 67 ── 90 (3 events)      rows of the routed log, whatever it holds of them

So a row stands in each log where it stands in the routed one, and p stays what it is. How far a log
is says how far its worker may be, also where no event was for it; and what the shuffle has done is
said by the ends of the logs it wrote, nothing else is kept: after a kill each goes on where it
ends. Two shuffles would write the same; that only one of them does, the logs see to
(`stream.kafka.frames`). Whose an entity is stands in `features.keypart`.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird import faults
from tailorbird.errors import NotReadyError
from tailorbird.events.clock import Clock
from tailorbird.events.keys import hash64s
from tailorbird.events.schema import ROUTED
from tailorbird.features.accumulators import Accumulator, accumulators
from tailorbird.features.columns import Frame
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.fields import TextHashCache
from tailorbird.features.figures import Figures, write_shuffle_figures
from tailorbird.features.keypart import part_numbers
from tailorbird.features.receipts import CHOSEN, LEFT_OUT, events_of, is_only_in_lake
from tailorbird.stream import Address, Block, LogReader, LogWriter, Stored, open_reader, open_writer

Bools = npt.NDArray[np.bool_]

ROWS_MAX = 20_000
ROW_BYTES = 300  # about what an event takes in a block
POLL_S = 0.003
TELL_S = 5.0
PRUNE_S = 30.0
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")
log = logging.getLogger(__name__)


class _Received(msgspec.Struct, frozen=True):
    """Of a routed block's receipt, when it came in: for who looks how far a worker is behind."""

    received_at: int = 0


_received = msgspec.json.Decoder(_Received)


@dataclass(frozen=True)
class ShuffleReport:
    """What a step did: rows of the routed log (0: there was nothing), events by part, and behind
    which row all parts are now.
    """

    rows: int
    events: tuple[int, ...]
    end: int


class Shuffle:
    """Cuts the routed log for the workers of one schema.

    Args:
        routed: the routers' log; it need not be there yet.
        parts: the address of each part's log.
        first: where the logs begin if they are made now: workers take what lies before from the
            lake, which has it.
    Raises:
        LockedError: another shuffle of this machine writes these logs.
    """

    def __init__(
        self, routed: Address, parts: Sequence[Address], features: FeatureSet, *, first: int = 0
    ) -> None:
        self.features = features
        self._routed, self._addresses, self._first = routed, parts, first
        self._reader: LogReader | None = None
        self._writers: list[LogWriter] = []
        self._known = TextHashCache()
        self._accumulators: list[Accumulator] = [
            one for layout in features.layout.entities for one in accumulators(layout)
        ]

    def step(self, rows_max: int = ROWS_MAX) -> ShuffleReport:
        """Take what the routed log has, up to about `rows_max` rows, and write it to the parts.

        Raises:
            LockedError: another shuffle writes these logs now.
            StorageError: a log could not be written; the next start finds out how far it is.
        """
        reader = self._open()
        if reader is None:
            return ShuffleReport(0, (0,) * len(self._addresses), 0)
        start, begin = self.end(), reader.start()
        if start < begin:
            log.warning(
                "rows %d to %d of the routed log are gone: workers that lack them take them "
                "from the lake",
                start,
                begin - 1,
            )
            return self._write(ROUTED.empty_table(), begin, LEFT_OUT, b"")
        blocks = self._some(reader.read(start, bytes_max=ROW_BYTES * rows_max), rows_max)
        if not blocks:
            return ShuffleReport(0, (0,) * len(self._addresses), start)
        end, receipt = blocks[-1].end, _receipt(blocks)
        if is_only_in_lake(blocks[0].block, self.features):
            return self._write(ROUTED.empty_table(), end, LEFT_OUT, receipt)
        tables = [
            table
            for stored in blocks
            if (table := events_of(stored, start, self._routed)) is not None
        ]
        return self._write(
            pa.concat_tables(tables) if tables else ROUTED.empty_table(), end, CHOSEN, receipt
        )

    def end(self) -> int:
        """Behind which row of the routed log all parts are."""
        return min(writer.end() for writer in self._writers) if self._writers else 0

    def prune(self, needed_from: Sequence[int]) -> int:
        """Delete what lies before the row from which each worker needs its log; how many blocks."""
        return sum(
            writer.prune(before) for writer, before in zip(self._writers, needed_from, strict=True)
        )

    def run(
        self,
        stop: threading.Event,
        *,
        needed_from: Callable[[], Sequence[int]],
        state: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Step while there is something, else look again every few milliseconds, until `stop` is
        set.

        Args:
            needed_from: asked now and then from which row on each worker needs its log; before that
                it is pruned.
            state: the folder of all states, where it tells how far it is.
        """
        more, tell_at, prune_at = True, 0.0, time.monotonic() + PRUNE_S
        while not stop.is_set():
            reader = self._open()
            if more or (reader is not None and reader.changed()):
                more = self.step().rows > 0
            else:
                stop.wait(POLL_S)
            now = time.monotonic()
            if state is not None and clock is not None and now >= tell_at:
                write_shuffle_figures(
                    state,
                    Figures(
                        schema_hash=self.features.schema_hash, at=clock.now(), offset=self.end()
                    ),
                )
                tell_at = now + TELL_S
            if now >= prune_at and self._writers:
                self.prune(needed_from())
                prune_at = time.monotonic() + PRUNE_S

    def close(self) -> None:
        """Let go of all logs, and let the next shuffle in."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        for writer in self._writers:
            writer.close()
        self._writers = []

    def __enter__(self) -> "Shuffle":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self) -> LogReader | None:
        if self._reader is None:
            try:
                self._reader = open_reader(self._routed)
            except NotReadyError:  # there is no router yet, or it is just making it
                return None
            first = max(1, self._first, self._reader.start())
            for number, address in enumerate(self._addresses):
                self._writers.append(_writer(address, number, first))
        return self._reader

    def _some(self, blocks: Sequence[Stored], rows_max: int) -> list[Stored]:
        """The first of these blocks, as far as they are for one step: one whose events have to be
        taken from the lake is alone.
        """
        taken: list[Stored] = []
        rows = 0
        for stored in blocks:
            left_out = is_only_in_lake(stored.block, self.features)
            if taken and (left_out or rows >= rows_max):
                break
            taken.append(stored)
            rows += stored.block.rows
            if left_out:
                break
        return taken

    def _write(self, table: pa.Table, end: int, kind: str, receipt: bytes) -> ShuffleReport:
        """Bring every log to `end`. A log that is further already, as after a kill in between, gets
        nothing again.
        """
        faults.at("shuffle.before_step")
        p, owned = table["p"].to_numpy(), self._owned(table)
        start, events = self.end(), []
        for number, writer in enumerate(self._writers):
            begin = writer.end()
            rows = np.flatnonzero(owned[:, number] & (p >= begin))
            events.append(len(rows))
            if begin < end:
                payload = _encoded(table.take(pa.array(rows))) if len(rows) else b""
                writer.append([Block(kind, end - begin, payload, receipt)])
                faults.at("shuffle.between_parts")
        return ShuffleReport(end - start, tuple(events), end)

    def _owned(self, table: pa.Table) -> Bools:
        """Which events are for which part, shape (events, parts): each goes to the parts of all
        entities that it counts for.
        """
        count = len(self._addresses)
        owned = np.zeros((table.num_rows, count), np.bool_)
        if not table.num_rows:
            return owned
        frame, p = Frame(table, repeated=self._known), table["p"].to_numpy()
        taken = [one.take(frame) for one in self._accumulators]
        for batch in {
            id(batch): batch for batch in taken
        }.values():  # sources that are the same give one extract
            owned[np.searchsorted(p, batch.p), part_numbers(batch.key, count)] = True
        for type_, of in (
            ("identify", "anonymous_id"),
            ("merge", "user_id"),
        ):  # say who somebody is, see `features.aliases`
            told = np.flatnonzero(
                pc.and_(pc.equal(table["type"], type_), pc.is_valid(table[of])).to_numpy()
            )
            if len(told):
                owned[told, part_numbers(hash64s(table[of].take(pa.array(told)).to_pylist()), count)] = (
                    True
                )
        return owned


def _writer(address: Address, number: int, first: int) -> LogWriter:
    return open_writer(address, partition=f"part-{number}", first=first)  # type: ignore[arg-type]  # never several partitions


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_LZ4) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _receipt(blocks: Sequence[Stored]) -> bytes:
    """When the first of some blocks came in, where one says so; the router's own, such as its
    index, say nothing.
    """
    for stored in blocks:
        try:
            received = _received.decode(stored.block.receipt)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        return msgspec.json.encode(received) if received.received_at else b""
    return b""
