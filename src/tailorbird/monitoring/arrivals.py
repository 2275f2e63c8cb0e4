"""Rows that the lake got after an hour was computed, such as an import or events that came late."""

import pyarrow as pa

from tailorbird.events import DAY, HOUR
from tailorbird.events.contract.schema import micros
from tailorbird.lake import Lake
from tailorbird.lake.lake import time_filter


class Arrivals:
    """Compares the positions of events with the one up to which an hour was computed.

    The log of the table has the last position of each day. Only days with later ones are read.

    Attributes:
        position: the last position in the lake when this was made.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._position_by_day = lake.last_position_by_day()
        self._hour_positions_by_day: dict[int, dict[int, int]] = {}
        self.position = max(self._position_by_day.values(), default=0)

    def has_later(self, since: int, until: int, position: int) -> bool:
        """Return whether the hours in [since, until) have events after a position."""
        return any(
            since <= hour < until and last_position > position
            for day in range(since // DAY, (until - 1) // DAY + 1)
            if self._position_by_day.get(day, 0) > position
            for hour, last_position in self._positions_of_day(day).items()
        )

    def _positions_of_day(self, day: int) -> dict[int, int]:
        """Return the last position of each hour of a day."""
        if day not in self._hour_positions_by_day:
            position_by_hour: dict[int, int] = {}
            is_on_day = time_filter("day", day * DAY, (day + 1) * DAY)
            for batch in self._lake.batches("events", ["ts", "p"], is_on_day):
                table = pa.table({"hour": micros(batch["ts"]) // HOUR * HOUR, "p": batch["p"]})
                last_positions = table.group_by("hour").aggregate([("p", "max")])
                for hour, log_position in zip(
                    *(last_positions[name].to_pylist() for name in ("hour", "p_max")), strict=True
                ):
                    position_by_hour[hour] = max(log_position or 0, position_by_hour.get(hour, 0))
            self._hour_positions_by_day[day] = position_by_hour
        return self._hour_positions_by_day[day]
