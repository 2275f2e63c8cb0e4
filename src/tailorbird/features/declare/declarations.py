"""The kinds of declarations, as plain values.

A window of length W with hop H counts, at time t, the events with floor(t/H)·H − W ≤ ts < t: the
tile that contains t and the W/H tiles before it. The default hop is W/12. A count without a window
counts the horizon of 400 days with a hop of 25 days. The calls that a `features.py` makes are in
`features.declare.vocabulary*`. `features.event_columns.extracts` selects the events that a
declaration counts, `features.layout.compile` turns declarations into records, and
`features.reference.reference` defines in plain Python what each means.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from tailorbird.features.expr.expression import Expression

SESSION_TYPES = (
    "cart",
    "click",
    "dislike",
    "hide",
    "like",
    "purchase",
    "rating",
    "search",
    "share",
    "view",
)

# Columns that a model sees besides the features, see `ranking.encode.computed`; reserved names.
COMPUTED_NAMES = ("recent_age", "category_share", "age_days")
POSITION_COLUMN = "position"
VECTOR_NAMES = ("vector_score", "vector_cosine")
RESERVED_COLUMNS = (*COMPUTED_NAMES, *VECTOR_NAMES, POSITION_COLUMN)
# Columns of candidate sources, see `candidates.query.CandidateColumns`.
CANDIDATE_COLUMN = re.compile(
    r"(popular_\d+\w+|item_knn(?:_\d+)?|session_knn|stan|repeat|new_items)_(rank|score)"
)
# Columns beside the features in the rows of a backfill; reserved names too.
REQUEST_COLUMNS = ("request_id", "person", "ts", "p", "item")

# A field added later is no part of the schema where it is empty, so that states without the new
# kind stay valid.
ADDED_LATER = {"added_later": True}

# Argument types, so that editors can offer the values.
Kind = Literal["numeric", "categorical"]
LearnedTable = Literal["cooccurrence"]
SimilarityHow = Literal["sum", "max"]


@dataclass(frozen=True)
class Entity:
    """The subject of a feature: one or several fields (`entity("user", "item.category")`), or
    everyone.
    """

    fields: tuple[str, ...]

    @property
    def name(self) -> str:
        return "+".join(self.fields) or "everyone"


@dataclass(frozen=True)
class Window:
    """A window with `length` and `hop` in microseconds; `tiles` is their quotient."""

    length: int
    hop: int

    @property
    def tiles(self) -> int:
        return self.length // self.hop


@dataclass(frozen=True)
class Amount:
    """A number to sum, in whole `unit`s (rounded half to even) and clipped to ±`max`."""

    of: Expression
    unit: float
    max: float

    @property
    def units_max(self) -> int:
        return round(self.max / self.unit)


@dataclass(frozen=True)
class Feature:
    """The fields that all declarations share.

    `location` is the file and line, for messages, and no part of the schema.
    """

    name: str
    location: str = field(compare=False)
    description: str = field(compare=False)


@dataclass(frozen=True)
class EventFeature(Feature):
    """A feature made of events of some types about an entity, filtered by `where`."""

    entity: Entity
    types: tuple[str, ...]
    where: Expression | None


@dataclass(frozen=True)
class Count(EventFeature):
    window: Window


@dataclass(frozen=True)
class Total(EventFeature):
    window: Window
    amount: Amount


@dataclass(frozen=True)
class Mean(EventFeature):
    window: Window
    amount: Amount


@dataclass(frozen=True)
class Variance(EventFeature):
    window: Window
    amount: Amount


@dataclass(frozen=True)
class Extreme(EventFeature):
    """The largest amount, or the smallest."""

    window: Window
    amount: Amount
    largest: bool


@dataclass(frozen=True)
class Quantile(EventFeature):
    """A quantile over bucket counts.

    `buckets` are the conditions for values up to the first edge, between two edges, and above the
    last edge, each including `where`.
    """

    of: Expression
    window: Window
    q: float
    edges: tuple[float, ...]
    buckets: tuple[Expression, ...]


@dataclass(frozen=True)
class Distinct(EventFeature):
    """The number of different values of `of`, estimated by a sketch of 2^`precision` registers."""

    of: Expression
    window: Window
    precision: int


@dataclass(frozen=True)
class Ratio(EventFeature):
    """Events of `types` per event of `below`, smoothed by a prior rate that weighs `weight` events.

    `prior` is the entity whose rate it is, a constant rate, or None.
    """

    below: tuple[str, ...]
    window: Window
    prior: Entity | float | None
    weight: float


@dataclass(frozen=True)
class Trend(EventFeature):
    """The rate in the `short` window divided by the rate in the `long` one."""

    short: Window
    long: Window


@dataclass(frozen=True)
class Share(EventFeature):
    """The entity's share of the sum of its `group`: of events, or of an amount."""

    group: Entity
    window: Window
    amount: Amount | None


