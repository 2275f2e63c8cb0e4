"""The decision on each event, once: what is attached to it, and what it teaches about the events
behind it.

The decision depends on the events before it and on the plan, on nothing else: a click finds the
answer that stands before it in the same step. It is made column by column, in an order in which no
column needs a later one. Whatever holds for all events of a person or an item in the step is looked
up once; one by one are taken only those about whom the step itself learns something, in their
order. Files, positions and transactions are in `router.router`.

    Arrivals (accepted, not repeated) ──► answer → ts ──► person ──► profiles ──► one Arrow batch of events.ROUTED
                                            └─► answer, identify, profile: applied to what comes after
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

import apsw
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import HOUR, MINUTE, ROUTED, RoutePlan
from tailorbird.router import attribution, catalogue, dedup, identity
from tailorbird.router.arrivals import Arrivals, Int64s
from tailorbird.router.timeline import SEVERAL, Timeline

V = TypeVar("V")
Codes, Bools = npt.NDArray[np.int32], npt.NDArray[np.bool_]
MEMORY_BYTES = 256 << 20
_ANONYMOUS = "anon:"


class Memory:
    """What the router knows from the events it has applied. Read from its tables; saved within a
    step's transaction.

    Args:
        bytes_max: of identities and profiles that are held in memory, about; all of them stand in
            the tables.
    """

    def __init__(
        self, connection: apsw.Connection, plan: RoutePlan, bytes_max: int = MEMORY_BYTES
    ) -> None:
        share = bytes_max // 4
        self.seen = dedup.DedupIndex(connection, plan.dedup_us)
        self.identity = identity.Identity(connection, share)
        self.merges = identity.Merges(connection, share)
        self.users = catalogue.Catalogue(connection, "user", plan.user_attributes, share)
        self.items = catalogue.Catalogue(connection, "item", plan.item_attributes, share)
        self.answers = attribution.Answers(connection, plan.answer_us)

    @staticmethod
    def make_tables(connection: apsw.Connection) -> None:
        for table in (dedup.TABLE, identity.TABLES, catalogue.TABLE, attribution.TABLE):
            connection.execute(table)

    def save(
        self, connection: apsw.Connection, newest: dict[int, int], past: Sequence[int]
    ) -> None:
        """Write all that changed; `newest` is each producer's newest time of receipt, `past` the
        producers of imports and replays.
        """
        self.seen.save(connection, past)
        self.identity.save(connection)
        self.merges.save(connection)
        self.users.save(connection)
        self.items.save(connection)
        self.answers.save(connection, newest)


class Coded(NamedTuple, Generic[V]):
    """A column of which few values are different: `codes`, shape (n,), are places in `values`; -1
    is null.
    """

    values: list[V]
    codes: Codes

    def column(self, kind: pa.DataType, of: Callable[[V], Any]) -> pa.Array:
        """`of` of each value, as Arrow."""
        if not self.values:
            return pa.nulls(len(self.codes), kind)
        return pa.array([of(value) for value in self.values], kind).take(
            pa.array(self.codes, mask=self.codes < 0)
        )


def route(arrivals: Arrivals, memory: Memory, plan: RoutePlan, first_p: int) -> pa.RecordBatch:
    """Decide on each event and apply it; the rows of events.ROUTED, shape (n,), with p from
    `first_p` on.
    """
    said, rows = arrivals.said, len(arrivals)
    profile = np.zeros(rows, bool)  # nothing is attached to one, and it always counts
    profile[[one.row for one in arrivals.profiles]] = True
    shown = _attribute(arrivals, memory.answers, profile)
    ts = shown.ts
    person = _persons(arrivals, memory, profile, ts, first_p)
    late = arrivals.received_at - ts
    hour = (ts + arrivals.utc_offset_min * MINUTE) // HOUR % 24
    columns = (
        said
        | shown.columns
        | {
            "p": pa.array(np.arange(first_p, first_p + rows)),
            "ts": pa.array(ts),
            "person": person,
            "local_hour": pa.array(hour.astype(np.int8), mask=profile),
            "counts": pa.array(profile | ((late <= plan.lateness_us) & (late <= plan.horizon_us))),
            "raw_partition": _names(arrivals),
            "raw_offset": pa.array(arrivals.entries["offset"]),
            "raw_row": pa.array(arrivals.entries["row"]),
        }
    )
    nobody = pa.array(profile)
    of_user = _over_time(
        pc.if_else(nobody, None, person),
        ts,
        memory.users.timeline,
        _puts(arrivals, memory.users, "user", "user_id", first_p),
    )
    of_item = _items_over_time(
        arrivals, pc.if_else(nobody, None, said["item_id"]), ts, memory.items, first_p, profile
    )
    for name, coded in (("user", of_user), ("item", of_item)):
        columns[f"{name}_version"] = coded.column(pa.string(), attrgetter("version"))
        columns[f"{name}_profile"] = coded.column(pa.string(), attrgetter("attributes"))
    return pa.RecordBatch.from_arrays(
        [columns[name.name].cast(name.type) for name in ROUTED], schema=ROUTED
    )


def _names(arrivals: Arrivals) -> pa.Array:
    """The raw log of each event."""
    numbers, codes = np.unique(arrivals.entries["producer"], return_inverse=True)
    return Coded(
        [arrivals.producers[number] for number in numbers.tolist()], codes.astype(np.int32)
    ).column(pa.string(), str)


class _Shown(NamedTuple):
    """What events get of the answers that they name, and when they happened by that."""

    ts: Int64s
    columns: dict[str, pa.Array]


def _attribute(arrivals: Arrivals, answers: attribution.Answers, profile: Bools) -> _Shown:
    """Join what names a request to its answer, in order; an answer is kept for what comes after it."""
    said, rows, ts = arrivals.said, len(arrivals), arrivals.ts.copy()
    given: dict[int, attribution.Given] = {}
    propensities: dict[int, list[float]] = {}
    places: dict[int, tuple[int | None, float | None]] = {}
    own = {one.row: one for one in arrivals.answers}
    naming = np.flatnonzero(said["request_id"].is_valid().to_numpy(zero_copy_only=False) & ~profile)
    texts = (said[name].take(pa.array(naming)).to_pylist() for name in ("request_id", "item_id"))
    times = (ts[naming].tolist(), arrivals.received_at[naming].tolist())
    for row, request_id, item_id, at, received_at in zip(
        naming.tolist(), *texts, *times, strict=True
    ):
        if (one := own.get(row)) is not None:
            answer = one.answer
            given[row] = attribution.Given(
                request_id,
                at,
                received_at,
                answer.slot,
                answer.experiment,
                answer.arm,
                answer.model,
                answer.query,
                one.items,
                answer.propensities,
            )
            propensities[row] = answer.propensities
            answers.put(int(arrivals.entries["producer"][row]), given[row])
        elif (found := answers.get(request_id, received_at)) is not None:
            given[row] = found
            if (
                at <= found.ts
                # nothing follows from an answer before it is given, whatever the client's clock says
            ):
                ts[row] = found.ts + 1
            if item_id is not None:
                places[row] = found.place(item_id)
    coded = _coded(given, rows)
    columns = {
        name: coded.column(pa.string(), lambda one, name=name: getattr(one, name))
        for name in ("slot", "experiment", "arm", "model")
    }
    columns["answer_query"] = coded.column(pa.string(), lambda one: one.query)
    for index, name in enumerate(("position", "propensity")):
        columns[name] = _scattered(
            {row: place[index] for row, place in places.items()}, rows, ROUTED.field(name).type
        )
    columns["propensities"] = _scattered(propensities, rows, ROUTED.field("propensities").type)
    return _Shown(ts, columns)


def _coded(found: dict[int, V], rows: int) -> Coded[V]:
    """Values by row."""
    values: list[V] = []
    codes, known = np.full(rows, -1, np.int32), dict[int, int]()
    for row, value in found.items():
        codes[row] = code = known.setdefault(id(value), len(values))
        if code == len(values):
            values.append(value)
    return Coded(values, codes)


def _scattered(found: dict[int, Any], rows: int, kind: pa.DataType) -> pa.Array:
    """Values by row, null elsewhere."""
    return (
        pa.array([found.get(row) for row in range(rows)], kind) if found else pa.nulls(rows, kind)
    )


def _persons(
    arrivals: Arrivals, memory: Memory, profile: Bools, ts: Int64s, first_p: int
) -> pa.Array:
    """Its user, else the one whom an identify named for its anonymous id, as merges have them; else
    that id itself.

    A profile belongs to its user alone, and a merge to the user that it names.
    """
    said, known = arrivals.said, memory.identity
    users, visitors = said["user_id"], said["anonymous_id"]
    ids = {
        row: (visitors[row].as_py() or "", users[row].as_py() or "") for row in arrivals.identifies
    }

    def put(row: int) -> None:
        visitor, user = ids[row]
        known.apply(visitor, int(ts[row]), first_p + row, user)

    puts = [_Put(row, ids[row][0], put) for row in arrivals.identifies]
    unnamed = pc.if_else(pc.or_(users.is_valid(), pa.array(profile)), None, visitors)
    if unnamed.null_count == len(unnamed) and not puts:
        persons = _merged(arrivals, users, memory.merges, profile, ts, first_p)
    else:
        identified = _over_time(unnamed, ts, known.timeline, puts).column(pa.string(), str)
        persons = _merged(
            arrivals, pc.coalesce(users, identified), memory.merges, profile, ts, first_p
        )
        persons = pc.coalesce(persons, pc.binary_join_element_wise(_ANONYMOUS, unnamed, ""))
    items = [one.row for one in arrivals.profiles if one.type == "item"]
    if items:
        of_item = np.zeros(len(arrivals), bool)
        of_item[items] = True
        persons = pc.if_else(pa.array(of_item), None, persons)
    return persons


def _merged(
    arrivals: Arrivals,
    users: pa.Array,
    known: identity.Merges,
    profile: Bools,
    ts: Int64s,
    first_p: int,
) -> pa.Array:
    """Whom users are at the times of their events, with the merges of the rows before; all merges
    are applied.
    """
    if not known.any and not arrivals.merges:
        return users
    into = dict(arrivals.merges)
    encoded = users.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    touched = known.known(names) | {users[row].as_py() for row in into}
    asked = np.array([name in touched for name in names] + [False])[
        encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    ]
    if not asked.any():
        return users
    persons = users.to_pylist()
    for row in np.flatnonzero(asked).tolist():
        if row in into:
            known.apply(persons[row], int(ts[row]), first_p + row, into[row])
            persons[row] = into[row]
        elif not profile[row]:
            persons[row] = known.at(persons[row], int(ts[row]))
    return pa.array(persons, pa.string())


class _Put(NamedTuple):
    """What the event at `row` says of `key`: `apply` puts it into its timeline, for what comes
    after.
    """

    row: int
    key: str
    apply: Callable[[int], None]


def _puts(
    arrivals: Arrivals, known: catalogue.Catalogue, kind: str, key: str, first_p: int
) -> list[_Put]:
    """The profiles of one kind."""
    ids, versions = arrivals.said[key], arrivals.said["event_id"]
    profiles = {one.row: one for one in arrivals.profiles if one.type == kind}

    def put(row: int) -> None:
        one = profiles[row]
        known.apply(
            ids[row].as_py() or "",
            int(arrivals.ts[row]),
            first_p + row,
            versions[row].as_py(),
            one.properties,
            one.text,
        )

    return [_Put(row, ids[row].as_py() or "", put) for row in profiles]


def _over_time(
    keys: pa.Array,
    ts: Int64s,
    timeline: Timeline[V],
    puts: Sequence[_Put],
    others: Mapping[int, Callable[[int], V | None]] | None = None,
) -> Coded[V]:
    """What held for each key, null for none, at its time, with what the rows before it put;
    everything is put.

    Args:
        others: by row, what to ask in place of the key; what they need is ready.
    """
    encoded = keys.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    timeline.ready([*names, *(put.key for put in puts)])
    taught = {put.key for put in puts}
    first, last = (int(ts.min()), int(ts.max())) if len(ts) else (0, 0)
    values: list[V] = []
    code_of = np.full(len(names) + 1, -1, np.int32)  # the last is of no key
    for index, value in enumerate(timeline.through(names, first, last)):
        if value is SEVERAL or names[index] in taught:
            code_of[index] = -2
        elif value is not None:
            code_of[index] = len(values)
            values.append(value)
    place = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    codes = code_of[place]

    def ask(row: int) -> None:
        value = (
            others[row](row)
            if others and row in others
            else timeline.at(names[place[row]], int(ts[row]))
        )
        codes[row] = -1 if value is None else len(values)
        if value is not None:
            values.append(value)

    asks = [(row, ask) for row in (*np.flatnonzero(codes == -2).tolist(), *(others or ()))]
    for row, act in sorted([*asks, *((put.row, put.apply) for put in puts)], key=itemgetter(0)):
        act(row)
    return Coded(values, codes)


def _items_over_time(
    arrivals: Arrivals,
    keys: pa.Array,
    ts: Int64s,
    known: catalogue.Catalogue,
    first_p: int,
    profile: Bools,
) -> Coded[catalogue.Profile]:
    """The version of the item; of an event about several and not about one, that of each."""
    puts = _puts(arrivals, known, "item", "item_id", first_p)
    lists = arrivals.said["items"]
    if lists.null_count == len(lists):
        return _over_time(keys, ts, known.timeline, puts)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero((lengths > 0) & keys.is_null().to_numpy(zero_copy_only=False) & ~profile)
    shown = lists.take(pa.array(rows))
    known.timeline.ready(shown.flatten().unique().to_pylist())
    of_row = dict(zip(rows.tolist(), shown.to_pylist(), strict=True))

    def ask(row: int) -> catalogue.Profile | None:
        return known.of_each(of_row[row], int(ts[row]))

    return _over_time(keys, ts, known.timeline, puts, dict.fromkeys(of_row, ask))
