"""Runtime type checks of a project's declarations.

Python does not check annotations, so that an error would surface at a request.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from tailorbird.errors import DeclarationError

_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", NoneType: "None"}


def require_types(declared: Any, where: str, *, exclude: Collection[str] = ()) -> None:
    """Raise unless every field of a declaration (a dataclass) matches its annotation.

    Args:
        where: how errors call it.
        exclude: fields that are validated elsewhere.
    Raises:
        DeclarationError: names the field, what it holds, and what was expected.
    """
    for name, kind in _field_types(type(declared)).items():
        value = getattr(declared, name)
        if name in exclude or _is_of_type(value, kind):
            continue
        # ("purchase") is a string, not a tuple.
        if isinstance(value, str) and get_args(kind) == (str,):
            raise DeclarationError(
                f"expected a list, got {value[:80]!r}",
                where=f"{where}, {name}",
                fix=f"{name}=[{value[:80]!r}]",
            )
        raise DeclarationError(
            f"expected {_type_name(kind)}, got {repr(value)[:80]}", where=f"{where}, {name}"
        )


@cache
def _field_types(of: type) -> dict[str, Any]:
    hints = get_type_hints(of)
    return {field.name: hints[field.name] for field in fields(of)}


def _is_of_type(value: object, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if origin is UnionType:
        return any(_is_of_type(value, alternative) for alternative in arguments)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _is_of_type(key, arguments[0]) and _is_of_type(item, arguments[1])
            for key, item in value.items()
        )
    if origin is not None:
        return (
            isinstance(value, Collection)
            and not isinstance(value, str | Mapping)
            and all(_is_of_type(item, arguments[0]) for item in value)
        )
    return isinstance(value, kind)


def _type_name(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return " or ".join(map(_type_name, arguments))
    if origin is not None:
        return (
            f"a {'dict' if issubclass(origin, Mapping) else 'list'} of "
            f"{_type_name(arguments[-1]).removeprefix('a ')}s"
        )
    name = getattr(kind, "__name__", str(kind))
    return _TYPE_NAMES.get(kind, f"{'an' if name[0] in 'AEIO' else 'a'} {name}")
