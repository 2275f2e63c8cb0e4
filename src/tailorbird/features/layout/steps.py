"""Steps from declarations and records: the lanes and the operation of each column.

A lane is one 64-bit number of a record. `features.layout.compile` lays out the records;
`features.arithmetic.finish` executes the steps.
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
from tailorbird.features.declare.limits import SESSION_EVENTS_MAX
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
    """Finds the lanes of a feature's numbers, with one method for each kind of accumulator."""

    def __init__(self, entities: tuple[EntityLayout, ...]) -> None:
        self._layout_by_entity = {entity.entity: entity for entity in entities}

    def window(self, source: Source, measure: str, window: Window) -> RecordLane:
        return self._find_ring_lane(
            self._layout_by_entity[source.entity].windows, source, measure, window
        )

    def decay(self, source: Source, measure: str, window: Window) -> RecordLane:
        return self._find_ring_lane(
            self._layout_by_entity[source.entity].decays, source, measure, window
        )

    def _find_ring_lane(
        self,
        aggregates: Sequence[WindowSum | DecayedSum],
        source: Source,
        measure: str,
        window: Window,
    ) -> RecordLane:
        layout = self._layout_by_entity[source.entity]
        for aggregate in aggregates:
            ring = layout.rings[aggregate.ring]
            if (ring.source, ring.measure, ring.hop, aggregate.tiles) == (
                source,
                measure,
                window.hop,
                window.tiles,
            ):
                return RecordLane(layout.index, aggregate.reading_lane)
        raise KeyError(source)

    def last(self, source: Source) -> tuple[RecordLane, RecordLane]:
        layout = self._layout_by_entity[source.entity]
        lane = next(last.reading_lane for last in layout.lasts if last.source == source)
        return RecordLane(layout.index, lane), RecordLane(layout.index, lane + 1)

    def distinct(self, feature: Distinct) -> tuple[RecordLane, RecordLane]:
        layout = self._layout_by_entity[feature.entity]
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

    def first_time_lane(self, source: Source) -> RecordLane:
        layout = self._layout_by_entity[source.entity]
        return RecordLane(
            layout.index,
            next(
                first_time.reading_lane
                for first_time in layout.firsts
                if first_time.source == source
            ),
        )

    def first_value_lanes(self, source: Source) -> tuple[RecordLane, RecordLane]:
        layout = self._layout_by_entity[source.entity]
        lane = next(
            first_value.reading_lane
            for first_value in layout.first_values
            if first_value.source == source
        )
        return RecordLane(layout.index, lane), RecordLane(layout.index, lane + 1)

    def sequence(self, source: Source, length: int, of: tuple[Expression, ...] = ()) -> RecordLane:
        layout = self._layout_by_entity[source.entity]
        last_events = next(
            sequence
            for sequence in layout.sequences
            if (sequence.source, sequence.length, sequence.of) == (source, length, of)
        )
        return RecordLane(layout.index, last_events.reading_lane)

    def attribute(self, entity: Entity, name: str, kind: str) -> RecordLane:
        layout = self._layout_by_entity[entity]
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


_Aggregate = Count | Total | Mean | Variance | Extreme | Quantile | Decayed
_Comparison = Distinct | Ratio | Trend | Share


def step_of(feature: Feature, finder: LaneFinder, derived: dict[str, Expression]) -> Step:
    """Return the step that computes a feature's column.

    Args:
        derived: expression of each derived feature, by its name.
    """
    if isinstance(feature, _Aggregate):
        return _aggregate_step(feature, finder)
    if isinstance(feature, _Comparison):
        return _comparison_step(feature, finder)
    if isinstance(feature, Last | First | TimeSince | TimeSinceFirst):
        return _event_step(feature, finder)
    if isinstance(feature, GapMean | SequenceOf):
        return _sequence_step(feature, finder)
    if isinstance(feature, Favourite | Seen):
        return _recent_events_step(feature, finder)
    if isinstance(feature, SessionCount | SessionMeasure):
        return _session_step(feature, finder)
    if isinstance(feature, Attribute | Age | Match):
        record_lanes = tuple(
            finder.attribute(feature.entity, feature.attribute, kind)
            for kind in lane_kinds(feature)
        )
        kind = feature.kind if isinstance(feature, Attribute) else "numeric"
        return Step(feature.name, kind, type(feature).__name__.lower(), record_lanes)
    if isinstance(feature, ContextValue):
        return Step(feature.name, feature.kind, "context", text=feature.field)
    assert isinstance(feature, Derived)
    return Step(feature.name, "numeric", "derived", expression=derived[feature.name])


