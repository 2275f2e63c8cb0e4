"""Fields that an event of each type needs, and types that a key may not send."""

from dataclasses import dataclass

from tailorbird.events.contract.plan import MERGED_INTO, SHARED_TYPES
from tailorbird.events.contract.verdict import BROWSER, BROWSER_IDENTIFY, COLLECTOR


@dataclass(frozen=True, slots=True)
class RequiredFields:
    """Fields of which an event has to have one; `message` says so where it does not."""

    fields: tuple[str, ...]
    message: str


ITEM_EVENT_TYPES = frozenset(("click", "cart", "rating", "like", "dislike", "hide", "share"))
_USER_OR_VISITOR = RequiredFields(
    ("user_id", "anonymous_id"), "expected a user_id or an anonymous_id"
)
_IDENTIFY_MESSAGE = "identify ties an anonymous_id to a user_id and needs both"
_MERGE_MESSAGE = (
    "a merge needs the user_id that is somebody else from now on, named by "
    f"properties.{MERGED_INTO}"
)
REQUIRED_FIELDS: dict[str, tuple[RequiredFields, ...]] = {
    "item": (RequiredFields(("item_id",), "an item profile needs an item_id"),),
    "user": (RequiredFields(("user_id",), "a user profile needs a user_id"),),
    "identify": (
        RequiredFields(("user_id",), _IDENTIFY_MESSAGE),
        RequiredFields(("anonymous_id",), _IDENTIFY_MESSAGE),
    ),
    "merge": (_USER_OR_VISITOR, RequiredFields(("user_id",), _MERGE_MESSAGE)),
    "answer": (
        _USER_OR_VISITOR,
        *(
            RequiredFields((name,), f"an answer needs {name}")
            for name in ("answer", "items", "request_id")
        ),
    ),
    **{
        type_: (_USER_OR_VISITOR, RequiredFields(("item_id",), f"a {type_} needs an item_id"))
        for type_ in ITEM_EVENT_TYPES
    },
}
"""Event type → what its events need, in the order in which it is asked for."""

TRUSTED_SOURCES = frozenset(("import", "server"))  # sources that may set what the server owns
FORBIDDEN_TYPES: dict[str, tuple[str, ...]] = {
    COLLECTOR: (),
    BROWSER: ("identify", *SHARED_TYPES),
    BROWSER_IDENTIFY: SHARED_TYPES,
}
"""Untrusted source → types that it may not send, besides those of the server."""


def required_fields_of(type_: str) -> tuple[RequiredFields, ...]:
    """Return what events of a type need; those that a project declares need a person."""
    return REQUIRED_FIELDS.get(type_, (_USER_OR_VISITOR,))
