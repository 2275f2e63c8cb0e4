"""Which profiles say no more than when they are dated to, and not when anybody knew what they say.

A table of users that was exported today and is imported by the day of each sign-up gives everybody one profile, valid from that day on:
with what the table says today. Who left in the end stands in it from the beginning. Where some have profiles of several times, the table
is one of changes, and says itself what was known when; so does a sender who was there, and whoever says when the profile came in. It is
the same with items.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.lake.etl import PAST_PARTITIONS

LOOKED_AT = ("type", "ts", "ts_original", "sent_at", "received_at", "user_id", "timeless", "raw_partition")
CHANGED = 0.01  # of those who have profiles: so many of several times are no chance, but a history
_IDS = {"user": "user_id", "item": "item_id"}


def dated_back(events: pa.Table, of: str = "user") -> npt.NDArray[np.bool_]:
    """The profiles that were imported with a time, of which nobody said when they came in, and of one time for each user (or item).

    Args:
        events: `LOOKED_AT` of `events.schema.ROUTED`, and the item's id for `of="item"`.
        of: "user" or "item".

    Returns:
        Shape (n,); false for all other events, and for all where `CHANGED` of those in question have profiles of several times.
    """
    doubtful = pc.and_(pc.equal(events["type"], of), pc.is_in(events["raw_partition"], pa.array(PAST_PARTITIONS)))
    # What was imported without a time is of the import; of what says no time of arrival, the time that it is dated to stands for it.
    doubtful = pc.and_(doubtful, pc.and_(pc.is_valid(events["ts_original"]), pc.is_null(events["sent_at"])))
    doubtful = pc.and_(doubtful, pc.equal(pc.coalesce(events["received_at"], events["ts"]), events["ts"]))
    doubtful = pc.fill_null(pc.and_(doubtful, pc.invert(pc.fill_null(events["timeless"], False))), False)
    found = doubtful.to_numpy().astype(bool)
    if not found.any():
        return found
    some = events.select([_IDS[of], "ts"]).filter(doubtful)
    times = some.group_by(_IDS[of]).aggregate([("ts", "count_distinct")])["ts_count_distinct"]
    if np.mean(times.to_numpy() > 1) >= CHANGED:
        found[:] = False
    return found
