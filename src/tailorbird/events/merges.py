"""Whom a user is after merges: a site found out that two of its users are one, and says so by a
`merge`.

    merge at t: user_id 41, merged_into 42        events of 41 from t on are those of 42; what was before stays 41's
    then at u:  user_id 42, merged_into 43        from u on, those of 41 and of 42 are those of 43
    then at v:  user_id 41, merged_into 41        taken back: from v on, 41 is 41 again

Of merges that go round in a circle the newest holds: whom it names, all of the circle are. So the
result depends on the merges alone, and not on the order in which they came. Router and readers of
the state both ask this function, each of what it knows.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.schema import micros

COLUMNS = (
    "type",
    "user_id",
    "person",
    "ts",
    "p",
)  # of routed events, by which their merges are known


class Merge(NamedTuple):
    """That a user is `into` from `ts` on; of several, the newest by (ts, p) holds."""

    ts: int
    p: int
    into: str


def merge_rows(events: pa.Table) -> pa.Table:
    """The merges among routed events, by (ts, p): of a user's the last is the newest. Needs
    `COLUMNS`.
    """
    is_complete = pc.and_(pc.is_valid(events["user_id"]), pc.is_valid(events["person"]))
    is_merge = pc.fill_null(pc.and_(pc.equal(events["type"], "merge"), is_complete), False)
    return events.filter(is_merge).sort_by([("ts", "ascending"), ("p", "ascending")])


def merges_of(rows: pa.Table) -> list[tuple[str, Merge]]:
    """The user and the merge of each of the `merge_rows`."""
    merges = map(
        Merge, micros(rows["ts"]).tolist(), rows["p"].to_pylist(), rows["person"].to_pylist()
    )
    return list(zip(rows["user_id"].to_pylist(), merges, strict=True))


def by_former(merges: Iterable[tuple[str, Merge]]) -> dict[str, list[Merge]]:
    """The merges of each user, in their order."""
    by_user: dict[str, list[Merge]] = {}
    for former, merge in merges:
        by_user.setdefault(former, []).append(merge)
    return by_user


def holding_at(
    merges: Mapping[str, list[Merge]], ts: int, p: int = 1 << 63
) -> Callable[[str], Merge | None]:
    """Of users' merges (`by_former`) the one that holds at a time, as `survivor` asks for it; of
    those alone that had come before `p`.
    """

    def lookup(user: str) -> Merge | None:
        return next(
            (merge for merge in reversed(merges.get(user, ())) if merge.ts <= ts and merge.p < p),
            None,
        )

    return lookup


def survivor(user: str, merge_of: Callable[[str], Merge | None]) -> tuple[str, int]:
    """Whom `user` is, and the newest time of the merges that say so; the user itself and 0 where
    none does.

    Args:
        merge_of: the merge of a user that holds at the time in question.
    """
    path: dict[str, Merge] = {}
    while (merge := merge_of(user)) is not None:
        path[user] = merge
        if merge.into in path:
            user = _newest_in_cycle(path, merge.into)
            break
        user = merge.into
    return user, max((merge.ts for merge in path.values()), default=0)


def _newest_in_cycle(path: dict[str, Merge], start: str) -> str:
    cycle, user = [path[start]], path[start].into
    while user != start:
        cycle.append(path[user])
        user = path[user].into
    return max(cycle).into
