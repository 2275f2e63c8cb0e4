"""What each call of the vocabulary checks and makes of its arguments; an error names the line of
the project that made it.

The calls are in `features.vocabulary*`, what they make in `features.declare`.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from tailorbird.errors import DeclarationError
from tailorbird.events.clock import DAY, HOUR, MINUTE, SECOND
from tailorbird.features.declare import (
    ASKED_NAMES,
    EDGES_MAX,
    EVENT_FIELDS,
    EVENTS_MAX,
    HOPS_DEFAULT,
    HOPS_MAX,
    HORIZON,
    HORIZON_HOP,
    OF_CANDIDATES,
    RESERVED,
    Amount,
    Entity,
    Feature,
    Window,
)
from tailorbird.features.expression import Expression, ExpressionError, parse
from tailorbird.features.plain import check_known

_ATTRIBUTE = re.compile(r"(item|user|properties)\.[A-Za-z_]\w*\Z")
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_DURATION = re.compile(r"(\d+)\s*(s|m|h|d|w)\Z")
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}

NAME_MAX = 100  # letters of the name of a feature or of an attribute
VALUE_MAX = 1e15  # of a number that is summed
SHOWN_MAX = 100  # letters of a wrong value that a message repeats

_OF_SESSION = ("user", "device", "country")  # a session is one person's, on one device

F = TypeVar("F", bound=Feature)
_HERE = str(Path(__file__).parent)
_collector: ContextVar[list[Feature] | None] = ContextVar("declarations", default=None)


@contextmanager
def collecting() -> Iterator[list[Feature]]:
    """Collect, in order, every feature declared within the block: how `load_features` reads a
    project's file.
    """
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
    if feature.name in (*RESERVED, *ASKED_NAMES):
        told, taken = (
            ("every model", RESERVED)
            if feature.name in RESERVED
            else ("a backfill's rows", ASKED_NAMES)
        )
        message = f"{feature.name} is what a column of {told} is called: {', '.join(taken)}"
        raise DeclarationError(
            message, where=feature.place, fix=f"another name, such as {feature.name}_declared"
        )
    if OF_CANDIDATES.fullmatch(feature.name):
        message = f"{feature.name} is what a column of a candidate source is called"
        raise DeclarationError(
            message, where=feature.place, fix=f"another name, such as {feature.name}_declared"
        )
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
        raise wrong(f"a feature's name is letters, digits and _, got {shown(name)}")
    if len(name) > NAME_MAX:
        raise wrong(
            f"a feature's name has at most {NAME_MAX} letters, got {len(name):,}: {shown(name)}"
        )
    return name, place()


def shown(value: object) -> str:
    """As it is written, but not longer than a line."""
    told = repr(value)
    return told if len(told) <= SHOWN_MAX else f"{told[: SHOWN_MAX - 1]}…"


def attribute_of(name: str, parameter: str = "attribute") -> str:
    """The name of a profile's attribute."""
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_MAX:
        raise wrong(
            f'{parameter}: expected the name of an attribute, such as "category", got {shown(name)}'
        )
    return name


def counted(name: str, about: Entity, type: str | Sequence[str]) -> tuple[str, str]:
    if not isinstance(about, Entity):
        raise wrong(f'expected an entity such as entity("item"), got {about!r}')
    types_of(type)
    return named(name)


def check_parent(parameter: str, entity: Entity, parent: object) -> None:
    """That each one of the entity belongs to one of the parent, so that the parent's events have
    its own among them.

    An item has one category, a session one person, the cross of a person and a category one person;
    everything belongs to everyone.
    """
    if not isinstance(parent, Entity):
        raise wrong(
            f'{parameter}: expected an entity such as entity("item.category"), got {parent!r}'
        )
    if parent == entity:
        raise wrong(
            f'{parameter}: expected another entity, such as entity("item.category"), got '
            f"{parent.name} itself"
        )
    if not belongs(entity, parent):
        strange = [name for name in parent.fields if not _determined(name, entity)]
        crossed = ", ".join(f'"{name}"' for name in (*entity.fields, *strange))
        raise wrong(
            f"{parameter}: {entity.name} does not say which {strange[0]} it belongs to",
            fix="some of its own fields, an attribute of its user or item, or entity(); or make "
            f"it about entity({crossed})",
        )


def belongs(entity: Entity, parent: Entity) -> bool:
    """Whether one of the entity says which one of another it belongs to."""
    return entity != parent and all(_determined(name, entity) for name in parent.fields)


def _determined(name: str, entity: Entity) -> bool:
    known = {*entity.fields, *(_OF_SESSION if "session" in entity.fields else ())}
    return name in known or ("." in name and name.partition(".")[0] in known)


def types_of(type: str | Sequence[str]) -> tuple[str, ...]:
    """The event types, sorted; that they exist is checked by FeatureSet, which knows the project's
    own.
    """
    types = (type,) if isinstance(type, str) else tuple(type)
    if not types or not all(isinstance(one, str) and one for one in types):
        raise wrong(f"expected an event type or several, got {type!r}")
    return tuple(sorted(set(types)))


