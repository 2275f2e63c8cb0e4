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


def require_types(declaration: Any, where: str, *, exclude: Collection[str] = ()) -> None:
    """Raise unless every field of a declaration (a dataclass) matches its annotation.

    Args:
        where: how errors call it.
        exclude: fields that are validated elsewhere.
    Raises:
        DeclarationError: names the field, what it holds, and what was expected.
    """
    for name, annotation in _field_types(type(declaration)).items():
        value = getattr(declaration, name)
        if name in exclude or _is_of_type(value, annotation):
            continue
        # ("purchase") is a string, not a tuple.
        if isinstance(value, str) and get_args(annotation) == (str,):
            raise DeclarationError(
                f"expected a list, got {value[:80]!r}",
                where=f"{where}, {name}",
                fix=f"{name}=[{value[:80]!r}]",
            )
        raise DeclarationError(
            f"expected {_type_name(annotation)}, got {repr(value)[:80]}", where=f"{where}, {name}"
        )


@cache
def _field_types(declaration_type: type) -> dict[str, Any]:
    hints = get_type_hints(declaration_type)
    return {field.name: hints[field.name] for field in fields(declaration_type)}


def _is_of_type(value: object, annotation: Any) -> bool:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if annotation in (int, float):
        return isinstance(value, Integral if annotation is int else Real) and not isinstance(
            value, bool
        )
    if origin is UnionType:
        return any(_is_of_type(value, alternative) for alternative in arguments)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _is_of_type(key, arguments[0]) and _is_of_type(element, arguments[1])
            for key, element in value.items()
        )
    if origin is not None:
        return (
            isinstance(value, Collection)
            and not isinstance(value, str | Mapping)
            and all(_is_of_type(element, arguments[0]) for element in value)
        )
    return isinstance(value, annotation)


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is UnionType:
        return " or ".join(map(_type_name, arguments))
    if origin is not None:
        return (
            f"a {'dict' if issubclass(origin, Mapping) else 'list'} of "
            f"{_type_name(arguments[-1]).removeprefix('a ')}s"
        )
    name = getattr(annotation, "__name__", str(annotation))
    return _TYPE_NAMES.get(annotation, f"{'an' if name[0] in 'AEIO' else 'a'} {name}")
