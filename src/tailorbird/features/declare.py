"""The vocabulary of `features.py`: each call declares one feature, is checked on the spot, and knows its line.

    user = entity("user"); item = entity("item"); category = entity("item.category")
    count("item_clicks_7d", item, "click", window="7d", where="agent != 'bot'")
    ratio("item_ctr_7d", item, "click", "impression", window="7d", prior=category, weight=20)

A window of length W with hop H counts, at time t, the events with floor(t/H)·H − W ≤ ts < t: the tile that t stands in
and the W/H before it. Without a hop it is W/12. A count without a window counts the horizon of 400 days by 25.
Which events a declaration counts is in `features.columns`; how declarations become records, in `features.layout`;
what each means, in plain Python, in `features.reference`.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
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
SESSION_TYPES = ("cart", "click", "dislike", "hide", "like", "purchase", "rating", "search", "share", "view")
# A sum must hold this many events of the largest value.
EVENTS_MAX = 1 << 30

# Columns of an event that expressions may name; `item.x`, `user.x` and `properties.x` come on top.
EVENT_FIELDS = {
    "type": "text",
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
class Ratio(Counted):
    """`types` is the numerator's, `below` the denominator's; `prior` an entity, a constant rate, or None."""

    below: tuple[str, ...]
    window: Window
    prior: Entity | float | None
    weight: float


@dataclass(frozen=True)
class Last(Counted):
    """`kind`: "numeric" or "categorical"."""

    of: Expression
    kind: str


@dataclass(frozen=True)
class TimeSince(Counted):
    pass


@dataclass(frozen=True)
class SequenceOf(Counted):
    length: int


@dataclass(frozen=True)
class SessionCount(Feature):
    """Events of `type` in the person's current session. `types` are those of the sequence that it is counted in."""

    type: str
    types: tuple[str, ...]


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


def entity(*fields: str) -> Entity:
    """What features are about.

    Args:
        fields: none (everyone together) or some of user, item, session, device, country, `item.NAME`, `user.NAME`.
    """
    for name in fields:
        if name not in ENTITY_FIELDS and not (_ATTRIBUTE.match(name) and not name.startswith("properties.")):
            raise _error(f"{name!r} is no field of an entity; expected {', '.join(ENTITY_FIELDS)}, item.NAME or user.NAME")
    if len(set(fields)) != len(fields):
        raise _error(f"a field is named twice: {', '.join(fields)}")
    return Entity(tuple(fields))


def count(
    name: str, entity: Entity, type: str | Sequence[str], *, window: str | None = None, hop: str | None = None, where: str | None = None
) -> Count:
    """How many events there were: `count("item_clicks_7d", item, "click", window="7d")`."""
    base = _counted(name, entity, type)
    span = _window(window, hop)
    return _declare(Count(*base, f"{_types(type)} of the {entity.name} in {_told(span)}", entity, *_what(type, where), span))


