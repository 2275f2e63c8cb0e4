"""From declarations to records: which accumulators each entity carries, at which lane, and how columns are finished.

Everything in a record is a 64-bit lane. The state record of an entity, written and read by the worker alone:

    newest ts
    rings       tiles + 1 sums each
    lasts       ts, id, value each
    sequences   ts × L, id × L, item × L, type × L, session × L each
    profile     ts, id, values

The reading record, what a request reads; derived from the state at one time:

    newest ts, valid from, next change, commit
    windows     one sum each
    lasts       ts, value each
    sequences   ts × L, item × L, type × L, session × L each
    profile     values

Windows over the same events with the same hop share a ring. A `Spot` names a lane of an entity's reading record;
`features.finish` makes columns of them, for requests and for backfills alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.features.declare import (
    SEQUENCE_LENGTH_MAX,
    SESSION_LENGTH,
    Amount,
    Attribute,
    ContextValue,
    Count,
    Counted,
    Derived,
    Entity,
    Feature,
    Last,
    Mean,
    Ratio,
    SequenceOf,
    SessionCount,
    TimeSince,
    Total,
    Window,
)
from tailorbird.features.expression import Expression

STATE_HEADER = 1  # newest ts
NEWEST, VALID_FROM, NEXT_CHANGE, COMMIT = 0, 1, 2, 3
READING_HEADER = 4
LAST_STATE, LAST_READING = 3, 2  # ts, id, value; ts, value
SEQUENCE_STATE, SEQUENCE_READING = 5, 4  # ts, id, item, type, session; ts, item, type, session
PROFILE_HEADER = 2  # ts, id
assert SEQUENCE_LENGTH_MAX >= SESSION_LENGTH


@dataclass(frozen=True)
class Source:
    """Which events, about which entity, with which value: what `features.columns.extract` takes out of a block.

    Attributes:
        value: None (count one), an Amount (int64 units) or an Expression (bits of a float64, or hash64 of a text);
            events without the value are not in the source.
        per_item: whether an event that has no item_id but `items` is taken once for each of them. Impressions and
            answers always are.
    """

    entity: Entity
    types: tuple[str, ...]
    where: Expression | None
    value: Amount | Expression | None
    per_item: bool


@dataclass(frozen=True)
class Ring:
    """Tile sums of a source: slot `tile mod (tiles + 1)` at `lane + slot` of the state. `measure`: "count" or "sum"."""

    source: Source
    measure: str
    hop: int
    tiles: int
    lane: int

    @property
    def lanes(self) -> int:
        return self.tiles + 1


@dataclass(frozen=True)
class WindowSum:
    """The sum of a ring over the tile of t and the `tiles` before it; `ring` counts within the entity."""

    ring: int
    tiles: int
    reading_lane: int


@dataclass(frozen=True)
class LastValue:
    source: Source
    lane: int
    reading_lane: int


@dataclass(frozen=True)
class LastEvents:
    """A sequence, oldest first, aligned to the end; lanes are arrays of `length`, one after another."""

    source: Source
    length: int
    lane: int
    reading_lane: int


@dataclass(frozen=True)
class Profile:
    """The newest profile of a user or an item: `attributes` are (name, kind)."""

    type: str
    attributes: tuple[tuple[str, str], ...]
    lane: int
    reading_lane: int


@dataclass(frozen=True)
class EntityLayout:
    """The two records of an entity, with everything that they hold."""

    index: int
    entity: Entity
    rings: tuple[Ring, ...]
    windows: tuple[WindowSum, ...]
    lasts: tuple[LastValue, ...]
    sequences: tuple[LastEvents, ...]
    profile: Profile | None
    state_lanes: int
    reading_lanes: int

    @property
    def state_bytes(self) -> int:
        return 8 * self.state_lanes

    @property
    def reading_bytes(self) -> int:
        return 8 * self.reading_lanes


@dataclass(frozen=True)
class Spot:
    """A lane of an entity's reading record. For `sequence` columns, the first lane of `length` × 4."""

    entity: int
    lane: int


@dataclass(frozen=True)
class Step:
    """How one column is finished from spots; `operation` names a function of `features.finish`.

    Attributes:
        operation: count, total, mean, ratio, last, since, session, attribute, context, derived or sequence.
        spots: count: sum. total: sum. mean: sum, count. ratio: a, b (and the parent's A, B). last: ts, value. since: ts.
            session, sequence: first lane. attribute: value.
        numbers: total, mean: unit. ratio: rate (of a constant prior, 0 for a parent's), weight (negative: no smoothing).
        text: session: the type. context: the field.
        length: session, sequence: of the sequence.
        expression: derived.
    """

    name: str
    kind: str
    operation: str
    spots: tuple[Spot, ...] = ()
    numbers: tuple[float, ...] = ()
    text: str = ""
    length: int = 0
    expression: Expression | None = None


