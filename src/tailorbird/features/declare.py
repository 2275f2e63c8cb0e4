"""What is declared: the kinds of features as plain values, and the checks that all declarations share.

A window of length W with hop H counts, at time t, the events with floor(t/H)·H − W ≤ ts < t: the tile that t stands in
and the W/H before it. Without a hop it is W/12. A count without a window counts the horizon of 400 days by 25.
The calls that a `features.py` makes are in `features.vocabulary`. Which events a declaration counts is in
`features.columns`; how declarations become records, in `features.compile`; what each means, in plain Python, in
`features.reference`.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tailorbird.errors import DeclarationError
from tailorbird.events.clock import DAY, HOUR, MINUTE, SECOND
from tailorbird.features.expression import Expression, ExpressionError, parse

HORIZON = 400 * DAY
HORIZON_HOP = 25 * DAY
HOPS_MAX = 64
HOPS_DEFAULT = 12
SEQUENCE_LENGTH = 128
SEQUENCE_LENGTH_MAX = 1_024
SESSION_GAP = 30 * MINUTE
SESSION_LENGTH = 64
GAP_LENGTH = 32
SESSION_TYPES = ("cart", "click", "dislike", "hide", "like", "purchase", "rating", "search", "share", "view")
# A decay has 4 tiles a half-life and forgets what is older than 8, a weight of 1/256.
DECAY_STEPS = 4
DECAY_HALF_LIVES = 8
# Squares are summed in two limbs: what is below this many bits, and the rest.
SQUARE_BITS = 31
# A sketch has 2^precision registers; ranks are cut off here, so that sums of 2^−rank are exact.
PRECISION_MIN, PRECISION_MAX = 4, 8
RANK_MAX = 40
# A sum must hold this many events of the largest value.
EVENTS_MAX = 1 << 30

# Columns of an event that expressions may name; `item.x`, `user.x` and `properties.x` come on top.
EVENT_FIELDS = {
    "type": "text",
    "user": "text",
    "item": "text",
    "session": "text",
    "agent": "text",
    "device": "text",
    "country": "text",
    "page": "text",
    "referrer": "text",
    "query": "text",
    "slot": "text",
    "experiment": "text",
    "arm": "text",
    "model": "text",
    "answer_query": "text",
    "local_hour": "number",
    "dwell_ms": "number",
    "price": "number",
    "quantity": "number",
    "rating": "number",
    "position": "number",
    "propensity": "number",
}
ENTITY_FIELDS = ("user", "item", "session", "device", "country")
CONTEXT_FIELDS = {"device": "categorical", "country": "categorical", "local_hour": "numeric"}
_ATTRIBUTE = re.compile(r"(item|user|properties)\.[A-Za-z_]\w*\Z")
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_DURATION = re.compile(r"(\d+)\s*(s|m|h|d|w)\Z")
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}


@dataclass(frozen=True)
class Entity:
    """What a feature is about: one field or several (`entity("user", "item.category")`); without any, all together."""

    fields: tuple[str, ...]

    @property
    def name(self) -> str:
        return "+".join(self.fields) or "everyone"


@dataclass(frozen=True)
class Window:
    """`length` and `hop` in microseconds; `tiles` is their quotient."""

    length: int
    hop: int

    @property
    def tiles(self) -> int:
        return self.length // self.hop


@dataclass(frozen=True)
class Amount:
    """A number of an event that is summed: counted in whole `unit`s (rounded half to even), cut off at ±`max`."""

    of: Expression
    unit: float
    max: float

    @property
    def units_max(self) -> int:
        return round(self.max / self.unit)


@dataclass(frozen=True)
class Feature:
    """What all declarations share. `where` names file and line for messages and is no part of the schema."""

    name: str
    place: str = field(compare=False)
    description: str = field(compare=False)


@dataclass(frozen=True)
class Counted(Feature):
    """A feature made of events of some types about an entity, filtered by `where`."""

    entity: Entity
    types: tuple[str, ...]
    where: Expression | None


@dataclass(frozen=True)
class Count(Counted):
    window: Window


@dataclass(frozen=True)
class Total(Counted):
    window: Window
    amount: Amount


@dataclass(frozen=True)
class Mean(Counted):
    window: Window
    amount: Amount


@dataclass(frozen=True)
class Variance(Counted):
    window: Window
    amount: Amount


@dataclass(frozen=True)
class Extreme(Counted):
    """The largest amount, or the smallest."""

    window: Window
    amount: Amount
    largest: bool


@dataclass(frozen=True)
class Distinct(Counted):
    """Different values of `of`, by a sketch of 2^`precision` registers."""

    of: Expression
    window: Window
    precision: int


@dataclass(frozen=True)
class Ratio(Counted):
    """`types` is the numerator's, `below` the denominator's; `prior` an entity, a constant rate, or None."""

    below: tuple[str, ...]
    window: Window
    prior: Entity | float | None
    weight: float


@dataclass(frozen=True)
class Trend(Counted):
    """The rate in the `short` window for that in the `long` one."""

    short: Window
    long: Window


@dataclass(frozen=True)
class Share(Counted):
    """The entity's part of its `group`'s sum: of events, or of an amount."""

    group: Entity
    window: Window
    amount: Amount | None


@dataclass(frozen=True)
class Decayed(Counted):
    """`window` has `DECAY_STEPS` hops a half-life and is as long as a decay reaches; without `amount` events are counted."""

    window: Window
    amount: Amount | None


@dataclass(frozen=True)
class Last(Counted):
    """`kind`: "numeric" or "categorical"."""

    of: Expression
    kind: str


@dataclass(frozen=True)
class TimeSince(Counted):
    pass


@dataclass(frozen=True)
class TimeSinceFirst(Counted):
    pass


@dataclass(frozen=True)
class SequenceOf(Counted):
    length: int


@dataclass(frozen=True)
class GapMean(Counted):
    """Over the last `length` events."""

    length: int


@dataclass(frozen=True)
class OfSession(Feature):
    """Something of the person's current session. `types` are those of the sequence that the session is the end of."""

    types: tuple[str, ...]

    @property
    def asked(self) -> tuple[str, ...]:
        """The types that are looked at."""
        raise NotImplementedError


