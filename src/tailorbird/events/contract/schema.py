"""Columns of the routed log and of the quarantine, shared with the tables of the lake.

Times are timestamps in microseconds, UTC; `micros` views a column of them as int64 without a copy.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TIME_TYPE = pa.timestamp("us", tz="UTC")

ROUTED = pa.schema(
    [
        ("p", pa.int64()),  # the routed position: ascending over the whole log, never reused
        ("event_id", pa.string()),
        ("type", pa.string()),
        ("ts", TIME_TYPE),  # when it happened, with the client's clock offset taken off
        ("ts_original", TIME_TYPE),  # as the client said it; null if it did not
        ("sent_at", TIME_TYPE),
        ("received_at", TIME_TYPE),
        ("user_id", pa.string()),
        ("anonymous_id", pa.string()),
        ("person", pa.string()),  # decided once, by the router; `anon:…` without a known user
        ("session_id", pa.string()),
        ("item_id", pa.string()),
        ("items", pa.list_(pa.string())),  # items of an answer or an impression, best first
        ("request_id", pa.string()),
        ("device", pa.string()),
        ("country", pa.string()),
        ("page", pa.string()),
        ("referrer", pa.string()),
        ("agent", pa.string()),  # "person" or "bot"
        ("local_hour", pa.int8()),
        ("query", pa.string()),
        ("dwell_ms", pa.float64()),
        ("price", pa.float64()),
        ("quantity", pa.float64()),
        ("rating", pa.float64()),
        ("properties", pa.string()),  # the rest, as JSON with sorted keys; for a profile, all of it
        ("user_version", pa.string()),  # event_id of the profile that applied at `ts`
        ("user_profile", pa.string()),  # its declared attributes, as JSON with sorted keys
        # Of an event with `items` and no item_id: a JSON list, one for each, null where none.
        ("item_version", pa.string()),
        ("item_profile", pa.string()),  # likewise
        # Columns of the answer: set on its own row, and attached by the router to events with its
        # request_id.
        ("slot", pa.string()),
        ("experiment", pa.string()),
        ("arm", pa.string()),
        ("model", pa.string()),
        ("answer_query", pa.string()),
        ("position", pa.int32()),  # of item_id in the answer, from 1; null on the answer's own row
        ("propensity", pa.float64()),  # of item_id in the answer
        # On the answer's own row, one for each of `items`.
        ("propensities", pa.list_(pa.float64())),
        # Whether features count the event; false if it came too late, or is beyond the horizon.
        ("counts", pa.bool_()),
        ("timeless", pa.bool_()),  # of a profile: valid from the beginning
        ("raw_partition", pa.string()),
        ("raw_offset", pa.int64()),
        ("raw_row", pa.int32()),
    ]
)

QUARANTINE = pa.schema(
    [
        ("received_at", TIME_TYPE),
        ("source", pa.string()),  # one of the sources of events.contract.Receipt
        ("code", pa.string()),
        ("path", pa.string()),
        ("message", pa.string()),
        ("body", pa.binary()),  # whole, as received
        ("raw_partition", pa.string()),
        ("raw_offset", pa.int64()),
        ("raw_row", pa.int32()),
    ]
)


def micros(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the times of a column without nulls as int64 microseconds, shape (n,)."""
    return column.cast(pa.int64()).to_numpy()


def number_rows(events: pa.Table, first_log_position: int) -> pa.Table:
    """Number routed events from `first_log_position`, that of their block in the log that is read.

    A router numbers its rows as it writes them. With several routers, only the order over all of
    their logs says where a block stands.
    """
    if not len(events) or events["p"][0].as_py() == first_log_position:
        return events
    index = events.schema.get_field_index("p")
    return events.set_column(
        index,
        events.schema.field(index),
        pa.array(np.arange(first_log_position, first_log_position + len(events)), pa.int64()),
    )
