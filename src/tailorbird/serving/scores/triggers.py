"""Events that trigger a score."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import micros
from tailorbird.features.online.receipts import read_block_events
from tailorbird.stream import Address, StoredBlock

_COLUMNS = (
    "p",
    "event_id",
    "type",
    "ts",
    "person",
    "user_id",
    "anonymous_id",
    "session_id",
    "device",
    "country",
    "agent",
    "counts",  # whether features count the event
)


def read_triggers(
    blocks: Sequence[StoredBlock], position: int, routed: Address, types: Sequence[str]
) -> list[dict]:
    """Return the events of some blocks that trigger a score."""
    tables = []
    for stored_block in blocks:
        table = read_block_events(stored_block, position, routed)
        if table is None:
            continue
        is_trigger = pc.and_(
            pc.is_in(table["type"], pa.array(list(types))),
            pc.and_kleene(table["counts"], pc.not_equal(table["agent"], "bot")),
        )
        tables.append(table.filter(pc.fill_null(is_trigger, False)).select(_COLUMNS))
    if not tables:
        return []
    trigger_table = pa.concat_tables(tables)
    rows = trigger_table.drop_columns(["ts"]).to_pylist()
    for row, ts in zip(rows, micros(trigger_table["ts"]).tolist(), strict=True):
        row["ts"] = ts
    return [row for row in rows if row["person"]]
