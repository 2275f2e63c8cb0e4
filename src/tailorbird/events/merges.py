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

MERGE_COLUMNS = (
    "type",
    "user_id",
    "person",
    "ts",
    "p",
)  # columns of routed events that determine merges


class Merge(NamedTuple):
    """A statement that a user is `merged_into` from `ts` on.

    Among several, the newest by (ts, log_position) holds.
    """

    ts: int
    log_position: int
    merged_into: str


def select_merges(events: pa.Table) -> pa.Table:
    """Select the merges among routed events, ordered by (ts, p).

    The last one of a user is the newest. The table needs `MERGE_COLUMNS`.
    """
    is_complete = pc.and_(pc.is_valid(events["user_id"]), pc.is_valid(events["person"]))
    is_merge = pc.fill_null(pc.and_(pc.equal(events["type"], "merge"), is_complete), False)
    return events.filter(is_merge).sort_by([("ts", "ascending"), ("p", "ascending")])


def to_merges(rows: pa.Table) -> list[tuple[str, Merge]]:
    """Return the user and the merge of each row of `select_merges`."""
    merges = map(
        Merge, micros(rows["ts"]).tolist(), rows["p"].to_pylist(), rows["person"].to_pylist()
    )
    return list(zip(rows["user_id"].to_pylist(), merges, strict=True))


def resolve_merged_user(user: str, get_merge: Callable[[str], Merge | None]) -> tuple[str, int]:
    """Return the user that `user` has become, and the newest time of the merges that say so.

    Without a merge this is the user itself and 0.

    Args:
        get_merge: the merge of a user that holds at the time in question.
    """
    followed_merges: dict[str, Merge] = {}
    while (merge := get_merge(user)) is not None:
        followed_merges[user] = merge
        if merge.merged_into in followed_merges:
            user = _get_newest_in_cycle(followed_merges, merge.merged_into)
            break
        user = merge.merged_into
    return user, max((merge.ts for merge in followed_merges.values()), default=0)


def _get_newest_in_cycle(followed_merges: dict[str, Merge], start: str) -> str:
    cycle = [followed_merges[start]]
    user = followed_merges[start].merged_into
    while user != start:
        cycle.append(followed_merges[user])
        user = followed_merges[user].merged_into
    return max(cycle).merged_into
