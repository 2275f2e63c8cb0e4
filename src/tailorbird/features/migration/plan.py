"""The plan of a change of declarations: columns, record sizes, overflow proofs and duration.

`compare_sets` needs two feature sets only. `measure` applies a sample of the lake to a state of the
new set in a temporary folder, and reports the speed on this machine, the number of entities and the
size of their records; `read_tallies` reports the latter of an existing state.
"""

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.errors import NotReadyError
from tailorbird.events.clock import SimulatedClock
from tailorbird.features.codec import short_location
from tailorbird.features.declare.checks import format_duration
from tailorbird.features.declare.declarations import Amount, Entity, Feature, Variance, Window
from tailorbird.features.declare.limits import SQUARE_BITS
from tailorbird.features.expr.expression import Expression
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.eviction import EntityCounts, merge_entity_counts, read_all_counts
from tailorbird.features.state.key_partition import KeyPart, all_parts
from tailorbird.features.state.state import open_state, read_position
from tailorbird.lake import Lake

SAMPLE_ROWS = 20_000
SAMPLE_PARTS = 5
INT64_MAX = (1 << 63) - 1


@dataclass(frozen=True)
class Change:
    """A column that is "added", "changed" or "removed"; `changed_fields` are the fields that differ."""

    name: str
    change: str
    entity: str
    location: str
    changed_fields: str


@dataclass(frozen=True)
class RecordChange:
    """The records of an entity, in bytes each; 0 where it has none."""

    entity: str
    state_before: int
    state_after: int
    reading_before: int
    reading_after: int

    @property
    def before(self) -> int:
        return self.state_before + self.reading_before

    @property
    def after(self) -> int:
        return self.state_after + self.reading_after


@dataclass(frozen=True)
class Proof:
    """A bound against overflow of a sum: `events` events of the largest value fit into 64 bits."""

    name: str
    location: str
    units_max: int
    events: int


@dataclass(frozen=True)
class Comparison:
    """The differences between two sets.

    Attributes:
        before: the schema hash, "" where there was none.
        attached_attributes: attributes of users and items that events store from the change on; for earlier
            events they are looked up in the versions of the profiles.
    """

    before: str
    after: str
    changes: tuple[Change, ...]
    records: tuple[RecordChange, ...]
    proofs: tuple[Proof, ...]
    attached_attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampleMeasurements:
    """The measurements on a sample.

    Attributes:
        rows: of the sample.
        rows_total: in the lake.
        per_second: rows per second of the slowest, the middle and the fastest part of the sample.
        entity_counts: entity → their number in the sample, and the size of their state records.
        state_bytes: size of the sample's store on disk.
    """

    rows: int
    rows_total: int
    per_second: tuple[float, float, float]
    entity_counts: dict[str, EntityCounts]
    state_bytes: int

    @property
    def seconds(self) -> tuple[float, float, float]:
        """The time to build a state of all rows: least, likely, most."""
        slow, middle, fast = self.per_second
        return self.rows_total / fast, self.rows_total / middle, self.rows_total / slow


def compare_sets(before: FeatureSet | None, after: FeatureSet) -> Comparison:
    """Return what changes from one set to another."""
    old = {} if before is None else {feature.name: feature for feature in before.features}
    new = {feature.name: feature for feature in after.features}
    changes = [
        Change(
            name,
            "added",
            _entity_name(feature),
            short_location(feature.location),
            feature.description,
        )
        for name, feature in new.items()
        if name not in old
    ]
    changes += [
        Change(
            name,
            "changed",
            _entity_name(feature),
            short_location(feature.location),
            _describe_differences(old[name], feature),
        )
        for name, feature in new.items()
        if name in old and old[name] != feature
    ]
    changes += [
        Change(
            name,
            "removed",
            _entity_name(feature),
            short_location(feature.location),
            feature.description,
        )
        for name, feature in old.items()
        if name not in new
    ]
    proofs = tuple(
        proof for feature in after.features if (proof := _overflow_bound(feature)) is not None
    )
    new_attributes = (
        set() if before is None else _joined_attributes(after) - _joined_attributes(before)
    )
    old_hash = "" if before is None else before.schema_hash
    return Comparison(
        old_hash,
        after.schema_hash,
        tuple(changes),
        _compare_records(before, after),
        proofs,
        tuple(sorted(new_attributes)),
    )


def read_tallies(
    state: Path, features: FeatureSet, workers: int = 1
) -> dict[str, EntityCounts] | None:
    """Return the entity counts of a state, or None without one or while it is built."""
    counts_by_part = [_read_part_counts(state, features, part) for part in all_parts(workers)]
    available = [part_counts for part_counts in counts_by_part if part_counts is not None]
    return merge_entity_counts(available) if len(available) == len(counts_by_part) else None


