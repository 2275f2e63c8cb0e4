"""Sites with incidents whose cause is known: ten kinds, drawn in size, platform, time and length.

An incident moves what it would move on a site: a tracker that loses a field also moves the feature
that is made of it. A fifth of the sites has a second incident at the same time.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.events import HOUR
from tailorbird.monitoring.drift import Signal
from tailorbird.monitoring.drift.causes import Change

Floats = npt.NDArray[np.float64]

INCIDENTS = {
    "lost_field": "tracker lost a field",
    "new_device": "new app version or device",
    "catalogue": "catalogue swap",
    "promotion": "promotion",
    "bots": "bots",
    "holiday": "seasonality",
    "outage": "outage upstream",
    "slow_store": "slow store",
    "stale_source": "stale source",
    "model_change": "model change",
}
SINGLE_INCIDENTS = (
    "holiday",
    "outage",
)  # a second incident would hide behind, or explain, everything
SECOND_INCIDENT_PROBABILITY = 0.2
FEATURE_COUNT, BIN_COUNT = 20, 15
FIELDS = ("click.session_id", "click.request_id", "view.page", "purchase.price", "view.dwell_ms")
SOURCES = ("popular", "item_knn", "trending", "new_items")
CATEGORIES = {
    ("event types", "event_types"): ("click", "impression", "view", "cart", "purchase"),
    ("agent", "agent"): ("person", "bot"),
    ("event device", "event_device"): ("web", "ios", "android"),
    ("device", "device"): ("web", "ios", "android"),
    ("degraded", "degraded"): ("nothing", "features", "model"),
    ("model", "model"): ("v0001", "v0002"),
    ("sources", "source"): SOURCES,
    **{(field, "field"): ("set",) for field in FIELDS},
}
FIRST_HOUR = 1_790_553_600_000_000


@dataclass(frozen=True)
class Incident:
    """A site with an incident.

    Attributes:
        history: hours without any.
        start, stop: hours of the incident; stop is exclusive.
        causes: the names that are right.
    """

    signals: list[Signal]
    history: int
    start: int
    stop: int
    causes: tuple[str, ...]
    changes: tuple[Change, ...]


@dataclass
class _Site:
    """The expected histograms of a site, which incidents change between `start` and `stop`."""

    rng: np.random.Generator
    hours: int
    start: int
    stop: int
    traffic: dict[str, Floats]
    shares: dict[tuple[str, str], Floats]
    shift: dict[str, Floats]
    missing: dict[str, Floats]
    changes: list[Change]

    @property
    def during(self) -> slice:
        return slice(self.start, self.stop)

    def shift_numbers(self, names: list[str], size: float) -> None:
        """Shift numbers, in standard deviations."""
        for name in names:
            self.shift[name][self.during] += size

    def draw_features(self, count: int) -> list[str]:
        return [f"f{index}" for index in self.rng.choice(FEATURE_COUNT, count, replace=False)]

    def add_share(self, key: tuple[str, str], bin_: int, share: float) -> None:
        """Let a bin have a further share, taken from all."""
        shares = self.shares[key][self.during]
        shares *= 1.0 - share
        shares[:, bin_] += share


def draw_incident(kind: str, seed: int) -> Incident:
    """Draw a site with an incident of a kind, and in a fifth of the draws a second one."""
    rng = np.random.default_rng([seed, list(INCIDENTS).index(kind)])
    days = int(rng.integers(10, 21)) if kind == "holiday" else int(rng.integers(35, 57))
    history = days * 24
    start = history + 24 + int(rng.integers(24))
    length = {"outage": rng.integers(3, 13), "holiday": 24}.get(kind, rng.integers(8, 49))
    stop = start + int(length)
    site = _draw_site(rng, stop + 12, start, stop)
    kinds = [kind]
    if kind not in SINGLE_INCIDENTS and rng.random() < SECOND_INCIDENT_PROBABILITY:
        others = [other for other in INCIDENTS if other != kind and other not in SINGLE_INCIDENTS]
        kinds.append(str(rng.choice(others)))
    for each in kinds:
        _APPLY_BY_KIND[each](site)
    causes = tuple(INCIDENTS[each] for each in kinds)
    return Incident(
        signals=_draw_signals(site),
        history=history,
        start=start,
        stop=stop,
        causes=causes,
        changes=tuple(site.changes),
    )


def _draw_site(rng: np.random.Generator, hours: int, start: int, stop: int) -> _Site:
    hour = np.arange(hours)
    daily = 1.0 + rng.uniform(0.3, 0.9) * np.sin(2 * np.pi * (hour % 24 - rng.uniform(0, 24)) / 24)
    weekly = np.repeat(rng.lognormal(0.0, 0.1, 7), 24)[hour % 168]
    rate = 10 ** rng.uniform(2.3, 3.5) * daily * weekly * rng.lognormal(0.0, 0.1, hours) + 20
    daily_shift = {
        name: rng.normal(0.0, 0.03, hours // 24 + 1)[hour // 24]
        for name in (*(f"f{index}" for index in range(FEATURE_COUNT)), "score", "latency")
    }
    shares = {}
    for key, names in CATEGORIES.items():
        shares[key] = np.tile(_usual_shares(rng, key, len(names)), (hours, 1))
    return _Site(
        rng=rng,
        hours=hours,
        start=start,
        stop=stop,
        traffic={
            "events": rate * rng.uniform(2, 5),
            "responses": rate.copy(),
            "item profiles": rate * rng.uniform(0.01, 0.1) + 2,
        },
        shares=shares,
        shift=daily_shift,
        missing={name: np.full(hours, rng.choice([0.0, 0.02])) for name in daily_shift},
        changes=[],
    )


def _usual_shares(rng: np.random.Generator, key: tuple[str, str], count: int) -> Floats:
    """Return the share of missing values, and of each bin."""
    name, kind = key
    if kind == "field":
        missing = rng.choice([0.0, 0.05])
        return np.array([missing, 1.0 - missing])
    usual_shares = {
        "agent": [0.97, 0.03],
        "degraded": [0.99, 0.007, 0.003],
        "model": [1.0, 0.0],
        "event types": [0.2, 0.6, 0.1, 0.06, 0.04],
    }.get(name)
    return np.array([0.0, *(usual_shares or rng.dirichlet(np.full(count, 8.0)))])


def _lost_field(site: _Site) -> None:
    rng = site.rng
    share = rng.uniform(0.3, 0.95) * rng.uniform(0.4, 1.0)  # of a platform, and its traffic
    key = (str(rng.choice(FIELDS)), "field")
    site.add_share(key, 0, share)
    for name in site.draw_features(int(rng.integers(1, 3))):
        site.missing[name][site.during] = np.maximum(site.missing[name][site.during], share)


def _new_device(site: _Site) -> None:
    rng = site.rng
    bin_, share = int(rng.integers(1, 4)), rng.uniform(0.2, 0.5)
    site.add_share(("event device", "event_device"), bin_, share)
    site.add_share(("device", "device"), bin_, share)
    site.shift_numbers(site.draw_features(2), rng.uniform(0.1, 0.4))


def _catalogue(site: _Site) -> None:
    rng = site.rng
    hours = slice(site.start, min(site.stop, site.start + int(rng.integers(2, 9))))
    site.traffic["item profiles"][hours] *= rng.uniform(8, 40)
    site.shift_numbers(site.draw_features(int(rng.integers(2, 6))), rng.uniform(0.2, 0.8))
    site.add_share(("sources", "source"), 4, rng.uniform(0.02, 0.2))


def _promotion(site: _Site) -> None:
    rng = site.rng
    factor = rng.uniform(1.8, 4.0)
    for name in ("events", "responses"):
        site.traffic[name][site.during] *= factor
    site.add_share(("event types", "event_types"), 5, rng.uniform(0.01, 0.1))
    site.shift_numbers(site.draw_features(int(rng.integers(1, 4))), rng.uniform(0.1, 0.5))


def _bots(site: _Site) -> None:
    rng = site.rng
    share = rng.uniform(0.1, 0.5)
    site.add_share(("agent", "agent"), 2, share)
    site.add_share(("event types", "event_types"), 3, share * 0.5)
    site.traffic["events"][site.during] /= 1.0 - share


def _holiday(site: _Site) -> None:
    rng = site.rng
    factor = rng.uniform(0.6, 1.4)
    for name in ("events", "responses"):
        site.traffic[name][site.during] *= factor
    site.shift_numbers(site.draw_features(int(rng.integers(3, 9))), rng.uniform(0.3, 0.8))
    site.add_share(("event types", "event_types"), 3, rng.uniform(0.02, 0.1))


def _outage(site: _Site) -> None:
    rng = site.rng
    site.traffic["events"][site.during] *= rng.uniform(0.0, 0.1)
    site.traffic["responses"][site.during] *= rng.choice([0.0, 1.0])  # the collector, or the site
    site.shift_numbers(site.draw_features(3), rng.uniform(0.1, 0.5))  # recent counts run empty


def _slow_store(site: _Site) -> None:
    rng = site.rng
    share = rng.uniform(0.1, 0.6)
    site.add_share(("degraded", "degraded"), int(rng.integers(2, 4)), share)
    site.shift_numbers(["latency"], rng.uniform(1.0, 4.0))
    site.shift_numbers(["score"], -rng.uniform(0.1, 0.8) * share)
    for name in site.draw_features(FEATURE_COUNT // 2):
        site.missing[name][site.during] += share * (1.0 - site.missing[name][site.during])


def _stale_source(site: _Site) -> None:
    rng = site.rng
    shares = site.shares["sources", "source"]
    stale_bin = int(np.argsort(-shares[site.start, 1:])[int(rng.integers(2))]) + 1
    lost_share = shares[site.during, stale_bin] * rng.uniform(0.85, 1.0)
    shares[site.during, stale_bin] -= lost_share
    others = [bin_ for bin_ in range(1, len(SOURCES) + 1) if bin_ != stale_bin]
    shares[site.during, rng.choice(others)] += lost_share
    site.shift_numbers(site.draw_features(int(rng.integers(1, 5))), rng.uniform(0.1, 0.5))


def _model_change(site: _Site) -> None:
    rng = site.rng
    share = float(rng.choice([0.2, 0.5, 0.98]))
    site.add_share(("model", "model"), 2, share)
    site.shift_numbers(["score"], rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.5) * share)
    site.add_share(("sources", "source"), int(rng.integers(1, 5)), rng.uniform(0.0, 0.15) * share)
    at = FIRST_HOUR + site.start * HOUR
    site.changes.append(Change(at, "trainer: promote v0002"))


_APPLY_BY_KIND = {
    "lost_field": _lost_field,
    "new_device": _new_device,
    "catalogue": _catalogue,
    "promotion": _promotion,
    "bots": _bots,
    "holiday": _holiday,
    "outage": _outage,
    "slow_store": _slow_store,
    "stale_source": _stale_source,
    "model_change": _model_change,
}


def _draw_signals(site: _Site) -> list[Signal]:
    rng = site.rng
    traffic = {name: rng.poisson(rate) for name, rate in site.traffic.items()}
    signals = [
        Signal(name, counts[:, None].astype(np.float64), kind="traffic", bins=("all",))
        for name, counts in traffic.items()
    ]
    for (name, kind), shares in site.shares.items():
        of_events = kind in ("event_types", "agent", "event_device", "field")
        totals = traffic["events" if of_events else "responses"]
        if kind == "field":
            totals = rng.binomial(totals, 0.2)
        noise = shares * rng.lognormal(0.0, 0.03, shares.shape)
        counts = rng.multinomial(totals, noise / noise.sum(axis=1, keepdims=True))
        bins = ("missing", *CATEGORIES[name, kind])
        signals.append(Signal(name, counts.astype(np.float64), True, kind, bins))
    grid = np.linspace(-3, 3, BIN_COUNT)
    season = np.sin(2 * np.pi * np.arange(site.hours) / 24)
    for name, shift in site.shift.items():
        hourly_shift = shift + rng.uniform(0.0, 0.2) * season
        density = np.exp(-0.5 * (grid - hourly_shift[:, None]) ** 2)
        missing = site.missing[name]
        density *= ((1.0 - missing) / density.sum(axis=1))[:, None]
        counts = rng.multinomial(traffic["responses"], np.column_stack([missing, density]))
        kind = "feature" if name.startswith("f") else name
        bins = ("missing", *map(str, range(BIN_COUNT)))
        signals.append(Signal(name, counts.astype(np.float64), False, kind, bins))
    return signals
