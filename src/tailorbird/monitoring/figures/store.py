"""The figures of a project on disk: one Parquet file of cells an hour.

    data/monitoring/figures/2026-11-24/13.parquet

An hour is computed from the lake alone, so any process may compute it: a file is replaced at once,
and a crash leaves the old one. An hour is counted again while something may still follow its
responses: the newest two hours each time, earlier ones once an hour, until the longest attribution
window has passed. It is counted again too if the lake got events of it later, such as an import.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.events import DAY, HOUR, MINUTE, to_iso
from tailorbird.events.contract.schema import micros
from tailorbird.lake import Lake
from tailorbird.lake.lake import time_filter
from tailorbird.monitoring.arrivals import Arrivals
from tailorbird.monitoring.figures.cells import CELL_SCHEMA, CellBuilder, SlotRule
from tailorbird.monitoring.hour_files import POSITION_KEY, HourFiles

RECENT_US = 2 * HOUR
SETTLE_US = 10 * MINUTE  # events arrive and are committed a little later
HISTORY_DAYS = 56  # kept, and computed when they are missing
COUNTED_AT_KEY = b"counted_at"


class FigureStore:
    """Reads and refreshes the figures of a project.

    Args:
        folder: `data/monitoring/figures`.
        rules: how each slot counts.
    """

    def __init__(self, folder: Path, lake: Lake, rules: Mapping[str, SlotRule]) -> None:
        self._files = HourFiles(folder)
        self._lake = lake
        self._builder = CellBuilder(lake, rules)

    def refresh(self, since: int, now: int, *, include_late: bool = True) -> int:
        """Compute the hours from `since` on that are missing or not final; return their number.

        Args:
            include_late: also those that the lake got events of after they were computed.

        Raises:
            NotReadyError: there is no lake.
        """
        oldest_needed = max(since, now - HISTORY_DAYS * DAY)
        hours = self._hours_with_responses(oldest_needed, now)
        arrivals = Arrivals(self._lake)
        due_hours = [
            hour for hour in hours if self._is_due(hour, now, arrivals if include_late else None)
        ]
        for hour in due_hours:
            cells = self._builder.build(hour, hour + HOUR, now)
            self._files.write(hour, cells, {COUNTED_AT_KEY: now, POSITION_KEY: arrivals.position})
        return len(due_hours)

    def read(self, since: int, until: int, columns: Sequence[str] = CELL_SCHEMA.names) -> pa.Table:
        """Return the cells of the minutes in [since, until).

        Args:
            columns: with `minute`; a long time is read much faster without lists.
        """
        tables = self._files.read(since, until, columns)
        empty = CELL_SCHEMA.empty_table().select(list(columns))
        cells = pa.concat_tables(tables.values()) if tables else empty
        minute = pc.field("minute")
        return cells.filter((minute >= since) & (minute < until))

    def remove_before(self, oldest: int) -> None:
        """Delete the hours before a time."""
        for path in sorted(self._files.folder.glob("*/*.parquet")):
            if path.parent.name < to_iso(oldest)[:10]:
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()

    def _hours_with_responses(self, since: int, now: int) -> list[int]:
        is_answer = ds.field("type") == "answer"
        in_span = time_filter("day", since // HOUR * HOUR, now)
        hours: set[int] = set()
        condition = is_answer if in_span is None else in_span & is_answer
        for batch in self._lake.batches("events", ["ts"], condition):
            hours.update((pc.unique(pa.array(micros(batch["ts"]) // HOUR))).to_pylist())
        return [hour * HOUR for hour in sorted(hours)]

    def _is_due(self, hour: int, now: int, arrivals: Arrivals | None) -> bool:
        notes = self._files.read_notes(hour)
        if notes is None:
            return True
        counted_at = notes.get(COUNTED_AT_KEY, 0)
        outcomes_until = hour + HOUR + self._builder.attribution
        final_at = outcomes_until + SETTLE_US
        is_final = counted_at >= final_at
        if arrivals is not None:
            until = outcomes_until if is_final else hour + HOUR
            if arrivals.has_later(hour, until, notes.get(POSITION_KEY, 0)):
                return True
        if is_final:
            return False
        return now - hour < RECENT_US + HOUR or now - counted_at >= HOUR or now >= final_at
