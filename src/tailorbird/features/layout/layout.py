"""The layout of records: the accumulators of each entity, their lanes, and the steps of columns.

Everything in a record is a 64-bit lane. The state record of an entity, packed when it is stored
(`features.state.packing`):

    newest ts
    rings       tiles + 1 sums each
    sketches    tiles + 1 times 2^precision bytes each
    lasts       ts, id, value each
    firsts      one time each
    first values   time, id, value each
    sequences   ts × L, id × L, item × L, type × L, session × L each, and × L for each further value
    profile     ts, id, values

The reading record, which requests read; derived from the state at one time, and stored without its
sequences:

    newest ts, valid from, next change, commit
    windows     one sum each
    distincts   two numbers each
    decays      one weighted sum each, the bits of a float64
    lasts       ts, value each
    firsts      one time each
    first values   time, value each
    sequences   ts × L, item × L, type × L, session × L each, and × L for each further value
    profile     values

Windows and decays over the same events with the same hop share a ring. A `RecordLane` names a lane
of an entity's reading record; `features.arithmetic.finish` computes columns from them, for requests
and
for backfills alike. `features.layout.compile` gathers what declarations require and assigns the
lanes.
"""

from dataclasses import dataclass, field

import numpy as np

from tailorbird.features.declare.declarations import ADDED_LATER, Amount, Entity
from tailorbird.features.declare.limits import SEQUENCE_LENGTH_MAX, SESSION_EVENTS_MAX
from tailorbird.features.expr.expression import Expression

STATE_HEADER_LANES = 1  # newest ts
NEWEST_LANE = 0
VALID_FROM_LANE = 1
NEXT_CHANGE_LANE = 2
COMMIT_LANE = 3
READING_HEADER_LANES = 4
# ts, id, value; ts, value
LAST_STATE_LANES = 3
LAST_READING_LANES = 2
# ts, id, item, type, session; ts, item, type, session
SEQUENCE_STATE_COLUMNS = 5
SEQUENCE_READING_COLUMNS = 4
PROFILE_HEADER_LANES = 2  # ts, id
PEAK_MEASURES = ("largest", "smallest")  # measures that are not summed
assert SEQUENCE_LENGTH_MAX >= SESSION_EVENTS_MAX


@dataclass(frozen=True)
class Source:
    """The events of an entity that `features.event_columns.extracts.extract` selects from a block,
    with their value.

    Attributes:
        value: None (count one), an Amount (int64 units) or an Expression (bits of a float64, or
            hash64 of a text); events without the value are not in the source.
        per_item: whether an event that has no item_id but `items` counts once for each of them.
            Impressions and answers always do.
    """

    entity: Entity
    types: tuple[str, ...]
    where: Expression | None
    value: Amount | Expression | None
    per_item: bool


@dataclass(frozen=True)
class Ring:
    """Tiles of a source: slot `tile mod (tiles + 1)` at `lane + slot` of the state.

    `measure` is what an event adds: "count", "sum" or a limb of its square, "square_low" and
    "square_high". With "largest" or "smallest" the tile stores the extreme value, coded by
    `extracts.tile_values`.
    """

    source: Source
    measure: str
    hop: int
    tiles: int
    lane: int

    @property
    def lanes(self) -> int:
        return self.tiles + 1


@dataclass(frozen=True)
class Sketch:
    """A ring whose tiles are the registers of a sketch, a byte each; see
    `features.arithmetic.sketch`.
    """

    source: Source
    precision: int
    hop: int
    tiles: int
    lane: int

    @property
    def registers(self) -> int:
        return 1 << self.precision

    @property
    def slots(self) -> int:
        return self.tiles + 1

    @property
    def lanes(self) -> int:
        return self.slots * self.registers // 8


@dataclass(frozen=True)
class DistinctValues:
    """Two lanes, `sketch.summarise_registers` of a sketch's tile of t and the `tiles` before it."""

    sketch: int
    tiles: int
    reading_lane: int


@dataclass(frozen=True)
class WindowSum:
    """The sum, or the peak, of a ring over the tile of t and the `tiles` before it.

    `ring` is an index within the entity.
    """

    ring: int
    tiles: int
    reading_lane: int


@dataclass(frozen=True)
class DecayedSum:
    """The sum of a ring's tile of t and `tiles` before it, with `finish.DECAY_WEIGHTS`."""

    ring: int
    tiles: int
    reading_lane: int


@dataclass(frozen=True)
class LastValue:
    """The time, id and value of the last event."""

    source: Source
    lane: int
    reading_lane: int


@dataclass(frozen=True)
class FirstTime:
    """The time of the first event, coded as `extracts.PEAK_ZERO` − ts; 0 is none yet."""

    source: Source
    lane: int
    reading_lane: int


@dataclass(frozen=True)
class FirstValue:
    """The value of the first event by (ts, id): the time coded as in `FirstTime`, ~id, value."""

    source: Source
    lane: int
    reading_lane: int


