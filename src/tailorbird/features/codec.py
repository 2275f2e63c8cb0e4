"""Declarations as plain data: a feature set to JSON and back, so that records can be read by a
schema whose `features.py` has moved on.

    {"format": 1, "engine": 1, "schema_hash": "8c1f…", "features": [{"is": "Count", "name":
    "clicks", "entity": {"is": "Entity", …}, …}]}

It knows no kind by name: each dataclass of `features.declare` and `features.transforms` is a kind,
its fields are what is stored, and its type hints are what they are checked against. Expressions are
stored as text with what they were found to be, and are parsed and checked again; nothing is
executed. A set that does not come out with the hash that it was stored under is refused, so no
record is ever read by it.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec

from tailorbird.errors import DamageError, DeclarationError
from tailorbird.events.plan import EVENT_TYPES
from tailorbird.features import declare, transforms
from tailorbird.features.checks import event_kind
from tailorbird.features.declare import (
    HOPS_MAX,
    PRECISION_MAX,
    PRECISION_MIN,
    SEQUENCE_LENGTH_MAX,
    SIMILARITY_LENGTH_MAX,
    Counted,
    Feature,
    How,
    LearnedTable,
    OfSession,
    Ratio,
    Similarity,
    Window,
)
from tailorbird.features.expression import Expression, ExpressionError, parse
from tailorbird.features.featureset import ENGINE_VERSION, FeatureSet

FILE = "features.json"
FORMAT = 1
BYTES_MAX = 64 << 20
FEATURES_MAX = 10_000
LENGTH_MAX = 1 << 20  # of a text or a list in a declaration


class Unreadable(ValueError):
    """A stored declaration is none; the message says which part. Readers add the file."""


def encode_features(features: FeatureSet) -> bytes:
    """The declarations of a set as JSON: the same bytes for the same declarations."""
    content = {
        "format": FORMAT,
        "engine": ENGINE_VERSION,
        "schema_hash": features.schema_hash,
        "features": [_plain(one) for one in features.features],
        "transforms": [_plain(one) for one in features.transforms],
    }
    if features.similarities:
        content["similarities"] = [_plain(one) for one in features.similarities]
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def decode_features(data: bytes, *, where: str, expect: str | None = None) -> FeatureSet:
    """The set that `encode_features` stored.

    Args:
        where: the file, for messages.
        expect: the schema hash that it must have.
    Raises:
        DamageError: it is no such JSON, or not the schema that it says, or that `expect` asks for.
        DeclarationError: it was stored by an engine that makes other records of the same
            declarations.
    """
    try:
        content = _header(data)
        if content["engine"] != ENGINE_VERSION:
            told = f"version {content['engine']} of the feature engine, this is {ENGINE_VERSION}"
            raise DeclarationError(
                f"schema {content['schema_hash']} was declared under {told}",
                where=where,
                fix="tailorbird features apply builds a new state; then train anew",
            )
        declared = [
            _object(one, Feature, f"$.features[{place}]")
            for place, one in enumerate(content["features"])
        ]
        learned, seen = (_list(content, name) for name in ("similarities", "transforms"))
        declared += [
            _object(one, Similarity, f"$.similarities[{place}]")
            for place, one in enumerate(learned)
        ]
        made = [
            _object(one, transforms.Transform, f"$.transforms[{place}]")
            for place, one in enumerate(seen)
        ]
        found = FeatureSet.from_declarations(
            declared, event_types=_types(declared), transforms=made
        )
    except Unreadable as error:
        raise DamageError(
            f"no stored declarations: {error}", where=where, fix="restore the file from a copy"
        ) from error
    except DeclarationError as error:
        if error.where == where:
            raise
        raise DamageError(
            f"stored declarations do not hold: {error.message}",
            where=where,
            fix="restore the file from a copy",
        ) from error
    for told, by in ((content["schema_hash"], "the file says"), (expect, "it is kept as")):
        if told is not None and told != found.schema_hash:
            raise DamageError(
                f"its declarations are schema {found.schema_hash}, {by} {told}",
                where=where,
                fix="restore it from a copy",
            )
    return found


def kinds() -> dict[str, type]:
    """Every dataclass that declarations are made of, by name."""
    named = vars(declare) | vars(transforms)
    return {
        name: one
        for name, one in named.items()
        if isinstance(one, type) and dataclasses.is_dataclass(one)
    }


def short_place(place: str) -> str:
    """`features.py:12`: without the folder, which is of one machine."""
    return place.replace("\\", "/").rpartition("/")[2]


def _header(data: bytes) -> dict[str, Any]:
    if len(data) > BYTES_MAX:
        raise Unreadable(f"more than {BYTES_MAX >> 20} MiB")
    try:
        content = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Unreadable(f"expected an object of format {FORMAT}")
    for name, kind in (("engine", int), ("schema_hash", str), ("features", list)):
        if not isinstance(content.get(name), kind):
            raise Unreadable(f"$.{name}: expected {kind.__name__}")
    if not 1 <= len(content["features"]) <= FEATURES_MAX:
        raise Unreadable(
            f"$.features: expected 1 to {FEATURES_MAX:,} declarations, got "
            f"{len(content['features']):,}"
        )
    return content


def _list(content: Mapping[str, Any], name: str) -> list[Any]:
    """A list that may be missing."""
    if not isinstance(found := content.get(name, []), list):
        raise Unreadable(f"$.{name}: expected list")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Expression):
        return {
            "is": "Expression",
            "text": value.text,
            "yields": value.kind,
            "names": [list(pair) for pair in value.names],
        }
    if dataclasses.is_dataclass(value):
        fields = {
            one.name: _plain(getattr(value, one.name))
            for one in dataclasses.fields(value)
            if not _left_out(one, value)
        }
        if "place" in fields:
            fields["place"] = short_place(fields["place"])
        return {"is": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(
        f"{type(value).__name__} cannot be stored; declarations are dataclasses, tuples, "
        "texts and numbers"
    )


def _left_out(field: "dataclasses.Field[Any]", value: object) -> bool:
    """Whether a field is not stored: a later one that is empty, as in the schema hash."""
    return "later" in field.metadata and not getattr(value, field.name)


def _object(value: Any, wanted: type, path: str) -> Any:
    """An instance of `wanted` or of a kind below it."""
    if not isinstance(value, dict):
        raise Unreadable(f"{path}: expected an object, got {type(value).__name__}")
    if wanted is Expression:
        return _expression(value, path)
    name = value.get("is")
    made = _kinds().get(name) if isinstance(name, str) else None
    if made is None or not issubclass(made, wanted):
        raise Unreadable(f"{path}: {name!r} is no kind of {wanted.__name__}")
    fields = {one.name: one for one in dataclasses.fields(made)}
    if unknown := value.keys() - fields.keys() - {"is"}:
        raise Unreadable(f"{path}: a {made.__name__} has no {min(unknown)!r}")
    hints = _hints(made)
    given = {
        name: _value(value[name], hints[name], f"{path}.{name}") for name in fields if name in value
    }
    try:
        found = made(**given)
    except TypeError as error:
        raise Unreadable(f"{path}: {error}") from error
    _check_bounds(found, path)
    return found


def _value(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type hint has it: texts, numbers, tuples, kinds, and unions of them."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, typing.get_args(hint), path)
    if origin is tuple:
        return _tuple(value, typing.get_args(hint), path)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (str, int, bool, type(None)):
        if type(value) is not hint or (isinstance(value, str) and len(value) > LENGTH_MAX):
            raise Unreadable(f"{path}: expected {hint.__name__}, got {type(value).__name__}")
        return value
    if isinstance(hint, type) and (hint is Expression or dataclasses.is_dataclass(hint)):
        return _object(value, hint, path)
    raise Unreadable(
        f"{path}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}"
    )


def _one_of(value: Any, hints: tuple[Any, ...], path: str) -> Any:
    problem = Unreadable(f"{path}: fits no type that it may have")
    order = (
        type(None),
        bool,
        str,
        int,
        float,
    )  # an integer stays one where both may stand; what is told is why the last did not fit
    exact = sorted(hints, key=lambda hint: order.index(hint) if hint in order else len(order))
    for hint in exact:
        try:
            return _value(value, hint, path)
        except Unreadable as error:
            problem = error
    raise problem


def _tuple(value: Any, hints: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > LENGTH_MAX:
        raise Unreadable(f"{path}: expected a list")
    wanted = [hints[0]] * len(value) if hints[1:] == (Ellipsis,) else list(hints)
    if len(wanted) != len(value):
        raise Unreadable(f"{path}: expected {len(wanted)} values, got {len(value)}")
    return tuple(
        _value(one, hint, f"{path}[{place}]")
        for place, (one, hint) in enumerate(zip(value, wanted, strict=True))
    )


def _expression(value: Mapping[str, Any], path: str) -> Expression:
    if value.keys() != {"is", "text", "yields", "names"} or value["is"] != "Expression":
        raise Unreadable(f"{path}: expected an expression")
    text, yields = _value(value["text"], str, path), _value(value["yields"], str, path)
    names = _value(value["names"], tuple[tuple[str, str], ...], f"{path}.names")
    known = dict(names)

    def kind_of(name: str) -> str | None:
        declared = event_kind(name)
        return declared if declared != "either" else known.get(name, declared)

    try:
        found = parse(text, kind_of, expect="either" if yields == "text" else yields)
    except ExpressionError as error:
        raise Unreadable(f"{path}: {error}") from error
    if (found.kind, found.names) != (yields, names):
        raise Unreadable(
            f"{path}: {text!r} is a {found.kind} of {found.names}, not what was stored"
        )
    return found


def _check_bounds(found: object, path: str) -> None:
    """What would make records without bounds; that names and types fit together is checked by the
    feature set.
    """
    if isinstance(found, Window) and not (
        found.hop > 0 and found.length % found.hop == 0 and 1 <= found.tiles <= HOPS_MAX
    ):
        raise Unreadable(f"{path}: {found.length} by {found.hop} is no window")
    if isinstance(found, Similarity):
        known = found.table in get_args(LearnedTable) and found.how in get_args(How)
        if not (known and found.length <= SIMILARITY_LENGTH_MAX and 0 < found.decay <= 1):
            raise Unreadable(f"{path}: is no similarity")
    length, precision = getattr(found, "length", 1), getattr(found, "precision", PRECISION_MIN)
    if isinstance(found, Feature) and not 1 <= length <= SEQUENCE_LENGTH_MAX:
        raise Unreadable(f"{path}: length: expected 1 to {SEQUENCE_LENGTH_MAX}, got {length}")
    if not PRECISION_MIN <= precision <= PRECISION_MAX:
        raise Unreadable(
            f"{path}: precision: expected {PRECISION_MIN} to {PRECISION_MAX}, got {precision}"
        )


def _types(declared: list[Any]) -> tuple[str, ...]:
    """The event types of the project as it was then: those that the declarations name."""

    def named() -> Iterator[str]:
        for one in declared:
            if isinstance(one, Counted):
                yield from one.types
            if isinstance(one, Ratio):
                yield from one.below
            if isinstance(one, OfSession):
                yield from one.asked

    return tuple(dict.fromkeys((*EVENT_TYPES, *named())))


@cache
def _kinds() -> Mapping[str, type]:
    return kinds()


@cache
def _hints(made: type) -> dict[str, Any]:
    return typing.get_type_hints(made)


def read_features(path: Path, *, expect: str | None = None) -> FeatureSet:
    """The set stored in a file. Raises DamageError, DeclarationError, or FileNotFoundError."""
    return decode_features(path.read_bytes(), where=str(path), expect=expect)