@dataclass(frozen=True)
class Layout:
    """All records of a feature set, and a step for each column, in order of declaration (derived ones may refer to later ones)."""

    entities: tuple[EntityLayout, ...]
    steps: tuple[Step, ...]
    derived_order: tuple[str, ...]

    def of(self, entity: Entity) -> EntityLayout | None:
        return next((one for one in self.entities if one.entity == entity), None)


class _Draft:
    """What an entity needs, gathered before lanes are given out."""

    def __init__(self) -> None:
        self.rings: dict[tuple[Source, str, int], int] = {}
        self.windows: dict[tuple[tuple[Source, str, int], int], None] = {}
        self.lasts: dict[Source, None] = {}
        self.sequences: dict[tuple[Source, int], None] = {}
        self.attributes: dict[tuple[str, str], None] = {}

    def window(self, source: Source, measure: str, window: Window) -> tuple[tuple[Source, str, int], int]:
        ring = (source, measure, window.hop)
        self.rings[ring] = max(self.rings.get(ring, 0), window.tiles)
        self.windows[ring, window.tiles] = None
        return ring, window.tiles


def source_of(feature: Counted, types: tuple[str, ...] | None = None, entity: Entity | None = None) -> Source:
    """The events of a feature; `types` and `entity` stand in for its own (denominators and parents of ratios)."""
    about = feature.entity if entity is None else entity
    value: Amount | Expression | None = None
    if isinstance(feature, Total | Mean):
        value = feature.amount
    elif isinstance(feature, Last):
        value = feature.of
    named = [*about.fields]
    for expression in (feature.where, value.of if isinstance(value, Amount) else value):
        named += [] if expression is None else [name for name, _ in expression.names]
    per_item = isinstance(feature, SequenceOf) or any(name == "item" or name.startswith("item.") for name in named)
    return Source(about, feature.types if types is None else types, feature.where, value, per_item)


def session_source(feature: SessionCount) -> Source:
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
    elif isinstance(feature, Ratio):
        for about in [feature.entity] + ([feature.prior] if isinstance(feature.prior, Entity) else []):
            for types in (feature.types, feature.below):
                draft(about).window(source_of(feature, types, about), "count", feature.window)
    elif isinstance(feature, Last | TimeSince):
        draft(feature.entity).lasts[source_of(feature)] = None
    elif isinstance(feature, SequenceOf):
        draft(feature.entity).sequences[source_of(feature), feature.length] = None
    elif isinstance(feature, SessionCount):
        draft(Entity(("user",))).sequences[session_source(feature), SESSION_LENGTH] = None
    elif isinstance(feature, Attribute):
        draft(feature.entity).attributes[feature.attribute, feature.kind] = None


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
    lasts = []
    for source in draft.lasts:
        lasts.append(LastValue(source, state, reading))
        state, reading = state + LAST_STATE, reading + LAST_READING
    sequences = []
    for source, length in draft.sequences:
        sequences.append(LastEvents(source, length, state, reading))
        state, reading = state + SEQUENCE_STATE * length, reading + SEQUENCE_READING * length
    profile = None
    if draft.attributes:
        profile = Profile(about.fields[0], tuple(draft.attributes), state, reading)
        state, reading = state + PROFILE_HEADER + len(draft.attributes), reading + len(draft.attributes)
    return EntityLayout(index, about, tuple(rings), tuple(windows), tuple(lasts), tuple(sequences), profile, state, reading)


class _Finder:
    """Where a feature's numbers stand."""

    def __init__(self, entities: tuple[EntityLayout, ...]) -> None:
        self._by_entity = {one.entity: one for one in entities}

    def window(self, source: Source, measure: str, window: Window) -> Spot:
        layout = self._by_entity[source.entity]
        for one in layout.windows:
            ring = layout.rings[one.ring]
            if (ring.source, ring.measure, ring.hop, one.tiles) == (source, measure, window.hop, window.tiles):
                return Spot(layout.index, one.reading_lane)
        raise KeyError(source)

    def last(self, source: Source) -> tuple[Spot, Spot]:
        layout = self._by_entity[source.entity]
        lane = next(one.reading_lane for one in layout.lasts if one.source == source)
        return Spot(layout.index, lane), Spot(layout.index, lane + 1)

    def sequence(self, source: Source, length: int) -> Spot:
        layout = self._by_entity[source.entity]
        found = next(one for one in layout.sequences if (one.source, one.length) == (source, length))
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
    if isinstance(feature, Ratio):
        return _ratio(feature, finder)
    if isinstance(feature, Last):
        return Step(name, feature.kind, "last", finder.last(source_of(feature)))
    if isinstance(feature, TimeSince):
        return Step(name, "numeric", "since", finder.last(source_of(feature))[:1])
    if isinstance(feature, SequenceOf):
        spot = finder.sequence(source_of(feature), feature.length)
        return Step(name, "sequence", "sequence", (spot,), length=feature.length)
    if isinstance(feature, SessionCount):
        spot = finder.sequence(session_source(feature), SESSION_LENGTH)
        return Step(name, "numeric", "session", (spot,), text=feature.type, length=SESSION_LENGTH)
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
