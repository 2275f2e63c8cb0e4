"""Facts about a site: roles and attributes from columns, and statistics of its events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY
from tailorbird.events.guess import SourceGuess
from tailorbird.events.guess.words import normalise_name
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
CONTEXT_FIELDS = (
    "device",
    "country",
    "referrer",
)  # fields of an event's context that say something of the request
EXCLUDED_TYPES = ("impression", "answer", "search", "identify", "merge")


@dataclass(frozen=True)
class Facts:
    """Facts about a site's files.

    Attributes:
        target_type: the event type that lists are made for.
        action_types: all that people do.
        log_statistics: figures of the events of that type.
        item_numeric, item_categorical, user_numeric, user_categorical: attributes of items and users.
        has_quantity: whether prices are of one piece, and events say how many.
        category_attribute: the attribute of items that says what they are, "" without one.
    """

    target_type: str
    action_types: tuple[str, ...]
    log_statistics: LogStatistics
    has_price: bool
    has_quantity: bool
    has_session: bool
    has_search: bool
    context_fields: tuple[str, ...]
    item_numeric: tuple[str, ...]
    item_categorical: tuple[str, ...]
    user_numeric: tuple[str, ...]
    user_categorical: tuple[str, ...]
    category_attribute: str

    @property
    def has_repeats(self) -> bool:
        """True if users come back to items."""
        return self.log_statistics.repeat_share >= REPEAT_SHARE_MIN

    @property
    def is_fast_moving(self) -> bool:
        """True if demand changes within a day, as on a news site."""
        return self.log_statistics.best_window <= DAY


def derive_facts(main_source: SourceGuess, sources: list[SourceGuess]) -> Facts:
    """Derive the facts from the main file of events and the files of profiles."""
    column_by_role = {column.role: column.column for column in main_source.columns}
    kind_by_attribute: dict[
        tuple[str, str], str
    ] = {}  # (owner, attribute) → kind; several files may have one
    for guess in sources:
        if guess.kind == "events":
            continue
        for column in guess.columns:
            if column.role.startswith("properties."):
                attribute = column.role.removeprefix("properties.")
                kind_by_attribute.setdefault(
                    (guess.kind, attribute),
                    classify_column(column.column, guess.sample.column(column.column)),
                )

    action_types = [type_ for type_ in main_source.types if type_ not in EXCLUDED_TYPES]
    target_type = choose_target_type(action_types)
    return Facts(
        target_type=target_type,
        action_types=tuple(action_types),
        log_statistics=measure_log(
            main_source,
            [value for value, type_ in main_source.values.items() if type_ == target_type],
        ),
        has_price="properties.price" in column_by_role,
        has_quantity="properties.quantity" in column_by_role
        and normalise_name(column_by_role.get("properties.price", "")) not in _LINE_TOTAL_NAMES,
        has_session="session_id" in column_by_role,
        has_search="search" in main_source.types,
        context_fields=tuple(
            name for name in CONTEXT_FIELDS if f"context.{name}" in column_by_role
        ),
        **attribute_fields(kind_by_attribute),
    )


def choose_target_type(action_types: Sequence[str]) -> str:
    """Return the event type that recommendations optimise, from types ordered by frequency."""
    return next(
        (name for name in _PRIMARY_TYPES if name in action_types),
        action_types[0] if action_types else "click",
    )


def attribute_fields(kind_by_attribute: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return the attribute fields of `Facts`.

    Args:
        attribute_kinds: (`items` or `users`, attribute) → `numeric`, `categorical` or `other`.
    """

    def list_attributes(entity: str, kind: str) -> tuple[str, ...]:
        return tuple(
            name
            for (owner, name), attribute_kind in kind_by_attribute.items()
            if (owner, attribute_kind) == (entity, kind)
        )

    categorical = list_attributes("items", "categorical")
    return {
        "item_numeric": list_attributes("items", "numeric")[:6],
        "item_categorical": categorical[:6],
        "user_numeric": list_attributes("users", "numeric")[:6],
        "user_categorical": list_attributes("users", "categorical")[:6],
        "category_attribute": next(
            (name for name in _CATEGORY_NAMES if name in categorical),
            categorical[0] if categorical else "",
        ),
    }


def classify_column(name: str, column: pa.Array) -> str:
    """Return whether an attribute is `numeric`, `categorical` or, not usable, `other`."""
    if pa.types.is_floating(column.type):
        return "numeric"
    if pa.types.is_nested(column.type) or pa.types.is_null(column.type):
        return "other"
    distinct_count = pc.count_distinct(column).as_py()
    if name.lower().endswith("_id"):
        return "categorical"
    if pa.types.is_integer(column.type) and distinct_count > 50:
        return "numeric"
    if distinct_count > 20 and distinct_count > len(column) / 2:
        return "other"  # nearly each its own, such as a title: nothing to learn from as a category
    return "categorical" if distinct_count <= 2_000 else "other"


def choose_typical_user(events_by_user: Mapping[str, int]) -> str:
    """Return a user with more events than nine of ten, or "".

    The most active id may not be a person.
    """
    users_by_activity = sorted(events_by_user, key=lambda person: (events_by_user[person], person))
    return users_by_activity[len(users_by_activity) * 9 // 10] if users_by_activity else ""
