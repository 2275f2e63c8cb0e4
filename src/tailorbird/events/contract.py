"""The contract: one pure, versioned function that says whether an event is accepted, and if not,
why and where.

Door and router apply it to the same body and the same receipt and so decide the same. It asks no
clock and no store. They do so by `events.columnwise`, which clears ordinary events column by column
and leaves the others to what stands here; this is what counts.

    body ──split──► rows of JSON ──decode──► Event ──check──► Accepted, or Refusal(code, path,
    message)

One bad event refuses itself alone; a body that is not JSON at all is one refused row. A line that
an adapter wrote in place of a foreign record that it could not read (`Unread`) is refused with the
reason that stands in it.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from tailorbird.events.clock import to_iso
from tailorbird.events.envelope import Event
from tailorbird.events.plan import MERGED_INTO, PROFILE_TYPES, SHARED_TYPES, RoutePlan
from tailorbird.events.rules import show, violation

CONTRACT_VERSION = 1

ID_LENGTH_MAX = 256
TEXT_LENGTH_MAX = 2_048
ITEMS_MAX = 1_000
PROPERTIES_BYTES_MAX = 65_536
DEPTH_MAX = 32
ANONYMOUS_PREFIX = "anon:"
DOOR, BROWSER, BROWSER_IDENTIFY = (
    "door",
    "browser",
    "browser+identify",
)  # a client; one whose key everybody can read; see `Receipt`
# stands in place of a row of somebody whose data were erased, see `events.suppression`
ERASED = b'{"erased":true}'

DIGITS = 308  # as many has the first integer that no float may hold; who has fewer bytes has none
LARGEST = 1 << 1023
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
# what is written anew takes less than so many times what it took: 1e15 becomes 1000000000000000.0
GROWTH_MAX = 8
TRUSTED = frozenset(("import", "server"))
NEEDS_ITEM = frozenset(("click", "cart", "rating", "like", "dislike", "hide", "share"))
MICROSECONDS_MIN = 100_000_000_000_000  # 1973; below it an integer is in seconds or milliseconds
MICROSECONDS_END = 253_370_764_800_000_000  # the year 9999, which text does not reach either


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Where an event that is replayed stood first: the row of a raw log that was refused."""

    partition: str
    offset: int
    row: int


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the door noted when a body came in; stands beside the body in the raw log.

    Attributes:
        received_at: microseconds.
        source: "door" (a client), "browser" (one whose key is public, so that it sends neither
            profiles nor `identify`), "browser+identify" (such a key that may send `identify`),
            "import" (an operator's files) or "server" (our own answers). Only the last two may set
            server-owned fields.
        encoding: "json" (one event or a list) or "ndjson" (one event a line).
        format: from which format the lines were made; "" for our own, as it came in.
        origins: of a replay, for each row where it stood when it was refused.
    """

    received_at: int
    source: str = DOOR
    encoding: str = "json"
    format: str = ""
    origins: list[Origin] = []


class Accepted(msgspec.Struct, frozen=True):
    """An event that keeps the contract, with its times resolved."""

    row: int
    event: Event
    ts: int
    ts_original: int | None
    sent_at: int | None
    received_at: int


class Refusal(msgspec.Struct, frozen=True):
    """Why the row was not taken: a stable code, the path in the document, and a sentence."""

    row: int
    code: str
    path: str
    message: str
    body: bytes


class Unread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A foreign record that its adapter could not read, in place of an event; only adapters write
    it.

    Attributes:
        place: where it stood; ids of profiles are made from it where the record has none.
        record: the record, whole.
    """

    format: str
    place: str
    code: Annotated[str, msgspec.Meta(pattern="^[a-z_]{1,40}$")]
    path: str
    message: str
    record: Any


class _UnreadLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    unread: Unread


class Breach(Exception):
    """What an event breaks of the contract; `check` makes a Refusal of it."""

    def __init__(self, code: str, path: str, message: str) -> None:
        self.code, self.path, self.message = code, path, message
        super().__init__(message)


_event = msgspec.json.Decoder(Event)
_unread = msgspec.json.Decoder(_UnreadLine)
_rows = msgspec.json.Decoder(list[msgspec.Raw])
_LINE = re.compile(rb"\S[^\n]*")


def check(body: bytes, receipt: Receipt, plan: RoutePlan) -> tuple[list[Accepted], list[Refusal]]:
    """Decide on every event of a body; rows are numbered from 0 in the order in which they stand in
    it.
    """
    accepted: list[Accepted] = []
    refused: list[Refusal] = []
    for row, raw in enumerate(split(body, receipt.encoding)):
        decided = check_row(row, raw, receipt, plan)
        if isinstance(decided, Accepted):
            accepted.append(decided)
        else:
            refused.append(decided)
    return accepted, refused


def check_row(
    row: int, raw: bytes | memoryview, receipt: Receipt, plan: RoutePlan
) -> Accepted | Refusal:
    """Decide on one row of those that `split` gives."""
    try:
        return _check_one(row, _decode(raw, receipt), len(raw), receipt, plan)
    except Breach as refusal:
        return Refusal(row, refusal.code, refusal.path, refusal.message, bytes(raw))


def split(body: bytes, encoding: str) -> Sequence[bytes | memoryview]:
    """The rows of a body. A body that cannot be split is one row, which `check` then refuses."""
    if encoding == "ndjson":
        return [line for line in body.split(b"\n") if line.strip()] or [body]
    if body.lstrip()[:1] == b"[":
        try:
            return [memoryview(raw) for raw in _rows.decode(body)] or [body]
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return [body]
    return [body]


def count_rows(body: bytes, encoding: str) -> int:
    """How many rows `split` gives. None is decoded; of a list each is pointed at for a moment, 72
    bytes, which is what too many cost.
    """
    if encoding == "ndjson":
        return sum(1 for _ in _LINE.finditer(body)) or 1
    if body.lstrip()[:1] == b"[":
        try:
            return len(_rows.decode(body)) or 1
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return 1
    return 1


def unread_of(line: bytes | memoryview) -> Unread | None:
    """What an adapter said of a record that it could not read; None if the line is something else."""
    try:
        return _unread.decode(line).unread
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _decode(raw: bytes | memoryview, receipt: Receipt) -> Event:
    try:
        return _event.decode(raw)
    except msgspec.ValidationError as error:
        if bytes(raw) == ERASED:
            raise Breach("erased", "$", "it was of somebody whose data were erased") from None
        if (receipt.format or receipt.source == "import") and (
            unread := unread_of(raw)
        ) is not None:
            raise Breach(unread.code, unread.path, unread.message) from None
        if bytes(raw).lstrip()[:1] == b"[":
            _check_list(raw)
        text, _, path = str(error).partition(" - at `")
        path = path.rstrip("`") or "$"
        if "unknown field" in text:
            name = text.rpartition("`")[0].rpartition("`")[2]
            raise Breach(
                "unknown_field", f"{path}.{name}", f"{name} is no field; put it into properties"
            ) from None
        if "missing required field" in text:
            name = text.rpartition("`")[0].rpartition("`")[2]
            raise Breach("missing", f"{path}.{name}", f"expected {name}") from None
        raise Breach("wrong_type", path, text[:1].lower() + text[1:]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Breach("malformed_json", "$", f"expected JSON: {error}") from None
    except RecursionError:
        raise Breach("malformed_json", "$", "nested too deeply") from None


def _check_list(raw: bytes | memoryview) -> None:
    """Say what is wrong with a list that `split` could not take apart: broken, or empty."""
    try:
        rows = _rows.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Breach("malformed_json", "$", f"expected JSON: {error}") from None
    except RecursionError:
        raise Breach("malformed_json", "$", "nested too deeply") from None
    if not rows:
        raise Breach("missing", "$", "expected at least one event, got an empty list")


def _check_one(row: int, event: Event, size: int, receipt: Receipt, plan: RoutePlan) -> Accepted:
    _check_ids(event)
    if event.type not in plan.event_types:
        raise Breach(
            "unknown_type",
            "$.type",
            f"expected one of {', '.join(_sendable(plan))}, got {show(event.type)}",
        )
    _check_owner(event, receipt)
    _check_subject(event)
    _check_context(event)
    _check_properties(event, size)
    if (rules := plan.rules.get(event.type)) is not None and (
        broken := violation(rules, event.properties)
    ) is not None:
        raise Breach(*broken)
    said = None if event.received_at is None else to_micros(event.received_at, "$.received_at")
    ts_original = None if event.ts is None else to_micros(event.ts, "$.ts")
    sent_at = None if event.sent_at is None else to_micros(event.sent_at, "$.sent_at")
    ts, received_at = resolve(ts_original, sent_at, said, receipt, timeless=event.timeless)
    if event.timeless:
        return Accepted(row, event, ts, ts_original, sent_at, received_at)
    if (
        ts > received_at + plan.skew_us and receipt.source != "server"
    ):  # an answer's time is that of what it read of
        raise Breach(
            "ts_in_future",
            "$.ts",
            f"expected a time before {to_iso(received_at)}, when it arrived, got {show(event.ts)}",
        )
    if ts <= 0:
        raise Breach("ts_absurd", "$.ts", f"expected a time after 1970, got {show(event.ts)}")
    return Accepted(row, event, ts, ts_original, sent_at, received_at)


def _sendable(plan: RoutePlan) -> list[str]:
    """The types that somebody may send; answers are the server's own."""
    return [type_ for type_ in plan.event_types if type_ != "answer"]


def resolve(
    ts: int | None, sent_at: int | None, said: int | None, receipt: Receipt, *, timeless: bool
) -> tuple[int, int]:
    """When an event happened, and when it came in, from the times that it states: `said` is its own
    `received_at`.

    Of a file that does not say when its events came in nobody knows how its senders' clocks stood
    to ours: they are believed.
    """
    received_at = receipt.received_at if said is None else said
    if timeless:
        return 0, received_at
    if receipt.source == "import" and said is None and ts is not None:
        return ts, min(ts, receipt.received_at)
    if ts is None:
        return received_at, received_at
    return (ts if sent_at is None else ts + received_at - sent_at), received_at


def _check_ids(event: Event) -> None:
    for name, value in zip(_IDS, _ids_of(event), strict=True):
        if value is not None:
            _check_id(value, f"$.{name}")
    if event.user_id is not None and event.user_id.startswith(ANONYMOUS_PREFIX):
        raise Breach(
            "reserved_prefix",
            "$.user_id",
            f"{ANONYMOUS_PREFIX} marks people who are not known; choose another id",
        )
    if event.items is not None:
        if len(event.items) > ITEMS_MAX:
            raise Breach(
                "too_large",
                "$.items",
                f"expected at most {ITEMS_MAX} items, got {len(event.items)}",
            )
        for index, item in enumerate(event.items):
            if not item or len(item) > ID_LENGTH_MAX or "\x00" in item:
                raise Breach(
                    "bad_id",
                    f"$.items[{index}]",
                    f"expected 1 to {ID_LENGTH_MAX} characters without NUL",
                )


def _check_id(value: str, path: str) -> None:
    if not value or len(value) > ID_LENGTH_MAX:
        raise Breach("bad_id", path, f"expected 1 to {ID_LENGTH_MAX} characters, got {len(value)}")
    if "\x00" in value:
        raise Breach("bad_id", path, "expected text without NUL characters")


def _check_owner(event: Event, receipt: Receipt) -> None:
    if receipt.source in TRUSTED:
        return
    if receipt.source != DOOR:
        _check_browser(event, receipt)
    if event.received_at is not None:
        raise Breach("server_owned", "$.received_at", "only the server sets it; leave it out")
    if event.answer is not None or event.type == "answer":
        path = "$.type" if event.answer is None else "$.answer"
        raise Breach(
            "server_owned", path, "only the server records answers; send an impression instead"
        )


def _check_browser(event: Event, receipt: Receipt) -> None:
    """Whoever opens the page has the key: they may tell what happened, not who somebody is or what
    an item is.
    """
    if event.type in SHARED_TYPES:
        raise Breach(
            "browser_key",
            "$.type",
            f"a browser's key may not send {event.type}; send it from your own server, with "
            "a write key",
        )
    if event.type == "identify" and receipt.source != BROWSER_IDENTIFY:
        raise Breach(
            "browser_key",
            "$.type",
            "this browser's key may not send identify; send it from your own server, with a "
            "write key",
        )


def _check_subject(event: Event) -> None:
    if event.timeless and event.type not in PROFILE_TYPES:
        raise Breach(
            "timeless_event",
            "$.timeless",
            f"only profiles (user, item) may be timeless, got type {event.type}",
        )
    if event.type == "item":
        if event.item_id is None:
            raise Breach("missing", "$.item_id", "an item profile needs an item_id")
        return
    if event.type == "user" and event.user_id is None:
        raise Breach("missing", "$.user_id", "a user profile needs a user_id")
    if event.type == "identify" and (event.user_id is None or event.anonymous_id is None):
        path = "$.user_id" if event.user_id is None else "$.anonymous_id"
        raise Breach("missing", path, "identify ties an anonymous_id to a user_id and needs both")
    if event.user_id is None and event.anonymous_id is None:
        raise Breach("missing", "$.user_id", "expected a user_id or an anonymous_id")
    if event.type == "merge":
        _check_merge(event)
    if event.type in NEEDS_ITEM and event.item_id is None:
        raise Breach("missing", "$.item_id", f"a {event.type} needs an item_id")
    if event.type == "answer":
        _check_answer(event)


def _check_merge(event: Event) -> None:
    path, into = f"$.properties.{MERGED_INTO}", (event.properties or {}).get(MERGED_INTO)
    if event.user_id is None:
        raise Breach(
            "missing",
            "$.user_id",
            "a merge needs the user_id that is somebody else from now on, named by "
            f"properties.{MERGED_INTO}",
        )
    if into is None:
        raise Breach(
            "missing",
            path,
            "a merge needs the user whom its user_id is from now on; itself, to take back an "
            "earlier one",
        )
    if not isinstance(into, str):
        raise Breach("wrong_type", path, f"expected text, got {show(into)}")
    _check_id(into, path)
    if into.startswith(ANONYMOUS_PREFIX):
        raise Breach(
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
        raise Breach("missing", f"$.{name}", f"an answer needs {name}")
    given = event.answer.propensities
    if given and len(given) != len(event.items):
        raise Breach(
            "wrong_type",
            "$.answer.propensities",
            f"expected {len(event.items)} values, one an item, got {len(given)}",
        )
    for index, value in enumerate(given):
        if not 0.0 < value <= 1.0:
            raise Breach(
                "number_out_of_range",
                f"$.answer.propensities[{index}]",
                f"expected a value in (0, 1], got {value}",
            )


def _check_context(event: Event) -> None:
    context = event.context
    if context is None:
        return
    if context.country is not None and not COUNTRY.match(context.country):
        raise Breach(
            "bad_country",
            "$.context.country",
            f"expected a two-letter code, got {show(context.country)}",
        )
    for name in ("device", "page", "referrer", "user_agent"):
        value = getattr(context, name)
        if value is not None and len(value) > TEXT_LENGTH_MAX:
            raise Breach(
                "too_large",
                f"$.context.{name}",
                f"expected at most {TEXT_LENGTH_MAX} characters, got {len(value)}",
            )
    if context.utc_offset_min is not None and abs(context.utc_offset_min) > 14 * 60:
        raise Breach(
            "number_out_of_range",
            "$.context.utc_offset_min",
            f"expected -840 to 840, got {context.utc_offset_min}",
        )


def _check_properties(event: Event, size: int) -> None:
    """Those of an event that took `size` bytes as it came in."""
    properties = event.properties
    if not properties:
        return
    query = properties.get("query")
    if query is not None and not isinstance(query, str):
        raise Breach("wrong_type", "$.properties.query", f"expected text, got {show(query)}")
    for name, (low, high) in NUMBERS.items():
        value = properties.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Breach(
                "wrong_type", f"$.properties.{name}", f"expected a number, got {show(value)}"
            )
        if not low <= value <= high:  # false for NaN too; compares an integer of any length exactly
            raise Breach(
                "number_out_of_range",
                f"$.properties.{name}",
                f"expected {low:g} to {high:g}, got {show(value)}",
            )
    if (
        not NESTED.isdisjoint(map(type, properties.values()))
        and (path := too_deep(properties)) is not None
    ):
        raise Breach("too_large", path, f"nested more than {DEPTH_MAX} levels deep")
    if size > DIGITS and (path := too_long(properties)) is not None:
        raise Breach("number_out_of_range", path, "expected a number below 1e308")
    if (
        size * GROWTH_MAX > PROPERTIES_BYTES_MAX
        and (size := len(msgspec.json.encode(properties))) > PROPERTIES_BYTES_MAX
    ):
        raise Breach(
            "too_large",
            "$.properties",
            f"expected at most {PROPERTIES_BYTES_MAX} bytes, got {size}",
        )


def too_deep(properties: dict) -> str | None:
    """Where properties are nested too deeply, if anywhere."""
    return next((path for path, depth in _depths(properties) if depth > DEPTH_MAX), None)


def too_long(properties: dict) -> str | None:
    """Where an integer stands that no float holds, if anywhere: what reads numbers of events could
    not go on.
    """
    stack = [(f"$.properties.{name}", value) for name, value in properties.items()]
    while stack:
        path, value = stack.pop()
        if type(value) is int and not -LARGEST < value < LARGEST:
            return path
        if isinstance(value, dict | list):
            stack.extend(
                (path, inner) for inner in (value.values() if isinstance(value, dict) else value)
            )
    return None


def _depths(properties: dict) -> Iterator[tuple[str, int]]:
    """Each nested container below `properties` with its depth; only those are looked at, most
    events have none.
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
        below = value.values() if isinstance(value, dict) else value
        stack.extend((path, inner, depth + 1) for inner in below if isinstance(inner, dict | list))


def to_micros(value: int | str, path: str) -> int:
    """Microseconds from RFC 3339 text with a zone, or from an integer of microseconds."""
    if isinstance(value, int):
        if 0 < value < MICROSECONDS_MIN:
            unit = "milliseconds" if value > MICROSECONDS_MIN // 1_000 else "seconds"
            raise Breach(
                "bad_time",
                path,
                f"expected microseconds since 1970, got {value}, which looks like {unit}",
            )
        if not 0 < value < MICROSECONDS_END:
            raise Breach("bad_time", path, f"expected microseconds since 1970, got {value}")
        return value
    try:
        moment = datetime.fromisoformat(value)
        offset = moment.utcoffset()
    except ValueError:
        raise Breach(
            "bad_time", path, f"expected a time such as 2026-11-25T12:00:00Z, got {show(value)}"
        ) from None
    if offset is None:
        raise Breach(
            "bad_time",
            path,
            f"expected a time with its zone, such as 2026-11-25T12:00:00Z, got {show(value)}",
        )
    naive = moment.replace(tzinfo=None) - offset if _in_range(moment) else None
    if naive is None:
        raise Breach("bad_time", path, f"expected a year from 1970 to 9998, got {show(value)}")
    elapsed = naive - datetime(1970, 1, 1)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def _in_range(moment: datetime) -> bool:
    return 1970 <= moment.year <= 9998
