"""The contract: one pure, versioned function that says whether an event is accepted, and if not,
why and where.

Collector and router apply it to the same body and receipt, without a clock or store, and so reach
the same verdict. They call it through `events.contract.columnwise`, which clears ordinary events
column by column and leaves the rest to this module, which is authoritative.

    body ──split──► JSON rows ──decode──► Event ──check──► Accepted | Refusal(code, path, message)

One bad event does not affect the others. A body that is not JSON is one refused row. A line that an
adapter wrote in place of an unreadable foreign record (`Unread`) is refused with its own reason.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from tailorbird.events.clock import to_iso
from tailorbird.events.contract.envelope import Event
from tailorbird.events.contract.plan import MERGED_INTO, PROFILE_TYPES, SHARED_TYPES, RoutePlan
from tailorbird.events.contract.rules import find_violation, format_value

CONTRACT_VERSION = 1

ID_LENGTH_MAX = 256
TEXT_LENGTH_MAX = 2_048
ITEMS_MAX = 1_000
PROPERTIES_BYTES_MAX = 65_536
DEPTH_MAX = 32
ANONYMOUS_PREFIX = "anon:"
COLLECTOR, BROWSER, BROWSER_IDENTIFY = (
    "door",
    "browser",
    "browser+identify",
)  # client with a write key, browser with a public key; see `Receipt`
# Replaces a row of an erased user, see `events.suppression`.
ERASED = b'{"erased":true}'

FLOAT_DIGITS_MAX = 308  # digits of the first integer beyond float range; shorter input has none
INTEGER_BOUND = 1 << 1023
# Inclusive bounds of the properties that have a column of their own.
NUMBERS = {
    "dwell_ms": (0.0, 86_400_000.0),
    "price": (0.0, 1e9),
    "quantity": (0.0, 1e6),
    "rating": (-1e6, 1e6),
}

COUNTRY = re.compile(r"[A-Za-z]{2}\Z")
_IDS = ("event_id", "user_id", "anonymous_id", "session_id", "item_id", "request_id")
_ids_of = attrgetter(*_IDS)
NESTED = frozenset((dict, list))
# Re-encoding grows a value by less than this factor: 1e15 becomes 1000000000000000.0.
GROWTH_MAX = 8
TRUSTED = frozenset(("import", "server"))
NEEDS_ITEM = frozenset(("click", "cart", "rating", "like", "dislike", "hide", "share"))
MICROSECONDS_MIN = 100_000_000_000_000  # 1973; below it an integer is in seconds or milliseconds
MICROSECONDS_END = 253_370_764_800_000_000  # the year 9999, beyond what text can state


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """The original location of a replayed event: its row in the raw log."""

    partition: str
    offset: int
    row: int


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata that the collector stores beside a body in the raw log.

    Attributes:
        received_at: microseconds.
        source: "door" (a client), "browser" (a public key, which may send neither profiles nor
            `identify`), "browser+identify" (a public key that may send `identify`), "import" (an
            operator's files) or "server" (responses). Only the last two may set server-owned
            fields.
        encoding: "json" (one event or a list) or "ndjson" (one event a line).
        format: the source format of the lines; "" for native events, stored as received.
        origins: for a replay, the original row of each refused row.
    """

    received_at: int
    source: str = COLLECTOR
    encoding: str = "json"
    format: str = ""
    origins: list[Origin] = []


class Accepted(msgspec.Struct, frozen=True):
    """An event that satisfies the contract, with its times resolved."""

    row: int
    event: Event
    ts: int
    ts_original: int | None
    sent_at: int | None
    received_at: int


class Refusal(msgspec.Struct, frozen=True):
    """The reason a row was refused: a stable code, the path in the document and a sentence."""

    row: int
    code: str
    path: str
    message: str
    body: bytes


