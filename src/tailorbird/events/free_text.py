"""Free text and site-made ids in events, and redaction of what they say about a user.

Whether a text mentions a user, the caller decides, see `privacy.mentions`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tailorbird.events.contract.envelope import ID_BOUNDS

CONTEXT_TEXT_FIELDS = ("page", "referrer", "user_agent")  # free-text fields of the context
SITE_ID_FIELDS = (
    "event_id",
    "session_id",
    "request_id",
)  # ids made by the site, possibly from a user's id
EMBEDDED_ID_LENGTH_MIN = 6  # minimum length of ids searched within texts

FIELD_NAME = "\0name"  # see `iterate_leaves`
_IDENTIFYING_NAME = re.compile(
    "user|anonymous|visitor|customer", re.IGNORECASE
)  # names of identifying fields, native and foreign

# Whether a field, given its name and value, mentions a subject.
MentionTest = Callable[[str, object], bool]


def is_number(id_: str) -> bool:
    """Return whether an id consists of digits only."""
    return id_.isascii() and id_.isdigit()


def redact(
    value: object, is_mention: MentionTest, is_mentioned_name: Callable[[str], bool], name: str = ""
) -> object:
    """Replace all values that mention a subject by null, and drop fields named after one."""
    if isinstance(value, list):
        return [redact(element, is_mention, is_mentioned_name, name) for element in value]
    if isinstance(value, dict):
        return {
            name: redact(member, is_mention, is_mentioned_name, name)
            for name, member in value.items()
            if not is_mentioned_name(name)
        }
    return None if is_mention(name, value) else value


def redact_event(
    event: Mapping[str, Any], is_mention: MentionTest, is_mentioned_name: Callable[[str], bool]
) -> dict[str, Any]:
    """Return an accepted event without what it says about anyone but its own subject."""
    redacted = dict(event)
    for section, text_fields in (("context", CONTEXT_TEXT_FIELDS), ("answer", ("query",))):
        if isinstance(fields := event.get(section), dict):
            redacted[section] = {
                name: None
                if name in text_fields and isinstance(member, str) and is_mention("", member)
                else member
                for name, member in fields.items()
            }
    if "properties" in event:
        redacted["properties"] = redact(event["properties"], is_mention, is_mentioned_name)
    return redacted


def iterate_texts(value: object) -> Iterable[str]:
    """Yield all texts in a JSON value, field names excluded."""
    return (
        leaf for name, leaf in iterate_leaves(value) if isinstance(leaf, str) and name != FIELD_NAME
    )


def get_id_text(name: str, value: object) -> str | None:
    """Return the text of a leaf that may be an id, or None."""
    if isinstance(value, str):
        return value
    return format_number_id(value) if _IDENTIFYING_NAME.search(name) else None


def iterate_leaves(value: object) -> Iterator[tuple[str, object]]:
    """Yield each value of a JSON document with its field name.

    Field names themselves are yielded under the name `FIELD_NAME`.
    """
    stack: list[tuple[str, object]] = [("", value)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, dict):
            stack.extend((FIELD_NAME, field) for field in node)
            stack.extend(
                (name if _IDENTIFYING_NAME.search(name) else field, inner_value)
                for field, inner_value in node.items()
            )
        elif isinstance(node, list):
            stack.extend((name, inner_value) for inner_value in node)
        else:
            yield name, node


def format_number_id(value: object) -> str | None:
    """Return a whole number as id text, or None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # No id is longer, and Python refuses to format more than 4,300 digits.
    return str(value) if type(value) is int and abs(value) < 10**ID_BOUNDS.high else None
