"""Event times: parsing of texts and numbers, and bounds around the receipt."""

from datetime import datetime

from tailorbird.events.contract.codes import ContractViolation
from tailorbird.events.contract.envelope import TIME_BOUNDS
from tailorbird.events.contract.rules import format_value
from tailorbird.events.contract.verdict import Receipt


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


def to_micros(value: int | str, path: str) -> int:
    """Convert RFC 3339 text with a zone, or integer microseconds, to microseconds."""
    if isinstance(value, int):
        if TIME_BOUNDS.low <= value <= TIME_BOUNDS.high:
            return value
        looks_like = ""
        if 0 < value < TIME_BOUNDS.low:
            unit = "milliseconds" if value > TIME_BOUNDS.low // 1_000 else "seconds"
            looks_like = f", which looks like {unit}"
        raise ContractViolation(
            TIME_BOUNDS.code, path, f"expected microseconds since 1970, got {value}{looks_like}"
        )
    try:
        parsed_time = datetime.fromisoformat(value)
        offset = parsed_time.utcoffset()
    except ValueError:
        raise ContractViolation(
            TIME_BOUNDS.code,
            path,
            f"expected a time such as 2026-11-25T12:00:00Z, got {format_value(value)}",
        ) from None
    if offset is None:
        raise ContractViolation(
            TIME_BOUNDS.code,
            path,
            "expected a time with its zone, such as 2026-11-25T12:00:00Z, "
            f"got {format_value(value)}",
        )
    utc_time = parsed_time.replace(tzinfo=None) - offset if _is_year_in_range(parsed_time) else None
    if utc_time is None:
        raise ContractViolation(
            TIME_BOUNDS.code, path, f"expected a year from 1970 to 9998, got {format_value(value)}"
        )
    elapsed = utc_time - datetime(1970, 1, 1)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def _is_year_in_range(parsed_time: datetime) -> bool:
    return 1970 <= parsed_time.year <= 9998