class Unread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A foreign record that its adapter could not read, written in place of an event.

    Only adapters write it.

    Attributes:
        place: its position, from which ids of profiles are made where the record has none.
        record: the complete record.
    """

    format: str
    place: str
    code: Annotated[str, msgspec.Meta(pattern="^[a-z_]{1,40}$")]
    path: str
    message: str
    record: Any


class _UnreadLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    unread: Unread


class ContractViolation(Exception):
    """A violation of the contract, which `check` turns into a Refusal."""

    def __init__(self, code: str, path: str, message: str) -> None:
        self.code, self.path, self.message = code, path, message
        super().__init__(message)


_event = msgspec.json.Decoder(Event)
_unread = msgspec.json.Decoder(_UnreadLine)
_rows = msgspec.json.Decoder(list[msgspec.Raw])
_LINE = re.compile(rb"\S[^\n]*")


def check(body: bytes, receipt: Receipt, plan: RoutePlan) -> tuple[list[Accepted], list[Refusal]]:
    """Check every event of a body.

    Rows are numbered from 0 in the order of the body.
    """
    accepted: list[Accepted] = []
    refused: list[Refusal] = []
    for row, raw in enumerate(split_body(body, receipt.encoding)):
        verdict = check_row(row, raw, receipt, plan)
        if isinstance(verdict, Accepted):
            accepted.append(verdict)
        else:
            refused.append(verdict)
    return accepted, refused


def check_row(
    row: int, raw: bytes | memoryview, receipt: Receipt, plan: RoutePlan
) -> Accepted | Refusal:
    """Check one of the rows that `split` returns."""
    try:
        return _check_event(row, _decode(raw, receipt), len(raw), receipt, plan)
    except ContractViolation as refusal:
        return Refusal(row, refusal.code, refusal.path, refusal.message, bytes(raw))


def split_body(body: bytes, encoding: str) -> Sequence[bytes | memoryview]:
    """Split a body into rows.

    A body that cannot be split is one row, which `check` then refuses.
    """
    if encoding == "ndjson":
        return [line for line in body.split(b"\n") if line.strip()] or [body]
    if body.lstrip()[:1] == b"[":
        try:
            return [memoryview(raw) for raw in _rows.decode(body)] or [body]
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return [body]
    return [body]


def count_rows(body: bytes, encoding: str) -> int:
    """Count the rows that `split` would return, without decoding any.

    A list costs 72 bytes of memory per element while it is counted.
    """
    if encoding == "ndjson":
        return sum(1 for _ in _LINE.finditer(body)) or 1
    if body.lstrip()[:1] == b"[":
        try:
            return len(_rows.decode(body)) or 1
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return 1
    return 1


def parse_unread(line: bytes | memoryview) -> Unread | None:
    """Parse the record that an adapter wrote in place of one it could not read.

    Returns None if the line is anything else.
    """
    try:
        return _unread.decode(line).unread
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _decode(raw: bytes | memoryview, receipt: Receipt) -> Event:
    try:
        return _event.decode(raw)
    except msgspec.ValidationError as error:
        if bytes(raw) == ERASED:
            raise ContractViolation(
                "erased", "$", "it was of somebody whose data were erased"
            ) from None
        if (receipt.format or receipt.source == "import") and (
            unread := parse_unread(raw)
        ) is not None:
            raise ContractViolation(unread.code, unread.path, unread.message) from None
        if bytes(raw).lstrip()[:1] == b"[":
            _check_list(raw)
        text, _, path = str(error).partition(" - at `")
        path = path.rstrip("`") or "$"
        if "unknown field" in text:
            name = text.rpartition("`")[0].rpartition("`")[2]
            raise ContractViolation(
                "unknown_field", f"{path}.{name}", f"{name} is no field; put it into properties"
            ) from None
        if "missing required field" in text:
            name = text.rpartition("`")[0].rpartition("`")[2]
            raise ContractViolation("missing", f"{path}.{name}", f"expected {name}") from None
        raise ContractViolation("wrong_type", path, text[:1].lower() + text[1:]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractViolation("malformed_json", "$", f"expected JSON: {error}") from None
    except RecursionError:
        raise ContractViolation("malformed_json", "$", "nested too deeply") from None


def _check_list(raw: bytes | memoryview) -> None:
    """Raise the reason why `split` could not take a list apart: it is malformed, or empty."""
    try:
        rows = _rows.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractViolation("malformed_json", "$", f"expected JSON: {error}") from None
    except RecursionError:
        raise ContractViolation("malformed_json", "$", "nested too deeply") from None
    if not rows:
        raise ContractViolation("missing", "$", "expected at least one event, got an empty list")


def _check_event(row: int, event: Event, size: int, receipt: Receipt, plan: RoutePlan) -> Accepted:
    _check_ids(event)
    if event.type not in plan.event_types:
        raise ContractViolation(
            "unknown_type",
            "$.type",
            f"expected one of {', '.join(_sendable(plan))}, got {format_value(event.type)}",
        )
    _check_owner(event, receipt)
    _check_subject(event)
    _check_context(event)
    _check_properties(event, size)
    if (rules := plan.rules.get(event.type)) is not None and (
        broken := find_violation(rules, event.properties)
    ) is not None:
        raise ContractViolation(*broken)
    stated_received_at = (
        None if event.received_at is None else to_micros(event.received_at, "$.received_at")
    )
    ts_original = None if event.ts is None else to_micros(event.ts, "$.ts")
    sent_at = None if event.sent_at is None else to_micros(event.sent_at, "$.sent_at")
    ts, received_at = resolve_times(
        ts_original, sent_at, stated_received_at, receipt, timeless=event.timeless
    )
    if event.timeless:
        return Accepted(row, event, ts, ts_original, sent_at, received_at)
    if (
        ts > received_at + plan.skew_us and receipt.source != "server"
    ):  # A response carries the time of the features it read.
        raise ContractViolation(
            "ts_in_future",
            "$.ts",
            f"expected a time before {to_iso(received_at)}, when it arrived, "
            f"got {format_value(event.ts)}",
        )
    if ts <= 0:
        raise ContractViolation(
            "ts_absurd", "$.ts", f"expected a time after 1970, got {format_value(event.ts)}"
        )
    return Accepted(row, event, ts, ts_original, sent_at, received_at)


def _sendable(plan: RoutePlan) -> list[str]:
    """Return the event types that a client may send; answers are the server's own."""
    return [type_ for type_ in plan.event_types if type_ != "answer"]


