"""Compilation of declarations into a layout.

The requirements of each entity are gathered, then lanes (64-bit numbers of a record) are assigned,
then each column gets its steps.

    declarations ──_gather_requirements──► of each entity ──_compile_entity──► EntityLayout
    ──step_of──► where each column is finished from

`features.layout.layout` describes the records, `features.layout.sources` the events that a
declaration counts, `features.layout.steps` the steps.
"""

from collections.abc import Sequence

from tailorbird.features.declare.declarations import (
    Age,
    Attribute,
    Count,
    Decayed,
    Distinct,
    Entity,
    Extreme,
    Favourite,
    Feature,
    First,
    GapMean,
    Last,
    Match,
    Mean,
    Quantile,
    Ratio,
    Seen,
    SequenceOf,
    SessionFeature,
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
    LAST_READING_LANES,
    LAST_STATE_LANES,
    PROFILE_HEADER_LANES,
    READING_HEADER_LANES,
    STATE_HEADER_LANES,
    DecayedSum,
    DistinctValues,
    EntityLayout,
    FirstTime,
    FirstValue,
    LastEvents,
    LastValue,
    Layout,
    Profile,
    Ring,
    Sketch,
    Source,
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
from tailorbird.features.layout.steps import LaneFinder, step_of

_RingKey = tuple[Source, str, int]  # source, measure, hop
_SketchKey = tuple[Source, int, int]  # source, precision, hop


class _EntityRequirements:
    """The requirements of declarations on an entity, gathered before lanes are assigned.

    `rings` and `sketches` have the tiles of each; the other dicts are sets in order of declaration.
    """

    def __init__(self) -> None:
        self.rings: dict[_RingKey, int] = {}
        self.windows: dict[tuple[_RingKey, int], None] = {}
        self.decays: dict[tuple[_RingKey, int], None] = {}
        self.sketches: dict[_SketchKey, int] = {}
        self.distincts: dict[tuple[_SketchKey, int], None] = {}
        self.firsts: dict[Source, None] = {}
        self.lasts: dict[Source, None] = {}
        self.first_values: dict[Source, None] = {}
        self.sequences: dict[tuple[Source, int, tuple[Expression, ...]], None] = {}
        self.attributes: dict[tuple[str, str], None] = {}

    def require_window(self, source: Source, measure: str, window: Window) -> None:
        self.windows[self._require_ring(source, measure, window), window.tiles] = None

    def require_decay(self, source: Source, measure: str, window: Window) -> None:
        self.decays[self._require_ring(source, measure, window), window.tiles] = None

    def require_distinct(self, feature: Distinct) -> None:
        sketch_key = (source_of(feature), feature.precision, feature.window.hop)
        self.sketches[sketch_key] = max(self.sketches.get(sketch_key, 0), feature.window.tiles)
        self.distincts[sketch_key, feature.window.tiles] = None

    def _require_ring(self, source: Source, measure: str, window: Window) -> _RingKey:
        ring_key = (source, measure, window.hop)
        self.rings[ring_key] = max(self.rings.get(ring_key, 0), window.tiles)
        return ring_key


def compile_layout(
    features: Sequence[Feature], derived: dict[str, Expression], derived_order: tuple[str, ...]
) -> Layout:
    """Lay out the records of checked `features`; `derived` holds the parsed expressions by name."""
    requirements_by_entity: dict[Entity, _EntityRequirements] = {}
    for feature in features:
        _gather_requirements(feature, requirements_by_entity)
    for entity in list(requirements_by_entity):
        _require_key_attributes(entity, requirements_by_entity)
    entities = tuple(
        _compile_entity(index, entity, requirements)
        for index, (entity, requirements) in enumerate(requirements_by_entity.items())
    )
    lane_finder = LaneFinder(entities)
    return Layout(
        entities,
        tuple(step_of(feature, lane_finder, derived) for feature in features),
        derived_order,
    )


def _gather_requirements(
    feature: Feature, requirements_by_entity: dict[Entity, _EntityRequirements]
) -> None:
    def requirements_of(target: Entity) -> _EntityRequirements:
        return requirements_by_entity.setdefault(target, _EntityRequirements())

    if isinstance(feature, Count):
        requirements_of(feature.entity).require_window(source_of(feature), "count", feature.window)
    elif isinstance(feature, Total | Mean):
        requirements_of(feature.entity).require_window(source_of(feature), "sum", feature.window)
        if isinstance(feature, Mean):
            requirements_of(feature.entity).require_window(
                source_of(feature), "count", feature.window
            )
    elif isinstance(feature, Variance):
        for measure in VARIANCE_MEASURES:
            requirements_of(feature.entity).require_window(
                source_of(feature), measure, feature.window
            )
    elif isinstance(feature, Extreme):
        requirements_of(feature.entity).require_window(
            source_of(feature), extreme_measure(feature), feature.window
        )
    elif isinstance(feature, Distinct):
        requirements_of(feature.entity).require_distinct(feature)
    elif isinstance(feature, Ratio):
        for entity in [feature.entity] + (
            [feature.prior] if isinstance(feature.prior, Entity) else []
        ):
            for types in (feature.types, feature.below):
                requirements_of(entity).require_window(
                    source_of(feature, types, entity), "count", feature.window
                )
    elif isinstance(feature, Trend):
        for window in (feature.short, feature.long):
            requirements_of(feature.entity).require_window(source_of(feature), "count", window)
    elif isinstance(feature, Share):
        for entity in (feature.entity, feature.group):
            requirements_of(entity).require_window(
                source_of(feature, entity=entity), measure_of(feature), feature.window
            )
    elif isinstance(feature, Decayed):
        requirements_of(feature.entity).require_decay(
            source_of(feature), measure_of(feature), feature.window
        )
    elif isinstance(feature, Last | TimeSince):
        requirements_of(feature.entity).lasts[source_of(feature)] = None
    elif isinstance(feature, First):
        requirements_of(feature.entity).first_values[source_of(feature)] = None
    elif isinstance(feature, TimeSinceFirst):
        requirements_of(feature.entity).firsts[source_of(feature)] = None
    elif isinstance(feature, SequenceOf | GapMean | Favourite | Seen):
        requirements_of(feature.entity).sequences[
            source_of(feature), feature.length, sequence_values(feature)
        ] = None
        if isinstance(feature, Seen) and feature.of.text != "item":
            requirements_of(Entity(("item",))).attributes[
                feature.of.text.partition(".")[2], "categorical"
            ] = None
    elif isinstance(feature, SessionFeature):
        requirements_of(Entity(("user",))).sequences[
            session_source(feature), SESSION_EVENTS_MAX, ()
        ] = None
    elif isinstance(feature, Attribute | Age | Match):
        for kind in lane_kinds(feature):
            requirements_of(feature.entity).attributes[feature.attribute, kind] = None
    elif isinstance(feature, Quantile):
        for source in bucket_sources(feature):
            requirements_of(feature.entity).require_window(source, "count", feature.window)


def _require_key_attributes(
    entity: Entity, requirements_by_entity: dict[Entity, _EntityRequirements]
) -> None:
    """Require the attributes by which entities such as `item.category` are looked up."""
    for name in entity.fields:
        if "." in name:
            owner, _, attribute = name.partition(".")
            requirements_by_entity.setdefault(Entity((owner,)), _EntityRequirements()).attributes[
                attribute, "categorical"
            ] = None


def _compile_entity(index: int, entity: Entity, requirements: _EntityRequirements) -> EntityLayout:
    state_lane = STATE_HEADER_LANES
    reading_lane = READING_HEADER_LANES
    rings: list[Ring] = []
    for (source, measure, hop), tiles in requirements.rings.items():
        rings.append(Ring(source, measure, hop, tiles, state_lane))
        state_lane += tiles + 1
    ring_indexes = {
        ring_key: index_in_entity for index_in_entity, ring_key in enumerate(requirements.rings)
    }
    window_sums = []
    for ring_key, tiles in requirements.windows:
        window_sums.append(WindowSum(ring_indexes[ring_key], tiles, reading_lane))
        reading_lane += 1
    decayed_sums = []
    for ring_key, tiles in requirements.decays:
        decayed_sums.append(DecayedSum(ring_indexes[ring_key], tiles, reading_lane))
        reading_lane += 1
    last_values = []
    for source in requirements.lasts:
        last_values.append(LastValue(source, state_lane, reading_lane))
        state_lane = state_lane + LAST_STATE_LANES
        reading_lane = reading_lane + LAST_READING_LANES
    sketches = []
    for (source, precision, hop), tiles in requirements.sketches.items():
        sketches.append(Sketch(source, precision, hop, tiles, state_lane))
        state_lane += sketches[-1].lanes
    sketch_indexes = {
        sketch_key: index_in_entity
        for index_in_entity, sketch_key in enumerate(requirements.sketches)
    }
    distinct_values = []
    for sketch_key, tiles in requirements.distincts:
        distinct_values.append(DistinctValues(sketch_indexes[sketch_key], tiles, reading_lane))
        reading_lane += 2
    first_times = []
    for source in requirements.firsts:
        first_times.append(FirstTime(source, state_lane, reading_lane))
        state_lane = state_lane + 1
        reading_lane = reading_lane + 1
    first_values = []
    for source in requirements.first_values:
        first_values.append(FirstValue(source, state_lane, reading_lane))
        state_lane = state_lane + LAST_STATE_LANES
        reading_lane = reading_lane + LAST_READING_LANES
    last_events = []
    for source, length, value_expressions in requirements.sequences:
        last_events.append(LastEvents(source, length, state_lane, reading_lane, value_expressions))
        state_lane = state_lane + last_events[-1].state_columns * length
        reading_lane = reading_lane + last_events[-1].reading_columns * length
    profile = None
    if requirements.attributes:
        profile = Profile(
            entity.fields[0], tuple(requirements.attributes), state_lane, reading_lane
        )
        state_lane = state_lane + PROFILE_HEADER_LANES + len(requirements.attributes)
        reading_lane = reading_lane + len(requirements.attributes)
    components = (tuple(rings), tuple(window_sums), tuple(last_values), tuple(last_events), profile)
    later_components = (
        tuple(decayed_sums),
        tuple(first_times),
        tuple(sketches),
        tuple(distinct_values),
        tuple(first_values),
    )
    return EntityLayout(index, entity, *components, state_lane, reading_lane, *later_components)
