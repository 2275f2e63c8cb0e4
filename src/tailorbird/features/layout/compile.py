"""Compilation of declarations into a layout.

The requirements of each entity are gathered, then lanes are assigned, then each column gets its
steps.

    declarations ──_gather──► requirements of each entity ──_entity──► EntityLayout
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
from tailorbird.features.declare.limits import SESSION_LENGTH
from tailorbird.features.expr.expression import Expression
from tailorbird.features.layout.layout import (
    LAST_READING,
    LAST_STATE,
    PROFILE_HEADER,
    READING_HEADER,
    STATE_HEADER,
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


class _EntityRequirements:
    """The requirements of declarations on an entity, gathered before lanes are assigned."""

    def __init__(self) -> None:
        self.rings: dict[tuple[Source, str, int], int] = {}
        self.windows: dict[tuple[tuple[Source, str, int], int], None] = {}
        self.decays: dict[tuple[tuple[Source, str, int], int], None] = {}
        self.sketches: dict[tuple[Source, int, int], int] = {}
        self.distincts: dict[tuple[tuple[Source, int, int], int], None] = {}
        self.firsts: dict[Source, None] = {}
        self.lasts: dict[Source, None] = {}
        self.first_values: dict[Source, None] = {}
        self.sequences: dict[tuple[Source, int, tuple[Expression, ...]], None] = {}
        self.attributes: dict[tuple[str, str], None] = {}

    def window(self, source: Source, measure: str, window: Window) -> None:
        self.windows[self._require_ring(source, measure, window), window.tiles] = None

    def decay(self, source: Source, measure: str, window: Window) -> None:
        self.decays[self._require_ring(source, measure, window), window.tiles] = None

    def distinct(self, feature: Distinct) -> None:
        sketch = (source_of(feature), feature.precision, feature.window.hop)
        self.sketches[sketch] = max(self.sketches.get(sketch, 0), feature.window.tiles)
        self.distincts[sketch, feature.window.tiles] = None

    def _require_ring(
        self, source: Source, measure: str, window: Window
    ) -> tuple[Source, str, int]:
        ring = (source, measure, window.hop)
        self.rings[ring] = max(self.rings.get(ring, 0), window.tiles)
        return ring


def compile_layout(
    features: Sequence[Feature], derived: dict[str, Expression], derived_order: tuple[str, ...]
) -> Layout:
    """Lay out the records of checked `features`; `derived` holds the parsed expressions by name."""
    requirements_by_entity: dict[Entity, _EntityRequirements] = {}
    for feature in features:
        _gather(feature, requirements_by_entity)
    for entity in list(requirements_by_entity):
        _gather_key_attributes(entity, requirements_by_entity)
    entities = tuple(
        _compile_entity(index, entity, draft)
        for index, (entity, draft) in enumerate(requirements_by_entity.items())
    )
    finder = LaneFinder(entities)
    return Layout(
        entities, tuple(step_of(feature, finder, derived) for feature in features), derived_order
    )


def _gather(feature: Feature, requirements_by_entity: dict[Entity, _EntityRequirements]) -> None:
    def draft(target: Entity) -> _EntityRequirements:
        return requirements_by_entity.setdefault(target, _EntityRequirements())

    if isinstance(feature, Count):
        draft(feature.entity).window(source_of(feature), "count", feature.window)
    elif isinstance(feature, Total | Mean):
        draft(feature.entity).window(source_of(feature), "sum", feature.window)
        if isinstance(feature, Mean):
            draft(feature.entity).window(source_of(feature), "count", feature.window)
    elif isinstance(feature, Variance):
        for measure in VARIANCE_MEASURES:
            draft(feature.entity).window(source_of(feature), measure, feature.window)
    elif isinstance(feature, Extreme):
        draft(feature.entity).window(source_of(feature), extreme_measure(feature), feature.window)
    elif isinstance(feature, Distinct):
        draft(feature.entity).distinct(feature)
    elif isinstance(feature, Ratio):
        for entity in [feature.entity] + (
            [feature.prior] if isinstance(feature.prior, Entity) else []
        ):
            for types in (feature.types, feature.below):
                draft(entity).window(source_of(feature, types, entity), "count", feature.window)
    elif isinstance(feature, Trend):
        for window in (feature.short, feature.long):
            draft(feature.entity).window(source_of(feature), "count", window)
    elif isinstance(feature, Share):
        for entity in (feature.entity, feature.group):
            draft(entity).window(
                source_of(feature, entity=entity), measure_of(feature), feature.window
            )
    elif isinstance(feature, Decayed):
        draft(feature.entity).decay(source_of(feature), measure_of(feature), feature.window)
    elif isinstance(feature, Last | TimeSince):
        draft(feature.entity).lasts[source_of(feature)] = None
    elif isinstance(feature, First):
        draft(feature.entity).first_values[source_of(feature)] = None
    elif isinstance(feature, TimeSinceFirst):
        draft(feature.entity).firsts[source_of(feature)] = None
    elif isinstance(feature, SequenceOf | GapMean | Favourite | Seen):
        draft(feature.entity).sequences[
            source_of(feature), feature.length, sequence_values(feature)
        ] = None
        if isinstance(feature, Seen) and feature.of.text != "item":
            draft(Entity(("item",))).attributes[
                feature.of.text.partition(".")[2], "categorical"
            ] = None
    elif isinstance(feature, SessionFeature):
        draft(Entity(("user",))).sequences[session_source(feature), SESSION_LENGTH, ()] = None
    elif isinstance(feature, Attribute | Age | Match):
        for kind in lane_kinds(feature):
            draft(feature.entity).attributes[feature.attribute, kind] = None
    elif isinstance(feature, Quantile):
        for source in bucket_sources(feature):
            draft(feature.entity).window(source, "count", feature.window)


def _gather_key_attributes(
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
    state_lane, reading_lane = STATE_HEADER, READING_HEADER
    rings: list[Ring] = []
    for (source, measure, hop), tiles in requirements.rings.items():
        rings.append(Ring(source, measure, hop, tiles, state_lane))
        state_lane += tiles + 1
    order = {ring: number for number, ring in enumerate(requirements.rings)}
    windows = []
    for ring, tiles in requirements.windows:
        windows.append(WindowSum(order[ring], tiles, reading_lane))
        reading_lane += 1
    decays = []
    for ring, tiles in requirements.decays:
        decays.append(DecayedSum(order[ring], tiles, reading_lane))
        reading_lane += 1
    last_values = []
    for source in requirements.lasts:
        last_values.append(LastValue(source, state_lane, reading_lane))
        state_lane, reading_lane = state_lane + LAST_STATE, reading_lane + LAST_READING
    sketches = []
    for (source, precision, hop), tiles in requirements.sketches.items():
        sketches.append(Sketch(source, precision, hop, tiles, state_lane))
        state_lane += sketches[-1].lanes
    sketch_order = {sketch: number for number, sketch in enumerate(requirements.sketches)}
    distincts = []
    for sketch, tiles in requirements.distincts:
        distincts.append(DistinctValues(sketch_order[sketch], tiles, reading_lane))
        reading_lane += 2
    first_times = []
    for source in requirements.firsts:
        first_times.append(FirstTime(source, state_lane, reading_lane))
        state_lane, reading_lane = state_lane + 1, reading_lane + 1
    first_values = []
    for source in requirements.first_values:
        first_values.append(FirstValue(source, state_lane, reading_lane))
        state_lane, reading_lane = state_lane + LAST_STATE, reading_lane + LAST_READING
    sequences = []
    for source, length, value_expressions in requirements.sequences:
        sequences.append(LastEvents(source, length, state_lane, reading_lane, value_expressions))
        state_lane, reading_lane = (
            state_lane + sequences[-1].state_columns * length,
            reading_lane + sequences[-1].reading_columns * length,
        )
    profile = None
    if requirements.attributes:
        profile = Profile(
            entity.fields[0], tuple(requirements.attributes), state_lane, reading_lane
        )
        state_lane, reading_lane = (
            state_lane + PROFILE_HEADER + len(requirements.attributes),
            reading_lane + len(requirements.attributes),
        )
    components = (tuple(rings), tuple(windows), tuple(last_values), tuple(sequences), profile)
    added_components = (
        tuple(decays),
        tuple(first_times),
        tuple(sketches),
        tuple(distincts),
        tuple(first_values),
    )
    return EntityLayout(index, entity, *components, state_lane, reading_lane, *added_components)