@dataclass(frozen=True)
class SessionCount(OfSession):
    """Events of `type`."""

    type: str

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.type,)


@dataclass(frozen=True)
class SessionMeasure(OfSession):
    """`measure`: "length" (events), "depth" (different items) or "duration" (seconds since the first) of the `only` types."""

    measure: str
    only: tuple[str, ...]

    @property
    def asked(self) -> tuple[str, ...]:
        return self.only


@dataclass(frozen=True)
class Attribute(Feature):
    """Of the newest profile; `entity` is the user or the item, `kind` "numeric" or "categorical"."""

    entity: Entity
    attribute: str
    kind: str


@dataclass(frozen=True)
class ContextValue(Feature):
    field: str
    kind: str


@dataclass(frozen=True)
class Derived(Feature):
    """`text` is checked once all columns are known, in `features.layout`."""

    text: str


F = TypeVar("F", bound=Feature)
_HERE = str(Path(__file__).parent)
_collector: ContextVar[list[Feature] | None] = ContextVar("declarations", default=None)


@contextmanager
def collecting() -> Iterator[list[Feature]]:
    """Collect, in order, every feature declared within the block: how `load_features` reads a project's file."""
    declared: list[Feature] = []
    token = _collector.set(declared)
    try:
        yield declared
    finally:
        _collector.reset(token)


def is_profile_field(name: str) -> bool:
    """`item.x` or `user.x`: what an entity may be made of."""
    return bool(_ATTRIBUTE.match(name)) and not name.startswith("properties.")


def event_kind(name: str) -> str | None:
    """What an expression over events may name, and as which kind; see `features.expression`."""
    return EVENT_FIELDS.get(name) or ("either" if _ATTRIBUTE.match(name) else None)


