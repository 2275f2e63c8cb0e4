"""Proposes a mapping for CSV and Parquet files from the names and values of their columns, and says why.

Rules are few and visible: a name is looked up in a table of usual names; a value decides the unit of a time and whether a
country is a two-letter code. Whether a file holds events or profiles stands in `kind`.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.adapters.columns import read_columns
from tailorbird.events.adapters.kind import HOLDS_UNTIL, NOT_THEN, STILL_HOLDS, can_be_time, kind_of, typical

_NAMES: dict[str, tuple[str, ...]] = {
    "ts": ("ts", "timestamp", "time", "event_time", "datetime", "created_at", "date", "clicked_at", "occurred_at", "event_date"),
    "user_id": ("user_id", "userid", "user", "visitorid", "visitor_id", "customer_id", "customer", "household_id", "member_id"),
    "anonymous_id": ("anonymous_id", "cookie_id", "device_id", "client_id"),
    "session_id": ("session_id", "sessionid", "session", "user_session", "visit_id", "basket_id", "order_id", "invoice"),
    "item_id": (
        "item_id", "itemid", "item", "product_id", "productid", "article_id", "movie_id", "movieid", "video_id",
        "content_id", "sku", "stock_code", "aid",
    ),
    "event_id": ("event_id", "eventid", "uuid", "message_id"),
    "request_id": ("request_id", "recommendation_id", "impression_id"),
    "type": ("type", "event_type", "event", "action", "behavior", "behaviour"),
}  # fmt: skip
_CONTEXT: dict[str, tuple[str, ...]] = {
    "device": ("device", "device_type", "device_group", "platform"),
    "country": ("country", "country_code"),
    "page": ("page_url", "url"),
    "referrer": ("referrer", "referer", "referrer_type", "traffic_source"),
}
_PROPERTIES: dict[str, tuple[str, ...]] = {
    "price": ("price", "unit_price", "sales_value", "amount", "price_usd"),
    "quantity": ("quantity", "qty", "units"),
    "rating": ("rating", "score", "stars"),
    "query": ("query", "search_term"),
    "dwell_ms": ("dwell_ms", "play_time_ms"),
}
_TYPE_VALUES = {"addtocart": "cart", "add_to_cart": "cart", "carts": "cart", "transaction": "purchase", "order": "purchase",
                "orders": "purchase", "buy": "purchase", "clicks": "click", "pageview": "view", "page_view": "view"}  # fmt: skip
_OF_PROFILES = {
    "ts": "an attribute: what the row says was not all known then, so the profile has no time of its own",
    "type": "an attribute of the profile",
}


_RATING_MAX = 100


@dataclass(frozen=True)
class ColumnGuess:
    """What was decided about one column."""

    column: str
    role: str
    why: str


@dataclass(frozen=True)
class SourceGuess:
    """What was decided about one file.

    Attributes:
        kind: `events`, `items` or `users`.
        toml: says so, for mapping.toml.
        types: event types of the first rows, most frequent first, as the mapping calls them.
        values: of the column of types, what the file writes → the event type.
    """

    file: Path
    kind: str
    columns: list[ColumnGuess]
    toml: str
    ts_unit: str
    types: dict[str, int]
    values: dict[str, str]


def guess_source(file: Path) -> SourceGuess:
    """Propose how the rows of a file become events or profiles.

    Raises:
        InputError: the file is empty or has neither an item nor a user.
    """
    sample = next(read_columns(file, broken=[]), None)
    if sample is None or sample.num_rows == 0:
        raise InputError("holds no row", where=str(file))
    roles, columns = _roles(sample)
    if "item_id" not in roles and "user_id" not in roles:
        raise InputError(
            f"no column looks like an item or a user: {', '.join(sample.schema.names)}",
            where=str(file),
            fix="write the mapping by hand: see docs/how-to/import.md",
        )
    found = kind_of(sample, roles, _stem(file))
    kind = found.name
    for role in [role for role in ("ts", "type") if role in roles and kind != "events"]:
        name = roles.pop(role)
        columns = [*(one for one in columns if one.column != name), ColumnGuess(name, f"properties.{_slug(name)}", _OF_PROFILES[role])]
    if kind != "events" and found.ts is not None:
        roles["ts"] = found.ts
        columns = [*(one for one in columns if one.column != found.ts), ColumnGuess(found.ts, "ts", "from then on the row holds")]
    if found.why:
        columns.append(ColumnGuess("", f'kind = "{kind}"', found.why))
    if kind == "events" and "ts" not in roles and not ("item_id" in roles and {"user_id", "anonymous_id"} & roles.keys()):
        raise InputError(
            "its rows are no events (a user and an item, or a time) and no profiles (each a different item or user, or several of one with"
            " the time from which each holds, such as valid_from);"
            f" its columns: {', '.join(sample.schema.names)}",
            where=str(file),
            fix="write the mapping by hand: see docs/how-to/import.md",
        )
    if kind == "events" and "ts" not in roles:
        columns.append(ColumnGuess("", "ts", "no column is a time (ISO 8601, or seconds since 1970): each row counts as of its import"))
    columns += [
        _rest(sample, name, kind, versions="ts" in roles) for name in sample.schema.names if name not in {entry.column for entry in columns}
    ]
    unit = _ts_unit(sample.column(roles["ts"])) if "ts" in roles else "us"
    toml = _toml(file, kind, sample, roles, columns)
    types, values = (_types(sample, roles, _stem(file)), _values(sample, roles)) if kind == "events" else ({}, {})
    return SourceGuess(file, kind, columns, toml, unit, types, values)


def _roles(sample: pa.RecordBatch) -> tuple[dict[str, str], list[ColumnGuess]]:
    roles: dict[str, str] = {}
    columns: list[ColumnGuess] = []
    lower = {name.lower(): name for name in sample.schema.names}
    for role, names in _NAMES.items():
        for name in names:
            if name in lower and role not in roles and (role != "ts" or can_be_time(sample.column(lower[name]))):
                roles[role] = lower[name]
                columns.append(ColumnGuess(lower[name], role, "its name is usual for it"))
    times = [name for name in sample.schema.names if pa.types.is_timestamp(sample.column(name).type) or name.lower().endswith("_date")]
    times = [name for name in times if name.lower() not in NOT_THEN and can_be_time(sample.column(name))]
    if "ts" not in roles and len(times) == 1:
        roles["ts"] = times[0]
        columns.append(ColumnGuess(times[0], "ts", "the only column of times"))
    if "session_id" in roles and "user_id" not in roles and "anonymous_id" not in roles:
        roles["anonymous_id"] = roles["session_id"]
        columns.append(ColumnGuess(roles["session_id"], "anonymous_id", "there is no user, so each session is a person of its own"))
    return roles, columns


def _rest(sample: pa.RecordBatch, name: str, kind: str, *, versions: bool) -> ColumnGuess:
    column = sample.column(name)
    if kind != "events" and versions and name.lower() in HOLDS_UNTIL | STILL_HOLDS:
        return ColumnGuess(
            name,
            "",
            "left out: when a row ceased to hold was not known when it began to, a leak; add it by hand if it was",
        )
    if kind != "events":
        return ColumnGuess(name, f"properties.{_slug(name)}", "an attribute of the profile")
    for role, names in _CONTEXT.items():
        if name.lower() in names:
            if role == "country" and not _two_letters(column):
                return ColumnGuess(name, f"properties.{_slug(name)}", "a country, but not in two letters, so it stays a property")
            return ColumnGuess(name, f"context.{role}", "its name is usual for it")
    if name.lower() == "score" and not _are_ratings(column):
        return ColumnGuess(
            name, "properties.score", 'kept as it is; if people gave it: type = "rating", and in properties rating = "score"'
        )
    for role, names in _PROPERTIES.items():
        if name.lower() in names:
            if role == "query" or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                return ColumnGuess(name, f"properties.{role}", "its name is usual for it")
            return ColumnGuess(name, f"properties.{_slug(name)}_text", f"named like {role}, but it holds no numbers")
    if name.lower().endswith(("_size", "_total")):
        return ColumnGuess(name, "", "left out: it looks like a total that is known only afterwards, a leak; add it by hand if not")
    return ColumnGuess(name, f"properties.{_slug(name)}", "kept as a property of the event")


def _are_ratings(column: pa.Array) -> bool:
    """Whether scores are what people give, in whole or half points, and not what a program computed."""
    known = column.drop_null()
    if not (pa.types.is_integer(known.type) or pa.types.is_floating(known.type)) or not len(known):
        return False
    return all(0 <= value <= _RATING_MAX and value * 2 == int(value * 2) for value in known.unique().to_pylist())


def _two_letters(column: pa.Array) -> bool:
    if not pa.types.is_string(column.type):
        return False
    return all(len(value) == 2 and value.isalpha() for value in column.drop_null().unique().to_pylist())


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def _ts_unit(column: pa.Array) -> str:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return "us"
    usual = typical(column) or 0
    return "s" if usual < 1e11 else "ms" if usual < 1e14 else "us"


def _toml(file: Path, kind: str, sample: pa.RecordBatch, roles: dict[str, str], columns: list[ColumnGuess]) -> str:
    lines = ["[[source]]", f"file = {quoted(file.name)}", f'kind = "{kind}"']
    if kind == "events":
        lines.append(_type_line(sample, roles, _stem(file)))
    if "ts" in roles:
        lines.append(f"ts = {quoted(roles['ts'])}")
        unit = _ts_unit(sample.column(roles["ts"]))
        if unit != "us":
            lines.append(f'ts_unit = "{unit}"')
    lines += [
        f"{role} = {quoted(roles[role])}"
        for role in ("event_id", "user_id", "anonymous_id", "session_id", "item_id", "request_id")
        if role in roles
    ]
    for section in ("context", "properties"):
        chosen = [entry for entry in columns if entry.role.startswith(section + ".")]
        if chosen:
            lines.append(f"[source.{section}]")
            lines += [f"{key(entry.role.partition('.')[2])} = {quoted(entry.column)}" for entry in chosen]
    return "\n".join(lines) + "\n"


def _stem(file: Path) -> str:
    return _slug(file.name.partition(".")[0])


def quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def key(name: str) -> str:
    """A TOML key, in quotes where it needs them."""
    return name if name.isascii() and name.replace("_", "a").replace("-", "a").isalnum() else quoted(name)


def _types(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> dict[str, int]:
    """Event types, most frequent first, as the mapping will call them."""
    if "type" not in roles:
        return {_one_type(sample, roles, stem): sample.num_rows}
    found = Counter(str(value) for value in sample.column(roles["type"]).to_pylist() if value is not None)
    renamed: Counter[str] = Counter()
    for value, count in found.items():
        renamed[_TYPE_VALUES.get(value.lower(), value)] += count
    return dict(renamed.most_common())


def _values(sample: pa.RecordBatch, roles: dict[str, str]) -> dict[str, str]:
    """What the column of types holds, as it is written → the event type."""
    if "type" not in roles:
        return {}
    seen = [str(value) for value in sample.column(roles["type"]).unique().to_pylist() if value is not None]
    return {value: _TYPE_VALUES.get(value.lower(), value) for value in seen}


def _type_line(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    if "type" not in roles:
        return f'type = "{_one_type(sample, roles, stem)}"'
    seen = [str(value) for value in sample.column(roles["type"]).unique().to_pylist() if value is not None]
    values = ", ".join(f'{quoted(value)} = "{_TYPE_VALUES[value.lower()]}"' for value in seen if value.lower() in _TYPE_VALUES)
    return f"type = {{ column = {quoted(roles['type'])}, values = {{ {values} }} }}"


def _one_type(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    """The type of all rows of a file that has no column of types."""
    names = {name.lower() for name in sample.schema.names}
    if "item_id" not in roles:
        return stem
    if names & {"rating", "stars"} or any(name.lower() == "score" and _are_ratings(sample.column(name)) for name in sample.schema.names):
        return "rating"
    if names & {"basket_id", "invoice", "order_id", "sales_value", "quantity"}:
        return "purchase"
    return "click"
