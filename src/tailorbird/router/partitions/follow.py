"""Profiles and merges for the routers of other partitions: they are routed in partition 0, and any
event may refer to any of them.

A router applies one only once the order log names it. Its events, which carry the profile's version
and the person, then come after it for every reader. The applied profiles and their position are
saved with the step, so the router's index stays a function of its own topic.

    routed[0] ──► profiles up to the rows that the order names ──► this router's profile history
"""

from typing import TYPE_CHECKING

import apsw
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import ROUTED, micros
from tailorbird.events.contract.plan import SHARED_TYPES
from tailorbird.router.decide.route import RouterMemory
from tailorbird.stream import LogReader, open_reader

if TYPE_CHECKING:
    from tailorbird.stream.kafka.logs import KafkaPartition

SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS followed(
    id INTEGER PRIMARY KEY CHECK (id = 1), offset INTEGER NOT NULL  -- next row of partition 0
) STRICT;
"""
_COLUMNS = ("type", "ts", "event_id", "user_id", "item_id", "person", "properties")
_READ_OPTIONS = pa.ipc.IpcReadOptions(
    included_fields=[ROUTED.get_field_index(name) for name in _COLUMNS]
)
_BYTES_MAX = 16 << 20  # of partition 0 a step
_decode_properties = msgspec.json.Decoder(dict).decode


class ProfileFollower:
    """A follower of partition 0 for one router."""

    def __init__(self, share: "KafkaPartition", connection: apsw.Connection) -> None:
        self._profile_log, self._order_log = share.profile_logs
        self._log_reader: LogReader | None = None
        self._order_reader: LogReader | None = None
        # Rows of partition 0: next to apply, and how many the order log has named.
        self._position = self._ordered_end = 0
        self.load(connection)

    def load(self, connection: apsw.Connection) -> None:
        """Load the position of the last saved step."""
        self._position = connection.execute("SELECT offset FROM followed").get or 0

    def save(self, connection: apsw.Connection) -> None:
        """Save the position up to which profiles are in the router's tables."""
        connection.execute(
            "INSERT INTO followed VALUES (1, ?1) ON CONFLICT DO UPDATE SET offset = ?1",
            (self._position,),
        )

    def follow(self, memory: RouterMemory) -> int:
        """Apply new profiles and merges, and return how many rows of partition 0 were read."""
        self._refresh_ordered_end()
        start = self._position
        bytes_read = 0
        while (
            self._log_reader is not None
            and self._position < self._ordered_end
            and bytes_read < _BYTES_MAX
        ):
            for stored_block in self._log_reader.read(self._position, bytes_max=_BYTES_MAX):
                if stored_block.end > self._ordered_end:
                    return self._position - start
                if stored_block.block.kind == "events":
                    _apply_profiles(memory, stored_block.block.payload, stored_block.offset)
                bytes_read += len(stored_block.block.payload)
                self._position = stored_block.end
        return self._position - start

    def has_changed(self) -> bool:
        """Return whether partition 0 has rows to follow."""
        self._refresh_ordered_end()
        return self._position < self._ordered_end

    def _refresh_ordered_end(self) -> None:
        """Refresh the row of partition 0 up to which the order has come."""
        try:
            if self._log_reader is None:
                self._log_reader = open_reader(self._profile_log)
            if self._order_reader is None:
                self._order_reader = open_reader(self._order_log)
        except NotReadyError:
            return
        if self._order_reader.has_changed() or not self._ordered_end:
            from tailorbird.stream.kafka.merged import decode_entry

            end = self._order_reader.end()
            if end > self._order_reader.start():
                self._ordered_end = decode_entry(self._order_reader.read(end - 1)[-1].block).ends[0]

    def close(self) -> None:
        for reader in (self._log_reader, self._order_reader):
            if reader is not None:
                reader.close()


def _apply_profiles(memory: RouterMemory, payload: bytes, first_position: int) -> None:
    with pa.ipc.open_stream(payload, options=_READ_OPTIONS) as stream:
        rows = stream.read_all()
    rows = rows.append_column(
        "p", pa.array(range(first_position, first_position + len(rows)), pa.int64())
    )
    rows = rows.filter(pc.is_in(rows["type"], pa.array(SHARED_TYPES)))
    columns = [
        rows[name].to_pylist()
        for name in ("type", "event_id", "user_id", "item_id", "person", "properties", "p")
    ]
    for ts, (type_, version, user_id, item_id, person, properties_json, log_position) in zip(
        micros(rows["ts"]).tolist(), zip(*columns, strict=True), strict=True
    ):
        if type_ == "merge":
            memory.merges.apply(user_id, ts, log_position, person)
            continue
        history, id_ = (memory.items, item_id) if type_ == "item" else (memory.users, user_id)
        history.apply(
            id_ or "",
            ts,
            log_position,
            version,
            _decode_properties(properties_json or "{}"),
            properties_json or "{}",
        )
