"""Checks of the vocabulary's arguments; an error names the project's line that made the call.

The calls are in `features.declare.vocabulary*`, the declarations that they return in
`features.declare.declarations`.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from tailorbird.errors import DeclarationError, UsageError
from tailorbird.events import clock
from tailorbird.events.clock import DAY, HOUR, MINUTE, SECOND
from tailorbird.features.declare.declarations import (
    CANDIDATE_COLUMN,
    REQUEST_COLUMNS,
    RESERVED_COLUMNS,
    Amount,
    Entity,
    Feature,
    Window,
)
from tailorbird.features.declare.fields import EVENT_FIELDS
from tailorbird.features.declare.limits import (
    EDGES_MAX,
    HOPS_DEFAULT,
    HOPS_MAX,
    LOOK_BACK_HOP,
    LOOK_BACK_MAX,
    SUMMED_EVENTS_MIN,
)
from tailorbird.features.expr.check import ValueKind
from tailorbird.features.expr.expression import Expression, parse
from tailorbird.features.expr.nodes import ExpressionError
from tailorbird.features.expr.scalar import check_computable

_ATTRIBUTE_PATTERN = re.compile(r"(item|user|properties)\.[A-Za-z_]\w*\Z")
_NAME_PATTERN = re.compile(r"[A-Za-z_]\w*\Z")

NAME_MAX = 100  # letters in the name of a feature or attribute
VALUE_MAX = 1e15  # largest value of a summed number
QUOTED_MAX = 100  # letters of an invalid value quoted in a message

_SESSION_FIELDS = ("user", "device", "country")  # fields that a session determines

F = TypeVar("F", bound=Feature)
_PACKAGE_FOLDER = str(Path(__file__).parents[1])
_collected_features: ContextVar[list[Feature] | None] = ContextVar("declarations", default=None)


@contextmanager
def collect_features() -> Iterator[list[Feature]]:
    """Collect, in order, every feature declared within the block: how `load_features` reads a
    project's file.
    """
    declared: list[Feature] = []
    token = _collected_features.set(declared)
    try:
        yield declared
    finally:
        _collected_features.reset(token)


def is_profile_field(name: str) -> bool:
    """Return whether the name is `item.x` or `user.x`, which entities may be made of."""
    return bool(_ATTRIBUTE_PATTERN.match(name)) and not name.startswith("properties.")


def event_kind(name: str) -> ValueKind | None:
    """Return the kind of a name in expressions over events; see `features.expr.expression`."""
    return EVENT_FIELDS.get(name) or ("either" if _ATTRIBUTE_PATTERN.match(name) else None)


def parse_duration(text: str) -> int:
    """Return the microseconds of `90s`, `30m`, `6h`, `7d` or `2w`."""
    try:
        return clock.parse_duration(str(text))
    except UsageError:
        message = f"{text!r} is no duration; write it as 90s, 30m, 6h, 7d or 2w"
        raise declaration_error(message) from None


def register_feature(feature: F) -> F:
    if feature.name in (*RESERVED_COLUMNS, *REQUEST_COLUMNS):
        owner, column_names = (
            ("every model", RESERVED_COLUMNS)
            if feature.name in RESERVED_COLUMNS
            else ("a backfill's rows", REQUEST_COLUMNS)
        )
        message = f"{feature.name} is what a column of {owner} is called: {', '.join(column_names)}"
        raise DeclarationError(
            message, where=feature.location, fix=f"another name, such as {feature.name}_declared"
        )
    if CANDIDATE_COLUMN.fullmatch(feature.name):
        message = f"{feature.name} is what a column of a candidate source is called"
        raise DeclarationError(
            message, where=feature.location, fix=f"another name, such as {feature.name}_declared"
        )
    declared = _collected_features.get()
    if declared is not None:
        declared.append(feature)
    return feature


def caller_location() -> str:
    """Return the nearest line outside this package: the project's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE_FOLDER):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def declaration_error(message: str, fix: str = "") -> DeclarationError:
    return DeclarationError(message, where=caller_location(), fix=fix)


def check_name(name: str) -> tuple[str, str]:
    """Check a feature's name and return it with the line that declares it."""
    if not isinstance(name, str) or not _NAME_PATTERN.match(name):
        raise declaration_error(f"a feature's name is letters, digits and _, got {quote(name)}")
    if len(name) > NAME_MAX:
        raise declaration_error(
            f"a feature's name has at most {NAME_MAX} letters, got {len(name):,}: {quote(name)}"
        )
    return name, caller_location()