def duration(text: str) -> int:
    """Microseconds of `90s`, `30m`, `6h`, `7d` or `2w`."""
    match = _DURATION.match(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise wrong(f"{text!r} is no duration; write it as 90s, 30m, 6h, 7d or 2w")
    return int(match[1]) * _UNITS[match[2]]


def declare(feature: F) -> F:
    declared = _collector.get()
    if declared is not None:
        declared.append(feature)
    return feature


def place() -> str:
    """The nearest line outside this package: the project's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(Path(frame.f_code.co_filename).parent) == _HERE:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def wrong(message: str, fix: str = "") -> DeclarationError:
    return DeclarationError(message, where=place(), fix=fix)


def named(name: str) -> tuple[str, str]:
    if not isinstance(name, str) or not _NAME.match(name):
        raise wrong(f"a feature's name is letters, digits and _, got {name!r}")
    return name, place()


def counted(name: str, about: Entity, type: str | Sequence[str]) -> tuple[str, str]:
    if not isinstance(about, Entity):
        raise wrong(f'expected an entity such as entity("item"), got {about!r}')
    types_of(type)
    return named(name)


def types_of(type: str | Sequence[str]) -> tuple[str, ...]:
    """The event types, sorted; that they exist is checked by FeatureSet, which knows the project's own."""
    types = (type,) if isinstance(type, str) else tuple(type)
    if not types or not all(isinstance(one, str) and one for one in types):
        raise wrong(f"expected an event type or several, got {type!r}")
    return tuple(sorted(set(types)))


def told_types(type: str | Sequence[str]) -> str:
    return ", ".join(types_of(type))


def counts_what(type: str | Sequence[str], where: str | None) -> tuple[tuple[str, ...], Expression | None]:
    return types_of(type), None if where is None else expression_of(where, "truth")


def expression_of(text: str, expect: str) -> Expression:
    try:
        return parse(text, event_kind, expect=expect)
    except ExpressionError as error:
        fields = f"fields: {', '.join(EVENT_FIELDS)}, item.NAME, user.NAME, properties.NAME"
        raise wrong(f"{text!r}: {error}", fix=fields if "no field" in str(error) else "") from None


def amount_of(of: str, unit: float, max: float) -> Amount:
    if not (isinstance(unit, int | float) and isinstance(max, int | float) and 0 < unit <= max <= 1e15):
        raise wrong(f"expected 0 < unit <= max, got unit={unit!r}, max={max!r}")
    amount = Amount(expression_of(of, "number"), float(unit), float(max))
    if amount.units_max * EVENTS_MAX >= 1 << 63:
        raise wrong(
            f"max / unit = {amount.units_max:,} is too fine: {EVENTS_MAX:,} such events do not fit into 64 bits",
            fix=f"unit={2 * amount.max * EVENTS_MAX / (1 << 63):.3g} or coarser, or a smaller max",
        )
    return amount


def window_of(window: str | None, hop: str | None) -> Window:
    if window is None:
        if hop is not None:
            raise wrong("hop needs a window")
        return Window(HORIZON, HORIZON_HOP)
    length = duration(window)
    if not MINUTE <= length <= HORIZON:
        raise wrong(f"window: expected 1m to 400d, got {window}")
    if hop is None:
        if length % HOPS_DEFAULT:
            raise wrong(f"the window of {window} is not a multiple of {HOPS_DEFAULT}", fix="give it a hop")
        return Window(length, length // HOPS_DEFAULT)
    step = duration(hop)
    if step <= 0 or length % step:
        raise wrong(f"the window of {window} is not a multiple of its hop of {hop}", fix=f"hop={spelled(length // HOPS_DEFAULT)!r}")
    if length // step > HOPS_MAX:
        least = spelled(-(-length // HOPS_MAX))
        raise wrong(f"{window} by {hop} is {length // step} hops, more than {HOPS_MAX}", fix=f"a hop of at least {least}")
    return Window(length, step)


def told_window(span: Window) -> str:
    return f"{spelled(span.length)} by {spelled(span.hop)}"


def spelled(length: int) -> str:
    """`7d`, `14h`: a length in the largest unit that it is a multiple of."""
    for letter, unit in (("d", DAY), ("h", HOUR), ("m", MINUTE)):
        if length % unit == 0:
            return f"{length // unit}{letter}"
    return f"{length / SECOND:g}s"
