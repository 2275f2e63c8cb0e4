"""Free text and site-made ids in events, and redaction of what they say about a user.

Whether a text mentions a user, the caller decides, see `privacy.mentions`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tailorbird.events.contract.envelope import ID

CONTEXT = ("page", "referrer", "user_agent")  # free-text fields of the context
SITE_IDS = (
    "event_id",
    "session_id",
    "request_id",
)  # ids made by the site, possibly from a user's id
EMBEDDED_ID_LENGTH_MIN = 6  # minimum length of ids searched within texts

FIELD_NAME = "\0name"  # see `leaves`
_PERSON_NAME = re.compile(
    "user|anonymous|visitor|customer", re.IGNORECASE
)  # names of identifying fields, native and foreign

# Whether a field, given its name and value, mentions a subject.
MentionTest = Callable[[str, object], bool]


def is_number(id_: str) -> bool:
    """Return whether an id consists of digits only."""
    return id_.isascii() and id_.isdigit()


def redact(
    value: object, mentions: MentionTest, is_name: Callable[[str], bool], name: str = ""
) -> object:
    """Replace all values that mention a subject by null, and drop fields named after one."""
    if isinstance(value, list):
        return [redact(element, mentions, is_name, name) for element in value]
    if isinstance(value, dict):
        return {
            name: redact(member, mentions, is_name, name)
            for name, member in value.items()
            if not is_name(name)
        }
    return None if mentions(name, value) else value


def redact_event(
    event: Mapping[str, Any], mentions: MentionTest, is_name: Callable[[str], bool]
) -> dict[str, Any]:
    """Return an accepted event without what it says about anyone but its own subject."""
    redacted = dict(event)
    for part, names in (("context", CONTEXT), ("answer", ("query",))):
        if isinstance(fields := event.get(part), dict):
            redacted[part] = {
                name: None
                if name in names and isinstance(member, str) and mentions("", member)
                else member
                for name, member in fields.items()
            }
    if "properties" in event:
        redacted["properties"] = redact(event["properties"], mentions, is_name)
    return redacted


def texts_in(value: object) -> Iterable[str]:
    """Yield all texts in a JSON value, field names excluded."""
    return (leaf for name, leaf in leaves(value) if isinstance(leaf, str) and name != FIELD_NAME)


def identifying_text(name: str, value: object) -> str | None:
    """Return the text of a leaf that may be an id, or None."""
    if isinstance(value, str):
        return value
    return as_text(value) if _PERSON_NAME.search(name) else None


def leaves(value: object) -> Iterator[tuple[str, object]]:
    """Yield each value of a JSON document with its field name, and each field name under `NAME`."""
    stack: list[tuple[str, object]] = [("", value)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, dict):
            stack.extend((FIELD_NAME, field) for field in node)
            stack.extend(
                (name if _PERSON_NAME.search(name) else field, inner_value)
                for field, inner_value in node.items()
            )
        elif isinstance(node, list):
            stack.extend((name, inner_value) for inner_value in node)
        else:
            yield name, node


def as_text(value: object) -> str | None:
    """Return a whole number as id text, or None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # No id is longer, and Python refuses to format more than 4,300 digits.
    return str(value) if type(value) is int and abs(value) < 10**ID.high else None