def told_types(type: str | Sequence[str]) -> str:
    return ", ".join(types_of(type))


def counts_what(
    type: str | Sequence[str], where: str | None
) -> tuple[tuple[str, ...], Expression | None]:
    return types_of(type), None if where is None else _test_of(where)


def _test_of(where: str) -> Expression:
    expression = expression_of(where, "truth")
    if (
        expression.kind == "number" and event_kind(expression.text) != "either"
    ):  # an attribute of its own may be true or false
        raise wrong(
            f"where: {shown(where)} is a number, not a test",
            fix=f"where={f'({expression.text}) > 0'!r}, or what else is meant",
        )
    return expression


def expression_of(text: str, expect: str) -> Expression:
    try:
        found = parse(text, event_kind, expect=expect)
        check_known(found)
        return found
    except ExpressionError as error:
        fields = f"fields: {', '.join(EVENT_FIELDS)}, item.NAME, user.NAME, properties.NAME"
        raise wrong(
            f"{shown(text)}: {_cut(str(error))}", fix=fields if "no field" in str(error) else ""
        ) from None


def _cut(text: str) -> str:
    return text if len(text) <= 2 * SHOWN_MAX else f"{text[:SHOWN_MAX]} … {text[-SHOWN_MAX:]}"


def value_of(of: str, kind: str | None) -> tuple[Expression, str]:
    """One value of an event, with whether it is numeric or categorical; `kind` decides where the
    field can be both.
    """
    expect = {"numeric": "number", "categorical": "text", None: "either"}.get(kind)
    if expect is None:
        raise wrong(f"kind: expected numeric or categorical, got {kind!r}")
    if kind is None and isinstance(of, str) and event_kind(of.strip()) == "either":
        raise wrong(
            f"{shown(of.strip())} may be a number or a text",
            fix='say which: kind="numeric" or kind="categorical"',
        )
    expression = expression_of(of, expect)
    return expression, "categorical" if expression.kind == "text" else "numeric"


def edges_of(edges: Sequence[float]) -> tuple[float, ...]:
    """The edges of buckets: finite and ascending."""
    found = tuple(float(one) for one in edges if isinstance(one, int | float) and abs(one) <= 1e300)
    ascending = all(low < high for low, high in pairwise(found))
    if len(found) < len(edges) or not ascending or not 2 <= len(found) <= EDGES_MAX:
        raise wrong(f"edges: expected 2 to {EDGES_MAX} numbers, ascending, got {list(edges)!r}")
    return found


def told_buckets(of: str, edges: Sequence[float], where: str | None) -> list[str]:
    """An expression for each bucket: up to the first edge, from one edge to the next, above the
    last.
    """
    bounds = [-1e300, *edges, 1e300]
    told = [
        f"{low!r} {'<' if place else '<='} ({of}) <= {high!r}"
        for place, (low, high) in enumerate(pairwise(bounds))
    ]
    return told if where is None else [f"({where}) and {bucket}" for bucket in told]


def amount_of(of: str, unit: float, max: float) -> Amount:
    for parameter, value in (("unit", unit), ("max", max)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            told = "the text " if isinstance(value, str) else ""
            raise wrong(f"{parameter}: expected a number, got {told}{shown(value)}")
    if not 0 < unit <= max:
        raise wrong(f"expected 0 < unit <= max, got unit={unit!r}, max={max!r}")
    if max > VALUE_MAX:
        raise wrong(f"max: expected at most {VALUE_MAX:g}, got {max!r}")
    amount = Amount(expression_of(of, "number"), float(unit), float(max))
    if amount.units_max * EVENTS_MAX >= 1 << 63:
        raise wrong(
            f"max / unit = {_told(amount.units_max)} is too fine: {EVENTS_MAX:,} such events "
            "do not fit into 64 bits",
            fix=f"unit={2 * amount.max * EVENTS_MAX / (1 << 63):.3g} or coarser, or a smaller max",
        )
    return amount


def _told(number: int) -> str:
    return f"{number:,}" if number < 10**18 else f"{number:.3g}"


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
            raise wrong(
                f"the window of {window} is not a multiple of {HOPS_DEFAULT}", fix="give it a hop"
            )
        return Window(length, length // HOPS_DEFAULT)
    step = duration(hop)
    if step <= 0 or length % step:
        raise wrong(
            f"the window of {window} is not a multiple of its hop of {hop}",
            fix=f"hop={spelled(length // HOPS_DEFAULT)!r}",
        )
    if length // step > HOPS_MAX:
        least = spelled(-(-length // HOPS_MAX))
        raise wrong(
            f"{window} by {hop} is {length // step} hops, more than {HOPS_MAX}",
            fix=f"a hop of at least {least}",
        )
    return Window(length, step)


def told_window(span: Window) -> str:
    return f"{spelled(span.length)} by {spelled(span.hop)}"


def spelled(length: int) -> str:
    """`7d`, `14h`: a length in the largest unit that it is a multiple of."""
    for letter, unit in (("d", DAY), ("h", HOUR), ("m", MINUTE)):
        if length % unit == 0:
            return f"{length // unit}{letter}"
    return f"{length / SECOND:g}s"
