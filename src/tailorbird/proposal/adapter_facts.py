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

from tailorbird.events import EVENT_TYPES, Receipt, RoutePlan, check
from tailorbird.events.adapters import FORMATS, AdapterOptions, find_files
from tailorbird.events.contract.verdict import Accepted
from tailorbird.proposal.facts import (
    CONTEXT,
    EXCLUDED_TYPES,
    Facts,
    attribute_fields,
    kind_of_column,
    primary_type,
    typical_user,
)
from tailorbird.proposal.statistics import LogStatistics, codes_of, statistics_of

ROWS_MAX = 300_000  # of larger exports, the first ones
_PROFILES = {"item": "items", "user": "users"}


class _TypeOnly(msgspec.Struct):
    """The type of an event."""

    type: str = ""


@dataclass
class _Site:
    """Aggregates over the events of a site."""

    types: Counter[str] = field(default_factory=Counter)
    people: Counter[str] = field(default_factory=Counter)
    interactions: list[Accepted] = field(default_factory=list)
    context: set[str] = field(default_factory=set)
    properties: set[str] = field(default_factory=set)
    profiles: dict[tuple[str, str], list[Any]] = field(default_factory=dict)


def facts_from_adapter(format_: str, data: Path, now: int) -> tuple[Facts, list[str], str]:
    """Return the facts, the event types that are not built in, and a typical user ("" for none).

    Args:
        now: in microseconds.
    """
    site = _Site()
    for accepted in islice(_read_accepted(format_, data, now), ROWS_MAX):
        _add_event(site, accepted)
    action_types = [name for name, _ in site.types.most_common() if name not in EXCLUDED_TYPES]
    primary = primary_type(action_types)
    attribute_kinds = {
        (owner, name): kind_of_column(name, _to_array(values))
        for (owner, name), values in site.profiles.items()
    }
    facts = Facts(
        type=primary,
        types=tuple(action_types),
        log=_compute_statistics(
            [event for event in site.interactions if event.event.type == primary]
        ),
        has_price="price" in site.properties,
        has_quantity="quantity" in site.properties,
        has_session=any(row.event.session_id for row in site.interactions[:1_000]),
        has_search="search" in site.types,
        context=tuple(name for name in CONTEXT if name in site.context),
        **attribute_fields(attribute_kinds),
    )
    return (
        facts,
        [name for name in action_types if name not in EVENT_TYPES],
        typical_user(site.people),
    )


def _read_accepted(format_: str, data: Path, now: int) -> Iterator[Accepted]:
    format_adapter = FORMATS[format_]
    read, patterns = format_adapter.read, format_adapter.patterns
    plan = RoutePlan()
    for batch in read(
        dict.fromkeys(find_files(data, patterns), "0" * 64), AdapterOptions(root=str(data))
    ):
        rows, refused = check(b"\n".join(batch.lines), Receipt(now, "import", "ndjson"), plan)
        if any(refusal.code == "unknown_type" for refusal in refused):
            plan = RoutePlan(event_types=(*EVENT_TYPES, *_unknown_types(batch.lines)))
            rows, _ = check(b"\n".join(batch.lines), Receipt(now, "import", "ndjson"), plan)
        yield from rows


def _unknown_types(lines: list[bytes]) -> list[str]:
    types = dict.fromkeys(msgspec.json.decode(line, type=_TypeOnly).type for line in lines)
    return [name for name in types if name and name not in EVENT_TYPES]


def _add_event(site: _Site, row: Accepted) -> None:
    event = row.event
    if event.type in _PROFILES:
        for name, value in (event.properties or {}).items():
            values = site.profiles.setdefault((_PROFILES[event.type], name), [])
            if len(values) < 2_000:
                values.append(value)
        return
    site.types[event.type] += 1
    site.interactions.append(row)
    site.properties.update(event.properties or {})
    if event.user_id:
        site.people[event.user_id] += 1
    if event.context is not None:
        site.context.update(name for name in CONTEXT if getattr(event.context, name))


def _compute_statistics(interactions: list[Accepted]) -> LogStatistics:
    usable = [
        row
        for row in interactions
        if row.event.item_id and (row.event.user_id or row.event.anonymous_id)
    ]
    if not usable:
        return LogStatistics()
    users = codes_of(
        pa.chunked_array(
            [[row.event.user_id or row.event.anonymous_id for row in usable]], pa.string()
        )
    )
    items = codes_of(pa.chunked_array([[row.event.item_id for row in usable]], pa.string()))
    sessions = [row.event.session_id for row in usable]
    session_codes = codes_of(pa.chunked_array([sessions], pa.string())) if all(sessions) else None
    return statistics_of(
        np.array([row.ts for row in usable], np.int64), users, items, session_codes
    )


def _to_array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
