"""A synthetic site with known truth, for demos, load and closed-loop tests.

Start at `Site`.
"""

from tailorbird.simulator.history import History
from tailorbird.simulator.history_file import HistoryFile, write_history
from tailorbird.simulator.incidents import KINDS, Incident, Incidents, draw_incidents, draw_start
from tailorbird.simulator.live import LiveTraffic, Outbox, Request
from tailorbird.simulator.picture import item_picture
from tailorbird.simulator.population import Population
from tailorbird.simulator.site import Site
from tailorbird.simulator.truth import ExpectedCounts, Truth
from tailorbird.simulator.wire import BOT, Arrival, DefectRates, InjectedCounts

__all__ = [
    "BOT",
    "KINDS",
    "Arrival",
    "DefectRates",
    "ExpectedCounts",
    "History",
    "HistoryFile",
    "Incident",
    "Incidents",
    "InjectedCounts",
    "LiveTraffic",
    "Outbox",
    "Population",
    "Request",
    "Site",
    "Truth",
    "draw_incidents",
    "draw_start",
    "item_picture",
    "write_history",
]
