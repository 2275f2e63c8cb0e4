"""The decision on each event, once: what is attached to it, and what it teaches about the events behind it.

Events are taken one after the other, so that a click finds the answer that stands before it in the same step. The decision
depends on the events before it and on the plan, on nothing else. Files, positions and transactions are in `router.router`.

    Arrivals (accepted, not repeated) ──► for each: answer → ts, person, profiles ──► one Arrow batch of events.ROUTED
                                                └─► identify, profile, answer: applied to what comes after
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw
import pyarrow as pa

from tailorbird.events import ROUTED, Accepted, Context, Event, RoutePlan
from tailorbird.router import attribution, catalogue, dedup, enrich, identity

_NO_CONTEXT = Context()
_PROFILES = ("user", "item")
MEMORY_BYTES = 256 << 20


class Memory:
    """What the router knows from the events it has applied. Read from its tables; saved within a step's transaction.

    Args:
        bytes_max: of identities and profiles that are held in memory, about; all of them stand in the tables.
    """

    def __init__(self, connection: apsw.Connection, plan: RoutePlan, bytes_max: int = MEMORY_BYTES) -> None:
        share = bytes_max // 3
        self.seen = dedup.DedupIndex(connection, plan.dedup_us)
        self.identity = identity.Identity(connection, share)
        self.users = catalogue.Catalogue(connection, "user", plan.user_attributes, share)
        self.items = catalogue.Catalogue(connection, "item", plan.item_attributes, share)
        self.answers = attribution.Answers(connection, plan.answer_us)

    def ready(self, arrivals: "Arrivals") -> None:
        """Read what will be asked for these events, in one go for each table."""
        events = [one.event for one in arrivals.accepted]
        unnamed = {event.anonymous_id for event in events if event.anonymous_id is not None and event.user_id is None}
        identified = {event.anonymous_id or "" for event in events if event.type == "identify"}
        self.identity.ready(unnamed | identified)
        self.users.ready(self._people(events, unnamed))
        self.items.ready(id_ for event in events for id_ in _items(event))

    def _people(self, events: Sequence[Event], unnamed: set[str]) -> Iterator[str]:
        yield from (event.user_id for event in events if event.user_id is not None)
        for anonymous_id in unnamed:
            yield from self.identity.users(anonymous_id) or (f"anon:{anonymous_id}",)

    @staticmethod
    def make_tables(connection: apsw.Connection) -> None:
        for table in (dedup.TABLE, identity.TABLE, catalogue.TABLE, attribution.TABLE):
            connection.execute(table)

    def save(self, connection: apsw.Connection, newest: dict[int, int], past: Sequence[int]) -> None:
        """Write all that changed; `newest` is each producer's newest time of receipt, `past` the producers of imports and replays."""
        self.seen.save(connection, past)
        self.identity.save(connection)
        self.users.save(connection)
        self.items.save(connection)
        self.answers.save(connection, newest)


@dataclass
class Arrivals:
    """Accepted events in the order in which they are routed, and where each stands in the raw logs. All lists are of length n."""

    accepted: list[Accepted] = field(default_factory=list)
    partitions: list[str] = field(default_factory=list)
    producers: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def add(self, accepted: list[Accepted], partition: str, producer: int, offset: int) -> None:
        """The events of one body."""
        self.accepted += accepted
        self.partitions += [partition] * len(accepted)
        self.producers += [producer] * len(accepted)
        self.offsets += [offset] * len(accepted)

    def without(self, rows: set[int]) -> "Arrivals":
        """These but for the given rows."""
        kept = [row for row in range(len(self.accepted)) if row not in rows]
        return Arrivals(
            [self.accepted[row] for row in kept],
            [self.partitions[row] for row in kept],
            [self.producers[row] for row in kept],
            [self.offsets[row] for row in kept],
        )

    def __len__(self) -> int:
        return len(self.accepted)


class _Attached:
    """The columns that the router decides, one value an event, in order."""

    def __init__(self, rows: int) -> None:
        self.ts: list[int] = [0] * rows
        self.person: list[str | None] = [None] * rows
        self.local_hour: list[int | None] = [None] * rows
        self.properties: list[str | None] = [None] * rows
        self.user: list[catalogue.Profile | None] = [None] * rows
        self.item: list[catalogue.Profile | None] = [None] * rows
        self.answer: list[attribution.Given | None] = [None] * rows
        self.position: list[int | None] = [None] * rows
        self.propensity: list[float | None] = [None] * rows
        self.propensities: list[list[float] | None] = [None] * rows
        self.counts: list[bool] = [True] * rows


def route(arrivals: Arrivals, memory: Memory, plan: RoutePlan, first_p: int) -> pa.RecordBatch:
    """Decide on each event and apply it; the rows of events.ROUTED, shape (n,), with p from `first_p` on."""
    attached = _Attached(len(arrivals))
    memory.ready(arrivals)
    for row, accepted in enumerate(arrivals.accepted):
        event = accepted.event
        if event.type in _PROFILES:
            _route_profile(row, accepted, attached, memory, first_p + row)
        else:
            _route_event(row, accepted, attached, memory, plan)
            if event.type == "answer":
                _keep_answer(row, accepted, attached, memory, arrivals.producers[row])
            elif event.type == "identify":
                memory.identity.apply(event.anonymous_id or "", attached.ts[row], first_p + row, event.user_id or "")
    return _batch(arrivals, attached, first_p)


