"""Steps from declarations and records: the lanes and the operation of each column.

`features.layout.compile` lays out the records; `features.arithmetic.finish` executes the steps.
"""

from collections.abc import Sequence

from tailorbird.features.declare.declarations import (
    Age,
    Attribute,
    ContextValue,
    Count,
    Decayed,
    Derived,
    Distinct,
    Entity,
    Extreme,
    Favourite,
    Feature,
    First,
    GapMean,
    GapOf,
    Last,
    Match,
    Mean,
    Quantile,
    Ratio,
    Seen,
    SequenceOf,
    SessionCount,
    SessionMeasure,
    Share,
    TimeSince,
    TimeSinceFirst,
    Total,
    Trend,
    Variance,
    Window,
)
from tailorbird.features.declare.limits import SESSION_LENGTH
from tailorbird.features.expr.expression import Expression
from tailorbird.features.layout.layout import (
    DecayedSum,
    EntityLayout,
    Layout,
    RecordLane,
    Source,
    Step,
    WindowSum,
)
from tailorbird.features.layout.sources import (
    VARIANCE_MEASURES,
    bucket_sources,
    extreme_measure,
    lane_kinds,
    measure_of,
    sequence_values,
    session_source,
    source_of,
)


class LaneFinder:
    """Finds the lanes of a feature's numbers."""

    def __init__(self, entities: tuple[EntityLayout, ...]) -> None:
        self._by_entity = {entity.entity: entity for entity in entities}

    def window(self, source: Source, measure: str, window: Window) -> RecordLane:
        return self._over_ring(self._by_entity[source.entity].windows, source, measure, window)

    def decay(self, source: Source, measure: str, window: Window) -> RecordLane:
        return self._over_ring(self._by_entity[source.entity].decays, source, measure, window)

    def _over_ring(
        self,
        candidates: Sequence[WindowSum | DecayedSum],
        source: Source,
        measure: str,
        window: Window,
    ) -> RecordLane:
        layout = self._by_entity[source.entity]
        for candidate in candidates:
            ring = layout.rings[candidate.ring]
            if (ring.source, ring.measure, ring.hop, candidate.tiles) == (
                source,
                measure,
                window.hop,
                window.tiles,
            ):
                return RecordLane(layout.index, candidate.reading_lane)
        raise KeyError(source)

    def last(self, source: Source) -> tuple[RecordLane, RecordLane]:
        layout = self._by_entity[source.entity]
        lane = next(last.reading_lane for last in layout.lasts if last.source == source)
        return RecordLane(layout.index, lane), RecordLane(layout.index, lane + 1)

    def distinct(self, feature: Distinct) -> tuple[RecordLane, RecordLane]:
        layout = self._by_entity[feature.entity]
        sketch_spec = (
            source_of(feature),
            feature.precision,
            feature.window.hop,
            feature.window.tiles,
        )
        for distinct in layout.distincts:
            sketch = layout.sketches[distinct.sketch]
            if (sketch.source, sketch.precision, sketch.hop, distinct.tiles) == sketch_spec:
                return RecordLane(layout.index, distinct.reading_lane), RecordLane(
                    layout.index, distinct.reading_lane + 1
                )
        raise KeyError(feature.name)

    def first(self, source: Source) -> RecordLane:
        layout = self._by_entity[source.entity]
        return RecordLane(
            layout.index,
            next(
                first_time.reading_lane
                for first_time in layout.firsts
                if first_time.source == source
            ),
        )

    def earliest(self, source: Source) -> tuple[RecordLane, RecordLane]:
        layout = self._by_entity[source.entity]
        lane = next(
            first_value.reading_lane
            for first_value in layout.first_values
            if first_value.source == source
        )
        return RecordLane(layout.index, lane), RecordLane(layout.index, lane + 1)

    def sequence(self, source: Source, length: int, of: tuple[Expression, ...] = ()) -> RecordLane:
        layout = self._by_entity[source.entity]
        events = next(
            sequence
            for sequence in layout.sequences
            if (sequence.source, sequence.length, sequence.of) == (source, length, of)
        )
        return RecordLane(layout.index, events.reading_lane)

    def attribute(self, about: Entity, name: str, kind: str) -> RecordLane:
        layout = self._by_entity[about]
        assert layout.profile is not None
        return RecordLane(
            layout.index,
            layout.profile.reading_lane + layout.profile.attributes.index((name, kind)),
        )


def attribute_lane(layout: Layout, name: str) -> RecordLane:
    """Return the lane of a category that names an entity: `item.category` → a lane of the item's
    record.
    """
    owner, _, attribute = name.partition(".")
    return LaneFinder(layout.entities).attribute(Entity((owner,)), attribute, "categorical")


