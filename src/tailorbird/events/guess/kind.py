"""Classification of table rows as events, item profiles or user profiles, for `--guess`.

    a user and an item       events
    an item and no user      items: one row each, or several versions, each valid from its time
    a user and no item       users, if nothing indicates an action: one row each, or several
                             periods, each valid from its time; else events

It is a guess, so it comes with an explanation and the lines to change if it is wrong.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.tables.times import detect_time_formats

VALID_TO_NAMES = frozenset(
    (
        "valid_to",
        "dbt_valid_to",
        "valid_until",
        "effective_to",
        "effective_until",
        "period_end",
        "end_date",
        "ended_at",
        "ends_at",
        "to_date",
        "churned_at",
        "cancelled_at",
    )
)
IS_CURRENT_NAMES = frozenset(
    (
        "is_current",
        "current_flag",
        "is_current_flag",
        "current_row",
        "is_latest",
        "row_is_current",
        "dw_is_current",
    )
)
NOT_EVENT_TIME_NAMES = VALID_TO_NAMES | {
    "birth_date",
    "birthdate",
    "expiry_date",
    "expiration_date",
    "due_date",
}  # dates unrelated to the time of the row
VALID_FROM_NAMES = (
    "valid_from",
    "dbt_valid_from",
    "effective_from",
    "effective_date",
    "effective_at",
    "period_start",
    "start_date",
    "from_date",
    "snapshot_date",
    "as_of",
    "version_date",
    "changed_at",
    "changed_on",
    "modified_at",
    "updated_at",
    "month",
    "week",
)
# Since when a user or an item exists.
_CREATED_NAMES = frozenset(
    (
        "created_at",
        "created",
        "created_on",
        "creation_date",
        "date_created",
        "signup_date",
        "sign_up_date",
        "signed_up_at",
        "registered_at",
        "registration_date",
        "joined_at",
        "join_date",
        "date_joined",
        "member_since",
        "first_seen",
        "updated_at",
        "added_at",
        "launch_date",
        "release_date",
        "published_at",
    )
)
_ACTION_DETAIL_COLUMNS = frozenset(
    (
        "quantity",
        "qty",
        "units",
        "sales_value",
        "query",
        "search_term",
        "search",
        "dwell_ms",
        "play_time_ms",
    )
)
_ACTION_COLUMNS = _ACTION_DETAIL_COLUMNS | frozenset(
    (
        "price",
        "unit_price",
        "amount",
        "price_usd",
        "total",
        "revenue",
        "rating",
        "stars",
        "page_url",
        "url",
        "referrer",
        "referer",
        "check_in",
        "checkin",
        "check_out",
        "checkout",
        "nights",
        "guests",
        "arrival",
        "departure",
        "fare",
        "seat",
    )
)
_ACTION_WORDS = frozenset(
    f"{word}{ending}"
    for ending in ("", "s", "es")
    for word in (
        "event",
        "order",
        "purchase",
        "transaction",
        "click",
        "view",
        "search",
        "visit",
        "session",
        "login",
        "email",
        "cart",
        "booking",
        "reservation",
        "appointment",
        "rental",
        "payment",
        "ticket",
        "refund",
        "sale",
        "trip",
        "ride",
        "stay",
        "download",
        "call",
    )
)
_ACTION_FIELD = re.compile(r"(\w+?)_(?:id|no|nr|number|date|time|at|status)")


@dataclass(frozen=True)
class RowKind:
    """The classification of rows.

    Attributes:
        name: `events`, `items` or `users`.
        ts: the column of the time; None for none.
        why: words on what rows were taken for, and what to change if they are not; "" where there
            is hardly a doubt.
    """

    name: str
    ts: str | None
    why: str = ""


def classify_rows(sample: pa.RecordBatch, roles: Mapping[str, str], stem: str) -> RowKind:
    """Classify the rows of a table by the roles of its columns and the name of its file."""
    if not roles.keys() & {"user_id", "anonymous_id"} and "item_id" in roles:
        return _classify_items(sample, roles)
    if "user_id" in roles and "item_id" not in roles:
        return _classify_users(sample, roles, stem)
    return RowKind("events", roles.get("ts"))


def can_be_time(column: pa.Array) -> bool:
    """Return whether values look like times: dates, or numbers since 1970."""
    if pa.types.is_string(column.type):
        return detect_time_formats(column) is not None
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return True
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return False
    return (compute_median(column) or 0) > _EPOCH_S_MIN


_EPOCH_S_MIN = (
    3e8  # 1979 in seconds: a smaller number is a year, a week or a date written as a number
)


def compute_median(column: pa.Array) -> float | None:
    return pc.quantile(column, 0.5)[0].as_py()


def _classify_items(sample: pa.RecordBatch, roles: Mapping[str, str]) -> RowKind:
    ts_column = roles.get("ts")
    if is_unique(sample.column(roles["item_id"])):
        return RowKind("items", None, _explain_unique("item", ts_column))
    valid_from = _find_valid_from_column(sample) or ts_column
    if (
        valid_from is None
        or roles.keys() & {"type", "event_id", "request_id"}
        or _ACTION_DETAIL_COLUMNS & _attribute_names(sample, roles)
    ):
        return RowKind("events", ts_column)
    return RowKind("items", valid_from, _explain_versions("item", valid_from))


def _classify_users(sample: pa.RecordBatch, roles: Mapping[str, str], stem: str) -> RowKind:
    ts_column = roles.get("ts")
    is_row_per_user = is_unique(sample.column(roles["user_id"]))
    if ts_column is None and is_row_per_user:
        return RowKind("users", None, _explain_unique("user", ts_column))
    attributes = _attribute_names(sample, roles)
    has_actions = (
        roles.keys() - {"user_id", "ts"}
        or attributes & _ACTION_COLUMNS
        or any(map(_is_action_field, attributes))
        or _ACTION_WORDS & _split_words(stem)
    )
    if not has_actions and attributes:
        if is_row_per_user and ts_column is not None and ts_column.lower() in _CREATED_NAMES:
            return RowKind("users", None, _explain_unique("user", ts_column))
        if (
            not is_row_per_user
            and (valid_from := _find_valid_from_column(sample)) is not None
            and attributes - {valid_from.lower()}
        ):
            return RowKind("users", valid_from, _explain_versions("user", valid_from))
    return RowKind(
        "events",
        ts_column,
        _explain_events(stem, _find_valid_from_column(sample))
        if ts_column is not None and "type" not in roles
        else "",
    )


def _attribute_names(sample: pa.RecordBatch, roles: Mapping[str, str]) -> set[str]:
    role_columns = {roles.get("user_id"), roles.get("item_id"), roles.get("ts")}
    return {name.lower() for name in sample.schema.names if name not in role_columns}


def _is_action_field(name: str) -> bool:
    match = _ACTION_FIELD.fullmatch(name)
    return match is not None and match[1] in _ACTION_WORDS


def _split_words(stem: str) -> set[str]:
    return set(re.split(r"[^a-z]+", stem.lower()))


def _find_valid_from_column(sample: pa.RecordBatch) -> str | None:
    """Return the column of the time from which a row is valid, or None."""
    column_by_lower_name = {name.lower(): name for name in sample.schema.names}
    return next(
        (
            column_by_lower_name[name]
            for name in VALID_FROM_NAMES
            if name in column_by_lower_name
            and _is_time_column(sample.column(column_by_lower_name[name]))
        ),
        None,
    )


def _is_time_column(column: pa.Array) -> bool:
    """Return whether a column holds full dates or times; the text `2020-01` is none."""
    has_full_dates = not pa.types.is_string(column.type) or all(
        len(value) >= len("2020-01-01") for value in column.drop_null().to_pylist()
    )
    return has_full_dates and can_be_time(column)


def is_unique(column: pa.Array) -> bool:
    """Return whether every row has a value and no two rows share one."""
    return pc.count_distinct(column).as_py() == len(column)


def _explain_unique(entity: str, ts_column: str | None) -> str:
    explanation = (
        f"each row is another {entity}, and what it says counts as known from the beginning"
    )
    ts_line = f', ts = "{ts_column}"' if ts_column is not None else ""
    return (
        f'{explanation}; if each is something that was done: kind = "events", type = "…"{ts_line}'
    )


def _explain_versions(entity: str, valid_from: str) -> str:
    explanation = (
        f"several rows of one {entity}: each replaces the one before whole, from {valid_from} on, "
        "and must have been known then"
    )
    return f'{explanation}; if each is something that was done: kind = "events", type = "…"'


def _explain_events(stem: str, valid_from: str | None) -> str:
    mapping_lines = (
        "without type and ts" if valid_from is None else f'ts = "{valid_from}", without type'
    )
    return (
        f"each row is something that a user did, of type {stem}; if it says what a user is: "
        f'kind = "users", {mapping_lines}'
    )
