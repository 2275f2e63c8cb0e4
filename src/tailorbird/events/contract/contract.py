"""The contract: one pure, versioned function that says whether an event is accepted, and if not,
why and where.

Collector and router apply it to the same body and receipt, without a clock or store, and so reach
the same verdict. They call it through `events.contract.columnwise`, which clears ordinary events
column by column and leaves the rest to this module, which is authoritative.

    body ──split──► JSON rows ──decode──► Event ──check──► Accepted | Refusal(code, path, message)

One bad event does not affect the others. A body that is not JSON is one refused row. A line that an
adapter wrote in place of an unreadable foreign record (`UnreadRecord`) is refused with its own
reason.
"""

import re
from collections.abc import Sequence
from operator import attrgetter

import msgspec

from tailorbird.events.clock import to_iso
from tailorbird.events.contract.codes import DECODE_ERRORS, ContractViolation, to_violation
from tailorbird.events.contract.envelope import (
    ANONYMOUS_PREFIX,
    ID_BOUNDS,
    ITEMS_BOUNDS,
    Context,
    Event,
    ResponseDetails,
)
from tailorbird.events.contract.event_types import (
    FORBIDDEN_TYPES,
    TRUSTED_SOURCES,
    required_fields_of,
)
from tailorbird.events.contract.fields import Bounds, Pattern, ServerOwned, annotations_of
from tailorbird.events.contract.plan import MERGED_INTO, PROFILE_TYPES, SERVER_TYPES, RoutePlan
from tailorbird.events.contract.properties import check_properties
from tailorbird.events.contract.rules import find_violation, format_value
from tailorbird.events.contract.times import resolve_times, to_micros
from tailorbird.events.contract.verdict import BROWSER, Accepted, Receipt, Refusal, UnreadRecord

CONTRACT_VERSION = 1

# Replaces a row of an erased user, see `events.suppression`.
ERASED_BODY = b'{"erased":true}'

_ID_FIELDS = tuple(
    name for name, bounds in annotations_of(Event, Bounds).items() if bounds is ID_BOUNDS
)
_get_ids = attrgetter(*_ID_FIELDS)
_SERVER_OWNED_FIELDS = tuple(annotations_of(Event, ServerOwned).items())
_CONTEXT_LIMITS = tuple(
    (annotations_of(Context, Pattern) | annotations_of(Context, Bounds)).items()
)


class _UnreadLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    unread: UnreadRecord


_event_decoder = msgspec.json.Decoder(Event)
_unread_decoder = msgspec.json.Decoder(_UnreadLine)
_rows_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_LINE = re.compile(rb"\S[^\n]*")


def check_body(
    body: bytes, receipt: Receipt, plan: RoutePlan
) -> tuple[list[Accepted], list[Refusal]]:
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
    """Check one of the rows that `split_body` returns."""
    try:
        return _check_event(row, _decode(raw, receipt), len(raw), receipt, plan)
    except ContractViolation as refusal:
        return Refusal(row, refusal.code, refusal.path, refusal.message, bytes(raw))


def split_body(body: bytes, encoding: str) -> Sequence[bytes | memoryview]:
    """Split a body into rows.

    A body that cannot be split is one row, which `check_body` then refuses.
    """
    if encoding == "ndjson":
        return [line for line in body.split(b"\n") if line.strip()] or [body]
    if body.lstrip()[:1] == b"[":
        try:
            return [memoryview(raw) for raw in _rows_decoder.decode(body)] or [body]
        except DECODE_ERRORS:
            return [body]
    return [body]


def join_rows(rows: Sequence[bytes], body: bytes, encoding: str) -> bytes:
    """Return rows put together as `split_body` takes `body` apart."""
    if encoding == "ndjson":
        return b"\n".join(rows)
    return b"[" + b",".join(rows) + b"]" if body.lstrip()[:1] == b"[" else rows[0]


def count_rows(body: bytes, encoding: str) -> int:
    """Count the rows that `split_body` would return, without decoding any.

    A list costs 72 bytes of memory per element while it is counted.
    """
    if encoding == "ndjson":
        return sum(1 for _ in _LINE.finditer(body)) or 1
    if body.lstrip()[:1] == b"[":
        try:
            return len(_rows_decoder.decode(body)) or 1
        except DECODE_ERRORS:
            return 1
    return 1


def parse_unread(line: bytes | memoryview) -> UnreadRecord | None:
    """Parse the record that an adapter wrote in place of one it could not read.

    Returns None if the line is anything else.
    """
    try:
        return _unread_decoder.decode(line).unread
    except DECODE_ERRORS:
        return None


def _decode(raw: bytes | memoryview, receipt: Receipt) -> Event:
    try:
        return _event_decoder.decode(raw)
    except msgspec.ValidationError as error:
        if bytes(raw) == ERASED_BODY:
            raise ContractViolation(
                "erased", "$", "it was of somebody whose data were erased"
            ) from None
        if (receipt.format or receipt.source == "import") and (
            unread := parse_unread(raw)
        ) is not None:
            raise ContractViolation(unread.code, unread.path, unread.message) from None
        if bytes(raw).lstrip()[:1] == b"[":
            _check_list(raw)
        raise to_violation(error) from None
    except DECODE_ERRORS as error:
        raise _malformed_violation(error) from None


def _malformed_violation(error: Exception) -> ContractViolation:
    message = (
        "nested too deeply" if isinstance(error, RecursionError) else f"expected JSON: {error}"
    )
    return ContractViolation("malformed_json", "$", message)


