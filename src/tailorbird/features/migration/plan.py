"""The plan of a change of declarations: columns, record sizes, overflow bounds and duration.

`compare_sets` needs two feature sets only. `measure_sample` applies a sample of the lake to a state
of the new set in a temporary folder, and reports the speed on this machine, the number of entities
and the
size of their records; `read_entity_counts` reports the latter of an existing state.
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
class FeatureChange:
    """A column that is "added", "changed" or "removed"; `changed_fields` are the fields that
    differ.
    """

    name: str
    change: str
    entity: str
    location: str
    changed_fields: str


@dataclass(frozen=True)
class RecordChange:
    """The records of an entity, in bytes each; 0 where it has none."""

    entity: str
    state_bytes_before: int
    state_bytes_after: int
    reading_bytes_before: int
    reading_bytes_after: int

    @property
    def before(self) -> int:
        return self.state_bytes_before + self.reading_bytes_before

    @property
    def after(self) -> int:
        return self.state_bytes_after + self.reading_bytes_after


@dataclass(frozen=True)
class OverflowBound:
    """A bound against overflow of a sum: how many of the largest value fit into 64 bits."""

    name: str
    location: str
    largest_value_units: int
    additions_until_overflow: int


@dataclass(frozen=True)
class SetComparison:
    """The differences between two sets.

    Attributes:
        before: the schema hash, "" where there was none.
        backfilled_attributes: attributes of users and items that events store from the change
            on; for earlier events they are looked up in the versions of the profiles.
    """

    before: str
    after: str
    changes: tuple[FeatureChange, ...]
    records: tuple[RecordChange, ...]
    overflow_bounds: tuple[OverflowBound, ...]
    backfilled_attributes: tuple[str, ...] = ()


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


def compare_sets(before: FeatureSet | None, after: FeatureSet) -> SetComparison:
    """Return what changes from one set to another."""
    old_features = {} if before is None else {feature.name: feature for feature in before.features}
    new_features = {feature.name: feature for feature in after.features}
    changes = [
        FeatureChange(
            name,
            change="added",
            entity=_entity_name(feature),
            location=short_location(feature.location),
            changed_fields=feature.description,
        )
        for name, feature in new_features.items()
        if name not in old_features
    ]
    changes += [
        FeatureChange(
            name,
            change="changed",
            entity=_entity_name(feature),
            location=short_location(feature.location),
            changed_fields=_describe_differences(old_features[name], feature),
        )
        for name, feature in new_features.items()
        if name in old_features and old_features[name] != feature
    ]
    changes += [
        FeatureChange(
            name,
            change="removed",
            entity=_entity_name(feature),
            location=short_location(feature.location),
            changed_fields=feature.description,
        )
        for name, feature in old_features.items()
        if name not in new_features
    ]
    overflow_bounds = tuple(
        overflow_bound
        for feature in after.features
        if (overflow_bound := _overflow_bound(feature)) is not None
    )
    new_attributes = (
        set() if before is None else _backfilled_attributes(after) - _backfilled_attributes(before)
    )
    old_hash = "" if before is None else before.schema_hash
    return SetComparison(
        old_hash,
        after=after.schema_hash,
        changes=tuple(changes),
        records=_compare_records(before, after),
        overflow_bounds=overflow_bounds,
        backfilled_attributes=tuple(sorted(new_attributes)),
    )


def read_entity_counts(
    state: Path, features: FeatureSet, workers: int = 1
) -> dict[str, EntityCounts] | None:
    """Return the entity counts of a state, or None without one or while it is built."""
    counts_by_part = [_read_part_counts(state, features, part) for part in all_parts(workers)]
    available_counts = [part_counts for part_counts in counts_by_part if part_counts is not None]
    return (
        merge_entity_counts(available_counts)
        if len(available_counts) == len(counts_by_part)
        else None
    )


def _read_part_counts(
    state: Path, features: FeatureSet, part: KeyPart
) -> dict[str, EntityCounts] | None:
    try:
        store = open_state(state, features, part)
    except NotReadyError:
        return None
    try:
        with store.snapshot() as snapshot:
            if not read_position(snapshot).is_ready:
                return None
            return read_all_counts(snapshot, features.layout)
    finally:
        store.close()


def measure_sample(
    features: FeatureSet, lake: Lake, *, rows: int = SAMPLE_ROWS
) -> SampleMeasurements | None:
    """Build a temporary state of the lake's newest rows; None if the lake has no rows."""
    if not lake.exists("events") or not (total_rows := lake.count("events")):
        return None
    newest_position = lake.newest_log_position()
    sample = JoinedEvents(lake, features).table(where=ds.field("p") > newest_position - rows)
    chunks = list(_split_sample(sample.sort_by("p")))
    with tempfile.TemporaryDirectory(prefix="tailorbird-plan-") as folder:
        durations_s: list[float] = []
        with FeatureWorker(
            Path(folder) / "routed.db", Path(folder), features, clock=SimulatedClock(0)
        ) as worker:

            def time_chunks(after: int) -> Iterator[pa.Table]:
                for chunk in chunks:
                    started_at_s = time.perf_counter()
                    yield chunk
                    durations_s.append(time.perf_counter() - started_at_s)

            worker.bootstrap(time_chunks, newest_position)
        sample_counts = read_entity_counts(Path(folder), features) or {}
        store_bytes = (Path(folder) / features.schema_hash / "data.mdb").stat().st_size
    rows_per_s = np.array(
        [
            len(chunk) / max(duration_s, 1e-9)
            for chunk, duration_s in zip(chunks, durations_s, strict=True)
        ]
    )
    rows_per_s = (
        rows_per_s[1:] if len(rows_per_s) > 2 else rows_per_s
    )  # The first part is a warm-up.
    return SampleMeasurements(
        len(sample),
        total_rows,
        (float(rows_per_s.min()), float(np.median(rows_per_s)), float(rows_per_s.max())),
        sample_counts,
        store_bytes,
    )


