"""Reduce a JSON value to its shape: which keys it has and of which types its values are.

A shape is the same from one run to the next, although values vary:

- Keys that are data, such as names of versions, become one `<...>`. The caller names the paths of
  such dictionaries.
- The elements of a list share one shape. A key that only some of them have ends with `?`.
- Whether a value is sometimes missing depends on the data, so a null beside other types is dropped.

Neighbours with the same keys, such as the figures of each baseline, are written once, under all
of their names.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

ANY = "<...>"  # stands for all keys of a dictionary whose keys are data
EMPTY = "nothing seen"  # an element of a list, or a value of a map, that was empty

_NAMES = {bool: "boolean", int: "integer", float: "float", str: "string", type(None): "null"}


def shape(value: Any, maps: Collection[str] = (), path: str = "") -> Any:
    """Return the shape of a JSON value.

    Args:
        maps: paths of the dictionaries whose keys are data: `results`, `versions[].files`, and
            below another map `results.<...>.slices`.
        path: where `value` stands, the empty text at the top.
    """
    if isinstance(value, dict) and path in maps:
        return {ANY: _merged(shape(each, maps, _below(path, ANY)) for each in value.values())}
    if isinstance(value, dict):
        return {key: shape(each, maps, _below(path, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_merged(shape(each, maps, f"{path}[]") for each in value)]
    return _NAMES[type(value)]


def readable(value: Any) -> str:
    """Return a shape as sorted JSON text, with neighbours of the same shape written once."""
    return json.dumps(_grouped(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _merged(shapes: Iterable[Any]) -> Any:
    """Return the one shape that all of these have, or the union of them."""
    seen = [each for each in shapes if each != EMPTY]
    if not seen:
        return EMPTY
    words = {word for each in seen if isinstance(each, str) for word in each.split(" | ")}
    structures = []
    if dicts := [each for each in seen if isinstance(each, dict)]:
        structures.append(_merged_dicts(dicts))
    if lists := [each for each in seen if isinstance(each, list)]:
        structures.append([_merged(each[0] for each in lists)])
    if structures or len(words) > 1:
        words.discard("null")
    if not structures:
        return " | ".join(sorted(words))
    alternatives = [*structures, *sorted(words)]
    return alternatives[0] if len(alternatives) == 1 else {"any of": alternatives}


def _merged_dicts(dicts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the keys of all these dictionaries; one that some of them lack ends with `?`."""
    merged = {}
    for key in sorted({key.removesuffix("?") for each in dicts for key in each}):
        always = all(key in each for each in dicts)
        having = [each[name] for each in dicts for name in (key, f"{key}?") if name in each]
        merged[key if always else f"{key}?"] = _merged(having)
    return merged


def _grouped(value: Any) -> Any:
    if isinstance(value, list):
        return [_grouped(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    by_shape: dict[str, list[str]] = {}
    for key in sorted(value):
        inside = isinstance(value[key], dict) and value[key]
        by_shape.setdefault(json.dumps(inside, sort_keys=True) if inside else key, []).append(key)
    return {", ".join(keys): _grouped(value[keys[0]]) for keys in by_shape.values()}
