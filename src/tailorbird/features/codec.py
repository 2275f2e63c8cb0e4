"""Declarations as plain data: a feature set to JSON and back.

Records can so be read by a schema whose `features.py` has moved on.

    {"format": 1, "engine": 1, "schema_hash": "8c1f…", "features": [{"is": "Count", "name":
    "clicks", "entity": {"is": "Entity", …}, …}]}

The codec knows no kind by name: each dataclass of `features.declare.declarations` and
`features.transforms` is a kind, its fields are stored, and its type hints validate them.
Expressions are stored as text with their inferred kind, and are parsed and checked again; nothing
is executed. A set whose hash differs from the one that it was stored under is refused, so it never
reads a record.
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
from tailorbird.events.contract.plan import EVENT_TYPES
from tailorbird.features import transforms
from tailorbird.features.declare import declarations
from tailorbird.features.declare.checks import event_kind
from tailorbird.features.declare.declarations import (
    EventFeature,
    Feature,
    LearnedTable,
    Ratio,
    SessionFeature,
    Similarity,
    SimilarityHow,
    Window,
)
from tailorbird.features.declare.limits import (
    HOPS_MAX,
    PRECISION_MAX,
    PRECISION_MIN,
    SEQUENCE_LENGTH_MAX,
    SIMILARITY_LENGTH_MAX,
)
from tailorbird.features.expr.check import ValueKind
from tailorbird.features.expr.expression import Expression, parse
from tailorbird.features.expr.nodes import ExpressionError
from tailorbird.features.featureset import ENGINE_VERSION, FeatureSet

FEATURES_FILE = "features.json"
FILE_FORMAT = 1
FILE_BYTES_MAX = 64 << 20
FEATURES_MAX = 10_000
VALUE_LENGTH_MAX = 1 << 20  # longest text or list in a declaration


class UnreadableError(ValueError):
    """A stored declaration is invalid; the message says which part. Readers add the file."""


def encode_features(features: FeatureSet) -> bytes:
    """Encode the declarations of a set as JSON; equal declarations give equal bytes."""
    content = {
        "format": FILE_FORMAT,
        "engine": ENGINE_VERSION,
        "schema_hash": features.schema_hash,
        "features": [_to_builtins(feature) for feature in features.features],
        "transforms": [_to_builtins(transform) for transform in features.transforms],
    }
    if features.similarities:
        content["similarities"] = [_to_builtins(similarity) for similarity in features.similarities]
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def decode_features(data: bytes, *, where: str, expected_hash: str | None = None) -> FeatureSet:
    """Decode the set that `encode_features` stored.

    Args:
        where: the file, for messages.
        expected_hash: the required schema hash.
    Raises:
        DamageError: the JSON is invalid, or the schema differs from the stated or required hash.
        DeclarationError: it was stored by an engine that makes other records of the same
            declarations.
    """
    try:
        content = _decode_header(data)
        if content["engine"] != ENGINE_VERSION:
            engine_versions = (
                f"version {content['engine']} of the feature engine, this is {ENGINE_VERSION}"
            )
            raise DeclarationError(
                f"schema {content['schema_hash']} was declared under {engine_versions}",
                where=where,
                fix="tailorbird features apply builds a new state; then train anew",
            )
        declared = [
            _decode_object(item, Feature, f"$.features[{index}]")
            for index, item in enumerate(content["features"])
        ]
        declared_similarities, declared_transforms = (
            _optional_list(content, name) for name in ("similarities", "transforms")
        )
        declared += [
            _decode_object(declared_similarity, Similarity, f"$.similarities[{index}]")
            for index, declared_similarity in enumerate(declared_similarities)
        ]
        decoded_transforms = [
            _decode_object(declared_transform, transforms.Transform, f"$.transforms[{index}]")
            for index, declared_transform in enumerate(declared_transforms)
        ]
        features = FeatureSet.from_declarations(
            declared, event_types=_event_types(declared), transforms=decoded_transforms
        )
    except UnreadableError as error:
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
    for schema_hash, statement in (
        (content["schema_hash"], "the file says"),
        (expected_hash, "it is kept as"),
    ):
        if schema_hash is not None and schema_hash != features.schema_hash:
            raise DamageError(
                f"its declarations are schema {features.schema_hash}, {statement} {schema_hash}",
                where=where,
                fix="restore it from a copy",
            )
    return features


def declaration_classes() -> dict[str, type]:
    """Return every dataclass that declarations are made of, by name."""
    module_values = vars(declarations) | vars(transforms)
    return {
        name: declared_class
        for name, declared_class in module_values.items()
        if isinstance(declared_class, type) and dataclasses.is_dataclass(declared_class)
    }


def short_location(location: str) -> str:
    """Return `features.py:12`: the location without the folder, which differs between machines."""
    return location.replace("\\", "/").rpartition("/")[2]


def _decode_header(data: bytes) -> dict[str, Any]:
    if len(data) > FILE_BYTES_MAX:
        raise UnreadableError(f"more than {FILE_BYTES_MAX >> 20} MiB")
    try:
        content = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FILE_FORMAT:
        raise UnreadableError(f"expected an object of format {FILE_FORMAT}")
    for name, kind in (("engine", int), ("schema_hash", str), ("features", list)):
        if not isinstance(content.get(name), kind):
            raise UnreadableError(f"$.{name}: expected {kind.__name__}")
    if not 1 <= len(content["features"]) <= FEATURES_MAX:
        raise UnreadableError(
            f"$.features: expected 1 to {FEATURES_MAX:,} declarations, got "
            f"{len(content['features']):,}"
        )
    return content


def _optional_list(content: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list that may be missing."""
    if not isinstance(items := content.get(name, []), list):
        raise UnreadableError(f"$.{name}: expected list")
    return items


