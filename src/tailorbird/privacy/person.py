"""Who a person is: a user id, the visitors that were identified as it, and which events are theirs.

    asked "42"         user 42, every user who is one with it by a `merge`, and every anonymous id that an `identify` tied to one of them
    asked "anon:c7"    a visitor who never said who they are

An event is a person's when the router decided so (`person`), or when it carries their user id. A
device that several people were identified on is shared: what happened on it before anybody was
identified goes with the first who is erased, since it may be theirs; what another person did on it
stays theirs, their anonymous id included. A user who was merged into several, or back into itself,
is not one with them: an account of guests, say. What it did while it was another is then its own,
and the other's features change with it, which their answers say; whom it was merged into is told,
not taken.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.errors import UsageError
from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.events.erased import StopList, whose_of
from tailorbird.events.free import who_said
from tailorbird.events.merges import (
    COLUMNS,
    Merge,
    by_former,
    holding_at,
    merge_rows,
    merges_of,
    survivor,
)
from tailorbird.events.plan import INTO_ERASED
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.schema import micros
from tailorbird.lake import Lake

_PSEUDONYM = re.compile("[0-9a-f]{32}")
_STRANGER = "\0"  # before the name of somebody who is erased, which no id begins with
Mask = pa.ChunkedArray | pa.Array
Kept = str | tuple[str, ...]  # the id under which somebody is kept, or all of them


@dataclass(frozen=True)
class People:
    """Those to be erased or told about, under the ids that are kept: pseudonyms, where the project
    has such.

    Attributes:
        users: user ids.
        visitors: anonymous ids that are theirs alone.
        shared: anonymous ids that were also somebody else's.
        into: users whom some of them were one with for a while, by merges, and who are none of
            them.
    """

    users: frozenset[str]
    visitors: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    into: frozenset[str] = frozenset()

    @property
    def persons(self) -> frozenset[str]:
        """As the router calls them in `person`."""
        return self.users | {f"{ANONYMOUS_PREFIX}{id_}" for id_ in (*self.visitors, *self.shared)}

    @property
    def own_ids(self) -> frozenset[str]:
        """The ids that must be nowhere once they are erased."""
        return self.users | self.visitors

    def of(self, events: pa.Table | pa.RecordBatch) -> Mask:
        """Which rows are theirs; needs the columns `person` and `user_id`."""
        return pc.or_(
            is_any(events.column("person"), self.persons),
            is_any(events.column("user_id"), self.users),
        )

    def kept(self, events: pa.Table | pa.RecordBatch) -> Mask:
        """Which of these rows stay another user's although it was one with them then: what says
        whose a visitor is, or what a user is.

        Without it a visitor of that user would be nobody's to whatever is made of the lake, and
        still that user's to the router.
        """
        another = pc.and_(
            pc.is_valid(events.column("user_id")),
            pc.invert(is_any(events.column("user_id"), self.users)),
        )
        return pc.and_(is_any(events.column("type"), ("identify", "user")), another)


def is_any(column: pa.ChunkedArray | pa.Array, values: Collection[str]) -> Mask:
    """Which values of a column are among these; false where it has none. Values are data, never
    part of a query's text.
    """
    return pc.fill_null(pc.is_in(column, value_set=pa.array(sorted(values), pa.string())), False)


def one_of(column: str, values: Collection[str]) -> ds.Expression:
    """`is_any` as a filter."""
    return ds.field(column).isin(pa.array(sorted(values), pa.string()))


def hidden(asked: Iterable[str], pseudonyms: Pseudonyms | None) -> list[str]:
    """The ids under which people are kept of those that they have. Raises UsageError for what can
    be no id.
    """
    found: list[str] = []
    for one in asked:
        visitor = one.startswith(ANONYMOUS_PREFIX)
        id_ = one.removeprefix(ANONYMOUS_PREFIX)
        if not id_:
            raise UsageError(
                "expected the id of a user, or anon:ID of a visitor, got nothing",
                fix="tailorbird lake erase USER",
            )
        if pseudonyms is not None:
            id_ = pseudonyms.anonymous_id(id_) if visitor else pseudonyms.user_id(id_)
        found.append(f"{ANONYMOUS_PREFIX}{id_}" if visitor else id_)
    return found


def find_people(lake: Lake, kept: Iterable[str]) -> People:
    """The people with these ids, as they are kept, with the visitors that they were."""
    users = frozenset(one for one in kept if not one.startswith(ANONYMOUS_PREFIX))
    named = {one.removeprefix(ANONYMOUS_PREFIX) for one in kept if one.startswith(ANONYMOUS_PREFIX)}
    if not lake.exists("events"):
        return People(users, frozenset(named))
    users, into = _with_merged(lake, users)
    columns = ["anonymous_id", "user_id"]
    told = lake.table("events", columns, ds.field("type") == "identify")
    mine = told.filter(is_any(told["user_id"], users))
    ids = named | set(mine["anonymous_id"].to_pylist())
    others = told.filter(
        pc.and_(is_any(told["anonymous_id"], ids), pc.invert(is_any(told["user_id"], users)))
    )
    # Without `identify`, an event that carries both ids says whose device it was all the same.
    carried = lake.table(
        "events", columns, one_of("user_id", users) & ds.field("anonymous_id").is_valid()
    )
    ids |= set(carried["anonymous_id"].to_pylist())
    also = lake.table(
        "events", columns, one_of("anonymous_id", ids) & ds.field("user_id").is_valid()
    )
    shared = {
        id_
        for id_, user in zip(*(also[name].to_pylist() for name in columns), strict=True)
        if user not in users
    }
    shared |= set(others["anonymous_id"].to_pylist())
    # Or a visitor of somebody who was another for a while, be it of one whose own events are erased
    # by now.
    persons = users | {f"{ANONYMOUS_PREFIX}{id_}" for id_ in ids}
    whose = lake.table(
        "events",
        ["anonymous_id", "person"],
        one_of("anonymous_id", ids) & ds.field("person").is_valid(),
    )
    shared |= set(
        whose.filter(pc.invert(is_any(whose["person"], persons)))["anonymous_id"].to_pylist()
    )
    return People(users, frozenset(ids - shared), frozenset(ids & shared), into)


def _with_merged(lake: Lake, users: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """The users with those who are one with them; and whom some of all these were one with besides,
    for a while.

    A user who was merged is one with all whom it was merged into, if these are one by now: who was
    one of others too is one with none. A merge into somebody who is erased was made one into the
    user itself, and still counts as one into a stranger.
    """
    rows = merge_rows(lake.table("events", [*COLUMNS, "properties"], ds.field("type") == "merge"))
    told = merges_of(rows)
    newest = dict(told)
    into: dict[str, set[str]] = {}
    for (former, merge), properties in zip(told, rows["properties"].to_pylist(), strict=True):
        gone = (
            merge.into == former
            and msgspec.json.decode(properties or "{}").get(INTO_ERASED) is True
        )
        into.setdefault(former, set()).add(f"{_STRANGER}{merge.p}" if gone else merge.into)
    now = {
        user: survivor(user, newest.get)[0]
        for user in {*into, *(user for all_ in into.values() for user in all_)}
    }
    one = [
        {former, *all_}
        for former, all_ in into.items()
        if {now[user] for user in (former, *all_ - {former})} == {now[former]}
    ]
    found = set(users)
    while more := {user for each in one if each & found for user in each - found}:
        found |= more
    others = {
        user for former, all_ in into.items() for user in (former, *all_) if found & {former, *all_}
    }
    return frozenset(found), frozenset(
        user for user in others - found if not user.startswith(_STRANGER)
    )


def told_merges(lake: Lake) -> dict[str, list[Merge]]:
    """The merges of each user that the lake has, the newest last."""
    return by_former(
        merges_of(merge_rows(lake.table("events", COLUMNS, ds.field("type") == "merge")))
    )


def persons_then(lake: Lake, people: People, rows: pa.Table) -> dict[int, str]:
    """Of rows that stay another user's, by `p`, whom this user was one with then without these
    people; who was itself is left out.
    """
    found: dict[int, str] = {}
    told = told_merges(lake) if len(rows) else {}
    for p, user, ts in zip(
        rows["p"].to_pylist(), rows["user_id"].to_pylist(), micros(rows["ts"]).tolist(), strict=True
    ):
        holding = holding_at(told, ts, p)

        def then(former: str, holding: Callable[[str], Merge | None] = holding) -> Merge | None:
            merge = holding(former)
            return (
                merge._replace(into=former)
                if merge is not None and merge.into in people.users
                else merge
            )

        if (person := survivor(user, then)[0]) != user:
            found[p] = person
    return found


def kept_as(asked: Sequence[str], pseudonyms: Pseudonyms | None) -> list[Kept]:
    """The ids under which each of the people is kept: as `hidden` has them, and as they are. These
    stand in what was written before the project had a key of pseudonyms, and in texts of others,
    which no key hides.
    """
    found = hidden(asked, pseudonyms)
    return list(found) if pseudonyms is None else list(zip(found, asked, strict=True))


def once(kept: Sequence[Kept], people: People) -> tuple[int, int]:
    """How many users, and how many visitors that are theirs alone, these people are: each once,
    under how many ids they are kept.
    """
    further = [one for each in kept if not isinstance(each, str) for one in each[1:]]
    visitors = {
        one.removeprefix(ANONYMOUS_PREFIX) for one in further if one.startswith(ANONYMOUS_PREFIX)
    }
    return len(people.users - {*further}), len(people.visitors - visitors)


def unnamed(kept: Sequence[Kept], people: People, pseudonyms: Pseudonyms | None) -> int:
    """How many users these people are by merges whose ids nobody gave, and nobody here knows: their
    pseudonyms alone are kept.

    What others wrote of them, by their ids as the site knows them, is not found until these are
    given.
    """
    if pseudonyms is None:
        return 0
    others = people.users - {*ids_of(kept)}
    known = {
        pseudonyms.user_id(one) for one in others
    }  # whose ids were written before there was a key
    return sum(_PSEUDONYM.fullmatch(one) is not None for one in others - known)


def ids_of(kept: Iterable[Kept]) -> list[str]:
    """All ids under which people are kept."""
    return [id_ for one in kept for id_ in ((one,) if isinstance(one, str) else one)]


def strangers(lake: Lake, kept: Sequence[Kept], stopped: StopList) -> list[int]:
    """Of which of these people, counted from 1, nothing is here: no event, answer, profile or
    refused row, nor an erasure of before.

    An id that is written otherwise than the site writes it is one of these, and so is somebody who
    never came.
    """
    ids = ids_of(kept)
    users, visitors = (
        set(ids),
        {one.removeprefix(ANONYMOUS_PREFIX) for one in ids if one.startswith(ANONYMOUS_PREFIX)},
    )
    wanted = {"user_id": users, "anonymous_id": visitors, "id": users}
    known: dict[str, set[str]] = {name: set() for name in wanted}
    for table, columns in (
        ("events", ("user_id", "anonymous_id")),
        ("answers", ("user_id", "anonymous_id")),
        ("users", ("id",)),
    ):
        for name in columns if lake.exists(table) else ():
            for batch in lake.batches(table, [name], one_of(name, wanted[name])):
                known[name].update(batch.column(name).drop_null().unique().to_pylist())
    for batch in lake.batches("quarantine", ["body"]) if lake.exists("quarantine") else ():
        for row in filter(None, map(whose_of, batch.column("body").to_pylist())):
            known["user_id"].update(
                text for text in who_said({"user": row.user_id}) if text in users
            )
            known["anonymous_id"].update(
                text for text in who_said({"user": row.anonymous_id}) if text in visitors
            )

    def is_known(one: str) -> bool:
        if one.startswith(ANONYMOUS_PREFIX):
            id_ = one.removeprefix(ANONYMOUS_PREFIX)
            return id_ in known["anonymous_id"] or stopped.erased_at("a", id_) is not None
        return (
            one in known["user_id"] or one in known["id"] or stopped.erased_at("u", one) is not None
        )

    return [number for number, one in enumerate(kept, 1) if not any(map(is_known, ids_of([one])))]
