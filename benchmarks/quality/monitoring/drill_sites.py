"""The site of the incident drills: five quiet weeks, then a day with an incident."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.monitored import Row, make_visit, write_answers, write_events

from tailorbird.config import Project, open_project
from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, SECOND, SimulatedClock
from tailorbird.platform.drift import find_drift

BEGIN = 1_790_553_600_000_000  # a Monday
QUIET_DAYS = 35  # weekdays are told apart
NOW = BEGIN + (QUIET_DAYS + 1) * DAY + 15 * 60 * SECOND
NOON = BEGIN + DAY // 2
VISITS_PER_HOUR = 25  # an hour
CLICK_RATE = 0.1
DEVICES = ("web", "ios", "android")
FEATURES = """
from tailorbird.features import count, entity

clicks_7d = count("clicks_7d", entity("user"), "click", window="7d")
"""
Visit = tuple[list[Row], Row]
Change = Callable[[np.random.Generator, list[Row], Row], list[Row] | None]


def write_project(folder: Path, settings: str = "") -> Project:
    """Return a new project with one feature and one slot."""
    folder.mkdir(parents=True)
    (folder / "tailorbird.toml").write_text(settings)
    (folder / "features.py").write_text(FEATURES)
    (folder / "slots.py").write_text("from tailorbird.ranking import Slot\n\nhome = Slot('home')\n")
    return open_project(folder)


def copy_site(base: Path, folder: Path) -> Project:
    """Return a copy of the quiet site, which is made the first time."""
    if not base.exists():
        _build_site(base)
    shutil.copytree(base, folder)
    return open_project(folder)


def _build_site(folder: Path) -> None:
    """Write the quiet weeks, and take their sketches."""
    project, rng = write_project(folder), np.random.default_rng(0)
    visits = [
        _draw_visit(rng, hour, 3.0, CLICK_RATE)
        for hour in range(QUIET_DAYS * 24)
        for _ in range(VISITS_PER_HOUR)
    ]
    _write_visits(project, visits)
    try:
        find_drift(project, SimulatedClock(NOW - DAY))
    except NotReadyError as error:  # the site is too young; the drills would find nothing
        raise SystemExit(f"the quiet site cannot be judged: {error}") from error


def write_incident(project: Project, name: str) -> None:
    """Write a day on which an incident happens."""
    change, settings = INCIDENTS[name][1], SETTINGS.get(name, {})
    rng, visits = np.random.default_rng(1), []
    for hour in range(QUIET_DAYS * 24, (QUIET_DAYS + 1) * 24):
        if hour >= (QUIET_DAYS + 1) * 24 - settings.get("silent", 0):
            break
        for _ in range(round(VISITS_PER_HOUR * settings.get("traffic", 1.0))):
            events, record = _draw_visit(
                rng, hour, settings.get("mean", 3.0), settings.get("ctr", CLICK_RATE)
            )
            visits.append((events + (change(rng, events, record) or []), record))
    _write_visits(project, visits)


def _draw_visit(rng: np.random.Generator, hour: int, mean: float, ctr: float) -> Visit:
    """Return what one visitor sends; items have a new profile now and then."""
    ts = BEGIN + hour * HOUR + int(rng.integers(50 * 60)) * SECOND
    name, features = f"{ts}-{rng.integers(1 << 40)}", rng.poisson(mean) + 1.0
    events, record = make_visit(
        name,
        ts,
        person=name,
        clicks=np.flatnonzero(rng.random(8) < ctr).tolist(),
        numeric=[features] * 8,
        scores=[float(rng.uniform(0.1, 0.2))] * 8,
        candidate_sources=["popular", "item_knn"],
        candidate_counts=[20, 20],
    )
    device = str(rng.choice(DEVICES))
    for row in (*events, record):
        row |= {"device": device, "session_id": name}
    if rng.random() < 0.25:
        events.append(_item_profile(ts, name))
    return events, record


def _item_profile(ts: int, name: str) -> Row:
    return {"type": "item", "ts": ts, "item_id": name}


def _write_visits(project: Project, visits: list[Visit]) -> None:
    for _, record in visits:
        record["schema_hash"] = project.features.schema_hash
    events = [event for rows, _ in visits for event in rows]
    for place, event in enumerate(events, 1):
        event["p"] = event["ts"] * 10 + place % 10
    write_events(project.paths.lake, events)
    write_answers(project.paths.lake, [record for _, record in visits])


def _lose_field(rng: np.random.Generator, events: list[Row], record: Row) -> None:
    for event in events:
        if event["type"] == "click":
            event["session_id"] = None


def _crawl(rng: np.random.Generator, events: list[Row], record: Row) -> list[Row]:
    view = {"type": "view", "ts": record["ts"], "item_id": "a", "agent": "bot", "person": "bot"}
    return [view] * int(rng.integers(4))


def _miss_features(rng: np.random.Generator, events: list[Row], record: Row) -> None:
    if rng.random() < 0.5:
        record["degraded"] = ["features"]


def _starve_source(rng: np.random.Generator, events: list[Row], record: Row) -> None:
    record["candidate_counts"] = [39, 1]


def _swap_catalogue(rng: np.random.Generator, events: list[Row], record: Row) -> list[Row]:
    return [_item_profile(record["ts"], f"{record['person']}-{place}") for place in range(4)]


def _change_device(rng: np.random.Generator, events: list[Row], record: Row) -> None:
    if rng.random() < 0.8:
        for row in (*events, record):
            row["device"] = "ios"


def _change_model(rng: np.random.Generator, events: list[Row], record: Row) -> None:
    record |= {"scores": [0.6] * 8, "model": "v0001"}


def _buy_on_sale(rng: np.random.Generator, events: list[Row], record: Row) -> None:
    """Let more people come, and no more profiles of items."""
    events[:] = [row for row in events if row["type"] != "item" or rng.random() < 1 / 3]


def _no_change(rng: np.random.Generator, events: list[Row], record: Row) -> None:
    """Change nothing but what `SETTINGS` has."""


INCIDENTS: dict[str, tuple[str, Change]] = {  # incident → its cause, and what it does to a visit
    "no-events": ("outage upstream", _no_change),
    "lost-field": ("tracker lost a field", _lose_field),
    "bots": ("bots", _crawl),
    "stale-source": ("stale source", _starve_source),
    "slow-store": ("slow store", _miss_features),
    "model-change": ("model change", _change_model),
    "catalogue": ("catalogue swap", _swap_catalogue),
    "traffic-mix": ("new app version or device", _change_device),
    "promotion": ("promotion", _buy_on_sale),
    "taste": ("change of taste", _no_change),
    "drift": ("unknown", _no_change),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "no-events": {"silent": 8},
    "promotion": {"traffic": 3.0},
    "taste": {"ctr": CLICK_RATE / 3},
    "drift": {"mean": 9.0},
}
