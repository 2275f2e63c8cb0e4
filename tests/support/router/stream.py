"""A raw log with a router on it."""

from pathlib import Path
from typing import Any

import msgspec

from tailorbird.events import Receipt, RoutePlan, SimulatedClock
from tailorbird.router import Router, to_table
from tailorbird.stream import Block, open_reader, open_writer, raw_path, routed_path

NOW = 1_764_072_000_000_000  # 2025-11-25T12:00:00Z


PLAN = RoutePlan(user_attributes=("plan",), item_attributes=("category", "price"))


class Stream:
    """The logs of a site under `folder`: bodies go in by `post`, rows come out by `events`,
    `quarantine` and `duplicates`.
    """

    def __init__(self, folder: Path, plan: RoutePlan = PLAN) -> None:
        self.folder = folder
        self.plan = plan
        self.now = NOW

    def post(
        self,
        *events: Any,
        producer: str = "collector",
        source: str = "collector",
        received_at: int | None = None,
        encoding: str = "json",
    ) -> None:
        """Append one body."""
        receipt = Receipt(received_at or self.now, source, encoding)
        self._append(producer, len(events), msgspec.json.encode(events), receipt)

    def post_bytes(self, body: bytes, rows: Any = 1, producer: str = "collector") -> None:
        self._append(producer, rows, body, Receipt(self.now))

    def _append(self, producer: str, rows: Any, body: bytes, receipt: Receipt) -> None:
        with open_writer(raw_path(self.folder, producer), partition=producer) as writer:
            writer.append([Block("body", rows, body, msgspec.json.encode(receipt))])

    def router(self) -> Router:
        return Router(self.folder, self.plan, clock=SimulatedClock(self.now))

    def route(self, rows_max: int = 20000) -> tuple[int, int, int, Any]:
        """Step until nothing is left, and close; the sums of the reports and the last positions."""
        accepted = duplicates = quarantined = 0
        with self.router() as router:
            while (report := router.step(rows_max)).rows:
                accepted += report.accepted
                duplicates += report.duplicates
                quarantined += report.quarantined
        return accepted, duplicates, quarantined, report.positions

    def blocks(self) -> Any:
        with open_reader(routed_path(self.folder)) as reader:
            return reader.read(0, bytes_max=1 << 40)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        result_rows = []
        for stored_block in self.blocks():
            if stored_block.block.kind == kind:
                result_rows += to_table(stored_block.block).to_pylist()
        return result_rows

    def events(self, *columns: str) -> list[Any]:
        """Routed events in order: as dicts, or as tuples of the columns."""
        rows = self.rows("events")
        if not columns:
            return rows
        return [
            row[columns[0]] if len(columns) == 1 else tuple(row[name] for name in columns)
            for row in rows
        ]

    def event(self, event_id: str) -> dict[str, Any]:
        (row,) = [row for row in self.events() if row["event_id"] == event_id]
        return row
