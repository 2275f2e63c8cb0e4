"""The event contract between a site and Tailorbird: definition, validation and shared helpers."""

from tailorbird.events.clock import (
    BACKWARD_TOLERANCE,
    DAY,
    EPOCH_WEEKDAY,
    HOUR,
    MINUTE,
    SECOND,
    Clock,
    SimulatedClock,
    SystemClock,
    format_duration,
    parse_duration,
    to_iso,
    to_iso_minute,
)
from tailorbird.events.contract.contract import check_body
from tailorbird.events.contract.envelope import Context, Event, ResponseDetails
from tailorbird.events.contract.plan import EVENT_TYPES, RoutePlan, SlotPlan
from tailorbird.events.contract.schema import QUARANTINE, ROUTED, micros
from tailorbird.events.contract.verdict import (
    BROWSER,
    BROWSER_IDENTIFY,
    COLLECTOR,
    Accepted,
    Receipt,
    Refusal,
)
from tailorbird.events.keys import combine_keys, hash64, hash64s

__all__ = [
    "BACKWARD_TOLERANCE",
    "BROWSER",
    "BROWSER_IDENTIFY",
    "COLLECTOR",
    "DAY",
    "EPOCH_WEEKDAY",
    "EVENT_TYPES",
    "HOUR",
    "MINUTE",
    "QUARANTINE",
    "ROUTED",
    "SECOND",
    "Accepted",
    "Clock",
    "Context",
    "Event",
    "Receipt",
    "Refusal",
    "ResponseDetails",
    "RoutePlan",
    "SimulatedClock",
    "SlotPlan",
    "SystemClock",
    "check_body",
    "combine_keys",
    "format_duration",
    "hash64",
    "hash64s",
    "micros",
    "parse_duration",
    "to_iso",
    "to_iso_minute",
]
