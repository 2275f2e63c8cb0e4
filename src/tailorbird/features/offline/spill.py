"""Temporary files of a backfill larger than memory: bucketed events, computed lanes, and progress.

    events/<field>-<bucket>.arrow     events of the keys whose hash falls into the bucket; an event
                                      with several items is in several
    requests/<piece>.arrow            lanes and run columns of a piece's requests
    rows/<piece>.arrow                lanes and run columns of a piece's rows
    stretches/<stretch>.arrow         events, split by time, of a bucket larger than memory
    sequences/<step>-<piece>.arrow    the sequences of a piece's requests
    done/…                            a file per finished piece, so that an interrupted run resumes

Entities are partitioned by one of their fields, so that everything about one key is together.
Everyone's feature is not partitioned. A piece is written once, sequentially; readers take the range
of requests that they need from each piece. Nothing is synced: a kill loses nothing that was
written, and after a restart of the machine everything is recomputed.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events.contract.schema import micros
from tailorbird.features.declare.declarations import Entity
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import RecordLane
from tailorbird.features.offline.bulk import RaggedSequence
from tailorbird.features.offline.events.frames import PastFrame

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]

SPILL_FORMAT = 3
BUCKETS = 64
# Files written at a time; a bucket of more than 16 times the memory setting has longer
# ones
STRETCHES_MAX = 256
_BATCH_ROWS = 1 << 14
IDENTITY_SEED = 0  # seed of the identities that choose buckets, the same in every run
_PREFERRED_FIELDS = ("user", "session", "query", "item")  # high-cardinality fields


@dataclass(frozen=True)
class Partition:
    """Entities whose events are split by one field; None: not at all."""

    field: str | None
    entities: tuple[int, ...]

    @property
    def is_by_row(self) -> bool:
        """True if the field differs between the rows of a request."""
        return self.field is not None and self.field.partition(".")[0] == "item"


def order_partitions(features: FeatureSet) -> list[Partition]:
    """Return the partitions of all entities; those that read profile attributes come after the
    profiles.
    """
    dependent_entities = {entity for entity, _ in features.key_part_lanes}
    dependent_entities |= {
        step.record_lanes[0].entity for step in features.layout.steps if step.operation == "seen"
    }
    entities_by_field: dict[tuple[bool, str | None], list[int]] = {}
    for layout in features.layout.entities:
        fields = layout.entity.fields
        field = next(
            (name for name in _PREFERRED_FIELDS if name in fields), fields[0] if fields else None
        )
        entities_by_field.setdefault((layout.index in dependent_entities, field), []).append(
            layout.index
        )
    ordered_items = sorted(entities_by_field.items(), key=lambda pair: pair[0][0])
    return [Partition(field, tuple(entities)) for (_, field), entities in ordered_items]


def assign_buckets(keys: Keys) -> Intps:
    return (keys % np.uint64(BUCKETS)).astype(np.intp)


class Spill:
    """A folder for one backfill; files of another memory setting or from before a restart are
    deleted.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self.folder = folder
        setting_file = folder / "setting"
        setting_text = f"{SPILL_FORMAT} {memory_bytes} {_boot_id()}"
        if folder.exists() and (
            not setting_file.exists() or setting_file.read_text() != setting_text
        ):
            shutil.rmtree(folder)
        for name in ("events", "requests", "rows", "sequences", "done"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        setting_file.write_text(setting_text)

    def is_done(self, piece: str) -> bool:
        return (self.folder / "done" / piece).exists()

    def mark_done(self, piece: str) -> None:
        (self.folder / "done" / piece).touch()

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def write_buckets(self, fields: Iterable[str | None], tables: Iterable[pa.Table]) -> None:
        """Write the events of each field's buckets, in one pass over the tables."""
        fields = list(fields)
        bytes_by_field = {field: [0] * BUCKETS for field in fields}
        with ExitStack() as stack:
            writers: dict[tuple[str | None, int], pa.RecordBatchFileWriter] = {}
            for table in tables:
                for field in fields:
                    for bucket, bucket_table in _split_by_bucket(table, field):
                        if (field, bucket) not in writers:
                            path = self._events_path(field, bucket)
                            writers[field, bucket] = stack.enter_context(
                                pa.ipc.new_file(path, table.schema)
                            )
                        writers[field, bucket].write_table(bucket_table, max_chunksize=_BATCH_ROWS)
                        bytes_by_field[field][bucket] += bucket_table.nbytes
        for field in fields:
            (self.folder / "events" / f"{field or 'everyone'}.json").write_bytes(
                msgspec.json.encode(bytes_by_field[field])
            )
        self.mark_done("events")

    def plan_shards(self, field: str | None, bytes_max: int) -> list[range]:
        """Return ranges of buckets that are computed together: as many as fit, at least one."""
        bucket_bytes = self._read_sizes(field)
        bucket_ranges: list[range] = []
        start = 0
        for bucket in range(1, BUCKETS + 1):
            if bucket == BUCKETS or sum(bucket_bytes[start : bucket + 1]) > bytes_max:
                bucket_ranges.append(range(start, bucket))
                start = bucket
        return bucket_ranges

    def read_events(self, field: str | None, buckets: range, empty_table: pa.Table) -> pa.Table:
        tables = [empty_table]
        for path in (self._events_path(field, bucket) for bucket in buckets):
            if path.exists():
                with pa.ipc.open_file(path) as reader:
                    tables.append(reader.read_all())
        return pa.concat_tables(tables)

    def event_bytes(self, field: str | None, buckets: range) -> int:
        return sum(self._read_sizes(field)[buckets.start : buckets.stop])

    def cut_by_time(self, field: str | None, bucket: int, bytes_max: int) -> Int64s:
        """Write a bucket's events into stretches of similar size, and return the times between
        them.
        """
        folder = self.folder / "stretches"
        bucket_bytes = self.event_bytes(field, range(bucket, bucket + 1))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        stretch_count = min(-(-bucket_bytes // bytes_max), STRETCHES_MAX)
        sample_step = 1 + (bucket_bytes >> 24)
        with (
            pa.OSFile(str(self._events_path(field, bucket))) as file,
            pa.ipc.open_file(file) as reader,
            ExitStack() as stack,
        ):
            batches = range(reader.num_record_batches)
            # Copy, since a view would keep all columns of its batch alive.
            sampled_ts = np.sort(
                np.concatenate(
                    [
                        micros(reader.get_batch(index)["ts"])[::sample_step].copy()
                        for index in batches
                    ]
                )
            )
            stretch_starts = np.unique(
                sampled_ts[np.arange(1, stretch_count) * len(sampled_ts) // stretch_count]
            )
            writers: dict[int, pa.RecordBatchFileWriter] = {}
            for batch_index in batches:
                batch = reader.get_batch(batch_index)
                stretch_of_event = np.searchsorted(
                    stretch_starts, micros(batch["ts"]), side="right"
                )
                for stretch in np.unique(stretch_of_event).tolist():
                    if stretch not in writers:
                        writers[stretch] = stack.enter_context(
                            pa.ipc.new_file(self._stretch_path(stretch), reader.schema)
                        )
                    writers[stretch].write_batch(
                        batch.filter(pa.array(stretch_of_event == stretch))
                    )
                pa.default_memory_pool().release_unused()
        return stretch_starts

    def read_stretch(self, stretch: int, *earlier_tables: pa.Table) -> pa.Table:
        """Return the events of a stretch after those of other tables."""
        if not self._stretch_path(stretch).exists():
            return pa.concat_tables(earlier_tables)
        with pa.OSFile(str(self._stretch_path(stretch))) as file, pa.ipc.open_file(file) as reader:
            return pa.concat_tables([*earlier_tables, reader.read_all()])

    def write_lanes(
        self, kind: str, piece: str, indices: Intps, columns: Mapping[RecordLane | str, npt.NDArray]
    ) -> None:
        """Write a piece's lanes and run columns for ascending "requests" or "rows", once and
        sequentially.
        """
        lane_arrays = {_column_name(column): pa.array(values) for column, values in columns.items()}
        batch = pa.record_batch({"at": pa.array(indices.astype(np.int64)), **lane_arrays})
        with pa.ipc.new_file(self.folder / kind / f"{piece}.arrow", batch.schema) as writer:
            writer.write_batch(batch)

    def read_lanes(
        self, kind: str, span: slice, only_lane: RecordLane | None = None
    ) -> dict[RecordLane | str, npt.NDArray]:
        """Return everything written for the requests or rows of a span, or one lane alone."""
        columns: dict[RecordLane | str, npt.NDArray] = {}
        for path in (self.folder / kind).glob("*.arrow"):
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
                batch = reader.get_batch(0)
                indices = batch["at"].to_numpy()
                low, high = np.searchsorted(indices, [span.start, span.stop])
                for name in batch.schema.names[1:]:
                    column = _parse_column(name)
                    if only_lane is None or column == only_lane:
                        values = batch[name].to_numpy()[low:high]
                        span_values = columns.setdefault(
                            column, np.zeros(span.stop - span.start, values.dtype)
                        )
                        span_values[indices[low:high] - span.start] = values
        return columns

    def write_sequence(
        self, step: int, piece: str, requests: Intps, sequence: RaggedSequence
    ) -> None:
        columns = {
            "item": sequence.item,
            "type": sequence.type,
            "ts": sequence.ts,
            **{f"of {text}": sequence_values for text, sequence_values in sequence.values.items()},
        }
        lists = {
            name: pa.LargeListArray.from_arrays(pa.array(sequence.offsets), pa.array(values))
            for name, values in columns.items()
        }
        table = pa.table({"request": pa.array(requests.astype(np.int64)), **lists})
        path = self.folder / "sequences" / f"{step}-{piece}.arrow"
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=_BATCH_ROWS)

    def read_sequence(self, step: int, start: int, stop: int) -> RaggedSequence:
        """Return the sequences of the requests [start, stop)."""
        tables = []
        for path in sorted((self.folder / "sequences").glob(f"{step}-*.arrow")):
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
                tables += [
                    _take_requests(reader.get_batch(index), start, stop)
                    for index in range(reader.num_record_batches)
                ]
        table = pa.concat_tables(tables)
        table = table.take(
            pa.array(np.argsort(table["request"].to_numpy(), kind="stable"))
        ).combine_chunks()
        lists = {
            name: table[name].combine_chunks() for name in table.column_names if name != "request"
        }
        flat_columns = {name: lists_.flatten().to_numpy() for name, lists_ in lists.items()}
        offsets = lists["ts"].offsets.to_numpy()
        values = {
            name.removeprefix("of "): flat
            for name, flat in flat_columns.items()
            if name.startswith("of ")
        }
        return RaggedSequence(
            offsets - offsets[0],
            flat_columns["item"],
            flat_columns["type"],
            flat_columns["ts"],
            values,
        )

    def _read_sizes(self, field: str | None) -> list[int]:
        return msgspec.json.decode(
            (self.folder / "events" / f"{field or 'everyone'}.json").read_bytes(), type=list[int]
        )

    def _stretch_path(self, stretch: int) -> Path:
        return self.folder / "stretches" / f"{stretch:03d}.arrow"

    def _events_path(self, field: str | None, bucket: int) -> Path:
        return self.folder / "events" / f"{field or 'everyone'}-{bucket:02d}.arrow"


def _boot_id() -> str:
    """Return an id of the machine's last boot; a random one where unknown, which invalidates the
    files.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid4().hex


def _column_name(column: RecordLane | str) -> str:
    return (
        f"lane {column.entity} {column.lane}"
        if isinstance(column, RecordLane)
        else f"step {column}"
    )


def _parse_column(name: str) -> RecordLane | str:
    kind, _, label = name.partition(" ")
    return RecordLane(*(int(part) for part in label.split())) if kind == "lane" else label


def _take_requests(batch: pa.RecordBatch, start: int, stop: int) -> pa.Table:
    """Copy the rows of the requests [start, stop); requests are ascending."""
    low, high = np.searchsorted(batch["request"].to_numpy(), [start, stop])
    rows = pa.array(np.arange(low, high))
    return pa.Table.from_batches([batch.take(rows)])


def _split_by_bucket(table: pa.Table, field: str | None) -> Iterator[tuple[int, pa.Table]]:
    if field is None:
        yield 0, table
        return
    frame = PastFrame(table, IDENTITY_SEED)
    keys = frame.key_field(Entity((field,)), field)
    rows = np.flatnonzero(keys)  # An event without the field belongs to no entity.
    buckets = assign_buckets(keys[rows])
    order = np.argsort(buckets, kind="stable")
    bucket_ends = np.cumsum(np.bincount(buckets, minlength=BUCKETS))
    for bucket in range(BUCKETS):
        bucket_rows = rows[order[bucket_ends[bucket - 1] if bucket else 0 : bucket_ends[bucket]]]
        if len(bucket_rows):
            yield bucket, table.take(pa.array(np.unique(frame.event(bucket_rows))))
