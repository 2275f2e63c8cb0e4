"""When a device of several people was one person's: so that what comes late of it is kept out if it is of then, and taken if it is not."""

from collections.abc import Iterator
from itertools import pairwise

import pyarrow.dataset as ds

from tailorbird.events.erased import Span
from tailorbird.events.merges import Merge, holding_at, survivor
from tailorbird.events.schema import micros
from tailorbird.lake import Lake
from tailorbird.privacy.person import People, one_of, told_merges


def spans(lake: Lake, people: People, until: int) -> dict[str, list[Span]]:
    """By anonymous id, when a shared device was theirs, or nobody's yet: from a first to before a last time, microseconds.

    It is whose the newest `identify` says, or whom that user was one with then: as the router decides.

    Args:
        until: where a span ends that nobody else's ends.
    """
    if not people.shared or not lake.exists("events"):
        return {}
    where = one_of("anonymous_id", people.shared) & (ds.field("type") == "identify")
    ties = lake.table("events", ["anonymous_id", "user_id", "ts", "p"], where).sort_by([("ts", "ascending"), ("p", "ascending")])
    told = told_merges(lake)
    by_device: dict[str, list[tuple[int, str | None]]] = {id_: [(0, None)] for id_ in people.shared}
    for id_, user, ts in zip(ties["anonymous_id"].to_pylist(), ties["user_id"].to_pylist(), micros(ties["ts"]).tolist(), strict=True):
        by_device[id_].append((ts, user))
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


def _theirs(user: str | None, begin: int, end: int, told: dict[str, list[Merge]], people: People) -> Iterator[Span]:
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