def step_of(feature: Feature, finder: LaneFinder, derived: dict[str, Expression]) -> Step:
    name = feature.name
    if isinstance(feature, Count):
        return Step(
            name, "numeric", "count", (finder.window(source_of(feature), "count", feature.window),)
        )
    if isinstance(feature, Total):
        record_lane = finder.window(source_of(feature), "sum", feature.window)
        return Step(name, "numeric", "total", (record_lane,), (feature.amount.unit,))
    if isinstance(feature, Mean):
        source = source_of(feature)
        record_lanes = (
            finder.window(source, "sum", feature.window),
            finder.window(source, "count", feature.window),
        )
        return Step(name, "numeric", "mean", record_lanes, (feature.amount.unit,))
    if isinstance(feature, Variance):
        record_lanes = tuple(
            finder.window(source_of(feature), measure, feature.window)
            for measure in VARIANCE_MEASURES
        )
        return Step(name, "numeric", "variance", record_lanes, (feature.amount.unit,))
    if isinstance(feature, Extreme):
        record_lane = finder.window(source_of(feature), extreme_measure(feature), feature.window)
        return Step(
            name,
            "numeric",
            "extreme",
            (record_lane,),
            (feature.amount.unit if feature.largest else -feature.amount.unit,),
        )
    if isinstance(feature, Distinct):
        return Step(
            name, "numeric", "distinct", finder.distinct(feature), (float(feature.precision),)
        )
    if isinstance(feature, Ratio):
        return _ratio_step(feature, finder)
    if isinstance(feature, Trend):
        record_lanes = tuple(
            finder.window(source_of(feature), "count", window)
            for window in (feature.short, feature.long)
        )
        return Step(
            name, "numeric", "trend", record_lanes, (feature.long.length / feature.short.length,)
        )
    if isinstance(feature, Share):
        sources = (source_of(feature, entity=about) for about in (feature.entity, feature.group))
        record_lanes = tuple(
            finder.window(source, measure_of(feature), feature.window) for source in sources
        )
        return Step(name, "numeric", "share", record_lanes)
    if isinstance(feature, Decayed):
        record_lane = finder.decay(source_of(feature), measure_of(feature), feature.window)
        return Step(
            name,
            "numeric",
            "decayed",
            (record_lane,),
            (1.0 if feature.amount is None else feature.amount.unit,),
        )
    if isinstance(feature, Last):
        return Step(name, feature.kind, "last", finder.last(source_of(feature)))
    if isinstance(feature, First):
        return Step(name, feature.kind, "earliest", finder.earliest(source_of(feature)))
    if isinstance(feature, TimeSince):
        return Step(name, "numeric", "since", finder.last(source_of(feature))[:1])
    if isinstance(feature, TimeSinceFirst):
        return Step(name, "numeric", "first", (finder.first(source_of(feature)),))
    if isinstance(feature, GapMean):
        record_lane = finder.sequence(source_of(feature), feature.length)
        operation = f"gap_{feature.measure}" if isinstance(feature, GapOf) else "gap"
        return Step(name, "numeric", operation, (record_lane,), length=feature.length)
    if isinstance(feature, SequenceOf):
        record_lane = finder.sequence(source_of(feature), feature.length, feature.of)
        return Step(
            name, "sequence", "sequence", (record_lane,), length=feature.length, of=feature.of
        )
    if isinstance(feature, Favourite | Seen):
        return _run_step(feature, finder)
    if isinstance(feature, SessionCount):
        record_lane = finder.sequence(session_source(feature), SESSION_LENGTH)
        return Step(
            name, "numeric", "session", (record_lane,), text=feature.type, length=SESSION_LENGTH
        )
    if isinstance(feature, SessionMeasure):
        record_lane = finder.sequence(session_source(feature), SESSION_LENGTH)
        return Step(
            name,
            "numeric",
            feature.measure,
            (record_lane,),
            length=SESSION_LENGTH,
            types=feature.only,
        )
    if isinstance(feature, Attribute | Age | Match):
        record_lanes = tuple(
            finder.attribute(feature.entity, feature.attribute, kind)
            for kind in lane_kinds(feature)
        )
        kind = feature.kind if isinstance(feature, Attribute) else "numeric"
        return Step(name, kind, type(feature).__name__.lower(), record_lanes)
    if isinstance(feature, Quantile):
        record_lanes = tuple(
            finder.window(source, "count", feature.window) for source in bucket_sources(feature)
        )
        return Step(name, "numeric", "quantile", record_lanes, (feature.q, *feature.edges))
    if isinstance(feature, ContextValue):
        return Step(name, feature.kind, "context", text=feature.field)
    assert isinstance(feature, Derived)
    return Step(name, "numeric", "derived", expression=derived[name])


def _run_step(feature: Favourite | Seen, finder: LaneFinder) -> Step:
    further = sequence_values(feature)
    record_lane = finder.sequence(source_of(feature), feature.length, further)
    if isinstance(feature, Favourite):
        return Step(
            feature.name,
            "categorical",
            "favourite",
            (record_lane,),
            length=feature.length,
            of=further,
        )
    candidate_lanes = [
        finder.attribute(Entity(("item",)), expression.text.partition(".")[2], "categorical")
        for expression in further
    ]
    return Step(
        feature.name,
        "numeric",
        "seen",
        (record_lane, *candidate_lanes),
        length=feature.length,
        of=further,
    )


def _ratio_step(feature: Ratio, finder: LaneFinder) -> Step:
    rated_entities = [feature.entity] + (
        [feature.prior] if isinstance(feature.prior, Entity) else []
    )
    record_lanes = [
        finder.window(source_of(feature, types, about), "count", feature.window)
        for about in rated_entities
        for types in (feature.types, feature.below)
    ]
    rate = feature.prior if isinstance(feature.prior, float) else 0.0
    weight = -1.0 if feature.prior is None else feature.weight
    return Step(feature.name, "numeric", "ratio", tuple(record_lanes), (rate, weight))
