"""A footprint: what people left in the lake, and whose feature values change when it goes.

All that later steps need is found before anything is written and is kept in the journal, so that an
erasure that was cut off goes on although the rows that told it are gone.
"""

from collections import Counter
from collections.abc import Collection

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract.schema import micros
from tailorbird.events.suppression import read_row_subject, subject_of
from tailorbird.lake import Lake
from tailorbird.lake.quarantine import ROW_KEY_COLUMNS, row_keys
from tailorbird.privacy.mentions import Mentions
from tailorbird.privacy.people import People, isin_filter, isin_mask

TEXT_COLUMNS = ("page", "referrer", "query", "answer_query")  # free text of an event
JSON_COLUMNS = ("properties", "user_profile", "item_profile")
REFERENCE_COLUMNS = ("event_id", "session_id", "request_id", "user_version", "item_version")
_EVENT_COLUMNS = (
    *("event_id", "type", "ts", "user_id", "anonymous_id", "person", "session_id"),
    *("request_id", "item_id", "items", "raw_partition", "raw_offset", "raw_row"),
)
NEVER_TS = 1 << 62
RawRowKey = tuple[str, int, int]  # partition, offset and row of a raw log


class Footprint(msgspec.Struct):
    """What people left, and what changes for others.

    Attributes:
        events: each event's subject ("u" or "a", and the id) and event id.
        requests: ids of answers that were given to them.
        places, refused_rows: where their accepted and their refused rows stand in the raw logs.
        users: other users whose events or profiles change, so that their features do too.
        items: items of events that change, whose counts may move.
        mentioning_items: items whose profile mentions the people.
        attributes: attributes in profiles of others that do, "item.seller" for instance.
        since: time of the first event that changes, microseconds.
        types: number of events by type.
        first, last: time of the first and the last event, microseconds; 0 without any.
    """

    events: list[tuple[str, str, str]] = []
    requests: list[str] = []
    places: list[RawRowKey] = []
    refused_rows: list[RawRowKey] = []
    users: list[str] = []
    items: list[str] = []
    mentioning_items: list[str] = []
    attributes: list[str] = []
    since: int = NEVER_TS
    types: dict[str, int] = {}
    first: int = 0
    last: int = 0


def find_footprint(lake: Lake, people: People, declared_names: Collection[str]) -> Footprint:
    """Find what people left in the lake; `declared_names`: see `mentions.attribute_names`."""
    footprint = Footprint()
    mentions = Mentions(people.ids, declared_names)
    sessions: set[str] = set()
    if lake.exists("events"):
        rows = lake.table("events", list(_EVENT_COLUMNS), people.row_filter())
        owned_rows = rows.filter(people.owned_mask(rows))
        footprint.events = [
            (*subject_of(user, device), id_)
            for user, device, id_ in zip(
                *(owned_rows[name].to_pylist() for name in ("user_id", "anonymous_id", "event_id")),
                strict=True,
            )
        ]
        footprint.places = row_keys(owned_rows)
        footprint.types = dict(Counter(owned_rows["type"].to_pylist()))
        times = micros(owned_rows["ts"])[micros(owned_rows["ts"]) > 0]
        if len(times):
            footprint.first = int(times.min())
            footprint.last = int(times.max())
        sessions = set(owned_rows["session_id"].drop_null().to_pylist())
        footprint.requests = _find_requests(lake, people, owned_rows)
        _find_affected_entities(lake, people, mentions, footprint)
    footprint.refused_rows = find_refused_rows(lake, mentions, sessions, footprint.requests)
    return footprint


def _find_requests(lake: Lake, people: People, owned_rows: pa.Table) -> list[str]:
    """Return the requests of these people: not those that somebody else asked and they followed."""
    columns = ["request_id", "user_id", "anonymous_id", "person"]
    requests = set(owned_rows["request_id"].drop_null().to_pylist())
    if lake.exists("answers"):
        rows = lake.table(
            "answers", columns, isin_filter("request_id", requests) | people.row_filter()
        )
        is_owned = people.owned_mask(rows)
        requests -= set(rows.filter(pc.invert(is_owned))["request_id"].to_pylist())
        requests |= set(rows.filter(is_owned)["request_id"].to_pylist())
    return sorted(requests)