@dataclass(frozen=True)
class LastEvents:
    """A sequence, oldest first, aligned to the end; lanes are consecutive arrays of `length`.

    `of`: further values of each event, as the bits of a float64 or hash64 of a text.
    """

    source: Source
    length: int
    lane: int
    reading_lane: int
    of: tuple[Expression, ...] = field(default=(), metadata=ADDED_LATER)

    @property
    def state_columns(self) -> int:
        return SEQUENCE_STATE_COLUMNS + len(self.of)

    @property
    def reading_columns(self) -> int:
        return SEQUENCE_READING_COLUMNS + len(self.of)


@dataclass(frozen=True)
class Profile:
    """The newest profile of a user or an item: `attributes` are (name, kind), a lane each.

    `kind`: "numeric", "categorical", "time" (microseconds as a float64) or "word" (a hash);
    "numeric 3" is the third element of a list, "word 3" the third different word of a text.
    """

    type: str
    attributes: tuple[tuple[str, str], ...]
    lane: int
    reading_lane: int


def kind_and_element(kind: str) -> tuple[str, int]:
    """Split the kind of a `Profile` attribute: `numeric 3` is ("numeric", 3), `numeric` ("numeric",
    1).
    """
    name, _, element = kind.partition(" ")
    return name, int(element or 1)


def missing_bits(kind: str) -> int:
    """Return the lane of a missing `Profile` attribute: NaN, or 0 for a hash."""
    return (
        int(np.array(np.nan).view(np.int64))
        if kind_and_element(kind)[0] in ("numeric", "time")
        else 0
    )


@dataclass(frozen=True)
class EntityLayout:
    """The two records of an entity, with everything in them."""

    index: int
    entity: Entity
    rings: tuple[Ring, ...]
    windows: tuple[WindowSum, ...]
    lasts: tuple[LastValue, ...]
    sequences: tuple[LastEvents, ...]
    profile: Profile | None
    state_lanes: int
    reading_lanes: int
    decays: tuple[DecayedSum, ...] = field(default=(), metadata=ADDED_LATER)
    firsts: tuple[FirstTime, ...] = field(default=(), metadata=ADDED_LATER)
    sketches: tuple[Sketch, ...] = field(default=(), metadata=ADDED_LATER)
    distincts: tuple[DistinctValues, ...] = field(default=(), metadata=ADDED_LATER)
    first_values: tuple[FirstValue, ...] = field(default=(), metadata=ADDED_LATER)

    @property
    def state_bytes(self) -> int:
        """Size of a state with all lanes filled, before it is packed."""
        return 8 * self.state_lanes

    @property
    def reading_bytes(self) -> int:
        """Size of a stored reading record, without sequences, which are read from the state."""
        return 8 * (
            self.reading_lanes
            - sum(sequence.reading_columns * sequence.length for sequence in self.sequences)
        )


@dataclass(frozen=True)
class RecordLane:
    """A lane of an entity's reading record.

    For `sequence` columns, the first lane of `length` × 4, or more with further values.
    """

    entity: int
    lane: int


@dataclass(frozen=True)
class Step:
    """The computation of one column from lanes; `operation` names a function of
    `features.arithmetic.finish`.

    Attributes:
        operation: which; the list follows.
        record_lanes: count: sum. total: sum. mean: sum, count. variance: count, sum, low limb,
            high limb.
            extreme: coded value. distinct: summary (numbers: precision). ratio: a, b (and the
            parent's A, B). trend: short, long. share: own, group's. decayed: weighted sum. last:
            ts, value. since: ts. first: time. earliest: time, value. session, length, depth,
            duration, refinements, gap, gap_min, gap_max, gap_deviation, gap_last, favourite,
            sequence: first lane. seen: first lane (and the item's attribute). attribute: value.
            age: time. match: the words. quantile: the buckets' counts. context, derived: none.
        numbers: total, mean, variance, decayed: unit. extreme: unit, negative for the smallest.
            trend: the long length over the short. quantile: q, edges. ratio: rate (of a constant
            prior, 0 for a parent's), weight (negative: no smoothing).
        text: session: the type. context: the field.
        length: of the sequence that is read.
        types: length, depth, duration, refinements: those looked at.
        expression: derived.
        of: the further values of a sequence.
    """

    name: str
    kind: str
    operation: str
    record_lanes: tuple[RecordLane, ...] = ()
    numbers: tuple[float, ...] = ()
    text: str = ""
    length: int = 0
    expression: Expression | None = None
    types: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    of: tuple[Expression, ...] = field(default=(), metadata=ADDED_LATER)


@dataclass(frozen=True)
class Layout:
    """All records of a feature set, and a step for each column, in order of declaration.

    Derived columns may refer to later ones.
    """

    entities: tuple[EntityLayout, ...]
    steps: tuple[Step, ...]
    derived_order: tuple[str, ...]

    def find(self, entity: Entity) -> EntityLayout | None:
        return next((layout for layout in self.entities if layout.entity == entity), None)