def resolve_times(
    ts: int | None,
    sent_at: int | None,
    stated_received_at: int | None,
    receipt: Receipt,
    *,
    timeless: bool,
) -> tuple[int, int]:
    """Resolve the event time and the arrival time from the times that an event states.

    `stated_received_at` is the event's own `received_at`. A file that does not state arrival times
    says nothing about the offset of its senders' clocks, so their times are taken as they are.
    """
    received_at = receipt.received_at if stated_received_at is None else stated_received_at
    if timeless:
        return 0, received_at
    if receipt.source == "import" and stated_received_at is None and ts is not None:
        return ts, min(ts, receipt.received_at)
    if ts is None:
        return received_at, received_at
    return (ts if sent_at is None else ts + received_at - sent_at), received_at


def _check_ids(event: Event) -> None:
    for name, value in zip(_IDS, _ids_of(event), strict=True):
        if value is not None:
            _check_id(value, f"$.{name}")
    if event.user_id is not None and event.user_id.startswith(ANONYMOUS_PREFIX):
        raise ContractViolation(
            "reserved_prefix",
            "$.user_id",
            f"{ANONYMOUS_PREFIX} marks people who are not known; choose another id",
        )
    if event.items is not None:
        if len(event.items) > ITEMS_MAX:
            raise ContractViolation(
                "too_large",
                "$.items",
                f"expected at most {ITEMS_MAX} items, got {len(event.items)}",
            )
        for index, item in enumerate(event.items):
            if not item or len(item) > ID_LENGTH_MAX or "\x00" in item:
                raise ContractViolation(
                    "bad_id",
                    f"$.items[{index}]",
                    f"expected 1 to {ID_LENGTH_MAX} characters without NUL",
                )


def _check_id(value: str, path: str) -> None:
    if not value or len(value) > ID_LENGTH_MAX:
        raise ContractViolation(
            "bad_id", path, f"expected 1 to {ID_LENGTH_MAX} characters, got {len(value)}"
        )
    if "\x00" in value:
        raise ContractViolation("bad_id", path, "expected text without NUL characters")


def _check_owner(event: Event, receipt: Receipt) -> None:
    if receipt.source in TRUSTED:
        return
    if receipt.source != COLLECTOR:
        _check_browser(event, receipt)
    if event.received_at is not None:
        raise ContractViolation(
            "server_owned", "$.received_at", "only the server sets it; leave it out"
        )
    if event.answer is not None or event.type == "answer":
        path = "$.type" if event.answer is None else "$.answer"
        raise ContractViolation(
            "server_owned", path, "only the server records answers; send an impression instead"
        )


