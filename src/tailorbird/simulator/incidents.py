"""Incidents of a simulated site, whose kind, time, size and place are known.

    site = Site(seed=1, incidents=draw_incidents(["taste:0.7"], seed=1, first=…, last=…))
    site.incidents                                # the truth: kind, start, stop, size, who

An incident changes what people, crawlers, trackers and catalogue do, and thereby the events of
`History` and `LiveTraffic`. Those that lie in serving (`SERVING_KINDS`) change no event by
themselves: whoever serves asks `Incidents.active` and shows them.

A kind is one subclass of `Incident`. It overrides the hooks that it needs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tailorbird.errors import UsageError
from tailorbird.events import DAY, HOUR, combine_keys, to_iso_minute
from tailorbird.simulator.words import CATEGORIES
from tailorbird.simulator.world import AGE_GROUPS, COUNTRIES, Floats, Items, Users

LOSABLE_FIELDS = ("dwell_ms", "price", "session_id", "request_id", "user_id")
CLIENT_TYPES = frozenset(("impression", "click", "view", "search", "cart", "purchase"))
EVERYBODY = "everybody"


@dataclass(frozen=True)
class Incident:
    """An incident in [start, stop), microseconds; without `stop` it lasts.

    Attributes:
        size: what it means depends on the kind, see its `SIZE_MEANING`.
        who: whom or what it meets, in words.
        seed: decides which people are met.
    """

    start: int
    stop: int | None
    size: float
    who: str
    seed: int

    KIND: ClassVar[str] = "none"
    SIZE_MEANING: ClassVar[str] = "nothing happens"
    # Sizes and hours are drawn log-uniformly. The smallest sizes are below what anybody can see.
    SIZES: ClassVar[tuple[float, float]] = (1.0, 1.0)
    HOURS: ClassVar[tuple[float, float] | None] = None  # None: it lasts

    @classmethod
    def draw_who(cls, rng: np.random.Generator) -> str:
        """Draw whom or what the incident meets."""
        return EVERYBODY

    def is_active(self, at: int) -> bool:
        return self.start <= at and (self.stop is None or at < self.stop)

    def to_dict(self) -> dict[str, Any]:
        """Return the truth about it."""
        return {"kind": self.KIND, **asdict(self)}

    def describe(self) -> str:
        """Return the truth about it as a sentence."""
        until = "" if self.stop is None else f" until {to_iso_minute(self.stop)}"
        return (
            f"{self.KIND}, {self.who}, from {to_iso_minute(self.start)}{until}, "
            f"size {self.size:.2g} ({self.SIZE_MEANING})"
        )

    def visit_factor(self) -> float:
        """Return by what the number of visits is multiplied."""
        return 1.0

    def meets_request(self, at: int) -> bool:
        """Return whether a request is met, by a fault of serving."""
        return False

    def alter(self, event: dict, user: int) -> bool:
        """Change a client's event in place; return whether it arrives at all."""
        return True

    def context(self, user: int, context: dict) -> dict:
        """Return the context that a person's client sends."""
        return context

    def change_items(self, items: Items, site_start: int) -> Items:
        """Return the catalogue with what the incident changes in it."""
        return items

    def taste_shift(self, users: Users) -> np.ndarray | None:
        """Return who changes taste, a boolean for each user; None changes nothing."""
        return None

    def _meets(self, key: int) -> bool:
        """Return whether a share `size` has this key, the same each time."""
        hashed = int(combine_keys(np.array(self.seed, np.uint64), np.array(key, np.uint64)))
        return hashed < self.size * 2**64


class Quiet(Incident):
    """Nothing happens."""


class TasteChange(Incident):
    """People want something else."""

    KIND = "taste"
    SIZE_MEANING = "share of a taste that is replaced"
    SIZES = (0.05, 0.95)

    @classmethod
    def draw_who(cls, rng: np.random.Generator) -> str:
        groups = [f"country {name}" for name in COUNTRIES] + [f"age {name}" for name in AGE_GROUPS]
        return EVERYBODY if rng.random() < 0.6 else str(rng.choice(groups))

    def taste_shift(self, users: Users) -> np.ndarray:
        group, _, name = self.who.partition(" ")
        if group == "country":
            return users.country == COUNTRIES.index(name)
        if group == "age":
            return users.age_group == AGE_GROUPS.index(name)
        return np.ones(users.count, bool)


class LostField(Incident):
    """A new version of the tracker no longer sends a field."""

    KIND = "lost-field"
    SIZE_MEANING = "share of people with the new version"
    SIZES = (0.02, 1.0)
    HOURS = (24.0, 240.0)

    @classmethod
    def draw_who(cls, rng: np.random.Generator) -> str:
        return str(rng.choice(LOSABLE_FIELDS))

    def alter(self, event: dict, user: int) -> bool:
        if user >= 0 and event["type"] in CLIENT_TYPES and self._meets(user):
            # A person without account has no other id than the anonymous one.
            event.pop(self.who, None)
            if self.who in event.get("properties", ()):
                event["properties"] = {
                    name: value for name, value in event["properties"].items() if name != self.who
                }
        return True