def _items(event: Event) -> Sequence[str]:
    return (event.item_id,) if event.item_id is not None else event.items or ()


def _route_profile(row: int, accepted: Accepted, attached: _Attached, memory: Memory, p: int) -> None:
    """A profile is attached to what comes after it; nothing is attached to itself, and it always counts."""
    event = accepted.event
    attached.ts[row] = accepted.ts
    properties = event.properties or {}
    text = attached.properties[row] = enrich.as_text(properties)
    if event.type == "item":
        memory.items.apply(event.item_id or "", accepted.ts, p, event.event_id, properties, text)
    else:
        attached.person[row] = event.user_id
        memory.users.apply(event.user_id or "", accepted.ts, p, event.event_id, properties, text)


def _route_event(row: int, accepted: Accepted, attached: _Attached, memory: Memory, plan: RoutePlan) -> None:
    event, ts, received_at = accepted.event, accepted.ts, accepted.received_at
    if event.request_id is not None and event.type != "answer":
        answer = memory.answers.get(event.request_id, received_at)
        if answer is not None:
            attached.answer[row] = answer
            if ts <= answer.ts:  # nothing follows from an answer before it is given, whatever the client's clock says
                ts = answer.ts + 1
            if event.item_id is not None:
                attached.position[row], attached.propensity[row] = answer.place(event.item_id)
    attached.ts[row] = ts
    person = event.user_id
    if person is None and event.anonymous_id is not None:
        person = memory.identity.user(event.anonymous_id, ts) or f"anon:{event.anonymous_id}"
    if person is not None:
        attached.person[row] = person
        attached.user[row] = memory.users.at(person, ts)
    if event.item_id is not None:
        attached.item[row] = memory.items.at(event.item_id, ts)
    elif event.items:
        attached.item[row] = memory.items.of_each(event.items, ts)
    attached.local_hour[row] = enrich.local_hour(ts, None if event.context is None else event.context.utc_offset_min)
    if event.properties:
        attached.properties[row] = enrich.rest_as_text(event.properties)
    late = received_at - ts
    attached.counts[row] = late <= plan.lateness_us and late <= plan.horizon_us


def _keep_answer(row: int, accepted: Accepted, attached: _Attached, memory: Memory, producer: int) -> None:
    event, answer = accepted.event, accepted.event.answer
    if answer is None or event.request_id is None or event.items is None:
        return  # the contract refuses these
    given = attribution.Given(
        event.request_id,
        accepted.ts,
        accepted.received_at,
        answer.slot,
        answer.experiment,
        answer.arm,
        answer.model,
        answer.query,
        event.items,
        answer.propensities,
    )
    attached.answer[row] = given
    attached.propensities[row] = answer.propensities
    memory.answers.put(producer, given)


def _batch(arrivals: Arrivals, attached: _Attached, first_p: int) -> pa.RecordBatch:
    accepted = arrivals.accepted
    events: list[Event] = [one.event for one in accepted]
    contexts = [event.context or _NO_CONTEXT for event in events]
    properties: list[dict[str, Any]] = [event.properties or {} if event.type not in _PROFILES else {} for event in events]
    columns: dict[str, Any] = {
        "p": range(first_p, first_p + len(events)),
        "event_id": [event.event_id for event in events],
        "type": [event.type for event in events],
        "ts": attached.ts,
        "ts_original": [one.ts_original for one in accepted],
        "sent_at": [one.sent_at for one in accepted],
        "received_at": [one.received_at for one in accepted],
        "user_id": [event.user_id for event in events],
        "anonymous_id": [event.anonymous_id for event in events],
        "person": attached.person,
        "session_id": [event.session_id for event in events],
        "item_id": [event.item_id for event in events],
        "items": [event.items for event in events],
        "request_id": [event.request_id for event in events],
        "device": [context.device for context in contexts],
        "country": [context.country and context.country.upper() for context in contexts],
        "page": [context.page for context in contexts],
        "referrer": [context.referrer for context in contexts],
        "agent": [enrich.agent_class(context.user_agent) for context in contexts],
        "local_hour": attached.local_hour,
        "query": [one.get("query") for one in properties],
        "dwell_ms": [one.get("dwell_ms") for one in properties],
        "price": [one.get("price") for one in properties],
        "quantity": [one.get("quantity") for one in properties],
        "rating": [one.get("rating") for one in properties],
        "properties": attached.properties,
        "user_version": [profile and profile.version for profile in attached.user],
        "user_profile": [profile and profile.attributes for profile in attached.user],
        "item_version": [profile and profile.version for profile in attached.item],
        "item_profile": [profile and profile.attributes for profile in attached.item],
        "slot": [answer and answer.slot for answer in attached.answer],
        "experiment": [answer and answer.experiment for answer in attached.answer],
        "arm": [answer and answer.arm for answer in attached.answer],
        "model": [answer and answer.model for answer in attached.answer],
        "answer_query": [answer and answer.query for answer in attached.answer],
        "position": attached.position,
        "propensity": attached.propensity,
        "propensities": attached.propensities,
        "counts": attached.counts,
        "timeless": [event.timeless for event in events],
        "raw_partition": arrivals.partitions,
        "raw_offset": arrivals.offsets,
        "raw_row": [one.row for one in accepted],
    }
    return pa.RecordBatch.from_arrays([pa.array(columns[name.name], name.type) for name in ROUTED], schema=ROUTED)
