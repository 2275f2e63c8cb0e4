"""Which profiles of users say no more than when they are dated to, and not when anybody knew what they say.

A table of users that was exported today and is imported by the day of each sign-up gives everybody one profile, valid from that day on:
with what the table says today. Who left in the end stands in it from the beginning. Where a user's profiles are of several times, they
say themselves what was known when; so does a sender who was there, and whoever says when the profile came in.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.lake.etl import PAST_PARTITIONS

LOOKED_AT = ("type", "ts", "ts_original", "sent_at", "received_at", "user_id", "timeless", "raw_partition")


def dated_back(events: pa.Table) -> npt.NDArray[np.bool_]:
    """The profiles of users that were imported with a time, of which nobody said when they came in, and of one time for each user.

    Args:
        events: `LOOKED_AT` of `events.schema.ROUTED`.

    Returns:
        Shape (n,); false for all other events.
    """
    doubtful = pc.and_(pc.equal(events["type"], "user"), pc.is_in(events["raw_partition"], pa.array(PAST_PARTITIONS)))
    # What was imported without a time is of the import; of what says no time of arrival, the time that it is dated to stands for it.
    doubtful = pc.and_(doubtful, pc.and_(pc.is_valid(events["ts_original"]), pc.is_null(events["sent_at"])))
    doubtful = pc.and_(doubtful, pc.equal(pc.coalesce(events["received_at"], events["ts"]), events["ts"]))
    doubtful = pc.fill_null(pc.and_(doubtful, pc.invert(pc.fill_null(events["timeless"], False))), False)
    found = doubtful.to_numpy().astype(bool)
    if not found.any():
        return found
    some = events.select(["user_id", "ts"]).filter(doubtful)
    times = some.group_by("user_id").aggregate([("ts", "count_distinct")])
    once = times["user_id"].filter(pc.equal(times["ts_count_distinct"], 1))
    found[found] = pc.is_in(some["user_id"], once.combine_chunks()).to_numpy()
    return found
