"""What a backfill larger than memory keeps on disk: events cut by the keys of entities, lanes
computed so far, and what is done.

    events/<field>-<bucket>.arrow     the events of the keys whose hash falls into the bucket; an event with several items lies in several
    requests/<piece>.arrow            of the requests of a piece, a part of a shard: lanes, and what is made of last events
    rows/<piece>.arrow                likewise of the rows of a piece
    stretches/<stretch>.arrow         of the bucket that is worked at, if it does not fit into memory: its events, cut by time
    sequences/<step>-<piece>.arrow    the sequences of the piece's requests
    done/…                            a file of each finished piece, so that a run that was cut short goes on behind it

Entities are cut by one of their fields, so that everything about one key lies together. Everyone's
feature is not cut. A piece is written once, from end to end; whoever wants a range of requests
reads that range out of each piece. Nothing is synced: a kill loses nothing that was written, and
after a restart of the machine all is made again.
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

from tailorbird.events.schema import micros
from tailorbird.features.bulk import RaggedSequence
from tailorbird.features.declare import Entity
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout import Spot
from tailorbird.features.records import PastFrame

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]

FORMAT = 3
BUCKETS = 64
# files that are written at a time; a bucket of more than 16 times the memory setting has longer
# ones
STRETCHES_MAX = 256
_ROWS_AT_ONCE = 1 << 14
START = 0  # of the identities that buckets are chosen by, the same in every run
_FIRST = ("user", "session", "query", "item")  # fields of many values


@dataclass(frozen=True)
class Partition:
    """Entities whose events are cut by one field; `field` None: not at all."""

    field: str | None
    entities: tuple[int, ...]

    @property
    def of_rows(self) -> bool:
        """Whether the field differs between the rows of a request."""
        return self.field is not None and self.field.partition(".")[0] == "item"


def partitions(features: FeatureSet) -> list[Partition]:
    """Those of all entities; what looks at a profile's attribute, in its key or among what was
    seen, comes after the profiles.
    """
    late = {entity for entity, _ in features.composite_spots}
    late |= {step.spots[0].entity for step in features.layout.steps if step.operation == "seen"}
    found: dict[tuple[bool, str | None], list[int]] = {}
    for one in features.layout.entities:
        fields = one.entity.fields
        field = next((name for name in _FIRST if name in fields), fields[0] if fields else None)
        found.setdefault((one.index in late, field), []).append(one.index)
    ordered = sorted(found.items(), key=lambda pair: pair[0][0])
    return [Partition(field, tuple(entities)) for (_, field), entities in ordered]


def buckets_of(keys: Keys) -> Intps:
    return (keys % np.uint64(BUCKETS)).astype(np.intp)


class Spill:
    """A folder for one backfill; what was left there under another memory setting, or before a
    restart, is dropped.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self.folder = folder
        setting, told = folder / "setting", f"{FORMAT} {memory_bytes} {_started()}"
        if folder.exists() and (not setting.exists() or setting.read_text() != told):
            shutil.rmtree(folder)
        for name in ("events", "requests", "rows", "sequences", "done"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        setting.write_text(told)

    def is_done(self, piece: str) -> bool:
        return (self.folder / "done" / piece).exists()

    def done(self, piece: str) -> None:
        (self.folder / "done" / piece).touch()

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def cut(self, fields: Iterable[str | None], tables: Iterable[pa.Table]) -> None:
        """Write the events of each field's buckets, in one pass over the tables."""
        fields = list(fields)
        sizes = {field: [0] * BUCKETS for field in fields}
        with ExitStack() as stack:
            writers: dict[tuple[str | None, int], pa.RecordBatchFileWriter] = {}
            for table in tables:
                for field in fields:
                    for bucket, some in _cut(table, field):
                        if (field, bucket) not in writers:
                            path = self._events(field, bucket)
                            writers[field, bucket] = stack.enter_context(
                                pa.ipc.new_file(path, table.schema)
                            )
                        writers[field, bucket].write_table(some, max_chunksize=_ROWS_AT_ONCE)
                        sizes[field][bucket] += some.nbytes
        for field in fields:
            (self.folder / "events" / f"{field or 'everyone'}.json").write_bytes(
                msgspec.json.encode(sizes[field])
            )
        self.done("events")

    def shards(self, field: str | None, bytes_max: int) -> list[range]:
        """Buckets that are computed together: as many as fit, at least one."""
        sizes = self._sizes(field)
        found: list[range] = []
        start = 0
        for bucket in range(1, BUCKETS + 1):
            if bucket == BUCKETS or sum(sizes[start : bucket + 1]) > bytes_max:
                found.append(range(start, bucket))
                start = bucket
        return found

    def events(self, field: str | None, buckets: range, empty: pa.Table) -> pa.Table:
        found = [empty]
        for path in (self._events(field, bucket) for bucket in buckets):
            if path.exists():
                with pa.ipc.open_file(path) as reader:
                    found.append(reader.read_all())
        return pa.concat_tables(found)

    def size(self, field: str | None, buckets: range) -> int:
        return sum(self._sizes(field)[buckets.start : buckets.stop])

    def cut_by_time(self, field: str | None, bucket: int, bytes_max: int) -> Int64s:
        """Write a bucket's events into stretches of about as many bytes; the times at which all but
        the first begin.
        """
        folder, size = self.folder / "stretches", self.size(field, range(bucket, bucket + 1))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        count, step = min(-(-size // bytes_max), STRETCHES_MAX), 1 + (size >> 24)
        with (
            pa.OSFile(str(self._events(field, bucket))) as file,
            pa.ipc.open_file(file) as reader,
            ExitStack() as stack,
        ):
            batches = range(reader.num_record_batches)
            # Copies: a view would hold all columns of its batch.
            times = np.sort(
                np.concatenate(
                    [micros(reader.get_batch(one)["ts"])[::step].copy() for one in batches]
                )
            )
            cuts = np.unique(times[np.arange(1, count) * len(times) // count])
            writers: dict[int, pa.RecordBatchFileWriter] = {}
            for one in batches:
                batch = reader.get_batch(one)
                stretch = np.searchsorted(cuts, micros(batch["ts"]), side="right")
                for place in np.unique(stretch).tolist():
                    if place not in writers:
                        writers[place] = stack.enter_context(
                            pa.ipc.new_file(self._stretch(place), reader.schema)
                        )
                    writers[place].write_batch(batch.filter(pa.array(stretch == place)))
                pa.default_memory_pool().release_unused()
        return cuts

    def stretch(self, place: int, *before: pa.Table) -> pa.Table:
        """The events of a stretch behind those of other tables."""
        if not self._stretch(place).exists():
            return pa.concat_tables(before)
        with pa.OSFile(str(self._stretch(place))) as file, pa.ipc.open_file(file) as reader:
            return pa.concat_tables([*before, reader.read_all()])

    def put(
        self, kind: str, piece: str, at: Intps, columns: Mapping[Spot | str, npt.NDArray]
    ) -> None:
        """A piece's lanes and what it makes of last events, of these "requests" or "rows", which
        ascend; written once, from end to end.
        """
        held = {_name(one): pa.array(values) for one, values in columns.items()}
        batch = pa.record_batch({"at": pa.array(at.astype(np.int64)), **held})
        with pa.ipc.new_file(self.folder / kind / f"{piece}.arrow", batch.schema) as writer:
            writer.write_batch(batch)

    def held(
        self, kind: str, span: slice, only: Spot | None = None
    ) -> dict[Spot | str, npt.NDArray]:
        """All that was put of the requests, or rows, of a span; or one lane alone."""
        found: dict[Spot | str, npt.NDArray] = {}
        for path in (self.folder / kind).glob("*.arrow"):
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
                batch = reader.get_batch(0)
                at = batch["at"].to_numpy()
                low, high = np.searchsorted(at, [span.start, span.stop])
                for name in batch.schema.names[1:]:
                    one = _named(name)
                    if only is None or one == only:
                        values = batch[name].to_numpy()[low:high]
                        whole = found.setdefault(
                            one, np.zeros(span.stop - span.start, values.dtype)
                        )
                        whole[at[low:high] - span.start] = values
        return found

    def put_sequence(self, step: int, piece: str, requests: Intps, one: RaggedSequence) -> None:
        columns = {
            "item": one.item,
            "type": one.type,
            "ts": one.ts,
            **{f"of {text}": each for text, each in one.values.items()},
        }
        lists = {
            name: pa.LargeListArray.from_arrays(pa.array(one.offsets), pa.array(values))
            for name, values in columns.items()
        }
        table = pa.table({"request": pa.array(requests.astype(np.int64)), **lists})
        path = self.folder / "sequences" / f"{step}-{piece}.arrow"
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=_ROWS_AT_ONCE)

    def sequence(self, step: int, start: int, stop: int) -> RaggedSequence:
        """The sequences of the requests [start, stop)."""
        found = []
        for path in sorted((self.folder / "sequences").glob(f"{step}-*.arrow")):
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
                found += [
                    _within(reader.get_batch(index), start, stop)
                    for index in range(reader.num_record_batches)
                ]
        table = pa.concat_tables(found)
        table = table.take(
            pa.array(np.argsort(table["request"].to_numpy(), kind="stable"))
        ).combine_chunks()
        lists = {
            name: table[name].combine_chunks() for name in table.column_names if name != "request"
        }
        flat = {name: one.flatten().to_numpy() for name, one in lists.items()}
        offsets = lists["ts"].offsets.to_numpy()
        values = {
            name.removeprefix("of "): one for name, one in flat.items() if name.startswith("of ")
        }
        return RaggedSequence(offsets - offsets[0], flat["item"], flat["type"], flat["ts"], values)

    def _sizes(self, field: str | None) -> list[int]:
        return msgspec.json.decode(
            (self.folder / "events" / f"{field or 'everyone'}.json").read_bytes(), type=list[int]
        )

    def _stretch(self, place: int) -> Path:
        return self.folder / "stretches" / f"{place:03d}.arrow"

    def _events(self, field: str | None, bucket: int) -> Path:
        return self.folder / "events" / f"{field or 'everyone'}-{bucket:02d}.arrow"


def _started() -> str:
    """Names the machine's last start; where the system has no name for it, nothing that was left is
    ever taken for whole.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid4().hex


def _name(one: Spot | str) -> str:
    return f"lane {one.entity} {one.lane}" if isinstance(one, Spot) else f"step {one}"


def _named(name: str) -> Spot | str:
    kind, _, rest = name.partition(" ")
    return Spot(*(int(one) for one in rest.split())) if kind == "lane" else rest


def _within(batch: pa.RecordBatch, start: int, stop: int) -> pa.Table:
    """A copy of the rows of the requests [start, stop); requests ascend."""
    low, high = np.searchsorted(batch["request"].to_numpy(), [start, stop])
    rows = pa.array(np.arange(low, high))
    return pa.Table.from_batches([batch.take(rows)])


def _cut(table: pa.Table, field: str | None) -> Iterator[tuple[int, pa.Table]]:
    if field is None:
        yield 0, table
        return
    frame = PastFrame(table, START)
    keys = frame.key_field(Entity((field,)), field)
    rows = np.flatnonzero(keys)  # without the field an event is nobody's
    bucket = buckets_of(keys[rows])
    order = np.argsort(bucket, kind="stable")
    ends = np.cumsum(np.bincount(bucket, minlength=BUCKETS))
    for one in range(BUCKETS):
        some = rows[order[ends[one - 1] if one else 0 : ends[one]]]
        if len(some):
            yield one, table.take(pa.array(np.unique(frame.event(some))))
