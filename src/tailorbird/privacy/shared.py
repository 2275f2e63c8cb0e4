"""When a device of several people was one person's: so that what comes late of it is kept out if it
is of then, and taken if it is not.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import pyarrow.dataset as ds

from tailorbird.events.erased import Span
from tailorbird.events.merges import Merge, holding_at, survivor
from tailorbird.events.schema import micros
from tailorbird.lake import Lake
from tailorbird.privacy.person import People, one_of, told_merges


class Tie(NamedTuple):
    """An `identify` that is not yet in the lake."""

    anonymous_id: str
    user_id: str
    ts: int
    event_id: str


def spans(
    lake: Lake, people: People, until: int, waiting: Sequence[Tie] = ()
) -> dict[str, list[Span]]:
    """By anonymous id, when a shared device was theirs, or nobody's yet: from a first to before a
    last time, microseconds.

    It is whose the newest `identify` says, or whom that user was one with then: as the router
    decides.

    Args:
        until: where a span ends that nobody else's ends.
        waiting: what ties devices to users besides; one that was theirs alone so far may be
            another's too by these.
    """
    by_others = {tie.anonymous_id for tie in waiting if tie.user_id not in people.users}
    devices = people.shared | (people.visitors & by_others)
    if not devices:
        return {}
    told = told_merges(lake) if lake.exists("events") else {}
    by_device = _changes(lake, devices, people, waiting)
    found: dict[str, list[Span]] = {}
    for id_, changes in by_device.items():
        theirs: list[Span] = []
        for (begin, user), (end, _) in pairwise([*changes, (until, None)]):
            for first, last in _theirs(user, begin, end, told, people) if begin < end else ():
                if theirs and theirs[-1][1] == first:
                    first = theirs.pop()[0]
                theirs.append((first, last))
        if theirs:
            found[id_] = theirs
    return found


def _changes(
    lake: Lake, devices: Collection[str], people: People, waiting: Sequence[Tie]
) -> dict[str, list[tuple[int, str | None]]]:
    """By anonymous id, from when on it was which user's; at first nobody's."""
    found: dict[str, list[tuple[int, str | None]]] = {id_: [(0, None)] for id_ in devices}
    known: set[tuple[str, str]] = set()
    if lake.exists("events"):
        where = one_of("anonymous_id", devices) & (ds.field("type") == "identify")
        columns = ["anonymous_id", "user_id", "event_id", "ts", "p"]
        ties = lake.table("events", columns, where).sort_by(
            [("ts", "ascending"), ("p", "ascending")]
        )
        ids, users, event_ids = (ties[name].to_pylist() for name in columns[:3])
        known = set(zip(users, event_ids, strict=True))
        for id_, user, ts in zip(ids, users, micros(ties["ts"]).tolist(), strict=True):
            found[id_].append((ts, user))
    for tie in sorted(waiting, key=lambda tie: tie.ts):
        # Of their own one that was sent again must not make it theirs once more.
        repeats = tie.user_id in people.users and (tie.user_id, tie.event_id) in known
        known.add((tie.user_id, tie.event_id))
        if tie.anonymous_id in found and not repeats:
            found[tie.anonymous_id].append((tie.ts, tie.user_id))
    return {id_: sorted(changes, key=lambda change: change[0]) for id_, changes in found.items()}


def _theirs(
    user: str | None, begin: int, end: int, told: dict[str, list[Merge]], people: People
) -> Iterator[Span]:
    """When, within a span, somebody was one of these people: cut where a merge changes who that is."""
    if user is None:
        yield begin, end
        return
    within, times = [user], {begin}
    for former in within:
        for merge in told.get(former, ()):
            times |= {merge.ts} if begin < merge.ts < end else set()
            within += [] if merge.into in within else [merge.into]
    for first, last in pairwise([*sorted(times), end]):
        if survivor(user, holding_at(told, first))[0] in people.users:
            yield first, last