def _split_sample(sample: pa.Table) -> Iterator[pa.Table]:
    part_rows = max(1, -(-len(sample) // SAMPLE_PARTS))
    for start in range(0, len(sample), part_rows):
        yield sample.slice(start, part_rows)


def _compare_records(before: FeatureSet | None, after: FeatureSet) -> tuple[RecordChange, ...]:
    old_bytes = (
        {}
        if before is None
        else {
            entity.entity.name: (entity.state_bytes, entity.reading_bytes)
            for entity in before.layout.entities
        }
    )
    new_bytes = {
        entity.entity.name: (entity.state_bytes, entity.reading_bytes)
        for entity in after.layout.entities
    }
    changes = []
    for name in dict.fromkeys((*new_bytes, *old_bytes)):
        (old_state_bytes, old_reading_bytes), (new_state_bytes, new_reading_bytes) = (
            old_bytes.get(name, (0, 0)),
            new_bytes.get(name, (0, 0)),
        )
        changes.append(
            RecordChange(
                name, old_state_bytes, new_state_bytes, old_reading_bytes, new_reading_bytes
            )
        )
    return tuple(changes)


def _backfilled_attributes(features: FeatureSet) -> set[str]:
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
    compared_fields = [field.name for field in dataclasses.fields(new) if field.compare]
    field_changes = [(name, getattr(old, name), getattr(new, name)) for name in compared_fields]
    return "; ".join(
        f"{name}: {_describe_value(before)} → {_describe_value(after)}"
        for name, before, after in field_changes
        if before != after
    )


def _describe_value(value: Any) -> str:
    if isinstance(value, Window):
        return f"{format_duration(value.length)} by {format_duration(value.hop)}"
    if isinstance(value, Amount):
        return f"{value.of.text} in units of {value.unit:g} up to {value.max:g}"
    if isinstance(value, Expression):
        return value.text
    if isinstance(value, Entity):
        return value.name
    if isinstance(value, tuple):
        return ", ".join(_describe_value(item) for item in value) or "none"
    return "none" if value is None else str(value)


def _overflow_bound(feature: Feature) -> OverflowBound | None:
    """Return the overflow bound of a feature that sums amounts; None for counts."""
    amounts = [
        value
        for field in dataclasses.fields(feature)
        if isinstance(value := getattr(feature, field.name), Amount)
    ]
    if not amounts:
        return None
    largest_value_units = max(amount.units_max for amount in amounts)
    additions_until_overflow = INT64_MAX // max(1, largest_value_units)
    if isinstance(feature, Variance):  # squares are summed in two limbs
        additions_until_overflow = min(
            additions_until_overflow,
            INT64_MAX // ((1 << SQUARE_BITS) - 1),
            INT64_MAX // max(1, largest_value_units * largest_value_units >> SQUARE_BITS),
        )
    return OverflowBound(
        feature.name,
        short_location(feature.location),
        largest_value_units,
        additions_until_overflow,
    )