def _check_list(raw: bytes | memoryview) -> None:
    """Raise the reason why `split_body` could not take a list apart: it is malformed, or empty."""
    try:
        rows = _rows_decoder.decode(raw)
    except DECODE_ERRORS as error:
        raise _malformed_violation(error) from None
    if not rows:
        raise ContractViolation("missing", "$", "expected at least one event, got an empty list")


def _check_event(
    row: int, event: Event, row_bytes: int, receipt: Receipt, plan: RoutePlan
) -> Accepted:
    _check_ids(event)
    if event.type not in plan.event_types:
        raise ContractViolation(
            "unknown_type",
            "$.type",
            f"expected one of {', '.join(_list_client_types(plan))}, "
            f"got {format_value(event.type)}",
        )
    _check_sender(event, receipt)
    _check_subject(event)
    _check_context(event.context)
    check_properties(event.properties, row_bytes)
    if (rules := plan.rules.get(event.type)) is not None and (
        violation := find_violation(rules, event.properties)
    ) is not None:
        raise ContractViolation(*violation)
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


def _list_client_types(plan: RoutePlan) -> list[str]:
    """Return the event types that a client may send; answers are the server's own."""
    return [type_ for type_ in plan.event_types if type_ not in SERVER_TYPES]


def _check_ids(event: Event) -> None:
    low = ID_BOUNDS.low
    high = ID_BOUNDS.high
    for value in _get_ids(event):
        if value is not None and not (low <= len(value) <= high and "\x00" not in value):
            name = next(name for name in _ID_FIELDS if getattr(event, name) is value)
            _check_id(value, name)
    if event.user_id is not None and event.user_id.startswith(ANONYMOUS_PREFIX):
        raise ContractViolation(
            "reserved_prefix",
            "$.user_id",
            f"{ANONYMOUS_PREFIX} marks people who are not known; choose another id",
        )
    if event.items is not None:
        if not ITEMS_BOUNDS.holds(event.items):
            raise ITEMS_BOUNDS.violation(event.items, "$.items")
        for index, item in enumerate(event.items):
            if not low <= len(item) <= high or "\x00" in item:
                raise ContractViolation(
                    ID_BOUNDS.code, f"$.items[{index}]", f"expected {ID_BOUNDS.text} without NUL"
                )


def _check_id(value: str, name: str) -> None:
    if not ID_BOUNDS.low <= len(value) <= ID_BOUNDS.high:
        raise ID_BOUNDS.violation(value, f"$.{name}")
    if "\x00" in value:
        raise ContractViolation(ID_BOUNDS.code, f"$.{name}", "expected text without NUL characters")


def _check_sender(event: Event, receipt: Receipt) -> None:
    if receipt.source in TRUSTED_SOURCES:
        return
    if event.type in FORBIDDEN_TYPES.get(receipt.source, FORBIDDEN_TYPES[BROWSER]):
        raise _browser_key_violation(event.type)
    for name, annotation in _SERVER_OWNED_FIELDS:
        if getattr(event, name) is not None:
            raise ContractViolation("server_owned", f"$.{name}", annotation.text)
    if event.type in SERVER_TYPES:
        raise ContractViolation("server_owned", "$.type", dict(_SERVER_OWNED_FIELDS)["answer"].text)


def _browser_key_violation(type_: str) -> ContractViolation:
    """Return the violation by a browser key that sends a profile, a merge or an `identify`.

    Every visitor of the page can read the key. It may report actions, not identities or attributes.
    """
    key = "this browser's key" if type_ == "identify" else "a browser's key"
    return ContractViolation(
        "browser_key",
        "$.type",
        f"{key} may not send {type_}; send it from your own server, with a write key",
    )


def _check_subject(event: Event) -> None:
    if event.timeless and event.type not in PROFILE_TYPES:
        raise ContractViolation(
            "timeless_event",
            "$.timeless",
            f"only profiles (user, item) may be timeless, got type {event.type}",
        )
    for need in required_fields_of(event.type):
        for name in need.fields:
            if getattr(event, name) is not None:
                break
        else:
            raise ContractViolation("missing", f"$.{need.fields[0]}", need.message)
    if event.type == "merge":
        _check_merge(event)
    if event.answer is not None and event.type == "answer":
        _check_response(event.answer, len(event.items or ()))


def _check_merge(event: Event) -> None:
    path = f"$.properties.{MERGED_INTO}"
    survivor_id = (event.properties or {}).get(MERGED_INTO)
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
    _check_id(survivor_id, f"properties.{MERGED_INTO}")
    if survivor_id.startswith(ANONYMOUS_PREFIX):
        raise ContractViolation(
            "reserved_prefix",
            path,
            f"{ANONYMOUS_PREFIX} marks people who are not known; a visitor is tied to a user "
            "by identify",
        )


def _check_response(response: ResponseDetails, item_count: int) -> None:
    propensities = response.propensities
    if propensities and len(propensities) != item_count:
        raise ContractViolation(
            "wrong_type",
            "$.answer.propensities",
            f"expected {item_count} values, one an item, got {len(propensities)}",
        )
    for index, value in enumerate(propensities):
        if not 0.0 < value <= 1.0:
            raise ContractViolation(
                "number_out_of_range",
                f"$.answer.propensities[{index}]",
                f"expected a value in (0, 1], got {value}",
            )


def _check_context(context: Context | None) -> None:
    if context is None:
        return
    for name, limits in _CONTEXT_LIMITS:
        value = getattr(context, name)
        if value is not None and not limits.holds(value):
            raise limits.violation(value, f"$.context.{name}")
