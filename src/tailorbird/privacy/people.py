"""Who a person is: user ids, the devices that were used as them, and which rows are theirs.

    42          user 42, every user who is one with it by a `merge`, every device tied to one of them
    anon:c7     a visitor who never said who they are

A device is tied to a user by an `identify` or by an event that carries both ids. A device that
several people used is erased whole. A user who was merged into several people, such as an account
of guests, or whose merge was taken back, is not one with them.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.errors import UsageError
from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX
from tailorbird.events.contract.plan import INTO_ERASED
from tailorbird.events.merges import COLUMNS, merge_rows, merges_of, survivor
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.lake import Lake

Mask = pa.ChunkedArray | pa.Array
StoredId = str | tuple[str, ...]  # the id under which somebody is stored, or all of them
_ERASED = "\0"  # a user whom nobody can be one with any more


@dataclass(frozen=True)
class People:
    """People under the ids that are stored: pseudonyms, where the project has such.

    Attributes:
        users: user ids.
        devices: anonymous ids, also those that others used.
        shared: those of `devices` that others used too.
    """

    users: frozenset[str]
    devices: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()

    @property
    def persons(self) -> frozenset[str]:
        """The people as the router writes them into `person`."""
        return self.users | {f"{ANONYMOUS_PREFIX}{id_}" for id_ in self.devices}

    @property
    def ids(self) -> frozenset[str]:
        """The ids that no file may hold after the erasure."""
        return self.users | self.devices

    @property
    def subjects(self) -> list[tuple[str, str]]:
        """The people as the suppression list and the router's index of repeats know them."""
        users = [("u", id_) for id_ in sorted(self.users)]
        return [*users, *(("a", id_) for id_ in sorted(self.devices))]

    def owns(self, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Return which rows an erasure takes; needs `user_id`, `anonymous_id` and `person`."""
        by_person = pc.and_(pc.is_null(rows.column("user_id")), self.decided(rows))
        by_id = pc.or_(
            is_any(rows.column("user_id"), self.users),
            is_any(rows.column("anonymous_id"), self.devices),
        )
        return pc.or_(by_person, by_id)

    def decided(self, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Return which rows the router gave to these people; needs `person`."""
        return is_any(rows.column("person"), self.persons)

    def may_read(self, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Return which rows an export tells: not what another user did on a shared device."""
        no_user = pc.is_null(rows.column("user_id"))
        return pc.or_(
            is_any(rows.column("user_id"), self.users), pc.and_(no_user, self.decided(rows))
        )

    def filter(self) -> ds.Expression:
        """Return a filter for rows that `owns` or `decided` may hold of."""
        return (
            one_of("person", self.persons)
            | one_of("user_id", self.users)
            | one_of("anonymous_id", self.devices)
        )


def is_any(column: pa.ChunkedArray | pa.Array, values: Collection[str]) -> Mask:
    """Return which values of a column are among these; false for nulls."""
    return pc.fill_null(pc.is_in(column, value_set=pa.array(sorted(values), pa.string())), False)


def one_of(column: str, values: Collection[str]) -> ds.Expression:
    """Return `is_any` as a filter."""
    return ds.field(column).isin(pa.array(sorted(values), pa.string()))


def pseudonymise_ids(ids: Iterable[str], pseudonyms: Pseudonyms | None) -> list[str]:
    """Return the ids under which people are stored. Raises UsageError for an empty id."""
    stored: list[str] = []
    for subject in ids:
        is_visitor = subject.startswith(ANONYMOUS_PREFIX)
        id_ = subject.removeprefix(ANONYMOUS_PREFIX)
        if not id_:
            raise UsageError(
                "expected the id of a user, or anon:ID of a visitor, got nothing",
                fix="tailorbird lake erase USER",
            )
        if pseudonyms is not None:
            id_ = pseudonyms.anonymous_id(id_) if is_visitor else pseudonyms.user_id(id_)
        stored.append(f"{ANONYMOUS_PREFIX}{id_}" if is_visitor else id_)
    return stored


def stored_ids(ids: Sequence[str], pseudonyms: Pseudonyms | None) -> list[StoredId]:
    """Return for each of the people the ids under which they are stored.

    With pseudonyms these are two: texts of others, and what was written before there was a key,
    hold the plain id.
    """
    stored = pseudonymise_ids(ids, pseudonyms)
    return list(stored) if pseudonyms is None else list(zip(stored, ids, strict=True))


def flatten_ids(stored: Iterable[StoredId]) -> list[str]:
    """Return all ids under which people are stored."""
    return [
        id_
        for id_or_pair in stored
        for id_ in ((id_or_pair,) if isinstance(id_or_pair, str) else id_or_pair)
    ]


def count_people(stored: Sequence[StoredId], people: People) -> tuple[int, int]:
    """Return how many users and how many devices these are, each counted under one id."""
    plain_ids = {id_ for pair in stored if not isinstance(pair, str) for id_ in pair[1:]}
    devices = {id_.removeprefix(ANONYMOUS_PREFIX) for id_ in plain_ids}
    return len(people.users - plain_ids), len(people.devices - devices)


def find_people(lake: Lake, ids: Iterable[str]) -> People:
    """Return the people with these ids, as they are stored, and their devices."""
    ids = list(ids)
    users = frozenset(id_ for id_ in ids if not id_.startswith(ANONYMOUS_PREFIX))
    devices = {id_.removeprefix(ANONYMOUS_PREFIX) for id_ in ids if id_ not in users}
    if not lake.exists("events"):
        return People(users, frozenset(devices))
    users = _with_merged(lake, users)
    columns = ["anonymous_id", "user_id"]
    has_device = ds.field("anonymous_id").is_valid()
    devices |= set(
        lake.table("events", columns, one_of("user_id", users) & has_device)[
            "anonymous_id"
        ].to_pylist()
    )
    rows = lake.table("events", [*columns, "person"], one_of("anonymous_id", devices))
    persons = users | {f"{ANONYMOUS_PREFIX}{id_}" for id_ in devices}
    by_user = pc.and_(pc.is_valid(rows["user_id"]), pc.invert(is_any(rows["user_id"], users)))
    by_person = pc.and_(pc.is_valid(rows["person"]), pc.invert(is_any(rows["person"], persons)))
    shared = rows.filter(pc.or_(by_user, by_person))["anonymous_id"].to_pylist()
    return People(users, frozenset(devices), frozenset(shared))


def _with_merged(lake: Lake, users: frozenset[str]) -> frozenset[str]:
    """Return the users with those who are one with them.

    A user is one with all whom it was merged into if these are one by now.
    """
    rows = merge_rows(lake.table("events", [*COLUMNS, "properties"], ds.field("type") == "merge"))
    merges = merges_of(rows)
    newest = dict(merges)
    into: dict[str, set[str]] = {}
    for (former_user, merge), properties in zip(
        merges, rows["properties"].to_pylist(), strict=True
    ):
        is_erased = msgspec.json.decode(properties or "{}").get(INTO_ERASED) is True
        is_gone = is_erased and merge.into == former_user
        into.setdefault(former_user, set()).add(f"{_ERASED}{merge.p}" if is_gone else merge.into)
    known_users = {*into, *(user for value in into.values() for user in value)}
    now = {user: survivor(user, newest.get)[0] for user in known_users}
    groups = [
        {former_user, *value}
        for former_user, value in into.items()
        if {now[user] for user in (former_user, *value - {former_user})} == {now[former_user]}
    ]
    result = set(users)
    while more := {user for group in groups if group & result for user in group - result}:
        result |= more
    return frozenset(result)


def find_unknown(lake: Lake, stored: Sequence[StoredId], suppressed: SuppressionList) -> list[int]:
    """Return which of these people, counted from 1, the project has nothing of: a typing error."""
    ids = set(flatten_ids(stored))
    known_users: set[str] = set()
    for table, column, prefix in (
        ("events", "user_id", ""),
        ("events", "anonymous_id", ANONYMOUS_PREFIX),
        ("answers", "user_id", ""),
        ("answers", "anonymous_id", ANONYMOUS_PREFIX),
        ("users", "id", ""),
    ):
        wanted = {id_.removeprefix(prefix) for id_ in ids if id_.startswith(prefix)}
        for batch in (
            lake.batches(table, [column], one_of(column, wanted)) if lake.exists(table) else ()
        ):
            values = batch.column(0).drop_null().unique().to_pylist()
            known_users.update(f"{prefix}{value}" for value in values)

    def is_known(one: str) -> bool:
        kind = "a" if one.startswith(ANONYMOUS_PREFIX) else "u"
        return one in known_users or suppressed.has(kind, one.removeprefix(ANONYMOUS_PREFIX))

    return [
        number
        for number, entry in enumerate(stored, 1)
        if not any(map(is_known, flatten_ids([entry])))
    ]