def _aggregate_step(feature: _Aggregate, finder: LaneFinder) -> Step:
    """Return the step of an aggregate over the events of a window."""
    name = feature.name
    window = feature.window
    if isinstance(feature, Quantile):
        lanes = [finder.window(source, "count", window) for source in bucket_sources(feature)]
        return Step(name, "numeric", "quantile", tuple(lanes), (feature.q, *feature.edges))
    source = source_of(feature)
    if isinstance(feature, Count):
        return Step(name, "numeric", "count", (finder.window(source, "count", window),))
    if isinstance(feature, Decayed):
        unit = 1.0 if feature.amount is None else feature.amount.unit
        lane = finder.decay(source, measure_of(feature), window)
        return Step(name, "numeric", "decayed", (lane,), (unit,))
    unit = feature.amount.unit
    if isinstance(feature, Extreme):
        lane = finder.window(source, extreme_measure(feature), window)
        return Step(name, "numeric", "extreme", (lane,), (unit if feature.largest else -unit,))
    if isinstance(feature, Total):
        operation = "total"
        measures = ("sum",)
    elif isinstance(feature, Mean):
        operation = "mean"
        measures = ("sum", "count")
    else:
        operation = "variance"
        measures = VARIANCE_MEASURES
    lanes = [finder.window(source, measure, window) for measure in measures]
    return Step(name, "numeric", operation, tuple(lanes), (unit,))


def _comparison_step(feature: _Comparison, finder: LaneFinder) -> Step:
    """Return the step of a number of values, or of a ratio of two counts."""
    name = feature.name
    if isinstance(feature, Distinct):
        lanes = finder.distinct(feature)
        return Step(name, "numeric", "distinct", lanes, (float(feature.precision),))
    if isinstance(feature, Ratio):
        return _ratio_step(feature, finder)
    if isinstance(feature, Trend):
        windows = (feature.short, feature.long)
        lanes = [finder.window(source_of(feature), "count", window) for window in windows]
        length_ratio = feature.long.length / feature.short.length
        return Step(name, "numeric", "trend", tuple(lanes), (length_ratio,))
    sources = [source_of(feature, entity=entity) for entity in (feature.entity, feature.group)]
    lanes = [finder.window(source, measure_of(feature), feature.window) for source in sources]
    return Step(name, "numeric", "share", tuple(lanes))


def _event_step(feature: Last | First | TimeSince | TimeSinceFirst, finder: LaneFinder) -> Step:
    """Return the step of a value or the time of the first or last event."""
    source = source_of(feature)
    if isinstance(feature, Last):
        return Step(feature.name, feature.kind, "last", finder.last(source))
    if isinstance(feature, First):
        return Step(feature.name, feature.kind, "earliest", finder.first_value_lanes(source))
    if isinstance(feature, TimeSince):
        return Step(feature.name, "numeric", "since", finder.last(source)[:1])
    return Step(feature.name, "numeric", "first", (finder.first_time_lane(source),))


def _sequence_step(feature: GapMean | SequenceOf, finder: LaneFinder) -> Step:
    """Return the step of the newest events, or of the time between them."""
    source = source_of(feature)
    length = feature.length
    if isinstance(feature, GapMean):
        operation = f"gap_{feature.measure}" if isinstance(feature, GapOf) else "gap"
        lane = finder.sequence(source, length)
        return Step(feature.name, "numeric", operation, (lane,), length=length)
    lane = finder.sequence(source, length, feature.of)
    return Step(feature.name, "sequence", "sequence", (lane,), length=length, of=feature.of)


def _session_step(feature: SessionCount | SessionMeasure, finder: LaneFinder) -> Step:
    """Return the step of a feature over the events of the current session."""
    lanes = (finder.sequence(session_source(feature), SESSION_EVENTS_MAX),)
    if isinstance(feature, SessionCount):
        return Step(
            feature.name, "numeric", "session", lanes, text=feature.type, length=SESSION_EVENTS_MAX
        )
    return Step(
        feature.name,
        "numeric",
        feature.measure,
        lanes,
        length=SESSION_EVENTS_MAX,
        types=feature.only,
    )


def _recent_events_step(feature: Favourite | Seen, finder: LaneFinder) -> Step:
    value_expressions = sequence_values(feature)
    record_lane = finder.sequence(source_of(feature), feature.length, value_expressions)
    if isinstance(feature, Favourite):
        return Step(
            feature.name,
            "categorical",
            "favourite",
            (record_lane,),
            length=feature.length,
            of=value_expressions,
        )
    candidate_lanes = [
        finder.attribute(Entity(("item",)), expression.text.partition(".")[2], "categorical")
        for expression in value_expressions
    ]
    return Step(
        feature.name,
        "numeric",
        "seen",
        (record_lane, *candidate_lanes),
        length=feature.length,
        of=value_expressions,
    )


def _ratio_step(feature: Ratio, finder: LaneFinder) -> Step:
    rated_entities = [feature.entity] + (
        [feature.prior] if isinstance(feature.prior, Entity) else []
    )
    record_lanes = [
        finder.window(source_of(feature, types, entity), "count", feature.window)
        for entity in rated_entities
        for types in (feature.types, feature.below)
    ]
    rate = feature.prior if isinstance(feature.prior, float) else 0.0
    weight = -1.0 if feature.prior is None else feature.weight
    return Step(feature.name, "numeric", "ratio", tuple(record_lanes), (rate, weight))