class Crawlers(Incident):
    """Crawlers come in numbers, as one or as many visitors."""

    KIND = "crawlers"
    SIZE_MEANING = "lists of crawlers for each list of a person"
    SIZES = (0.01, 0.8)
    HOURS = (12.0, 240.0)
    ONE_PLACE = "one crawler"

    @classmethod
    def draw_who(cls, rng: np.random.Generator) -> str:
        return cls.ONE_PLACE if rng.random() < 0.5 else "many crawlers"

    @property
    def crawler_count(self) -> int:
        """Return as how many visitors they come; one is in one arm of an experiment only."""
        return 1 if self.who == self.ONE_PLACE else 50


class NewDevice(Incident):
    """A new app reports another device."""

    KIND = "device"
    SIZE_MEANING = "share of people who use the new app"
    SIZES = (0.02, 0.7)

    @classmethod
    def draw_who(cls, rng: np.random.Generator) -> str:
        return str(rng.choice(["tv", "watch", "phone"]))

    def context(self, user: int, context: dict) -> dict:
        if not self._meets(user):
            return context
        return {**context, "device": self.who, "user_agent": f"Mozilla/5.0 (App 2.0; {self.who})"}


class CatalogueSwap(Incident):
    """A part of the catalogue is withdrawn, and as many new items come in its place."""

    KIND = "catalogue"
    SIZE_MEANING = "share of items that are withdrawn"
    SIZES = (0.02, 0.6)

    @classmethod
    def draw_who(cls, rng: np.random.Generator) -> str:
        return "all items" if rng.random() < 0.6 else str(rng.choice(CATEGORIES))

    def change_items(self, items: Items, site_start: int) -> Items:
        day = (self.start - site_start) / DAY
        rng = np.random.default_rng([self.seed, 6])
        is_met = rng.random(items.count) < self.size
        if self.who in CATEGORIES:
            is_met &= items.category == CATEGORIES.index(self.who)
        is_met &= items.arrival_day <= day
        arrival_day = items.arrival_day.copy()
        first_later = int(np.searchsorted(arrival_day, day, side="right"))
        # Items that would have come later come now; their order, and so the numbers, stay.
        arrival_day[first_later : first_later + int(is_met.sum())] = day + 0.01
        withdrawn_day = np.where(is_met, np.minimum(items.withdrawn_day, day), items.withdrawn_day)
        return replace(items, arrival_day=arrival_day, withdrawn_day=withdrawn_day)


class Promotion(Incident):
    """A category is on sale, and more people come."""

    KIND = "promotion"
    SIZE_MEANING = "additional visits, relative to the usual ones"
    SIZES = (0.05, 2.0)
    HOURS = (12.0, 96.0)

    @classmethod
    def draw_who(cls, rng: np.random.Generator) -> str:
        return str(rng.choice(CATEGORIES))

    def visit_factor(self) -> float:
        return 1.0 + self.size

    def change_items(self, items: Items, site_start: int) -> Items:
        is_met = items.category == CATEGORIES.index(self.who)
        start_day = (self.start - site_start) / DAY
        stop_day = np.inf if self.stop is None else (self.stop - site_start) / DAY
        return replace(
            items,
            promoted_from_day=np.where(is_met, start_day, items.promoted_from_day),
            promoted_until_day=np.where(is_met, stop_day, items.promoted_until_day),
        )


class Holiday(Incident):
    """Fewer people come."""

    KIND = "holiday"
    SIZE_MEANING = "share of visits that are not made"
    SIZES = (0.05, 0.7)
    HOURS = (24.0, 96.0)

    def visit_factor(self) -> float:
        return 1.0 - self.size


class Outage(Incident):
    """Events of trackers are lost before they arrive. People go on as before."""

    KIND = "outage"
    SIZE_MEANING = "share of events that are lost"
    SIZES = (0.1, 1.0)
    HOURS = (1.0, 12.0)

    def alter(self, event: dict, user: int) -> bool:
        return event["type"] not in CLIENT_TYPES or not self._meets(event["ts"])


class SlowStore(Incident):
    """Features are read so late that answers go without them."""

    KIND = "slow-store"
    SIZE_MEANING = "share of reads that are late"
    SIZES = (0.02, 1.0)
    HOURS = (2.0, 48.0)

    def meets_request(self, at: int) -> bool:
        return self._meets(at)


class StaleSource(Incident):
    """Candidate tables are no longer published."""

    KIND = "stale-source"
    SIZE_MEANING = "all tables stand still"
    HOURS = (6.0, 96.0)


class ModelChange(Incident):
    """Somebody promotes another model past the gate."""

    KIND = "model-change"
    SIZE_MEANING = "another version answers everybody"


