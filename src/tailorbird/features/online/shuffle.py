"""The shuffle: splits the routed log into one log for each of a schema's workers.

    routed     1 ─────────── 40 │ 41 ──────────── 66 │ 67 ──────────── 90
    part 0     1 ─────────────────── 66 (7 events)   │ 67 ── 90 (none)
    part 1     1 ─────────────────── 66 (51 events)  │ 67 ── 90 (3 events)

A block covers as many positions as the rows of the routed log that it stands for, however many of
them it contains. A row therefore has the same position in each log, and p is unchanged. The end of
a log is the position up to which its worker may go, also where it has no events. The ends of the
logs are the only progress that is stored: after a kill each log continues where it ends. Two
shuffles would write the same blocks, and the logs ensure that only one writes
(`stream.kafka.frames`). `features.state.key_partition` assigns entities to parts.
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
from tailorbird.events.contract.schema import ROUTED
from tailorbird.events.keys import hash64s
from tailorbird.features.event_columns.columns import Frame
from tailorbird.features.event_columns.fields import TextHashCache
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.online.receipts import (
    LAKE_ONLY,
    SELECTED,
    is_only_in_lake,
    read_block_events,
)
from tailorbird.features.state.accumulators import Accumulator, build_accumulators
from tailorbird.features.state.key_partition import part_numbers
from tailorbird.features.state.progress import WorkerProgress, write_shuffle_progress
from tailorbird.stream import (
    Address,
    Block,
    LogReader,
    LogWriter,
    StoredBlock,
    open_reader,
    open_writer,
)

Bools = npt.NDArray[np.bool_]

ROWS_MAX = 20_000
ROW_BYTES = 300  # approximate size of an event in a block
POLL_S = 0.003
PROGRESS_INTERVAL_S = 5.0
PRUNE_INTERVAL_S = 30.0
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")
log = logging.getLogger(__name__)


class _ReceivedAt(msgspec.Struct, frozen=True):
    """The arrival time of a routed block, from its receipt, to measure the lag of workers."""

    received_at: int = 0


_received_decoder = msgspec.json.Decoder(_ReceivedAt)


@dataclass(frozen=True)
class ShuffleReport:
    """The result of a step.

    Rows of the routed log (0: there was nothing), events by part, and the row after which all parts
    continue.
    """

    rows: int
    events: tuple[int, ...]
    end: int


class Shuffle:
    """Splits the routed log for the workers of one schema.

    Args:
        routed: the routers' log; it need not exist yet.
        parts: the address of each part's log.
        first_row: first row of newly created logs: workers read earlier rows from the lake.
    Raises:
        LockedError: another shuffle of this machine writes these logs.
    """

    def __init__(
        self, routed: Address, parts: Sequence[Address], features: FeatureSet, *, first_row: int = 0
    ) -> None:
        self.features = features
        self._routed = routed
        self._addresses = parts
        self._first_row = first_row
        self._reader: LogReader | None = None
        self._writers: list[LogWriter] = []
        self._text_hashes = TextHashCache()
        self._accumulators: list[Accumulator] = [
            accumulator
            for layout in features.layout.entities
            for accumulator in build_accumulators(layout)
        ]

    def step(self, rows_max: int = ROWS_MAX) -> ShuffleReport:
        """Split up to about `rows_max` rows of the routed log and write them to the parts.

        Raises:
            LockedError: another shuffle writes these logs now.
            StorageError: a log could not be written; the next start determines its progress.
        """
        reader = self._open()
        if reader is None:
            return ShuffleReport(0, (0,) * len(self._addresses), 0)
        start = self.end()
        log_start = reader.start()
        if start < log_start:
            log.warning(
                "rows %d to %d of the routed log are gone: workers that lack them take them "
                "from the lake",
                start,
                log_start - 1,
            )
            return self._write(ROUTED.empty_table(), log_start, LAKE_ONLY, b"")
        blocks = self._take_blocks(reader.read(start, bytes_max=ROW_BYTES * rows_max), rows_max)
        if not blocks:
            return ShuffleReport(0, (0,) * len(self._addresses), start)
        end = blocks[-1].end
        receipt = _encode_receipt(blocks)
        if is_only_in_lake(blocks[0].block, self.features):
            return self._write(ROUTED.empty_table(), end, LAKE_ONLY, receipt)
        tables = [
            table
            for stored_block in blocks
            if (table := read_block_events(stored_block, start, self._routed)) is not None
        ]
        return self._write(
            pa.concat_tables(tables) if tables else ROUTED.empty_table(), end, SELECTED, receipt
        )

    def end(self) -> int:
        """Return the row after which all parts continue."""
        return min(writer.end() for writer in self._writers) if self._writers else 0

    def prune(self, needed_from: Sequence[int]) -> int:
        """Delete blocks before the row that each worker needs next, and return their number."""
        return sum(
            writer.prune(first_needed_row)
            for writer, first_needed_row in zip(self._writers, needed_from, strict=True)
        )

    def run(
        self,
        stop: threading.Event,
        *,
        needed_from: Callable[[], Sequence[int]],
        state: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Step until `stop` is set; while there is nothing, poll every few milliseconds.

        Args:
            needed_from: returns the row from which each worker needs its log; earlier blocks are
                pruned.
            state: the folder of all states, where the progress is written.
        """
        has_more = True
        progress_due_s = 0.0
        prune_due_s = time.monotonic() + PRUNE_INTERVAL_S
        while not stop.is_set():
            reader = self._open()
            if has_more or (reader is not None and reader.has_changed()):
                has_more = self.step().rows > 0
            else:
                stop.wait(POLL_S)
            now = time.monotonic()
            if state is not None and clock is not None and now >= progress_due_s:
                write_shuffle_progress(
                    state,
                    WorkerProgress(
                        schema_hash=self.features.schema_hash, at=clock.now(), offset=self.end()
                    ),
                )
                progress_due_s = now + PROGRESS_INTERVAL_S
            if now >= prune_due_s and self._writers:
                self.prune(needed_from())
                prune_due_s = time.monotonic() + PRUNE_INTERVAL_S

    def close(self) -> None:
        """Close all logs and release their locks."""
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
            except NotReadyError:  # There is no router yet, or it is creating the log.
                return None
            first_position = max(1, self._first_row, self._reader.start())
            for part_index, address in enumerate(self._addresses):
                self._writers.append(_open_shuffle_writer(address, part_index, first_position))
        return self._reader

    def _take_blocks(self, blocks: Sequence[StoredBlock], rows_max: int) -> list[StoredBlock]:
        """Return the blocks of one step; one whose events are only in the lake is alone."""
        step_blocks: list[StoredBlock] = []
        rows = 0
        for stored_block in blocks:
            is_lake_only = is_only_in_lake(stored_block.block, self.features)
            if step_blocks and (is_lake_only or rows >= rows_max):
                break
            step_blocks.append(stored_block)
            rows += stored_block.block.rows
            if is_lake_only:
                break
        return step_blocks

    def _write(self, table: pa.Table, end: int, kind: str, receipt: bytes) -> ShuffleReport:
        """Bring every log to `end`. A log that is further already, as after a kill, is not written
        again.
        """
        faults.fire_if_armed("shuffle.before_step")
        log_positions = table["p"].to_numpy()
        part_masks = self._part_masks(table)
        start = self.end()
        event_counts = []
        for part_index, writer in enumerate(self._writers):
            writer_end = writer.end()
            rows = np.flatnonzero(part_masks[:, part_index] & (log_positions >= writer_end))
            event_counts.append(len(rows))
            if writer_end < end:
                payload = _encode_table(table.take(pa.array(rows))) if len(rows) else b""
                writer.append([Block(kind, end - writer_end, payload, receipt)])
                faults.fire_if_armed("shuffle.between_parts")
        return ShuffleReport(end - start, tuple(event_counts), end)

    def _part_masks(self, table: pa.Table) -> Bools:
        """Return which events go to which part, shape (events, parts): the parts of all their
        entities.
        """
        part_count = len(self._addresses)
        part_masks = np.zeros((table.num_rows, part_count), np.bool_)
        if not table.num_rows:
            return part_masks
        frame = Frame(table, hash_repeated_texts=self._text_hashes)
        log_positions = table["p"].to_numpy()
        extracts = [accumulator.extract_additions(frame) for accumulator in self._accumulators]
        for additions in {
            id(additions): additions for additions in extracts
        }.values():  # Identical sources share one extract.
            part_masks[
                np.searchsorted(log_positions, additions.log_position),
                part_numbers(additions.key, part_count),
            ] = True
        for type_, id_column in (
            ("identify", "anonymous_id"),
            ("merge", "user_id"),
        ):  # These resolve people, see `features.online.aliases`.
            identity_rows = np.flatnonzero(
                pc.and_(pc.equal(table["type"], type_), pc.is_valid(table[id_column])).to_numpy()
            )
            if len(identity_rows):
                part_masks[
                    identity_rows,
                    part_numbers(
                        hash64s(table[id_column].take(pa.array(identity_rows)).to_pylist()),
                        part_count,
                    ),
                ] = True
        return part_masks


def _open_shuffle_writer(address: Address, part_index: int, first_position: int) -> LogWriter:
    # A part is never split into several partitions.
    return open_writer(address, partition=f"part-{part_index}", first_position=first_position)  # type: ignore[arg-type]


def _encode_table(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema, options=_LZ4) as writer:
        writer.write_table(table)
    return buffer.getvalue().to_pybytes()


def _encode_receipt(blocks: Sequence[StoredBlock]) -> bytes:
    """Return a receipt with the time at which the first of the blocks came in, b"" if none states
    it.
    """
    for stored_block in blocks:
        try:
            received_at = _received_decoder.decode(stored_block.block.receipt)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        return msgspec.json.encode(received_at) if received_at.received_at else b""
    return b""
