"""Resolution of `merge` events: a site states that two of its user ids are one user.

    merge at t: user_id 41, merged_into 42    from t on, events of 41 belong to 42
    then at u:  user_id 42, merged_into 43    from u on, events of 41 and 42 belong to 43
    then at v:  user_id 41, merged_into 41    undone: from v on, 41 is 41 again

In a cycle of merges the newest holds: all users of the cycle are the one that it names. So the
result depends on the merges alone, not on their order of arrival. The router and readers of the
state both call these functions.
"""

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract.schema import micros

COLUMNS = ("type", "user_id", "person", "ts", "p")  # columns of routed events that determine merges


class Merge(NamedTuple):
    """A statement that a user is `into` from `ts` on.

    Among several, the newest by (ts, p) holds.
    """

    ts: int
    p: int
    into: str


def merge_rows(events: pa.Table) -> pa.Table:
    """Select the merges among routed events, ordered by (ts, p).

    The last one of a user is the newest. The table needs `COLUMNS`.
    """
    is_complete = pc.and_(pc.is_valid(events["user_id"]), pc.is_valid(events["person"]))
    is_merge = pc.fill_null(pc.and_(pc.equal(events["type"], "merge"), is_complete), False)
    return events.filter(is_merge).sort_by([("ts", "ascending"), ("p", "ascending")])


def merges_of(rows: pa.Table) -> list[tuple[str, Merge]]:
    """Return the user and the merge of each of the `merge_rows`."""
    merges = map(
        Merge, micros(rows["ts"]).tolist(), rows["p"].to_pylist(), rows["person"].to_pylist()
    )
    return list(zip(rows["user_id"].to_pylist(), merges, strict=True))


def survivor(user: str, merge_of: Callable[[str], Merge | None]) -> tuple[str, int]:
    """Return the user that `user` has become, and the newest time of the merges that say so.

    Without a merge this is the user itself and 0.

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
