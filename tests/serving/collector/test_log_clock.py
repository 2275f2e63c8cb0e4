"""A collector by the clock of an old log: clicks are of its time, until the first event that is of
today.
"""

from pathlib import Path

import msgspec
import pytest

from tailorbird.events import DAY, Receipt, RoutePlan, SimulatedClock, to_iso
from tailorbird.events.log_clock import LogClock
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import open_reader, raw_path

TODAY = 1_800_000_000_000_000
LAG = 425 * DAY


def received(stream: Path) -> list[int]:
    """Return when each body came in, as the log says."""
    with open_reader(raw_path(stream, "serve-1")) as reader:
        return [
            msgspec.json.decode(stored.block.receipt, type=Receipt).received_at
            for stored in reader.read(0)
        ]


def click(number: int, **more: object) -> bytes:
    return msgspec.json.encode(
        {"event_id": f"e{number}", "type": "click", "user_id": "u1", "item_id": "i1", **more}
    )


@pytest.mark.parametrize(
    "of_today", [{"ts": to_iso(TODAY)}, {}], ids=["its time", "a page of the site"]
)
def test_the_first_event_of_today_ends_the_time_of_the_log(
    of_today: dict[str, str], tmp_path: Path
) -> None:
    clock = LogClock(tmp_path, SimulatedClock(TODAY))
    clock.set_lag(LAG)
    with EventCollector(
        tmp_path / "stream", "serve-1", RoutePlan(), clock, log_clock=clock
    ) as collector:
        assert [each.accepted for each in collector.submit(click(1))] == [True]
        assert [
            each.accepted for each in collector.submit(click(2, ts=to_iso(TODAY + 30 * DAY)))
        ] == [False], "a mistake is not of today"
        assert clock.lag_us == LAG
        assert [
            each.accepted
            for each in collector.submit(
                click(3, **of_today), source="collector" if of_today else "browser"
            )
        ] == [True]
        assert clock.lag_us == 0
    assert received(tmp_path / "stream") == [TODAY - LAG, TODAY - LAG, TODAY]