def _check_browser(event: Event, receipt: Receipt) -> None:
    """Raise if a browser key sends a profile, a merge or an unauthorised `identify`.

    Every visitor of the page can read the key. It may report actions, not identities or attributes.
    """
    if event.type in SHARED_TYPES:
        raise ContractViolation(
            "browser_key",
            "$.type",
            f"a browser's key may not send {event.type}; send it from your own server, with "
            "a write key",
        )
    if event.type == "identify" and receipt.source != BROWSER_IDENTIFY:
        raise ContractViolation(
            "browser_key",
            "$.type",
            "this browser's key may not send identify; send it from your own server, with a "
            "write key",
        )


def _check_subject(event: Event) -> None:
    if event.timeless and event.type not in PROFILE_TYPES:
        raise ContractViolation(
            "timeless_event",
            "$.timeless",
            f"only profiles (user, item) may be timeless, got type {event.type}",
        )
    if event.type == "item":
        if event.item_id is None:
            raise ContractViolation("missing", "$.item_id", "an item profile needs an item_id")
        return
    if event.type == "user" and event.user_id is None:
        raise ContractViolation("missing", "$.user_id", "a user profile needs a user_id")
    if event.type == "identify" and (event.user_id is None or event.anonymous_id is None):
        path = "$.user_id" if event.user_id is None else "$.anonymous_id"
        raise ContractViolation(
            "missing", path, "identify ties an anonymous_id to a user_id and needs both"
        )
    if event.user_id is None and event.anonymous_id is None:
        raise ContractViolation("missing", "$.user_id", "expected a user_id or an anonymous_id")
    if event.type == "merge":
        _check_merge(event)
    if event.type in NEEDS_ITEM and event.item_id is None:
        raise ContractViolation("missing", "$.item_id", f"a {event.type} needs an item_id")
    if event.type == "answer":
        _check_answer(event)


def _check_merge(event: Event) -> None:
    path, survivor_id = f"$.properties.{MERGED_INTO}", (event.properties or {}).get(MERGED_INTO)
    if event.user_id is None:
        raise ContractViolation(
            "missing",
            "$.user_id",
            "a merge needs the user_id that is somebody else from now on, named by "
            f"properties.{MERGED_INTO}",
        )
    if survivor_id is None:
        raise ContractViolation(
            "missing",
            path,
            "a merge needs the user whom its user_id is from now on; itself, to take back an "
            "earlier one",
        )
    if not isinstance(survivor_id, str):
        raise ContractViolation(
            "wrong_type", path, f"expected text, got {format_value(survivor_id)}"
        )
    _check_id(survivor_id, path)
    if survivor_id.startswith(ANONYMOUS_PREFIX):
        raise ContractViolation(
            "reserved_prefix",
            path,
            f"{ANONYMOUS_PREFIX} marks people who are not known; a visitor is tied to a user "
            "by identify",
        )


def _check_answer(event: Event) -> None:
    if event.answer is None or event.items is None or event.request_id is None:
        name = (
            "answer" if event.answer is None else "items" if event.items is None else "request_id"
        )
        raise ContractViolation("missing", f"$.{name}", f"an answer needs {name}")
    propensities = event.answer.propensities
    if propensities and len(propensities) != len(event.items):
        raise ContractViolation(
            "wrong_type",
            "$.answer.propensities",
            f"expected {len(event.items)} values, one an item, got {len(propensities)}",
        )
    for index, value in enumerate(propensities):
        if not 0.0 < value <= 1.0:
            raise ContractViolation(
                "number_out_of_range",
                f"$.answer.propensities[{index}]",
                f"expected a value in (0, 1], got {value}",
            )


def _check_context(event: Event) -> None:
    context = event.context
    if context is None:
        return
    if context.country is not None and not COUNTRY.match(context.country):
        raise ContractViolation(
            "bad_country",
            "$.context.country",
            f"expected a two-letter code, got {format_value(context.country)}",
        )
    for name in ("device", "page", "referrer", "user_agent"):
        value = getattr(context, name)
        if value is not None and len(value) > TEXT_LENGTH_MAX:
            raise ContractViolation(
                "too_large",
                f"$.context.{name}",
                f"expected at most {TEXT_LENGTH_MAX} characters, got {len(value)}",
            )
    if context.utc_offset_min is not None and abs(context.utc_offset_min) > 14 * 60:
        raise ContractViolation(
            "number_out_of_range",
            "$.context.utc_offset_min",
            f"expected -840 to 840, got {context.utc_offset_min}",
        )


