"""The newest rows of the routed log for a page: the last events, and counts by type."""

from collections import Counter
from contextlib import closing

import msgspec
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.events import ROUTED
from tailorbird.stream import Address, open_reader

ROWS_MAX = 1_000  # newest rows that are counted by type
EVENTS_MAX = 20  # newest events that are listed
_RESPONSE_TYPE = "answer"
_COLUMNS = ("type", "ts", "user_id", "anonymous_id", "item_id", "items", "query", "price")


class RecentEvent(msgspec.Struct, frozen=True):
    """An event as the router wrote it. `ts` is in microseconds; people are under their
    pseudonyms if the project has them.
    """

    type: str
    ts: int
    user_id: str = ""
    anonymous_id: str = ""
    item_id: str = ""
    items: int = 0
    query: str = ""
    price: float | None = None


class RecentEvents(msgspec.Struct, frozen=True):
    """The end of the log.

    Attributes:
        total: positions of the log so far: events, answers and versions of profiles.
        counted: how many of the newest rows `types` counts.
        types: event type → number of rows, the most frequent first.
        newest: the last `EVENTS_MAX` events, newest first, without answers.
        refused: how many of the newest rows were quarantined.
    """

    total: int = 0
    counted: int = 0
    types: dict[str, int] = {}
    newest: list[RecentEvent] = []
    refused: int = 0


def read_recent_events(routed: Address) -> RecentEvents:
    """Read the end of the routed log; empty where there is none yet.

    Raises StorageError and DamageError as the log does.
    """
    try:
        log = open_reader(routed)
    except NotReadyError:
        return RecentEvents()
    with closing(log):
        end = log.end()
        position = max(log.start(), end - ROWS_MAX)
        tables = []
        refused_count = 0
        while position < end and (blocks := log.read(position)):
            for stored_block in blocks:
                if stored_block.block.kind == "events":
                    with pa.ipc.open_stream(stored_block.block.payload) as reader:
                        tables.append(reader.read_all().select(_COLUMNS))
                elif stored_block.block.kind == "quarantine":
                    refused_count += stored_block.block.rows
            position = blocks[-1].end
    if not tables:
        return RecentEvents(total=end, refused=refused_count)
    rows = pa.concat_tables(tables).cast(pa.schema([ROUTED.field(name) for name in _COLUMNS]))
    rows = rows.slice(max(0, len(rows) - ROWS_MAX))
    type_counts = Counter(rows.column("type").to_pylist())
    newest = [
        _to_recent_event(row) for row in reversed(rows.to_pylist()) if row["type"] != _RESPONSE_TYPE
    ]
    return RecentEvents(
        end, len(rows), dict(type_counts.most_common()), newest[:EVENTS_MAX], refused_count
    )


def _to_recent_event(row: dict) -> RecentEvent:
    texts = {
        name: row[name] or "" for name in ("type", "user_id", "anonymous_id", "item_id", "query")
    }
    return RecentEvent(
        **texts,
        ts=int(row["ts"].timestamp() * 1e6),
        items=len(row["items"] or ()),
        price=row["price"],
    )