def quote(value: object) -> str:
    """Return the value's repr, shortened to a line."""
    text = repr(value)
    return text if len(text) <= QUOTED_MAX else f"{text[: QUOTED_MAX - 1]}…"


def check_attribute(name: str, parameter: str = "attribute") -> str:
    """Check the name of a profile's attribute and return it."""
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_MAX:
        raise declaration_error(
            f'{parameter}: expected the name of an attribute, such as "category", got {quote(name)}'
        )
    return name


def check_event_feature(name: str, entity: Entity, type: str | Sequence[str]) -> tuple[str, str]:
    """Check the entity, the types and the name; return what `check_name` does."""
    if not isinstance(entity, Entity):
        raise declaration_error(f'expected an entity such as entity("item"), got {entity!r}')
    parse_types(type)
    return check_name(name)


def check_parent(parameter: str, entity: Entity, parent: object) -> None:
    """Raise unless each instance of the entity belongs to exactly one instance of the parent.

    The parent's events then include its own. An item has one category, a session one person, the
    cross of a person and a category one person; everything belongs to everyone.
    """
    if not isinstance(parent, Entity):
        raise declaration_error(
            f'{parameter}: expected an entity such as entity("item.category"), got {parent!r}'
        )
    if parent == entity:
        raise declaration_error(
            f'{parameter}: expected another entity, such as entity("item.category"), got '
            f"{parent.name} itself"
        )
    if not determines(entity, parent):
        undetermined_fields = [name for name in parent.fields if not _is_determined(name, entity)]
        field_list = ", ".join(f'"{name}"' for name in (*entity.fields, *undetermined_fields))
        raise declaration_error(
            f"{parameter}: {entity.name} does not say which {undetermined_fields[0]} it belongs to",
            fix="some of its own fields, an attribute of its user or item, or entity(); or make "
            f"it about entity({field_list})",
        )


def determines(entity: Entity, parent: Entity) -> bool:
    """Return whether an instance of the entity determines the parent that it belongs to."""
    return entity != parent and all(_is_determined(name, entity) for name in parent.fields)


def _is_determined(name: str, entity: Entity) -> bool:
    determined_fields = {*entity.fields, *(_SESSION_FIELDS if "session" in entity.fields else ())}
    return name in determined_fields or (
        "." in name and name.partition(".")[0] in determined_fields
    )


def parse_types(type: str | Sequence[str]) -> tuple[str, ...]:
    """Return the event types, sorted.

    FeatureSet, which knows the project's own types, checks that they exist.
    """
    types = (type,) if isinstance(type, str) else tuple(type)
    if not types or not all(isinstance(type_, str) and type_ for type_ in types):
        raise declaration_error(f"expected an event type or several, got {type!r}")
    return tuple(sorted(set(types)))


def format_types(type: str | Sequence[str]) -> str:
    return ", ".join(parse_types(type))


def parse_filter(
    type: str | Sequence[str], where: str | None
) -> tuple[tuple[str, ...], Expression | None]:
    return parse_types(type), None if where is None else _parse_condition(where)


def _parse_condition(where: str) -> Expression:
    expression = parse_expression(where, "truth")
    if (
        expression.kind == "number" and event_kind(expression.text) != "either"
    ):  # A bare attribute may be a truth.
        raise declaration_error(
            f"where: {quote(where)} is a number, not a test",
            fix=f"where={f'({expression.text}) > 0'!r}, or what else is meant",
        )
    return expression


def parse_expression(text: str, expected_kind: ValueKind) -> Expression:
    try:
        expression = parse(text, event_kind, expected_kind=expected_kind)
        check_computable(expression)
        return expression
    except ExpressionError as error:
        fields = f"fields: {', '.join(EVENT_FIELDS)}, item.NAME, user.NAME, properties.NAME"
        raise declaration_error(
            f"{quote(text)}: {_shorten(str(error))}",
            fix=fields if "no field" in error.message else error.fix,
        ) from None


def _shorten(text: str) -> str:
    return text if len(text) <= 2 * QUOTED_MAX else f"{text[:QUOTED_MAX]} … {text[-QUOTED_MAX:]}"


