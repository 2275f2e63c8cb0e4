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
from tailorbird.events.merges import MERGE_COLUMNS, resolve_merged_user, select_merges, to_merges
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.lake import Lake

Mask = pa.ChunkedArray | pa.Array
StoredId = str | tuple[str, ...]  # the id under which somebody is stored, or all of them
_ERASED_USER_PREFIX = "\0"  # a user whom nobody can be one with any more


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

    def owned_mask(self, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Return which rows an erasure takes; needs `user_id`, `anonymous_id` and `person`."""
        owned_by_person = pc.and_(pc.is_null(rows.column("user_id")), self.attributed_mask(rows))
        owned_by_id = pc.or_(
            isin_mask(rows.column("user_id"), self.users),
            isin_mask(rows.column("anonymous_id"), self.devices),
        )
        return pc.or_(owned_by_person, owned_by_id)

    def attributed_mask(self, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Return which rows the router gave to these people; needs `person`."""
        return isin_mask(rows.column("person"), self.persons)

    def exportable_mask(self, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Return which rows an export tells: not what another user did on a shared device."""
        is_without_user = pc.is_null(rows.column("user_id"))
        return pc.or_(
            isin_mask(rows.column("user_id"), self.users),
            pc.and_(is_without_user, self.attributed_mask(rows)),
        )

    def row_filter(self) -> ds.Expression:
        """Return a filter for rows that `owned_mask` or `attributed_mask` may hold of."""
        return (
            isin_filter("person", self.persons)
            | isin_filter("user_id", self.users)
            | isin_filter("anonymous_id", self.devices)
        )


def isin_mask(column: pa.ChunkedArray | pa.Array, values: Collection[str]) -> Mask:
    """Return which values of a column are among these; false for nulls."""
    return pc.fill_null(pc.is_in(column, value_set=pa.array(sorted(values), pa.string())), False)


def isin_filter(column: str, values: Collection[str]) -> ds.Expression:
    """Return `isin_mask` as a filter."""
    return ds.field(column).isin(pa.array(sorted(values), pa.string()))


def pseudonymise_ids(ids: Iterable[str], pseudonyms: Pseudonyms | None) -> list[str]:
    """Return the ids under which people are stored. Raises UsageError for an empty id."""
    stored_ids: list[str] = []
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
        stored_ids.append(f"{ANONYMOUS_PREFIX}{id_}" if is_visitor else id_)
    return stored_ids


def to_stored_ids(ids: Sequence[str], pseudonyms: Pseudonyms | None) -> list[StoredId]:
    """Return for each of the people the ids under which they are stored.

    With pseudonyms these are two: texts of others, and what was written before there was a key,
    hold the plain id.
    """
    pseudonymised_ids = pseudonymise_ids(ids, pseudonyms)
    return (
        list(pseudonymised_ids)
        if pseudonyms is None
        else list(zip(pseudonymised_ids, ids, strict=True))
    )


def flatten_ids(stored_ids: Iterable[StoredId]) -> list[str]:
    """Return all ids under which people are stored."""
    return [
        id_
        for id_or_ids in stored_ids
        for id_ in ((id_or_ids,) if isinstance(id_or_ids, str) else id_or_ids)
    ]


def count_people(stored_ids: Sequence[StoredId], people: People) -> tuple[int, int]:
    """Return how many users and how many devices these are, each counted under one id."""
    plain_ids = {id_ for ids in stored_ids if not isinstance(ids, str) for id_ in ids[1:]}
    plain_devices = {id_.removeprefix(ANONYMOUS_PREFIX) for id_ in plain_ids}
    return len(people.users - plain_ids), len(people.devices - plain_devices)


def find_people(lake: Lake, ids: Iterable[str]) -> People:
    """Return the people with these ids, as they are stored, and their devices."""
    ids = list(ids)
    users = frozenset(id_ for id_ in ids if not id_.startswith(ANONYMOUS_PREFIX))
    devices = {id_.removeprefix(ANONYMOUS_PREFIX) for id_ in ids if id_ not in users}
    if not lake.exists("events"):
        return People(users, frozenset(devices))
    users = _with_merged_users(lake, users)
    columns = ["anonymous_id", "user_id"]
    has_device = ds.field("anonymous_id").is_valid()
    devices |= set(
        lake.table("events", columns, isin_filter("user_id", users) & has_device)[
            "anonymous_id"
        ].to_pylist()
    )
    rows = lake.table("events", [*columns, "person"], isin_filter("anonymous_id", devices))
    persons = users | {f"{ANONYMOUS_PREFIX}{id_}" for id_ in devices}
    is_of_another_user = pc.and_(
        pc.is_valid(rows["user_id"]), pc.invert(isin_mask(rows["user_id"], users))
    )
    is_of_another_person = pc.and_(
        pc.is_valid(rows["person"]), pc.invert(isin_mask(rows["person"], persons))
    )
    shared_devices = rows.filter(pc.or_(is_of_another_user, is_of_another_person))[
        "anonymous_id"
    ].to_pylist()
    return People(users, frozenset(devices), frozenset(shared_devices))


def _with_merged_users(lake: Lake, users: frozenset[str]) -> frozenset[str]:
    """Return the users with those who are one with them.

    A user is one with all whom it was merged into if these are one by now.
    """
    rows = select_merges(
        lake.table("events", [*MERGE_COLUMNS, "properties"], ds.field("type") == "merge")
    )
    merges = to_merges(rows)
    newest_merge = dict(merges)
    targets_by_user: dict[str, set[str]] = {}
    for (former_user, merge), properties in zip(
        merges, rows["properties"].to_pylist(), strict=True
    ):
        is_erased = msgspec.json.decode(properties or "{}").get(INTO_ERASED) is True
        is_gone = is_erased and merge.merged_into == former_user
        targets_by_user.setdefault(former_user, set()).add(
            f"{_ERASED_USER_PREFIX}{merge.log_position}" if is_gone else merge.merged_into
        )
    known_users = {
        *targets_by_user,
        *(user for targets in targets_by_user.values() for user in targets),
    }
    survivor_by_user = {
        user: resolve_merged_user(user, newest_merge.get)[0] for user in known_users
    }
    merged_groups = [
        {former_user, *targets}
        for former_user, targets in targets_by_user.items()
        if {survivor_by_user[user] for user in (former_user, *targets - {former_user})}
        == {survivor_by_user[former_user]}
    ]
    merged_users = set(users)
    while added_users := {
        user for group in merged_groups if group & merged_users for user in group - merged_users
    }:
        merged_users |= added_users
    return frozenset(merged_users)


def find_unknown(
    lake: Lake, stored_ids: Sequence[StoredId], suppression_list: SuppressionList
) -> list[int]:
    """Return which of these people, counted from 1, the project has nothing of: a typing error."""
    ids = set(flatten_ids(stored_ids))
    known_ids: set[str] = set()
    for table, column, prefix in (
        ("events", "user_id", ""),
        ("events", "anonymous_id", ANONYMOUS_PREFIX),
        ("answers", "user_id", ""),
        ("answers", "anonymous_id", ANONYMOUS_PREFIX),
        ("users", "id", ""),
    ):
        wanted_ids = {id_.removeprefix(prefix) for id_ in ids if id_.startswith(prefix)}
        for batch in (
            lake.batches(table, [column], isin_filter(column, wanted_ids))
            if lake.exists(table)
            else ()
        ):
            values = batch.column(0).drop_null().unique().to_pylist()
            known_ids.update(f"{prefix}{value}" for value in values)

    def is_known(stored_id: str) -> bool:
        kind = "a" if stored_id.startswith(ANONYMOUS_PREFIX) else "u"
        return stored_id in known_ids or suppression_list.has(
            kind, stored_id.removeprefix(ANONYMOUS_PREFIX)
        )

    return [
        number
        for number, entry in enumerate(stored_ids, 1)
        if not any(map(is_known, flatten_ids([entry])))
    ]