def total(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    unit: float = 0.01,
    max: float = 1e6,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Total:
    """The sum of a number of the events that have it.

    Args:
        of: a number of the event, or an expression over several: `price * quantity`.
        unit: what is told apart; sums are whole numbers of it, so that order does not matter.
        max: larger values count as this one.
    """
    base = _counted(name, entity, type)
    span, amount = _window(window, hop), _amount(of, unit, max)
    text = f"sum of {of} over {_types(type)} of the {entity.name} in {_told(span)}"
    return _declare(Total(*base, text, entity, *_what(type, where), span, amount))


def mean(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    unit: float = 0.01,
    max: float = 1e6,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Mean:
    """The mean of a number over the events that have it; missing without any. Arguments as for `total`."""
    base = _counted(name, entity, type)
    span, amount = _window(window, hop), _amount(of, unit, max)
    text = f"mean of {of} over {_types(type)} of the {entity.name} in {_told(span)}"
    return _declare(Mean(*base, text, entity, *_what(type, where), span, amount))


def ratio(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    below: str | Sequence[str],
    *,
    window: str | None = None,
    hop: str | None = None,
    prior: Entity | float | None = None,
    weight: float = 20,
    where: str | None = None,
) -> Ratio:
    """Events of `type` for each of `below`, smoothed: (a + weight·rate)/(b + weight).

    Args:
        prior: whose rate: another entity's, read at the same time (0 where it has no events), or a number. Without one
            the ratio is a/b, missing where b is 0.
    """
    base = _counted(name, entity, type)
    if not (isinstance(weight, int | float) and 0 <= weight <= 1e9):
        raise _error(f"weight: expected a number from 0 to 1e9, got {weight!r}")
    if isinstance(prior, int | float) and not 0 <= prior <= 1e9:
        raise _error(f"prior: expected an entity or a rate of at least 0, got {prior!r}")
    span, rate = _window(window, hop), float(prior) if isinstance(prior, int | float) else prior
    text = f"{_types(type)} for each of {_types(below)} of the {entity.name} in {_told(span)}"
    if prior is not None:
        text += f", smoothed by {rate if not isinstance(rate, Entity) else rate.name} × {weight:g}"
    types, expression = _what(type, where)
    return _declare(Ratio(*base, text, entity, types, expression, _tuple(below), span, rate, float(weight)))


def last(name: str, entity: Entity, type: str | Sequence[str], *, of: str, kind: str | None = None, where: str | None = None) -> Last:
    """The value of the last event that has it. `kind` (numeric or categorical) is asked for where the field can be both."""
    base = _counted(name, entity, type)
    expect = {"numeric": "number", "categorical": "text", None: "either"}.get(kind)
    if expect is None:
        raise _error(f"kind: expected numeric or categorical, got {kind!r}")
    expression = _expression(of, expect)
    told = "categorical" if expression.kind == "text" else "numeric"
    text = f"{of} of the last {_types(type)} of the {entity.name}"
    return _declare(Last(*base, text, entity, *_what(type, where), expression, told))


def time_since(name: str, entity: Entity, type: str | Sequence[str], *, where: str | None = None) -> TimeSince:
    """Seconds since the last such event; missing without one in the last 400 days."""
    base = _counted(name, entity, type)
    return _declare(TimeSince(*base, f"seconds since the last {_types(type)} of the {entity.name}", entity, *_what(type, where)))


def sequence(
    name: str, entity: Entity, type: str | Sequence[str], *, length: int = SEQUENCE_LENGTH, where: str | None = None
) -> SequenceOf:
    """The last events with their items, types and times, oldest first."""
    base = _counted(name, entity, type)
    if not isinstance(length, int) or not 1 <= length <= SEQUENCE_LENGTH_MAX:
        raise _error(f"length: expected 1 to {SEQUENCE_LENGTH_MAX}, got {length!r}")
    if any(name.partition(".")[0] == "item" for name in entity.fields):
        raise _error(f"a sequence belongs to who asks, not to each candidate; got {entity.name}", fix='entity("user")')
    text = f"the last {length} of {_types(type)} of the {entity.name}"
    return _declare(SequenceOf(*base, text, entity, *_what(type, where), length))


def session(name: str, type: str) -> SessionCount:
    """How many events of `type` the person's current session has, among the last 64 events of the person.

    The session is the request's `session_id`; without one, the run of events that ends within 30 minutes of now.
    """
    base = _named(name)
    types = tuple(sorted({*SESSION_TYPES, *_tuple(type)}))
    return _declare(SessionCount(*base, f"{type} in the current session", type, types))


def attribute(name: str, entity: Entity, attribute: str, *, kind: str) -> Attribute:
    """An attribute of the newest profile of the user or the item; of a list, its first element."""
    base = _named(name)
    if entity.fields not in (("user",), ("item",)):
        raise _error(f"only user and item have profiles, got {entity.name}")
    if kind not in ("numeric", "categorical"):
        raise _error(f"kind: expected numeric or categorical, got {kind!r}")
    return _declare(Attribute(*base, f"{attribute} of the {entity.name}", entity, attribute, kind))


def context(field: str, *, name: str | None = None) -> ContextValue:
    """Something of the request itself: device, country or local_hour."""
    base = _named(name or field)
    if field not in CONTEXT_FIELDS:
        raise _error(f"a request has no {field!r}; expected {', '.join(CONTEXT_FIELDS)}")
    return _declare(ContextValue(*base, f"{field} of the request", field, CONTEXT_FIELDS[field]))


def derived(name: str, expression: str) -> Derived:
    """A number made of other numeric columns of the same row: `derived("price_to_habit", "price / user_price_30d")`."""
    base = _named(name)
    return _declare(Derived(*base, expression, expression))


def event_kind(name: str) -> str | None:
    """What an expression over events may name, and as which kind; see `features.expression`."""
    return EVENT_FIELDS.get(name) or ("either" if _ATTRIBUTE.match(name) else None)


def duration(text: str) -> int:
    """Microseconds of `90s`, `30m`, `6h`, `7d` or `2w`."""
    match = _DURATION.match(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise _error(f"{text!r} is no duration; write it as 90s, 30m, 6h, 7d or 2w")
    return int(match[1]) * _UNITS[match[2]]


def _declare(feature: F) -> F:
    declared = _collector.get()
    if declared is not None:
        declared.append(feature)
    return feature


def _place() -> str:
    """The nearest line outside this module."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _error(message: str, fix: str = "") -> DeclarationError:
    return DeclarationError(message, where=_place(), fix=fix)


def _named(name: str) -> tuple[str, str]:
    if not isinstance(name, str) or not _NAME.match(name):
        raise _error(f"a feature's name is letters, digits and _, got {name!r}")
    return name, _place()


def _counted(name: str, about: Entity, type: str | Sequence[str]) -> tuple[str, str]:
    if not isinstance(about, Entity):
        raise _error(f'expected an entity such as entity("item"), got {about!r}')
    _tuple(type)
    return _named(name)


def _tuple(type: str | Sequence[str]) -> tuple[str, ...]:
    """The event types, sorted; that they exist is checked by FeatureSet, which knows the project's own."""
    types = (type,) if isinstance(type, str) else tuple(type)
    if not types or not all(isinstance(one, str) and one for one in types):
        raise _error(f"expected an event type or several, got {type!r}")
    return tuple(sorted(set(types)))


def _types(type: str | Sequence[str]) -> str:
    return ", ".join(_tuple(type))


def _what(type: str | Sequence[str], where: str | None) -> tuple[tuple[str, ...], Expression | None]:
    return _tuple(type), None if where is None else _expression(where, "truth")


def _expression(text: str, expect: str) -> Expression:
    try:
        return parse(text, event_kind, expect=expect)
    except ExpressionError as error:
        fields = f"fields: {', '.join(EVENT_FIELDS)}, item.NAME, user.NAME, properties.NAME"
        raise _error(f"{text!r}: {error}", fix=fields if "no field" in str(error) else "") from None


def _amount(of: str, unit: float, max: float) -> Amount:
    if not (isinstance(unit, int | float) and isinstance(max, int | float) and 0 < unit <= max <= 1e15):
        raise _error(f"expected 0 < unit <= max, got unit={unit!r}, max={max!r}")
    amount = Amount(_expression(of, "number"), float(unit), float(max))
    if amount.units_max * EVENTS_MAX >= 1 << 63:
        raise _error(
            f"max / unit = {amount.units_max:,} is too fine: {EVENTS_MAX:,} such events do not fit into 64 bits",
            fix=f"unit={2 * amount.max * EVENTS_MAX / (1 << 63):.3g} or coarser, or a smaller max",
        )
    return amount


def _window(window: str | None, hop: str | None) -> Window:
    if window is None:
        if hop is not None:
            raise _error("hop needs a window")
        return Window(HORIZON, HORIZON_HOP)
    length = duration(window)
    if not MINUTE <= length <= HORIZON:
        raise _error(f"window: expected 1m to 400d, got {window}")
    if hop is None:
        if length % HOPS_DEFAULT:
            raise _error(f"the window of {window} is not a multiple of {HOPS_DEFAULT}", fix="give it a hop")
        return Window(length, length // HOPS_DEFAULT)
    step = duration(hop)
    if step <= 0 or length % step:
        raise _error(f"the window of {window} is not a multiple of its hop of {hop}", fix=f"hop={_spelled(length // HOPS_DEFAULT)!r}")
    if length // step > HOPS_MAX:
        least = _spelled(-(-length // HOPS_MAX))
        raise _error(f"{window} by {hop} is {length // step} hops, more than {HOPS_MAX}", fix=f"a hop of at least {least}")
    return Window(length, step)


def _told(span: Window) -> str:
    return f"{_spelled(span.length)} by {_spelled(span.hop)}"


def _spelled(length: int) -> str:
    """`7d`, `14h`: a length in the largest unit that it is a multiple of."""
    for letter, unit in (("d", DAY), ("h", HOUR), ("m", MINUTE)):
        if length % unit == 0:
            return f"{length // unit}{letter}"
    return f"{length / SECOND:g}s"
