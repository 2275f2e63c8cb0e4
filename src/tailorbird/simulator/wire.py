"""Transport of the simulated site's events: JSON, delays, and the dirt of a real site.

    event (a dict) ──Network.send──► its arrivals: itself, perhaps repeated, late, or followed by a
    malformed event

`InjectedCounts` counts injected dirt, so that consumers of the events can be checked against it. An
event gets at most one kind of dirt. Malformed events are additional, never in place of a real one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import msgspec

from tailorbird.events import HOUR, MINUTE, SECOND
from tailorbird.simulator.incidents import CLIENT_TYPES, Incidents
from tailorbird.simulator.words import BRANDS, CATEGORIES, COLOURS
from tailorbird.simulator.world import (
    AGE_GROUPS,
    COUNTRIES,
    DEVICES,
    USER_AGENTS,
    UTC_OFFSETS_MINUTES,
    Items,
    Users,
    anonymous_id,
    item_id,
    user_id,
)

BOT = "a-crawler"
BOT_AGENT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"

_encode = msgspec.json.Encoder().encode


class Arrival(NamedTuple):
    """A request body with its arrival time: one event as JSON, or malformed."""

    received_at: int  # microseconds
    body: bytes


@dataclass(frozen=True)
class DefectRates:
    """Rates of dirt in the traffic. `DefectRates.none()` is clean.

    Args:
        duplicates: share of client events sent again, up to six hours later.
        late: share that arrives hours later, a fifth of them after more than a day.
        malformed: malformed events per client event.
        skewed_users: share of users whose clock is off by minutes to hours; they send
            `sent_at`.
        bot_views_per_day: page views of a crawler.
    """

    duplicates: float = 0.01
    late: float = 0.005
    malformed: float = 0.004
    skewed_users: float = 0.03
    bot_views_per_day: float = 250.0

    @classmethod
    def none(cls) -> "DefectRates":
        return cls(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass
class InjectedCounts:
    """Counts of injected dirt in events.

    `late_uncounted` arrived after more than a day.
    """

    events: int = 0  # without duplicates and malformed events
    duplicates: int = 0
    late: int = 0
    late_uncounted: int = 0
    skewed: int = 0
    bot: int = 0
    malformed: dict[str, int] = field(default_factory=dict)  # refusal code → events

    @property
    def malformed_total(self) -> int:
        return sum(self.malformed.values())


class Network:
    """Sends events with random delays and dirt; `prefix` keeps its event ids unique."""

    def __init__(
        self,
        seed: int,
        defects: DefectRates,
        prefix: str,
        users: Users,
        *,
        has_server_fields: bool,
        incidents: Incidents,
    ) -> None:
        self._incidents = incidents
        self.injected = InjectedCounts()
        self._random = Random(f"{seed}/{prefix}/wire")
        self._defects = defects
        self._prefix = prefix
        self._has_server_fields = has_server_fields  # bodies carry received_at, as imports may
        self._event_count = 0
        clock_random = Random(f"{seed}/clocks")
        self._clock_skew_us = [0] * users.count
        for user in range(users.count):
            if clock_random.random() < defects.skewed_users:
                self._clock_skew_us[user] = int(
                    clock_random.choice((-1, 1)) * clock_random.uniform(10 * MINUTE, 3 * HOUR)
                )

    def send(self, event: dict, *, user: int = -1) -> list[Arrival]:
        """Return the arrivals of an event, which is modified; `event["ts"]` is its true time."""
        self._event_count += 1
        event["event_id"] = f"{self._prefix}{self._event_count:x}"
        if self._incidents and not self._incidents.alter(event, user):
            return []
        self.injected.events += 1
        draw_uniform = self._random.random
        if event["type"] not in CLIENT_TYPES or user < 0:
            return [self._encode_arrival(event, event["ts"] + 1_000)]
        sent_ts = event["ts"]
        received_ts = sent_ts + int(30_000 + 90_000 * self._random.expovariate(1.0))
        defects = self._defects
        defect_draw = draw_uniform()
        arrivals: list[Arrival] = []
        if self._clock_skew_us[user]:
            event["ts"] += self._clock_skew_us[user]
            event["sent_at"] = sent_ts + self._clock_skew_us[user]
            self.injected.skewed += 1
        elif defect_draw < defects.late:
            received_ts = self._draw_late_arrival(sent_ts)
        elif defect_draw < defects.late + defects.duplicates:
            self.injected.duplicates += 1
            arrivals.append(
                self._encode_arrival(
                    event, received_ts + int(self._random.uniform(1, 6 * 3600) * SECOND)
                )
            )
        arrivals.append(self._encode_arrival(event, received_ts))
        if defects.malformed and draw_uniform() < defects.malformed:
            arrivals.append(self._make_malformed(event, received_ts + 5_000))
        return arrivals

    def send_bot(self, event: dict, crawler: str = BOT) -> list[Arrival]:
        """Send an event of a crawler."""
        self.injected.bot += 1
        event["anonymous_id"] = crawler
        event["context"] = {"device": "desktop", "country": "US", "user_agent": BOT_AGENT}
        return self.send(event)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def _draw_late_arrival(self, sent_ts: int) -> int:
        self.injected.late += 1
        if self._random.random() < 0.2:
            self.injected.late_uncounted += 1
            return sent_ts + int(self._random.uniform(30, 72) * HOUR)
        return sent_ts + int(self._random.uniform(1, 20) * HOUR)

    def _encode_arrival(self, event: dict, received_ts: int) -> Arrival:
        if self._has_server_fields:
            event["received_at"] = received_ts
        return Arrival(received_ts, _encode(event))

    def _make_malformed(self, template: dict, received_ts: int) -> Arrival:
        self._event_count += 1
        event = {**template, "event_id": f"{self._prefix}{self._event_count:x}"}
        code = self._random.choice(_REFUSAL_CODES)
        if self._has_server_fields:
            event["received_at"] = received_ts
        body = (
            _encode(event)[:-9]
            if code == "malformed_json"
            else _encode(_corrupt_event(event, code, received_ts))
        )
        self.injected.malformed[code] = self.injected.malformed.get(code, 0) + 1
        return Arrival(received_ts, body)


_REFUSAL_CODES = (
    "malformed_json",
    "wrong_type",
    "missing",
    "unknown_type",
    "unknown_field",
    "bad_time",
    "bad_country",
    "bad_id",
    "number_out_of_range",
    "reserved_prefix",
    "ts_in_future",
)


def _corrupt_event(event: dict, code: str, received_ts: int) -> dict:
    """Return the event with the single fault that the contract refuses with `code`."""
    changes: dict = {
        "wrong_type": {"session_id": 17},
        "missing": {"user_id": None, "anonymous_id": None},
        "unknown_type": {"type": "clicked"},
        "unknown_field": {"campaign": "spring"},
        "bad_time": {"ts": "yesterday"},
        "bad_country": {"context": {"country": "Norway"}},
        "bad_id": {"session_id": ""},
        "number_out_of_range": {"properties": {"dwell_ms": -5}},
        "reserved_prefix": {"user_id": "anon:me"},
        "ts_in_future": {"ts": received_ts + 2 * HOUR, "sent_at": None},
    }[code]
    return {name: value for name, value in {**event, **changes}.items() if value is not None}


class EventFactory:
    """Builds events from users and items by number."""

    def __init__(self, users: Users, items: Items) -> None:
        self._items = items
        self._users = users
        self.item_ids = [item_id(item) for item in range(items.count)]
        self.user_ids = [user_id(user) for user in range(users.count)]
        self.anonymous_ids = [anonymous_id(user) for user in range(users.count)]
        device = users.device.tolist()
        country = users.country.tolist()
        context_by_device_and_country = {
            (device_index, country_index): _build_context(device_index, country_index)
            for device_index in range(len(DEVICES))
            for country_index in range(len(COUNTRIES))
        }
        self.contexts = [
            context_by_device_and_country[pair] for pair in zip(device, country, strict=True)
        ]

    def identity_fields(self, user: int, is_logged_in: bool) -> dict:
        """Return the identity fields; a visitor who is not logged in has only an anonymous id."""
        if is_logged_in:
            return {"user_id": self.user_ids[user], "anonymous_id": self.anonymous_ids[user]}
        return {"anonymous_id": self.anonymous_ids[user]}

    def item(self, item: int, at: int, day: float) -> dict:
        """Return the profile of an item as the catalogue sends it at a time."""
        items = self._items
        return {
            "type": "item",
            "ts": at,
            "item_id": self.item_ids[item],
            "properties": {
                "title": items.titles[item],
                "description": items.descriptions[item],
                "category": CATEGORIES[items.category[item]],
                "brand": BRANDS[items.brand[item]],
                "colour": tuple(COLOURS)[items.colour[item]],
                "price": float(items.price_at(item, day)),
                "on_sale": bool(items.is_on_sale(item, day)),
                "stock": 25 if items.is_in_stock(item, day) else 0,
            },
        }

    def user(self, user: int, at: int) -> dict:
        users = self._users
        properties = {
            "country": COUNTRIES[users.country[user]],
            "age_group": AGE_GROUPS[users.age_group[user]],
        }
        return {"type": "user", "ts": at, "user_id": self.user_ids[user], "properties": properties}


def _build_context(device: int, country: int) -> dict:
    return {
        "device": DEVICES[device],
        "country": COUNTRIES[country],
        "user_agent": USER_AGENTS[DEVICES[device]],
        "utc_offset_min": UTC_OFFSETS_MINUTES[country],
    }


def write_lines(arrivals: Iterable[Arrival], path) -> int:
    """Write bodies as lines to a file; returns their number."""
    count = 0
    with open(path, "wb") as file:
        for arrival in arrivals:
            file.write(arrival.body)
            file.write(b"\n")
            count += 1
    return count
