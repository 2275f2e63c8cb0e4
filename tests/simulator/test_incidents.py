"""Incidents: each kind shows in the events of history and live traffic from its start on."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tailorbird import UsageError
from tailorbird.events import DAY, HOUR
from tailorbird.simulator import KINDS, DefectRates, Incident, Site, draw_incidents
from tailorbird.simulator.incidents import SERVING_KINDS, parse_incident
from tailorbird.simulator.site import DEFAULT_START

DAYS = 4
FROM = DEFAULT_START + 2 * DAY


def _site(*texts: str, users: int = 250) -> Site:
    return _site_with(*draw_incidents(texts, seed=5, first=FROM, last=FROM), users=users)


def _site_with(*incidents: Incident, users: int = 250) -> Site:
    return Site(seed=4, users=users, items=150, days=DAYS + 30, incidents=incidents)


def _history(site: Site) -> list[dict]:
    return _decode(site.history(DAYS, defects=DefectRates.none()))


def _live(site: Site) -> list[dict]:
    """Return the events of visitors whom everybody shows the same list."""
    live = site.live(site.start, defects=DefectRates.none())
    until, arrivals = site.start + DAYS * DAY, []
    for request in live.requests(until):
        day = (request.at - site.start) / DAY
        shown_ids = [f"i{item:05d}" for item in site.items.list_available(day)[-12:]]
        arrivals += live.react(request, shown_ids, f"r{request.at}-{request.visitor}")
    return _decode([*arrivals, *live.background(until)])


def _decode(arrivals) -> list[dict]:
    return [msgspec.json.decode(arrival.body) for arrival in arrivals]


def _share(events: list[dict], is_met: Callable[[dict], bool]) -> tuple[float, float]:
    """Return the share of events that are met, before the incident and from its start on."""
    before = [is_met(event) for event in events if event["ts"] < FROM]
    after = [is_met(event) for event in events if event["ts"] >= FROM]
    return float(np.mean(before)), float(np.mean(after))


def _is_lost(event: dict) -> bool:
    return event["type"] == "view" and "dwell_ms" not in event["properties"]


def _is_tv(event: dict) -> bool:
    return event.get("context", {}).get("device") == "tv"


def _is_crawler(event: dict) -> bool:
    return event.get("anonymous_id", "").startswith("a-crawler")


def _is_sold_out(event: dict) -> bool:
    return event["type"] == "item" and event["properties"]["stock"] == 0


def _is_sale(event: dict) -> bool:
    return event["type"] == "item" and event["properties"]["on_sale"]


@pytest.fixture(scope="module")
def quiet_events() -> dict[Callable, list[dict]]:
    return {write: write(_site()) for write in (_history, _live)}


@pytest.mark.parametrize("write", [_history, _live])
def test_without_an_incident_or_with_none_the_events_are_the_same(write, quiet_events) -> None:
    assert write(_site("none"))[:500] == quiet_events[write][:500]


@pytest.mark.parametrize("write", [_history, _live])
@pytest.mark.parametrize(
    ("text", "who", "is_met", "least"),
    [
        ("lost-field:1:999", "dwell_ms", _is_lost, 0.05),
        ("device:0.6", "tv", _is_tv, 0.4),
        ("crawlers:0.6:999", "many crawlers", _is_crawler, 0.2),
        ("catalogue:0.6", "all items", _is_sold_out, 0.01),
        ("promotion:1:24", "coats", _is_sale, 0.003),
    ],
)
def test_an_incident_shows_from_its_start_on(write, text, who, is_met, least) -> None:
    incident = replace(_site(text).incidents[0], who=who)
    events = write(_site_with(incident))
    before, after = _share(events, is_met)
    assert after > max(least, 2 * before)


@pytest.mark.parametrize("write", [_history, _live])
def test_promotions_holidays_and_outages_move_the_number_of_events(write) -> None:
    def count(*texts: str) -> int:
        # Visits come in bursts: of 250 people, twice as many or half as many would be chance.
        events = write(_site(*texts, users=800))
        times = [event["ts"] for event in events if event["type"] == "impression"]
        return sum(FROM <= time < FROM + 12 * HOUR for time in times)

    usual = count()
    assert count("promotion:1:12") > 1.5 * usual
    assert count("holiday:0.6:24") < 0.7 * usual
    assert count("outage:1:12") == 0


def test_tastes_change_for_those_who_are_met_and_back_at_the_end() -> None:
    incident = replace(_site("taste:0.8:24").incidents[0], who="country DE")
    site = _site_with(incident)
    users, items = np.arange(250), np.arange(50)
    quiet = _site().taste

    def moved(day: float) -> np.ndarray:
        days = np.full(250, day)
        difference = site.taste.utility(users, items, days) - quiet.utility(users, items, days)
        return np.abs(difference).max(axis=1) > 1e-9

    assert not moved(1.9).any()
    assert (moved(2.5) == incident.taste_shift(site.users)[:250]).all()
    assert not moved(3.1).any()


def test_what_is_not_given_is_drawn_and_small_ones_too() -> None:
    sizes = [
        draw_incidents(["crawlers"], seed=seed, first=FROM, last=FROM + DAY)[0].size
        for seed in range(200)
    ]
    assert min(sizes) < 0.02
    assert max(sizes) > 0.5
    again = draw_incidents(["crawlers"], seed=7, first=FROM, last=FROM + DAY)
    assert again[0].size == sizes[7]
    assert again[0].to_dict().keys() >= {"kind", "start", "stop", "size", "who"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storm", "unknown kind 'storm'"),
        ("taste:much", "with numbers"),
        ("taste:2", "a size above 0 and up to 1"),
        ("taste:1:-3", "hours above 0"),
        ("taste:1:2:3", "expected KIND"),
    ],
)
def test_a_wrong_specification_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_incident(text)


def test_kinds_are_distinct() -> None:
    assert len(set(KINDS)) == len(KINDS)
    assert set(SERVING_KINDS) < set(KINDS)