def _check_properties(event: Event, size: int) -> None:
    """Check the properties of an event whose encoding took `size` bytes."""
    properties = event.properties
    if not properties:
        return
    query = properties.get("query")
    if query is not None and not isinstance(query, str):
        raise ContractViolation(
            "wrong_type", "$.properties.query", f"expected text, got {format_value(query)}"
        )
    for name, (low, high) in NUMBERS.items():
        value = properties.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ContractViolation(
                "wrong_type",
                f"$.properties.{name}",
                f"expected a number, got {format_value(value)}",
            )
        if not low <= value <= high:  # false for NaN too; compares an integer of any length exactly
            raise ContractViolation(
                "number_out_of_range",
                f"$.properties.{name}",
                f"expected {low:g} to {high:g}, got {format_value(value)}",
            )
    if (
        not NESTED.isdisjoint(map(type, properties.values()))
        and (path := find_too_deep(properties)) is not None
    ):
        raise ContractViolation("too_large", path, f"nested more than {DEPTH_MAX} levels deep")
    if size > FLOAT_DIGITS_MAX and (path := find_oversized_integer(properties)) is not None:
        raise ContractViolation("number_out_of_range", path, "expected a number below 1e308")
    if (
        size * GROWTH_MAX > PROPERTIES_BYTES_MAX
        and (size := len(msgspec.json.encode(properties))) > PROPERTIES_BYTES_MAX
    ):
        raise ContractViolation(
            "too_large",
            "$.properties",
            f"expected at most {PROPERTIES_BYTES_MAX} bytes, got {size}",
        )


def find_too_deep(properties: dict) -> str | None:
    """Return the path at which properties are nested too deeply, or None."""
    return next((path for path, depth in _depths(properties) if depth > DEPTH_MAX), None)


def find_oversized_integer(properties: dict) -> str | None:
    """Return the path of an integer that no float can represent, or None.

    Consumers that read event numbers as floats could not continue past it.
    """
    stack = [(f"$.properties.{name}", value) for name, value in properties.items()]
    while stack:
        path, value = stack.pop()
        if type(value) is int and not -INTEGER_BOUND < value < INTEGER_BOUND:
            return path
        if isinstance(value, dict | list):
            stack.extend(
                (path, inner) for inner in (value.values() if isinstance(value, dict) else value)
            )
    return None


def _depths(properties: dict) -> Iterator[tuple[str, int]]:
    """Yield the path and depth of each nested container below `properties`.

    Most events have none, so this is cheap.
    """
    stack = [
        (f"$.properties.{name}", value, 1)
        for name, value in properties.items()
        if isinstance(value, dict | list)
    ]
    while stack:
        path, value, depth = stack.pop()
        yield path, depth
        if depth > DEPTH_MAX:
            continue
        children = value.values() if isinstance(value, dict) else value
        stack.extend(
            (path, inner, depth + 1) for inner in children if isinstance(inner, dict | list)
        )


def to_micros(value: int | str, path: str) -> int:
    """Convert RFC 3339 text with a zone, or integer microseconds, to microseconds."""
    if isinstance(value, int):
        if 0 < value < MICROSECONDS_MIN:
            unit = "milliseconds" if value > MICROSECONDS_MIN // 1_000 else "seconds"
            raise ContractViolation(
                "bad_time",
                path,
                f"expected microseconds since 1970, got {value}, which looks like {unit}",
            )
        if not 0 < value < MICROSECONDS_END:
            raise ContractViolation(
                "bad_time", path, f"expected microseconds since 1970, got {value}"
            )
        return value
    try:
        moment = datetime.fromisoformat(value)
        offset = moment.utcoffset()
    except ValueError:
        raise ContractViolation(
            "bad_time",
            path,
            f"expected a time such as 2026-11-25T12:00:00Z, got {format_value(value)}",
        ) from None
    if offset is None:
        raise ContractViolation(
            "bad_time",
            path,
            "expected a time with its zone, such as 2026-11-25T12:00:00Z, "
            f"got {format_value(value)}",
        )
    naive = moment.replace(tzinfo=None) - offset if _in_range(moment) else None
    if naive is None:
        raise ContractViolation(
            "bad_time", path, f"expected a year from 1970 to 9998, got {format_value(value)}"
        )
    elapsed = naive - datetime(1970, 1, 1)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def _in_range(moment: datetime) -> bool:
    return 1970 <= moment.year <= 9998
