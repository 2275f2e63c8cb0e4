"""Facts about a site whose files an adapter reads, from its events."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tailorbird.events import EVENT_TYPES, Receipt, RoutePlan, check_body
from tailorbird.events.adapters import FORMATS, AdapterOptions, find_files
from tailorbird.events.contract.verdict import Accepted
from tailorbird.proposal.facts import (
    CONTEXT_FIELDS,
    EXCLUDED_TYPES,
    Facts,
    attribute_fields,
    choose_target_type,
    choose_typical_user,
    classify_column,
)
from tailorbird.proposal.statistics import LogStatistics, compute_statistics, encode_codes

ROWS_MAX = 300_000  # of larger exports, the first ones
_PROFILE_OWNERS = {"item": "items", "user": "users"}


class _TypeOnly(msgspec.Struct):
    """The type of an event."""

    type: str = ""


@dataclass
class _SiteTotals:
    """Aggregates over the events of a site."""

    type_counts: Counter[str] = field(default_factory=Counter)
    events_by_user: Counter[str] = field(default_factory=Counter)
    interactions: list[Accepted] = field(default_factory=list)
    context_fields: set[str] = field(default_factory=set)
    property_names: set[str] = field(default_factory=set)
    values_by_attribute: dict[tuple[str, str], list[Any]] = field(default_factory=dict)


def facts_from_adapter(format_: str, data: Path, now: int) -> tuple[Facts, list[str], str]:
    """Return the facts, the event types that are not built in, and a typical user ("" for none).

    Args:
        now: in microseconds.
    """
    totals = _SiteTotals()
    for accepted in islice(_read_accepted(format_, data, now), ROWS_MAX):
        _count_event(totals, accepted)
    action_types = [
        name for name, _ in totals.type_counts.most_common() if name not in EXCLUDED_TYPES
    ]
    target_type = choose_target_type(action_types)
    kind_by_attribute = {
        (owner, name): classify_column(name, _to_array(values))
        for (owner, name), values in totals.values_by_attribute.items()
    }
    facts = Facts(
        target_type=target_type,
        action_types=tuple(action_types),
        log_statistics=_interaction_statistics(
            [event for event in totals.interactions if event.event.type == target_type]
        ),
        has_price="price" in totals.property_names,
        has_quantity="quantity" in totals.property_names,
        has_session=any(accepted.event.session_id for accepted in totals.interactions[:1_000]),
        has_search="search" in totals.type_counts,
        context_fields=tuple(name for name in CONTEXT_FIELDS if name in totals.context_fields),
        **attribute_fields(kind_by_attribute),
    )
    return (
        facts,
        [name for name in action_types if name not in EVENT_TYPES],
        choose_typical_user(totals.events_by_user),
    )


def _read_accepted(format_: str, data: Path, now: int) -> Iterator[Accepted]:
    format_adapter = FORMATS[format_]
    read = format_adapter.read
    patterns = format_adapter.patterns
    plan = RoutePlan()
    # No event is stored here, so the checksums of the files do not matter.
    checksum_by_file = dict.fromkeys(find_files(data, patterns), "0" * 64)
    for batch in read(checksum_by_file, AdapterOptions(root=str(data))):
        accepted_events, refusals = check_body(
            b"\n".join(batch.lines), Receipt(now, "import", "ndjson"), plan
        )
        if any(refusal.code == "unknown_type" for refusal in refusals):
            plan = RoutePlan(event_types=(*EVENT_TYPES, *_list_unknown_types(batch.lines)))
            accepted_events, _ = check_body(
                b"\n".join(batch.lines), Receipt(now, "import", "ndjson"), plan
            )
        yield from accepted_events


def _list_unknown_types(lines: list[bytes]) -> list[str]:
    types = dict.fromkeys(msgspec.json.decode(line, type=_TypeOnly).type for line in lines)
    return [name for name in types if name and name not in EVENT_TYPES]


def _count_event(totals: _SiteTotals, accepted: Accepted) -> None:
    event = accepted.event
    if event.type in _PROFILE_OWNERS:
        for name, value in (event.properties or {}).items():
            values = totals.values_by_attribute.setdefault((_PROFILE_OWNERS[event.type], name), [])
            if len(values) < 2_000:
                values.append(value)
        return
    totals.type_counts[event.type] += 1
    totals.interactions.append(accepted)
    totals.property_names.update(event.properties or {})
    if event.user_id:
        totals.events_by_user[event.user_id] += 1
    if event.context is not None:
        totals.context_fields.update(
            name for name in CONTEXT_FIELDS if getattr(event.context, name)
        )


def _interaction_statistics(interactions: list[Accepted]) -> LogStatistics:
    usable_events = [
        accepted
        for accepted in interactions
        if accepted.event.item_id and (accepted.event.user_id or accepted.event.anonymous_id)
    ]
    if not usable_events:
        return LogStatistics()
    user_codes = encode_codes(
        pa.chunked_array(
            [[accepted.event.user_id or accepted.event.anonymous_id for accepted in usable_events]],
            pa.string(),
        )
    )
    item_codes = encode_codes(
        pa.chunked_array([[accepted.event.item_id for accepted in usable_events]], pa.string())
    )
    session_ids = [accepted.event.session_id for accepted in usable_events]
    session_codes = (
        encode_codes(pa.chunked_array([session_ids], pa.string())) if all(session_ids) else None
    )
    return compute_statistics(
        np.array([accepted.ts for accepted in usable_events], np.int64),
        user_codes,
        item_codes,
        session_codes,
    )


def _to_array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