def _read_part_counts(
    state: Path, features: FeatureSet, part: KeyPart
) -> dict[str, EntityCounts] | None:
    try:
        store = open_state(state, features, part)
    except NotReadyError:
        return None
    try:
        with store.snapshot() as snapshot:
            if not read_position(snapshot).ready:
                return None
            return read_all_counts(snapshot, features.layout)
    finally:
        store.close()


def measure(
    features: FeatureSet, lake: Lake, *, rows: int = SAMPLE_ROWS
) -> SampleMeasurements | None:
    """Build a temporary state of the lake's newest rows; None if the lake has no rows."""
    if not lake.exists("events") or not (total := lake.count("events")):
        return None
    newest = lake.newest_p()
    sample = JoinedEvents(lake, features).table(where=ds.field("p") > newest - rows)
    parts = list(_list_parts(sample.sort_by("p")))
    with tempfile.TemporaryDirectory(prefix="tailorbird-plan-") as folder:
        seconds: list[float] = []
        with FeatureWorker(
            Path(folder) / "routed.db", Path(folder), features, clock=SimulatedClock(0)
        ) as worker:

            def timed(after: int) -> Iterator[pa.Table]:
                for part in parts:
                    start = time.perf_counter()
                    yield part
                    seconds.append(time.perf_counter() - start)

            worker.bootstrap(timed, newest)
        sample_tallies = read_tallies(Path(folder), features) or {}
        size = (Path(folder) / features.schema_hash / "data.mdb").stat().st_size
    rates = np.array(
        [len(part) / max(duration_s, 1e-9) for part, duration_s in zip(parts, seconds, strict=True)]
    )
    rates = rates[1:] if len(rates) > 2 else rates  # The first part is a warm-up.
    return SampleMeasurements(
        len(sample),
        total,
        (float(rates.min()), float(np.median(rates)), float(rates.max())),
        sample_tallies,
        size,
    )


def _list_parts(sample: pa.Table) -> Iterator[pa.Table]:
    step = max(1, -(-len(sample) // SAMPLE_PARTS))
    for start in range(0, len(sample), step):
        yield sample.slice(start, step)


def _compare_records(before: FeatureSet | None, after: FeatureSet) -> tuple[RecordChange, ...]:
    old = (
        {}
        if before is None
        else {
            entity.entity.name: (entity.state_bytes, entity.reading_bytes)
            for entity in before.layout.entities
        }
    )
    new = {
        entity.entity.name: (entity.state_bytes, entity.reading_bytes)
        for entity in after.layout.entities
    }
    changes = []
    for name in dict.fromkeys((*new, *old)):
        (was_state, was_reading), (state, reading) = old.get(name, (0, 0)), new.get(name, (0, 0))
        changes.append(RecordChange(name, was_state, state, was_reading, reading))
    return tuple(changes)


def _joined_attributes(features: FeatureSet) -> set[str]:
    """Return the attributes that entities and expressions take from events."""
    return {
        f"{owner}.{name}" for owner, names in features.event_attributes.items() for name in names
    }


def _entity_name(feature: Feature) -> str:
    entity = getattr(feature, "entity", None)
    return entity.name if isinstance(entity, Entity) else ""


def _describe_differences(old: Feature, new: Feature) -> str:
    if type(old) is not type(new):
        return f"{type(old).__name__} → {type(new).__name__}"
    compared = [field.name for field in dataclasses.fields(new) if field.compare]
    field_changes = [(name, getattr(old, name), getattr(new, name)) for name in compared]
    return "; ".join(
        f"{name}: {_describe(before)} → {_describe(after)}"
        for name, before, after in field_changes
        if before != after
    )


def _describe(value: Any) -> str:
    if isinstance(value, Window):
        return f"{format_duration(value.length)} by {format_duration(value.hop)}"
    if isinstance(value, Amount):
        return f"{value.of.text} in units of {value.unit:g} up to {value.max:g}"
    if isinstance(value, Expression):
        return value.text
    if isinstance(value, Entity):
        return value.name
    if isinstance(value, tuple):
        return ", ".join(_describe(item) for item in value) or "none"
    return "none" if value is None else str(value)


def _overflow_bound(feature: Feature) -> Proof | None:
    """Return the overflow bound of a feature that sums amounts; None for counts."""
    amounts = [
        value
        for field in dataclasses.fields(feature)
        if isinstance(value := getattr(feature, field.name), Amount)
    ]
    if not amounts:
        return None
    units = max(amount.units_max for amount in amounts)
    events = INT64_MAX // max(1, units)
    if isinstance(feature, Variance):  # squares are summed in two limbs
        events = min(
            events,
            INT64_MAX // ((1 << SQUARE_BITS) - 1),
            INT64_MAX // max(1, units * units >> SQUARE_BITS),
        )
    return Proof(feature.name, short_location(feature.location), units, events)