def _to_builtins(value: Any) -> Any:
    if isinstance(value, Expression):
        return {
            "is": "Expression",
            "text": value.text,
            "yields": value.kind,
            "names": [list(pair) for pair in value.names],
        }
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: _to_builtins(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not _is_omitted(field, value)
        }
        if "location" in fields:
            fields["location"] = short_location(fields["location"])
        return {"is": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [_to_builtins(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(
        f"{type(value).__name__} cannot be stored; declarations are dataclasses, tuples, "
        "texts and numbers"
    )


def _is_omitted(field: "dataclasses.Field[Any]", value: object) -> bool:
    """Return whether a later field is omitted because it is empty, as in the schema hash."""
    return "added_later" in field.metadata and not getattr(value, field.name)


def _decode_object(value: Any, base_class: type, path: str) -> Any:
    """Decode an instance of `base_class` or of a subclass; `path` is its JSON path, for errors."""
    if not isinstance(value, dict):
        raise UnreadableError(f"{path}: expected an object, got {type(value).__name__}")
    if base_class is Expression:
        return _decode_expression(value, path)
    name = value.get("is")
    declared_class = _classes_by_name().get(name) if isinstance(name, str) else None
    if declared_class is None or not issubclass(declared_class, base_class):
        raise UnreadableError(f"{path}: {name!r} is no kind of {base_class.__name__}")
    fields = {field.name: field for field in dataclasses.fields(declared_class)}
    if unknown := value.keys() - fields.keys() - {"is"}:
        raise UnreadableError(f"{path}: a {declared_class.__name__} has no {min(unknown)!r}")
    hints = _type_hints(declared_class)
    decoded_fields = {
        name: _decode_value(value[name], hints[name], f"{path}.{name}")
        for name in fields
        if name in value
    }
    try:
        instance = declared_class(**decoded_fields)
    except TypeError as error:
        raise UnreadableError(f"{path}: {error}") from error
    _check_bounds(instance, path)
    return instance


def _decode_value(value: Any, hint: Any, path: str) -> Any:
    """Decode `value` by its type hint: texts, numbers, tuples, literals, kinds, and unions."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(value, typing.get_args(hint), path)
    if origin is tuple:
        return _decode_tuple(value, typing.get_args(hint), path)
    if origin is typing.Literal and value in typing.get_args(hint):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (str, int, bool, type(None)):
        if type(value) is not hint or (isinstance(value, str) and len(value) > VALUE_LENGTH_MAX):
            raise UnreadableError(f"{path}: expected {hint.__name__}, got {type(value).__name__}")
        return value
    if isinstance(hint, type) and (hint is Expression or dataclasses.is_dataclass(hint)):
        return _decode_object(value, hint, path)
    raise UnreadableError(
        f"{path}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}"
    )


def _decode_union(value: Any, hints: tuple[Any, ...], path: str) -> Any:
    last_mismatch = UnreadableError(f"{path}: fits no type that it may have")
    type_order = (
        type(None),
        bool,
        str,
        int,
        float,
    )  # An integer stays one in a union with float; the last mismatch is reported.
    ordered_hints = sorted(
        hints, key=lambda hint: type_order.index(hint) if hint in type_order else len(type_order)
    )
    for hint in ordered_hints:
        try:
            return _decode_value(value, hint, path)
        except UnreadableError as error:
            last_mismatch = error
    raise last_mismatch


def _decode_tuple(value: Any, hints: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > VALUE_LENGTH_MAX:
        raise UnreadableError(f"{path}: expected a list")
    item_hints = [hints[0]] * len(value) if hints[1:] == (Ellipsis,) else list(hints)
    if len(item_hints) != len(value):
        raise UnreadableError(f"{path}: expected {len(item_hints)} values, got {len(value)}")
    return tuple(
        _decode_value(item, hint, f"{path}[{index}]")
        for index, (item, hint) in enumerate(zip(value, item_hints, strict=True))
    )


def _decode_expression(value: Mapping[str, Any], path: str) -> Expression:
    if value.keys() != {"is", "text", "yields", "names"} or value["is"] != "Expression":
        raise UnreadableError(f"{path}: expected an expression")
    text = _decode_value(value["text"], str, path)
    yields = _decode_value(value["yields"], ValueKind, path)
    names = _decode_value(value["names"], tuple[tuple[str, ValueKind], ...], f"{path}.names")
    stored_kinds = dict(names)

    def kind_of(name: str) -> ValueKind | None:
        declared = event_kind(name)
        return declared if declared != "either" else stored_kinds.get(name, declared)

    try:
        expression = parse(text, kind_of, expected_kind="either" if yields == "text" else yields)
    except ExpressionError as error:
        raise UnreadableError(f"{path}: {error}") from error
    if (expression.kind, expression.names) != (yields, names):
        raise UnreadableError(
            f"{path}: {text!r} is a {expression.kind} of {expression.names}, not what was stored"
        )
    return expression


def _check_bounds(instance: object, path: str) -> None:
    """Raise if the declaration would make records of unbounded size.

    The feature set checks that names and types fit together.
    """
    if isinstance(instance, Window) and not (
        instance.hop > 0 and instance.length % instance.hop == 0 and 1 <= instance.tiles <= HOPS_MAX
    ):
        raise UnreadableError(f"{path}: {instance.length} by {instance.hop} is no window")
    if isinstance(instance, Similarity):
        is_valid = instance.table in get_args(LearnedTable) and instance.how in get_args(
            SimilarityHow
        )
        if not (is_valid and instance.length <= SIMILARITY_LENGTH_MAX and 0 < instance.decay <= 1):
            raise UnreadableError(f"{path}: is no similarity")
    length = getattr(instance, "length", 1)
    precision = getattr(instance, "precision", PRECISION_MIN)
    if isinstance(instance, Feature) and not 1 <= length <= SEQUENCE_LENGTH_MAX:
        raise UnreadableError(f"{path}: length: expected 1 to {SEQUENCE_LENGTH_MAX}, got {length}")
    if not PRECISION_MIN <= precision <= PRECISION_MAX:
        raise UnreadableError(
            f"{path}: precision: expected {PRECISION_MIN} to {PRECISION_MAX}, got {precision}"
        )


def _event_types(declared: list[Any]) -> tuple[str, ...]:
    """Return the event types that the declarations name: those of the project at the time."""

    def declared_types() -> Iterator[str]:
        for feature in declared:
            if isinstance(feature, EventFeature):
                yield from feature.types
            if isinstance(feature, Ratio):
                yield from feature.below
            if isinstance(feature, SessionFeature):
                yield from feature.measured_types

    return tuple(dict.fromkeys((*EVENT_TYPES, *declared_types())))


@cache
def _classes_by_name() -> Mapping[str, type]:
    return declaration_classes()


@cache
def _type_hints(dataclass_type: type) -> dict[str, Any]:
    return typing.get_type_hints(dataclass_type)


def read_features(path: Path, *, expected_hash: str | None = None) -> FeatureSet:
    """Read the set stored in a file. Raises DamageError, DeclarationError, or FileNotFoundError."""
    return decode_features(path.read_bytes(), where=str(path), expected_hash=expected_hash)
