"""What people and sites wrote into an event, as against what says what it is; and an event, or a
JSON value, without some of that.

Whether a text mentions somebody, the caller decides, see `privacy.mentions`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

CONTEXT = ("page", "referrer", "user_agent")  # what of an event's context is free text
THINGS = (
    "event_id",
    "session_id",
    "request_id",
)  # ids that a site makes, and may make of somebody's
WITHIN_MIN = 6  # characters from which on an id is looked for within texts
LENGTH_MAX = 256  # digits of what is taken for an id

NAME = "\0name"  # see `leaves`
_WHO = re.compile(
    "user|anonymous|visitor|customer", re.IGNORECASE
)  # names of fields that say who somebody is, ours and foreign ones

Says = Callable[[str, object], bool]  # whether the value of a field, by its name, mentions somebody


def is_number(id_: str) -> bool:
    """Whether an id is digits alone."""
    return id_.isascii() and id_.isdigit()


def without(value: object, says: Says, is_name: Callable[[str], bool], name: str = "") -> object:
    """A JSON value with null in place of each text and number that mentions somebody, and without
    fields whose names do.
    """
    if isinstance(value, list):
        return [without(one, says, is_name, name) for one in value]
    if isinstance(value, dict):
        return {
            name: without(one, says, is_name, name)
            for name, one in value.items()
            if not is_name(name)
        }
    return None if says(name, value) else value


def of_another(
    event: Mapping[str, Any], says: Says, is_name: Callable[[str], bool]
) -> dict[str, Any]:
    """An event that was accepted, as it came in, without what it says of somebody else than whose
    it is.
    """
    found = dict(event)
    for part, names in (("context", CONTEXT), ("answer", ("query",))):
        if isinstance(fields := event.get(part), dict):
            found[part] = {
                name: None if name in names and isinstance(one, str) and says("", one) else one
                for name, one in fields.items()
            }
    if "properties" in event:
        found["properties"] = without(event["properties"], says, is_name)
    return found


def texts_in(value: object) -> Iterable[str]:
    """All texts in a JSON value, the names of fields left out."""
    return (one for name, one in leaves(value) if isinstance(one, str) and name != NAME)


def said(name: str, value: object) -> str | None:
    """The text that may be an id of one of the `leaves`."""
    if isinstance(value, str):
        return value
    return as_text(value) if _WHO.search(name) else None


def leaves(value: object) -> Iterator[tuple[str, object]]:
    """Each value of a JSON value with the name of its field, and each name as the value of `NAME`."""
    stack: list[tuple[str, object]] = [("", value)]
    while stack:
        name, one = stack.pop()
        if isinstance(one, dict):
            stack.extend((NAME, each) for each in one)
            stack.extend(
                (name if _WHO.search(name) else each, inner) for each, inner in one.items()
            )
        elif isinstance(one, list):
            stack.extend((name, inner) for inner in one)
        else:
            yield name, one


def as_text(value: object) -> str | None:
    """A whole number as an id that is a text; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # Longer ones are nobody's id, and Python writes none of more than 4,300 digits.
    return str(value) if type(value) is int and abs(value) < 10**LENGTH_MAX else None