def parse_value(of: str, kind: str | None) -> tuple[Expression, str]:
    """Parse a value of an event, and return whether it is numeric or categorical.

    `kind` decides where the field can be both.
    """
    kinds_by_declaration: dict[str | None, ValueKind] = {
        "numeric": "number",
        "categorical": "text",
        None: "either",
    }
    expected_kind = kinds_by_declaration.get(kind)
    if expected_kind is None:
        raise declaration_error(f"kind: expected numeric or categorical, got {kind!r}")
    if kind is None and isinstance(of, str) and event_kind(of.strip()) == "either":
        raise declaration_error(
            f"{quote(of.strip())} may be a number or a text",
            fix='say which: kind="numeric" or kind="categorical"',
        )
    expression = parse_expression(of, expected_kind)
    return expression, "categorical" if expression.kind == "text" else "numeric"


def parse_edges(edges: Sequence[float]) -> tuple[float, ...]:
    """Return the edges of buckets, checked to be finite and ascending."""
    edge_values = tuple(
        float(edge) for edge in edges if isinstance(edge, int | float) and abs(edge) <= 1e300
    )
    is_ascending = all(low < high for low, high in pairwise(edge_values))
    if len(edge_values) < len(edges) or not is_ascending or not 2 <= len(edge_values) <= EDGES_MAX:
        raise declaration_error(
            f"edges: expected 2 to {EDGES_MAX} numbers, ascending, got {list(edges)!r}"
        )
    return edge_values


def bucket_conditions(of: str, edges: Sequence[float], where: str | None) -> list[str]:
    """Return an expression for each bucket.

    The buckets are up to the first edge, from one edge to the next, and above the last.
    """
    bounds = [-1e300, *edges, 1e300]
    conditions = [
        f"{low!r} {'<' if index else '<='} ({of}) <= {high!r}"
        for index, (low, high) in enumerate(pairwise(bounds))
    ]
    return conditions if where is None else [f"({where}) and {bucket}" for bucket in conditions]


def parse_amount(of: str, unit: float, max: float) -> Amount:
    for parameter, value in (("unit", unit), ("max", max)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            noun = "the text " if isinstance(value, str) else ""
            raise declaration_error(f"{parameter}: expected a number, got {noun}{quote(value)}")
    if not 0 < unit <= max:
        raise declaration_error(f"expected 0 < unit <= max, got unit={unit!r}, max={max!r}")
    if max > VALUE_MAX:
        raise declaration_error(f"max: expected at most {VALUE_MAX:g}, got {max!r}")
    amount = Amount(parse_expression(of, "number"), float(unit), float(max))
    if amount.units_max * SUMMED_EVENTS_MIN >= 1 << 63:
        raise declaration_error(
            f"max / unit = {_format_integer(amount.units_max)} is too fine: "
            f"{SUMMED_EVENTS_MIN:,} such events "
            "do not fit into 64 bits",
            fix=f"unit={2 * amount.max * SUMMED_EVENTS_MIN / (1 << 63):.3g} or coarser, or a smaller max",
        )
    return amount


def _format_integer(number: int) -> str:
    return f"{number:,}" if number < 10**18 else f"{number:.3g}"


def parse_window(window: str | None, hop: str | None) -> Window:
    if window is None:
        if hop is not None:
            raise declaration_error("hop needs a window")
        return Window(LOOK_BACK_MAX, LOOK_BACK_HOP)
    window_length = parse_duration(window)
    if not MINUTE <= window_length <= LOOK_BACK_MAX:
        raise declaration_error(f"window: expected 1m to 400d, got {window}")
    if hop is None:
        if window_length % HOPS_DEFAULT:
            raise declaration_error(
                f"the window of {window} is not a multiple of {HOPS_DEFAULT}", fix="give it a hop"
            )
        return Window(window_length, window_length // HOPS_DEFAULT)
    hop_length = parse_duration(hop)
    if hop_length <= 0 or window_length % hop_length:
        raise declaration_error(
            f"the window of {window} is not a multiple of its hop of {hop}",
            fix=f"hop={format_duration(window_length // HOPS_DEFAULT)!r}",
        )
    if window_length // hop_length > HOPS_MAX:
        shortest_hop = format_duration(-(-window_length // HOPS_MAX))
        raise declaration_error(
            f"{window} by {hop} is {window_length // hop_length} hops, more than {HOPS_MAX}",
            fix=f"a hop of at least {shortest_hop}",
        )
    return Window(window_length, hop_length)


def format_window(window: Window) -> str:
    return f"{format_duration(window.length)} by {format_duration(window.hop)}"


def format_duration(length: int) -> str:
    """Return a length in the largest unit that divides it: `7d`, `14h`."""
    for letter, unit in (("d", DAY), ("h", HOUR), ("m", MINUTE)):
        if length % unit == 0:
            return f"{length // unit}{letter}"
    return f"{length / SECOND:g}s"
