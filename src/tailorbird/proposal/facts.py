"""What is known of a user's files: roles and attributes from their columns, and the figures of
their events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY
from tailorbird.events.guess import SourceGuess
from tailorbird.events.guess.names import normal
from tailorbird.proposal.statistics import LogStatistics, measure

Reasons = list[tuple[str, str, str]]

REPEATS = 0.05  # from this share on, what a person had before is worth showing again
_PRIMARY_TYPES = (
    "click",
    "view",
    "purchase",
    "rating",
)  # what a list is made for: the first of these that the data has
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
NOT_SHOWN = ("impression", "answer", "search", "identify", "merge")


@dataclass(frozen=True)
class Facts:
    """What is known of a site's files.

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
    searches: bool
    context: tuple[str, ...]
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    user_numeric: tuple[str, ...]
    user_categorical: tuple[str, ...]
    category: str

    @property
    def again(self) -> bool:
        """Whether people come back to items."""
        return self.log.repeats >= REPEATS

    @property
    def fast(self) -> bool:
        """Whether what is wanted changes within a day, as on a news site."""
        return self.log.best_window <= DAY


def facts_of(main: SourceGuess, chosen: list[SourceGuess]) -> Facts:
    """Return what is known of a site from its main file of events and the files of profiles beside
    it.
    """
    roles = {column.role: column.column for column in main.columns}
    attribute_kinds: dict[
        tuple[str, str], str
    ] = {}  # of items or users, and which attribute: its kind; several files may have one
    for guess in chosen:
        if guess.kind == "events":
            continue
        for column in guess.columns:
            if column.role.startswith("properties."):
                name = column.role.removeprefix("properties.")
                attribute_kinds.setdefault(
                    (guess.kind, name),
                    kind_of_column(column.column, guess.sample.column(column.column)),
                )

    shown = [name for name in main.types if name not in NOT_SHOWN]
    kind = listed_type(shown)
    return Facts(
        type=kind,
        types=tuple(shown),
        log=measure(main, [written for written, name in main.values.items() if name == kind]),
        has_price="properties.price" in roles,
        has_quantity="properties.quantity" in roles
        and normal(roles.get("properties.price", "")) not in _LINE_TOTAL_NAMES,
        has_session="session_id" in roles,
        searches="search" in main.types,
        context=tuple(name for name in CONTEXT if f"context.{name}" in roles),
        **attributes(attribute_kinds),
    )


def listed_type(shown: Sequence[str]) -> str:
    """Return the event type that lists are made for, of those that people do, most frequent first."""
    return next((name for name in _PRIMARY_TYPES if name in shown), shown[0] if shown else "click")


def attributes(attribute_kinds: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return the fields of `Facts` that say which attributes there are.

    Args:
        found: (`items` or `users`, attribute) → `numeric`, `categorical` or `other`.
    """

    def names_of(of: str, kind: str) -> tuple[str, ...]:
        return tuple(name for (owner, name), what in attribute_kinds.items() if (owner, what) == (of, kind))

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


def usual_person(events: Mapping[str, int]) -> str:
    """Return somebody with more events than nine of ten have, "" without anybody; whoever has most
    may be no person.
    """
    people = sorted(events, key=lambda person: (events[person], person))
    return people[len(people) * 9 // 10] if people else ""
