"""The cause of an incident that the simulator writes into a history."""

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events import DAY, HOUR
from tailorbird.events.contract.schema import ROUTED
from tailorbird.monitoring.drift import find_episodes, name_cause
from tailorbird.monitoring.drift.detect import Signal, measure_windows
from tailorbird.monitoring.drift.sketches import EVENT_COLUMNS, build_signals, sketch_events
from tailorbird.simulator import DefectRates, Site, draw_incidents
from tailorbird.simulator.site import DEFAULT_START
from tailorbird.training.sketches import to_table

DAYS, HISTORY_DAYS = 21, 14
BOT_ALONE = DefectRates(0.0, 0.0, 0.0, 0.0, bot_views_per_day=250.0)


def draw_signals(incident: str) -> list[Signal]:
    at = DEFAULT_START + (HISTORY_DAYS + 1) * DAY
    incidents = draw_incidents([incident], seed=103, first=at, last=at)
    site = Site(103, users=600, items=200, days=DAYS + 1, incidents=incidents)
    rows = []
    for arrival in site.history(DAYS, defects=BOT_ALONE):
        event = msgspec.json.decode(arrival.body)
        context = event.get("context", {})
        agent = "bot" if "bot" in context.get("user_agent", "") else "person"
        own = {"device": context.get("device"), "agent": agent}
        rows.append({**event.get("properties", {}), **event, **own})
    types = {name: ROUTED.field(name).type for name in EVENT_COLUMNS}
    events = pa.table(
        {name: pa.array([row.get(name) for row in rows], types[name]) for name in types}
    )
    hours = (np.array([row["ts"] for row in rows]) - DEFAULT_START) // HOUR
    hourly = []
    for hour in range(DAYS * 24):
        sketch = to_table(sketch_events(events.filter(pa.array(hours == hour))))
        hourly.append(sketch.append_column("hour", pa.array(np.full(len(sketch), hour))))
    return build_signals(pa.concat_tables(hourly), DAYS * 24)


@pytest.mark.parametrize(
    ("incident", "cause"),
    [
        ("crawlers:0.5:96", "bots"),
        ("lost-field:0.6:96", "tracker lost a field"),
        ("device:0.5", "new app version or device"),
    ],
)
def test_the_cause_of_a_simulated_incident_is_named(incident, cause):
    signals = draw_signals(incident)
    episodes = find_episodes(signals, HISTORY_DAYS * 24)
    assert [name_cause(each, signals, DEFAULT_START).name for each in episodes] == [cause]


def test_one_event_without_a_field_that_never_was_missing_is_chance():
    counts = np.tile([0.0, 25.0], (15, 1))
    counts[-1] = 1.0, 24.0
    field = Signal("cart.session_id", counts, True, "field", ("missing", "set"))
    distance, strength = measure_windows(counts, np.zeros(15, int), 14, field)
    assert distance[-1] == pytest.approx(0.04)
    assert strength[-1] == pytest.approx(1.0)
