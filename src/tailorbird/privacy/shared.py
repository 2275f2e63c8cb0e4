"""When a device of several people was one person's: so that what comes late of it is kept out if it is of then, and taken if it is not."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.events.erased import Span
from tailorbird.events.schema import micros
from tailorbird.lake import Lake
from tailorbird.privacy.person import People, one_of


def spans(lake: Lake, people: People, until: int) -> dict[str, list[Span]]:
    """By anonymous id, when a shared device was theirs, or nobody's yet: from a first to before a last time, microseconds.

    A span reaches up to the next event of somebody else, which tied the device to them; the first one begins before anybody was known.

    Args:
        until: where a span ends that no other person's event ends.
    """
    if not people.shared or not lake.exists("events"):
        return {}
    where = one_of("anonymous_id", people.shared) & ds.field("ts").is_valid() & ~ds.field("timeless")
    rows = lake.table("events", ["anonymous_id", "user_id", "person", "ts", "p"], where)
    rows = rows.sort_by([("anonymous_id", "ascending"), ("ts", "ascending"), ("p", "ascending")])
    device = pc.dictionary_encode(rows["anonymous_id"].combine_chunks())
    code, ts = device.indices.to_numpy(), micros(rows["ts"])
    mine = np.asarray(pa.chunked_array(people.of(rows)).to_numpy(zero_copy_only=False), bool)
    begins = np.flatnonzero(np.r_[True, (code[1:] != code[:-1]) | (mine[1:] != mine[:-1])])
    found: dict[str, list[Span]] = {}
    for first, end in zip(begins.tolist(), [*begins[1:].tolist(), len(rows)], strict=True):
        if not len(rows) or not mine[first]:
            continue
        low = int(ts[first]) if first and code[first - 1] == code[first] else 0
        high = int(ts[end]) if end < len(rows) and code[end] == code[first] else until
        found.setdefault(device.dictionary[int(code[first])].as_py(), []).append((low, high))
    return found
