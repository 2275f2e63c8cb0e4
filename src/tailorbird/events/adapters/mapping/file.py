"""The mapping file: how the rows of any CSV, JSON or Parquet file become events or profiles.

[[source]]
file = "clicks.parquet"     # or a pattern, "*.csv.gz"
kind = "events"             # or "items", "users": profiles, timeless without ts
type = "click"              # or: type = { column = "event", values = { addtocart = "cart" } }
ts = "clicked_at"           # a column of times; for numbers say ts_unit = "s", "ms" or "us"
ts_zone = "Europe/Oslo"     # of times that name no zone; UTC unless said
ts_format = "%d.%m.%Y %H:%M"  # of times that are not ISO 8601, as strptime has it
delimiter = ";"             # of a CSV file; a comma unless said, in .tsv a tab
decimal = ","               # of its numbers, which may then group thousands by points; default "."
columns = ["visitor", "article_id"]  # names of its columns, where its first line does not have them
# distinct = true           # one timeless profile per item or user, with the most frequent values
received_at = "exported_at" # arrival time, as `ts`; a profile was not known before it
user_id = "visitor"
item_id = "article_id"
[[source.join]]             # a table whose columns are added; several are joined in order
file = "orders.csv"
on = "order_id"
[source.context]            # device, country, page, referrer, user_agent: column names
device = "device_group"
[source.properties]         # property: column
price = "sales_value"
"""

import tomllib
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from tailorbird.errors import InputError
from tailorbird.events.contract.envelope import Context

PATTERNS = ("*.csv", "*.tsv", "*.parquet", "*.feather", "*.arrow", "*.json", "*.jsonl", "*.ndjson")
UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}


class TypeColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Event types read from a column, translated where `values` says so."""

    column: str
    values: dict[str, str] = {}


class JoinSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table beside the file whose columns each row gets, by a key that both have."""

    file: str
    on: str


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping from the rows of some files to events or profiles."""

    file: str
    kind: str = "events"
    type: str | TypeColumn = "click"
    ts: str | None = None
    ts_unit: str = "us"
    ts_zone: str = "UTC"
    ts_format: str = ""
    delimiter: str = ""
    decimal: str = "."
    columns: tuple[str, ...] = ()
    distinct: bool = False
    join: tuple[JoinSource, ...] = ()
    received_at: str | None = None
    event_id: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    session_id: str | None = None
    item_id: str | None = None
    request_id: str | None = None
    context: dict[str, str] = {}
    properties: dict[str, str] = {}


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole mapping file."""

    source: list[Source]


def parse_mapping(text: str, name: str) -> Mapping:
    """Parse and validate a mapping file without the data.

    Raises:
        InputError: it is no TOML, or a key or value cannot be used; names the path in the file.
    """
    try:
        mapping = msgspec.convert(tomllib.loads(text), Mapping)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(
            f"not a mapping that can be used: {error}",
            where=name,
            fix="tailorbird import --guess PATH proposes one",
        ) from None
    for index, source in enumerate(mapping.source):
        where = f"{name}: $.source[{index}]"
        if source.kind not in ("events", "items", "users"):
            raise InputError(
                f"expected kind events, items or users, got {source.kind!r}", where=where
            )
        if source.ts_unit not in UNIT_US:
            raise InputError(f"expected ts_unit s, ms or us, got {source.ts_unit!r}", where=where)
        if source.decimal not in (".", ","):
            raise InputError(f'expected decimal "." or ",", got {source.decimal!r}', where=where)
        if len(source.delimiter) > 1:
            raise InputError(
                f"expected a delimiter of one character, got {source.delimiter!r}", where=where
            )
        if not _is_time_zone(source.ts_zone):
            raise InputError(
                f"expected ts_zone such as Europe/Oslo, got {source.ts_zone!r}", where=where
            )
        if source.kind == "items" and source.item_id is None:
            raise InputError("items need item_id", where=where)
        if source.kind == "users" and source.user_id is None:
            raise InputError("users need user_id", where=where)
        if source.distinct and (source.kind == "events" or source.ts is not None):
            raise InputError(
                "distinct is for profiles without a time",
                where=where,
                fix="leave distinct out, or ts",
            )
        unknown_fields = set(source.context) - {
            field.name for field in msgspec.structs.fields(Context)
        }
        if unknown_fields:
            raise InputError(
                f"context has no {', '.join(sorted(unknown_fields))}; put it under properties",
                where=where,
            )
    return mapping


def _is_time_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