def _find_affected_entities(
    lake: Lake, people: People, mentions: Mentions, footprint: Footprint
) -> None:
    """Find the users and items whose features change, by the rows that do."""
    users: set[str] = set()
    items: set[str] = set()
    for batch in lake.batches(
        "events",
        [*dict.fromkeys((*_EVENT_COLUMNS, *REFERENCE_COLUMNS, *TEXT_COLUMNS, *JSON_COLUMNS))],
    ):
        rows = pa.Table.from_batches([batch])
        is_changed = changed_mask(rows, people, mentions, footprint.requests)
        rows = rows.filter(is_changed)
        footprint.since = min(footprint.since, *micros(rows["ts"]).tolist(), NEVER_TS)
        for name in ("user_id", "person"):
            users.update(rows[name].drop_null().to_pylist())
        items.update(rows["item_id"].drop_null().to_pylist())
        items.update(pc.list_flatten(rows["items"]).drop_null().to_pylist())
    mentioning_users = _find_mentioning_profiles(lake, "user", mentions, footprint, people.users)
    footprint.mentioning_items = sorted(
        _find_mentioning_profiles(lake, "item", mentions, footprint)
    )
    footprint.users = sorted((users | mentioning_users) - people.persons)
    footprint.items = sorted(items)


def _find_mentioning_profiles(
    lake: Lake, kind: str, mentions: Mentions, footprint: Footprint, own_ids: Collection[str] = ()
) -> set[str]:
    """Return the users or items whose profile mentions the people, and note the attributes."""
    table = f"{kind}s"
    ids = set[str]()
    attributes = set(footprint.attributes)
    for batch in lake.batches(table, ["id", "attributes"]) if lake.exists(table) else ():
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(pa.array(mentions.json_mask(rows["attributes"]), pa.bool_()))
        for row in rows.filter(pc.invert(isin_mask(rows["id"], own_ids))).to_pylist():
            ids.add(row["id"])
            for name, value in msgspec.json.decode(row["attributes"]).items():
                if mentions.redact({name: value}) != {name: value}:
                    attributes.add(f"{kind}.{name}")
    footprint.attributes = sorted(attributes)
    return ids


def changed_mask(
    rows: pa.Table, people: People, mentions: Mentions, requests: Collection[str]
) -> pa.Array:
    """Return which rows of `events` an erasure changes."""
    is_changed = pc.or_(people.owned_mask(rows), people.attributed_mask(rows))
    is_changed = pc.or_(is_changed, isin_mask(rows["request_id"], requests))
    for name in TEXT_COLUMNS:
        is_changed = pc.or_(is_changed, pa.array(mentions.column_mask(rows[name]), pa.bool_()))
    for name in JSON_COLUMNS:
        is_changed = pc.or_(is_changed, pa.array(mentions.json_mask(rows[name]), pa.bool_()))
    for name in REFERENCE_COLUMNS:
        is_changed = pc.or_(
            is_changed, isin_mask(rows[name], mentions.find_renames(rows[name]).keys())
        )
    return is_changed


def find_refused_rows(
    lake: Lake, mentions: Mentions, sessions: Collection[str], requests: Collection[str]
) -> list[RawRowKey]:
    """Return where refused rows stand that mention the people, or are nobody else's and of their
    sessions or requests.
    """
    refused_rows: list[RawRowKey] = []
    for batch in (
        lake.batches("quarantine", ["body", *ROW_KEY_COLUMNS]) if lake.exists("quarantine") else ()
    ):
        rows = pa.Table.from_batches([batch])
        for row_key, body in zip(row_keys(rows), rows["body"].to_pylist(), strict=True):
            row_subject = read_row_subject(body)
            is_unnamed = row_subject is not None and not (
                row_subject.user_id or row_subject.anonymous_id
            )
            is_of_their_session = row_subject is not None and (
                (isinstance(row_subject.session_id, str) and row_subject.session_id in sessions)
                or (isinstance(row_subject.request_id, str) and row_subject.request_id in requests)
            )
            if mentions.in_body(body) or (is_unnamed and is_of_their_session):
                refused_rows.append(row_key)
    return refused_rows
