"""From declarations to a layout: what each entity needs is gathered, then given its lanes, then each column its steps.

    declarations ──_gather──► a draft for each entity ──_entity──► EntityLayout ──_step──► where each column is finished from

What records look like is in `features.layout`.
"""

from collections.abc import Sequence

from tailorbird.features.declare import (
    SESSION_LENGTH,
    Amount,
    Attribute,
    ContextValue,
    Count,
    Counted,
    Decayed,
    Derived,
    Distinct,
    Entity,
    Extreme,
    Feature,
    First,
    GapMean,
    Last,
    Mean,
    OfSession,
    Ratio,
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
from tailorbird.features.expression import Expression
from tailorbird.features.layout import (
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
    Spot,
    Step,
    WindowSum,
)


class _Draft:
    """What an entity needs, gathered before lanes are given out."""

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
        self.windows[self._ring(source, measure, window), window.tiles] = None

    def decay(self, source: Source, measure: str, window: Window) -> None:
        self.decays[self._ring(source, measure, window), window.tiles] = None

    def distinct(self, feature: Distinct) -> None:
        sketch = (source_of(feature), feature.precision, feature.window.hop)
        self.sketches[sketch] = max(self.sketches.get(sketch, 0), feature.window.tiles)
        self.distincts[sketch, feature.window.tiles] = None

    def _ring(self, source: Source, measure: str, window: Window) -> tuple[Source, str, int]:
        ring = (source, measure, window.hop)
        self.rings[ring] = max(self.rings.get(ring, 0), window.tiles)
        return ring


def source_of(feature: Counted, types: tuple[str, ...] | None = None, entity: Entity | None = None) -> Source:
    """The events of a feature; `types` and `entity` stand in for its own (denominators and parents of ratios)."""
    about = feature.entity if entity is None else entity
    value: Amount | Expression | None = None
    if isinstance(feature, Total | Mean | Variance | Extreme | Share | Decayed):
        value = feature.amount
    elif isinstance(feature, Last | First | Distinct):
        value = feature.of
    named = [*about.fields, *feature.entity.fields, *feature.group.fields] if isinstance(feature, Share) else [*about.fields]
    for expression in (feature.where, value.of if isinstance(value, Amount) else value):
        named += [] if expression is None else [name for name, _ in expression.names]
    per_item = isinstance(feature, SequenceOf) or any(name == "item" or name.startswith("item.") for name in named)
    return Source(about, feature.types if types is None else types, feature.where, value, per_item)


def session_source(feature: OfSession) -> Source:
    return Source(Entity(("user",)), feature.types, None, None, True)


def compile_layout(features: Sequence[Feature], derived: dict[str, Expression], derived_order: tuple[str, ...]) -> Layout:
    """Lay the records out; `features` have been checked, `derived` holds their expressions by name."""
    drafts: dict[Entity, _Draft] = {}
    for feature in features:
        _gather(feature, drafts)
    for about in list(drafts):
        _gather_parts(about, drafts)
    entities = tuple(_entity(index, about, draft) for index, (about, draft) in enumerate(drafts.items()))
    finder = _Finder(entities)
    return Layout(entities, tuple(_step(feature, finder, derived) for feature in features), derived_order)


def _gather(feature: Feature, drafts: dict[Entity, _Draft]) -> None:
    def draft(about: Entity) -> _Draft:
        return drafts.setdefault(about, _Draft())

    if isinstance(feature, Count):
        draft(feature.entity).window(source_of(feature), "count", feature.window)
    elif isinstance(feature, Total | Mean):
        draft(feature.entity).window(source_of(feature), "sum", feature.window)
        if isinstance(feature, Mean):
            draft(feature.entity).window(source_of(feature), "count", feature.window)
    elif isinstance(feature, Variance):
        for measure in _SQUARES:
            draft(feature.entity).window(source_of(feature), measure, feature.window)
    elif isinstance(feature, Extreme):
        draft(feature.entity).window(source_of(feature), _peak(feature), feature.window)
    elif isinstance(feature, Distinct):
        draft(feature.entity).distinct(feature)
    elif isinstance(feature, Ratio):
        for about in [feature.entity] + ([feature.prior] if isinstance(feature.prior, Entity) else []):
            for types in (feature.types, feature.below):
                draft(about).window(source_of(feature, types, about), "count", feature.window)
    elif isinstance(feature, Trend):
        for window in (feature.short, feature.long):
            draft(feature.entity).window(source_of(feature), "count", window)
    elif isinstance(feature, Share):
        for about in (feature.entity, feature.group):
            draft(about).window(source_of(feature, entity=about), _measure(feature), feature.window)
    elif isinstance(feature, Decayed):
        draft(feature.entity).decay(source_of(feature), _measure(feature), feature.window)
    elif isinstance(feature, Last | TimeSince):
        draft(feature.entity).lasts[source_of(feature)] = None
    elif isinstance(feature, First):
        draft(feature.entity).first_values[source_of(feature)] = None
    elif isinstance(feature, TimeSinceFirst):
        draft(feature.entity).firsts[source_of(feature)] = None
    elif isinstance(feature, SequenceOf | GapMean):
        of = feature.of if isinstance(feature, SequenceOf) else ()
        draft(feature.entity).sequences[source_of(feature), feature.length, of] = None
    elif isinstance(feature, OfSession):
        draft(Entity(("user",))).sequences[session_source(feature), SESSION_LENGTH, ()] = None
    elif isinstance(feature, Attribute):
        draft(feature.entity).attributes[feature.attribute, feature.kind] = None


_SQUARES = ("count", "sum", "square_low", "square_high")


def _peak(feature: Extreme) -> str:
    return "largest" if feature.largest else "smallest"


def _measure(feature: Share | Decayed) -> str:
    return "count" if feature.amount is None else "sum"


def _gather_parts(about: Entity, drafts: dict[Entity, _Draft]) -> None:
    """An entity such as `item.category` is found at reading by the item's own attribute."""
    for name in about.fields:
        if "." in name:
            owner, _, attribute = name.partition(".")
            drafts.setdefault(Entity((owner,)), _Draft()).attributes[attribute, "categorical"] = None


def _entity(index: int, about: Entity, draft: _Draft) -> EntityLayout:
    state, reading = STATE_HEADER, READING_HEADER
    rings: list[Ring] = []
    for (source, measure, hop), tiles in draft.rings.items():
        rings.append(Ring(source, measure, hop, tiles, state))
        state += tiles + 1
    order = {ring: number for number, ring in enumerate(draft.rings)}
    windows = []
    for ring, tiles in draft.windows:
        windows.append(WindowSum(order[ring], tiles, reading))
        reading += 1
    decays = []
    for ring, tiles in draft.decays:
        decays.append(DecayedSum(order[ring], tiles, reading))
        reading += 1
    lasts = []
    for source in draft.lasts:
        lasts.append(LastValue(source, state, reading))
        state, reading = state + LAST_STATE, reading + LAST_READING
    sketches = []
    for (source, precision, hop), tiles in draft.sketches.items():
        sketches.append(Sketch(source, precision, hop, tiles, state))
        state += sketches[-1].lanes
    sketch_order = {sketch: number for number, sketch in enumerate(draft.sketches)}
    distincts = []
    for sketch, tiles in draft.distincts:
        distincts.append(DistinctValues(sketch_order[sketch], tiles, reading))
        reading += 2
    firsts = []
    for source in draft.firsts:
        firsts.append(FirstTime(source, state, reading))
        state, reading = state + 1, reading + 1
    first_values = []
    for source in draft.first_values:
        first_values.append(FirstValue(source, state, reading))
        state, reading = state + LAST_STATE, reading + LAST_READING
    sequences = []
    for source, length, of in draft.sequences:
        sequences.append(LastEvents(source, length, state, reading, of))
        state, reading = state + sequences[-1].state_columns * length, reading + sequences[-1].reading_columns * length
    profile = None
    if draft.attributes:
        profile = Profile(about.fields[0], tuple(draft.attributes), state, reading)
        state, reading = state + PROFILE_HEADER + len(draft.attributes), reading + len(draft.attributes)
    contents = (tuple(rings), tuple(windows), tuple(lasts), tuple(sequences), profile)
    later = (tuple(decays), tuple(firsts), tuple(sketches), tuple(distincts), tuple(first_values))
    return EntityLayout(index, about, *contents, state, reading, *later)


class _Finder:
    """Where a feature's numbers stand."""

    def __init__(self, entities: tuple[EntityLayout, ...]) -> None:
        self._by_entity = {one.entity: one for one in entities}

    def window(self, source: Source, measure: str, window: Window) -> Spot:
        return self._over_ring(self._by_entity[source.entity].windows, source, measure, window)

    def decay(self, source: Source, measure: str, window: Window) -> Spot:
        return self._over_ring(self._by_entity[source.entity].decays, source, measure, window)

    def _over_ring(self, found: Sequence[WindowSum | DecayedSum], source: Source, measure: str, window: Window) -> Spot:
        layout = self._by_entity[source.entity]
        for one in found:
            ring = layout.rings[one.ring]
            if (ring.source, ring.measure, ring.hop, one.tiles) == (source, measure, window.hop, window.tiles):
                return Spot(layout.index, one.reading_lane)
        raise KeyError(source)

    def last(self, source: Source) -> tuple[Spot, Spot]:
        layout = self._by_entity[source.entity]
        lane = next(one.reading_lane for one in layout.lasts if one.source == source)
        return Spot(layout.index, lane), Spot(layout.index, lane + 1)

    def distinct(self, feature: Distinct) -> tuple[Spot, Spot]:
        layout = self._by_entity[feature.entity]
        wanted = (source_of(feature), feature.precision, feature.window.hop, feature.window.tiles)
        for one in layout.distincts:
            sketch = layout.sketches[one.sketch]
            if (sketch.source, sketch.precision, sketch.hop, one.tiles) == wanted:
                return Spot(layout.index, one.reading_lane), Spot(layout.index, one.reading_lane + 1)
        raise KeyError(feature.name)

    def first(self, source: Source) -> Spot:
        layout = self._by_entity[source.entity]
        return Spot(layout.index, next(one.reading_lane for one in layout.firsts if one.source == source))

    def earliest(self, source: Source) -> tuple[Spot, Spot]:
        layout = self._by_entity[source.entity]
        lane = next(one.reading_lane for one in layout.first_values if one.source == source)
        return Spot(layout.index, lane), Spot(layout.index, lane + 1)

    def sequence(self, source: Source, length: int, of: tuple[Expression, ...] = ()) -> Spot:
        layout = self._by_entity[source.entity]
        found = next(one for one in layout.sequences if (one.source, one.length, one.of) == (source, length, of))
        return Spot(layout.index, found.reading_lane)

    def attribute(self, about: Entity, name: str, kind: str) -> Spot:
        layout = self._by_entity[about]
        assert layout.profile is not None
        return Spot(layout.index, layout.profile.reading_lane + layout.profile.attributes.index((name, kind)))


def attribute_spot(layout: Layout, name: str) -> Spot:
    """Where the category that names an entity stands: `item.category` → a lane of the item's record."""
    owner, _, attribute = name.partition(".")
    return _Finder(layout.entities).attribute(Entity((owner,)), attribute, "categorical")


def _step(feature: Feature, finder: _Finder, derived: dict[str, Expression]) -> Step:
    name = feature.name
    if isinstance(feature, Count):
        return Step(name, "numeric", "count", (finder.window(source_of(feature), "count", feature.window),))
    if isinstance(feature, Total):
        spot = finder.window(source_of(feature), "sum", feature.window)
        return Step(name, "numeric", "total", (spot,), (feature.amount.unit,))
    if isinstance(feature, Mean):
        source = source_of(feature)
        spots = (finder.window(source, "sum", feature.window), finder.window(source, "count", feature.window))
        return Step(name, "numeric", "mean", spots, (feature.amount.unit,))
    if isinstance(feature, Variance):
        spots = tuple(finder.window(source_of(feature), measure, feature.window) for measure in _SQUARES)
        return Step(name, "numeric", "variance", spots, (feature.amount.unit,))
    if isinstance(feature, Extreme):
        spot = finder.window(source_of(feature), _peak(feature), feature.window)
        return Step(name, "numeric", "extreme", (spot,), (feature.amount.unit if feature.largest else -feature.amount.unit,))
    if isinstance(feature, Distinct):
        return Step(name, "numeric", "distinct", finder.distinct(feature), (float(feature.precision),))
    if isinstance(feature, Ratio):
        return _ratio(feature, finder)
    if isinstance(feature, Trend):
        spots = tuple(finder.window(source_of(feature), "count", window) for window in (feature.short, feature.long))
        return Step(name, "numeric", "trend", spots, (feature.long.length / feature.short.length,))
    if isinstance(feature, Share):
        pair = (source_of(feature, entity=about) for about in (feature.entity, feature.group))
        spots = tuple(finder.window(source, _measure(feature), feature.window) for source in pair)
        return Step(name, "numeric", "share", spots)
    if isinstance(feature, Decayed):
        spot = finder.decay(source_of(feature), _measure(feature), feature.window)
        return Step(name, "numeric", "decayed", (spot,), (1.0 if feature.amount is None else feature.amount.unit,))
    if isinstance(feature, Last):
        return Step(name, feature.kind, "last", finder.last(source_of(feature)))
    if isinstance(feature, First):
        return Step(name, feature.kind, "earliest", finder.earliest(source_of(feature)))
    if isinstance(feature, TimeSince):
        return Step(name, "numeric", "since", finder.last(source_of(feature))[:1])
    if isinstance(feature, TimeSinceFirst):
        return Step(name, "numeric", "first", (finder.first(source_of(feature)),))
    if isinstance(feature, GapMean):
        spot = finder.sequence(source_of(feature), feature.length)
        return Step(name, "numeric", "gap", (spot,), length=feature.length)
    if isinstance(feature, SequenceOf):
        spot = finder.sequence(source_of(feature), feature.length, feature.of)
        return Step(name, "sequence", "sequence", (spot,), length=feature.length, of=feature.of)
    if isinstance(feature, SessionCount):
        spot = finder.sequence(session_source(feature), SESSION_LENGTH)
        return Step(name, "numeric", "session", (spot,), text=feature.type, length=SESSION_LENGTH)
    if isinstance(feature, SessionMeasure):
        spot = finder.sequence(session_source(feature), SESSION_LENGTH)
        return Step(name, "numeric", feature.measure, (spot,), length=SESSION_LENGTH, types=feature.only)
    if isinstance(feature, Attribute):
        spot = finder.attribute(feature.entity, feature.attribute, feature.kind)
        return Step(name, feature.kind, "attribute", (spot,))
    if isinstance(feature, ContextValue):
        return Step(name, feature.kind, "context", text=feature.field)
    assert isinstance(feature, Derived)
    return Step(name, "numeric", "derived", expression=derived[name])


def _ratio(feature: Ratio, finder: _Finder) -> Step:
    abouts = [feature.entity] + ([feature.prior] if isinstance(feature.prior, Entity) else [])
    spots = [
        finder.window(source_of(feature, types, about), "count", feature.window)
        for about in abouts
        for types in (feature.types, feature.below)
    ]
    rate = feature.prior if isinstance(feature.prior, float) else 0.0
    weight = -1.0 if feature.prior is None else feature.weight
    return Step(feature.name, "numeric", "ratio", tuple(spots), (rate, weight))
