"""Facts about a site: roles and attributes from columns, and statistics of its events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY
from tailorbird.events.guess import SourceGuess
from tailorbird.events.guess.names import normalise_name
from tailorbird.proposal.statistics import LogStatistics, measure_log

Reasons = list[tuple[str, str, str]]

REPEAT_SHARE_MIN = 0.05  # minimum share of repeat events for recommending past items
_PRIMARY_TYPES = (
    "click",
    "view",
    "purchase",
    "rating",
)  # types that recommendations optimise, by priority
_CATEGORY_NAMES = (
    "category",
    "product_category",
    "department",
    "genre",
    "brand",
    "topic",
    "section",
    "colour",
    "color",
)
_LINE_TOTAL_NAMES = ("sales_value", "amount", "umsatz")  # prices that hold the quantity already
CONTEXT = (
    "device",
    "country",
    "referrer",
)  # fields of an event's context that say something of the request
EXCLUDED_TYPES = ("impression", "answer", "search", "identify", "merge")


@dataclass(frozen=True)
class Facts:
    """Facts about a site's files.

    Attributes:
        type: the event type that lists are made for; `types`: all that people do.
        log: figures of the events of that type.
        numeric, categorical, user_numeric, user_categorical: attributes of items and users.
        has_quantity: whether prices are of one piece, and events say how many.
        category: the attribute of items that says what they are, "" without one.
    """

    type: str
    types: tuple[str, ...]
    log: LogStatistics
    has_price: bool
    has_quantity: bool
    has_session: bool
    has_search: bool
    context: tuple[str, ...]
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    user_numeric: tuple[str, ...]
    user_categorical: tuple[str, ...]
    category: str

    @property
    def has_repeats(self) -> bool:
        """True if users come back to items."""
        return self.log.repeats >= REPEAT_SHARE_MIN

    @property
    def is_fast_moving(self) -> bool:
        """True if demand changes within a day, as on a news site."""
        return self.log.best_window <= DAY


def facts_of(main_source: SourceGuess, sources: list[SourceGuess]) -> Facts:
    """Derive the facts from the main file of events and the files of profiles."""
    roles = {column.role: column.column for column in main_source.columns}
    attribute_kinds: dict[
        tuple[str, str], str
    ] = {}  # (owner, attribute) → kind; several files may have one
    for guess in sources:
        if guess.kind == "events":
            continue
        for column in guess.columns:
            if column.role.startswith("properties."):
                name = column.role.removeprefix("properties.")
                attribute_kinds.setdefault(
                    (guess.kind, name),
                    kind_of_column(column.column, guess.sample.column(column.column)),
                )

    user_types = [name for name in main_source.types if name not in EXCLUDED_TYPES]
    kind = primary_type(user_types)
    return Facts(
        type=kind,
        types=tuple(user_types),
        log=measure_log(
            main_source, [written for written, name in main_source.values.items() if name == kind]
        ),
        has_price="properties.price" in roles,
        has_quantity="properties.quantity" in roles
        and normalise_name(roles.get("properties.price", "")) not in _LINE_TOTAL_NAMES,
        has_session="session_id" in roles,
        has_search="search" in main_source.types,
        context=tuple(name for name in CONTEXT if f"context.{name}" in roles),
        **attribute_fields(attribute_kinds),
    )


def primary_type(user_types: Sequence[str]) -> str:
    """Return the event type that recommendations optimise, from types ordered by frequency."""
    return next(
        (name for name in _PRIMARY_TYPES if name in user_types),
        user_types[0] if user_types else "click",
    )


def attribute_fields(attribute_kinds: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return the attribute fields of `Facts`.

    Args:
        attribute_kinds: (`items` or `users`, attribute) → `numeric`, `categorical` or `other`.
    """

    def names_of(of: str, kind: str) -> tuple[str, ...]:
        return tuple(
            name
            for (owner, name), attribute_kind in attribute_kinds.items()
            if (owner, attribute_kind) == (of, kind)
        )

    categorical = names_of("items", "categorical")
    return {
        "numeric": names_of("items", "numeric")[:6],
        "categorical": categorical[:6],
        "user_numeric": names_of("users", "numeric")[:6],
        "user_categorical": names_of("users", "categorical")[:6],
        "category": next(
            (name for name in _CATEGORY_NAMES if name in categorical),
            categorical[0] if categorical else "",
        ),
    }


def kind_of_column(name: str, column: pa.Array) -> str:
    if pa.types.is_floating(column.type):
        return "numeric"
    if pa.types.is_list(column.type) or pa.types.is_nested(column.type):
        return "other"
    distinct = pc.count_distinct(column).as_py()
    if name.lower().endswith("_id"):
        return "categorical"
    if pa.types.is_integer(column.type) and distinct > 50:
        return "numeric"
    if distinct > 20 and distinct > len(column) / 2:
        return "other"  # nearly each its own, such as a title: nothing to learn from as a category
    return "categorical" if distinct <= 2_000 else "other"


def typical_user(events: Mapping[str, int]) -> str:
    """Return a user with more events than nine of ten, or "".

    The most active id may not be a person.
    """
    people = sorted(events, key=lambda person: (events[person], person))
    return people[len(people) * 9 // 10] if people else ""