INCIDENT_CLASSES: tuple[type[Incident], ...] = (
    Quiet,
    TasteChange,
    LostField,
    Crawlers,
    NewDevice,
    CatalogueSwap,
    Promotion,
    Holiday,
    Outage,
    SlowStore,
    StaleSource,
    ModelChange,
)
KINDS = tuple(kind.KIND for kind in INCIDENT_CLASSES)
SERVING_KINDS = (SlowStore.KIND, StaleSource.KIND, ModelChange.KIND)


class Incidents(Sequence[Incident]):
    """All incidents of a site, asked together."""

    def __init__(self, incidents: Sequence[Incident] = ()) -> None:
        self._incidents = tuple(sorted(incidents, key=lambda incident: incident.start))

    def __getitem__(self, index):
        return self._incidents[index]

    def __len__(self) -> int:
        return len(self._incidents)

    def __iter__(self) -> Iterator[Incident]:
        return iter(self._incidents)

    def active(self, at: int, kind: str = "") -> list[Incident]:
        """Return the incidents at a time, of one kind or of all."""
        return [
            incident
            for incident in self._incidents
            if incident.is_active(at) and kind in ("", incident.KIND)
        ]

    def visit_factor(self, at: int) -> float:
        return float(np.prod([incident.visit_factor() for incident in self.active(at)]))

    def visit_counts(self, rng: np.random.Generator, times: Sequence[int]) -> np.ndarray:
        """Draw how often each visit at these times takes place, its factor on average."""
        factor = np.array([self.visit_factor(at) for at in times])
        return np.floor(factor + rng.random(len(factor))).astype(np.int64)

    def alter(self, event: dict, user: int) -> bool:
        """Change an event in place; return whether it arrives."""
        return all(incident.alter(event, user) for incident in self.active(event["ts"]))

    def context(self, user: int, at: int, context: dict) -> dict:
        for incident in self.active(at):
            context = incident.context(user, context)
        return context

    def crawlers(self, at: int) -> list[Crawlers]:
        return [incident for incident in self.active(at) if isinstance(incident, Crawlers)]


@dataclass(frozen=True)
class IncidentSpec:
    """An incident as it is asked for; what is None is drawn."""

    kind: type[Incident]
    size: float | None = None
    hours: float | None = None


def parse_incident(text: str) -> IncidentSpec:
    """Read `KIND[:size[:hours]]`.

    Raises:
        UsageError: the kind is unknown, or a number is not one or out of range.

    >>> parse_incident("promotion:0.5:48").hours
    48.0
    """
    kind_name, *numbers = text.split(":")
    if kind_name not in KINDS:
        raise UsageError(
            f"unknown kind {kind_name!r}", where="--incident", fix=f"use one of {', '.join(KINDS)}"
        )
    if len(numbers) > 2:
        raise UsageError(f"expected KIND[:size[:hours]], got {text!r}", where="--incident")
    try:
        size, hours = ([float(number) if number else None for number in numbers] + [None, None])[:2]
    except ValueError:
        raise UsageError(
            f"expected KIND[:size[:hours]] with numbers, got {text!r}", where="--incident"
        ) from None
    kind = INCIDENT_CLASSES[KINDS.index(kind_name)]
    size_max = max(1.0, kind.SIZES[1])
    if size is not None and not 0 < size <= size_max:
        raise UsageError(
            f"expected a size above 0 and up to {size_max:g} ({kind.SIZE_MEANING}), got {size:g}",
            where="--incident",
        )
    if hours is not None and hours <= 0:
        raise UsageError(f"expected hours above 0, got {hours:g}", where="--incident")
    return IncidentSpec(kind, size, hours)


def draw_incidents(texts: Sequence[str], *, seed: int, first: int, last: int) -> Incidents:
    """Draw incidents that start in [first, last), microseconds, each from the seed and its place.

    Args:
        texts: `KIND[:size[:hours]]`; what is not given is drawn.
    """
    return Incidents(
        [
            draw_incident(
                parse_incident(text), np.random.default_rng([seed, 7, number]), first, last
            )
            for number, text in enumerate(texts)
        ]
    )


def draw_incident(spec: IncidentSpec, rng: np.random.Generator, first: int, last: int) -> Incident:
    """Draw what a specification leaves open."""
    kind = spec.kind
    start = int(rng.integers(first, max(last, first + 1)))
    size = _draw_log_uniform(rng, kind.SIZES)
    hours = None if kind.HOURS is None else _draw_log_uniform(rng, kind.HOURS)
    who = kind.draw_who(rng)
    size = size if spec.size is None else spec.size
    hours = hours if spec.hours is None else spec.hours
    stop = None if hours is None else start + int(hours * HOUR)
    return kind(start, stop, round(size, 4), who, int(rng.integers(1 << 31)))


def draw_start(seed: int) -> int:
    """Draw the first midnight of a site within two years: its weekday and season."""
    first_day = 1_704_067_200_000_000 // DAY  # 1 January 2024
    return (first_day + int(np.random.default_rng([seed, 8]).integers(730))) * DAY


def _draw_log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    logs: Floats = np.log(limits)
    return float(np.exp(rng.uniform(*logs)))