@dataclass(frozen=True)
class Decayed(EventFeature):
    """An exponentially decayed count, or a sum where `amount` is given.

    `window` has `limits.HALF_LIFE_TILES` hops per half-life and covers the whole decay.
    """

    window: Window
    amount: Amount | None


@dataclass(frozen=True)
class Last(EventFeature):
    """The value of the last event; `kind` is "numeric" or "categorical"."""

    of: Expression
    kind: str


@dataclass(frozen=True)
class First(EventFeature):
    """The value of the first event; `kind` is "numeric" or "categorical"."""

    of: Expression
    kind: str


@dataclass(frozen=True)
class TimeSince(EventFeature):
    pass


@dataclass(frozen=True)
class TimeSinceFirst(EventFeature):
    pass


@dataclass(frozen=True)
class SequenceOf(EventFeature):
    """The last events; `of` are the values stored of each besides item, type and time."""

    length: int
    of: tuple[Expression, ...] = field(default=(), metadata=ADDED_LATER)


@dataclass(frozen=True)
class GapMean(EventFeature):
    """The mean gap between the last `length` events."""

    length: int


@dataclass(frozen=True)
class GapOf(GapMean):
    """Another `measure` of the same gaps: "min", "max", "deviation" or "last"."""

    measure: str


@dataclass(frozen=True)
class Favourite(EventFeature):
    """The most frequent text `of` the last `length` events that have it."""

    of: Expression
    length: int

    @property
    def kind(self) -> str:
        return "categorical"


@dataclass(frozen=True)
class Seen(EventFeature):
    """The number of the last `length` events whose `of` equals the candidate's."""

    of: Expression
    length: int


@dataclass(frozen=True)
class SessionFeature(Feature):
    """A measure of the person's current session.

    `types` are those of the sequence whose end is the session.
    """

    types: tuple[str, ...]

    @property
    def measured_types(self) -> tuple[str, ...]:
        """The event types that the measure uses."""
        raise NotImplementedError


@dataclass(frozen=True)
class SessionCount(SessionFeature):
    """The number of events of `type`."""

    type: str

    @property
    def measured_types(self) -> tuple[str, ...]:
        return (self.type,)


@dataclass(frozen=True)
class SessionMeasure(SessionFeature):
    """A measure over the events of the `only` types.

    `measure` is "length" (events), "depth" (different items), "duration" (seconds since the first)
    or "refinements" (how many events at the end are searches).
    """

    measure: str
    only: tuple[str, ...]

    @property
    def measured_types(self) -> tuple[str, ...]:
        return self.only


@dataclass(frozen=True)
class Attribute(Feature):
    """An attribute of the newest profile of the user or the item.

    `kind` is "numeric" or "categorical". `element` is the index in a list, from 1; 0 is the first
    element too, and additionally stores the attribute with each event.
    """

    entity: Entity
    attribute: str
    kind: str
    element: int = field(default=0, metadata=ADDED_LATER)


@dataclass(frozen=True)
class Match(Feature):
    """The share of the words of the request's query that occur in a text of the newest profile."""

    entity: Entity
    attribute: str


@dataclass(frozen=True)
class Age(Feature):
    """Seconds since the time in an attribute of the newest profile."""

    entity: Entity
    attribute: str


@dataclass(frozen=True)
class ContextValue(Feature):
    field: str
    kind: str


@dataclass(frozen=True)
class Derived(Feature):
    """An expression over other columns; `text` is checked once all columns are known."""

    text: str


@dataclass(frozen=True)
class Similarity(Feature):
    """The learned similarity of the candidate to the last `length` items of the sequence `of`.

    It is no part of the schema: a bundle brings the table, and the column is computed beside the
    model's matrix, see `ranking.encode.similarities`. `how` combines the items' similarities, and
    `decay` is what an item weighs beside the one after it.
    """

    of: str
    table: str
    how: str
    length: int
    decay: float
