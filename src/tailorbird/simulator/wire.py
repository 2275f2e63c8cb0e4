"""How the simulated site's events travel: their JSON, their delays, and the dirt that a real site
would add on the way.

    event (a dict) ──Courier.send──► the arrivals that it causes: itself, perhaps again, perhaps
    late, perhaps with rubbish behind it

What was injected is counted in `Injected`, apart from what is sent, so that whoever reads the
events can be held to it. An event gets at most one kind of dirt. Rubbish is sent besides the real
events, never in place of one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import msgspec

from tailorbird.events import HOUR, MINUTE, SECOND
from tailorbird.simulator.words import BRANDS, CATEGORIES, COLOURS
from tailorbird.simulator.world import (
    AGE_GROUPS,
    AGENTS,
    COUNTRIES,
    DEVICES,
    UTC_OFFSETS_MIN,
    Items,
    Users,
    anonymous_id,
    item_id,
    user_id,
)

BOT = "a-crawler"
BOT_AGENT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
CLIENT_TYPES = frozenset(("impression", "click", "view", "search", "cart", "purchase"))

_encode = msgspec.json.Encoder().encode


class Arrival(NamedTuple):
    """A body that comes in at a time: one event as JSON, or what should have been one."""

    received_at: int  # microseconds
    body: bytes


@dataclass(frozen=True)
class Dirt:
    """How dirty the traffic is. `Dirt.none()` is clean.

    Args:
        duplicates: share of client events that are sent again, up to six hours later.
        late: share that arrives hours later, a fifth of them after more than a day.
        malformed: rubbish events per client event.
        skewed_users: share of users whose clock is off by minutes to hours, and who say when they
            sent.
        bot_views_per_day: pages that a crawler fetches.
    """

    duplicates: float = 0.01
    late: float = 0.005
    malformed: float = 0.004
    skewed_users: float = 0.03
    bot_views_per_day: float = 250.0

    @classmethod
    def none(cls) -> "Dirt":
        return cls(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass
class Injected:
    """What was put in, counted in events. `late_uncounted` of them came after more than a day."""

    events: int = 0  # everything sent but duplicates and rubbish
    duplicates: int = 0
    late: int = 0
    late_uncounted: int = 0
    skewed: int = 0
    bot: int = 0
    malformed: dict[str, int] = field(default_factory=dict)  # refusal code → events

    @property
    def malformed_total(self) -> int:
        return sum(self.malformed.values())


class Courier:
    """Sends events over a network of its own randomness. One for a stretch of traffic; `prefix`
    keeps its event ids apart.
    """

    def __init__(
        self, seed: int, dirt: Dirt, prefix: str, users: Users, *, server_fields: bool
    ) -> None:
        self.injected = Injected()
        self._random = Random(f"{seed}/{prefix}/wire")
        self._dirt = dirt
        self._prefix = prefix
        self._server_fields = server_fields  # whether bodies carry received_at, as imports may
        self._number = 0
        clocks = Random(f"{seed}/clocks")
        self._skew = [0] * users.count
        for user in range(users.count):
            if clocks.random() < dirt.skewed_users:
                self._skew[user] = int(
                    clocks.choice((-1, 1)) * clocks.uniform(10 * MINUTE, 3 * HOUR)
                )

    def send(self, event: dict, *, user: int = -1) -> list[Arrival]:
        """What arrives because of an event; `event["ts"]` is when it truly happened. Takes the
        event over.
        """
        self._number += 1
        event["event_id"] = f"{self._prefix}{self._number:x}"
        self.injected.events += 1
        chance = self._random.random
        if event["type"] not in CLIENT_TYPES or user < 0:
            return [self._pack(event, event["ts"] + 1_000)]
        sent = event["ts"]
        received = sent + int(30_000 + 90_000 * self._random.expovariate(1.0))
        dirt, draw = self._dirt, chance()
        arrivals: list[Arrival] = []
        if self._skew[user]:
            event["ts"] += self._skew[user]
            event["sent_at"] = sent + self._skew[user]
            self.injected.skewed += 1
        elif draw < dirt.late:
            received = self._delay(sent)
        elif draw < dirt.late + dirt.duplicates:
            self.injected.duplicates += 1
            arrivals.append(
                self._pack(event, received + int(self._random.uniform(1, 6 * 3600) * SECOND))
            )
        arrivals.append(self._pack(event, received))
        if dirt.malformed and chance() < dirt.malformed:
            arrivals.append(self._rubbish(event, received + 5_000))
        return arrivals

    def send_bot(self, event: dict) -> list[Arrival]:
        """An event of the crawler."""
        self.injected.bot += 1
        event["anonymous_id"] = BOT
        event["context"] = {"device": "desktop", "country": "US", "user_agent": BOT_AGENT}
        return self.send(event)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def _delay(self, sent: int) -> int:
        self.injected.late += 1
        if self._random.random() < 0.2:
            self.injected.late_uncounted += 1
            return sent + int(self._random.uniform(30, 72) * HOUR)
        return sent + int(self._random.uniform(1, 20) * HOUR)

    def _pack(self, event: dict, received: int) -> Arrival:
        if self._server_fields:
            event["received_at"] = received
        return Arrival(received, _encode(event))

    def _rubbish(self, like: dict, received: int) -> Arrival:
        self._number += 1
        event = {**like, "event_id": f"{self._prefix}{self._number:x}"}
        code = self._random.choice(_CODES)
        if self._server_fields:
            event["received_at"] = received
        body = (
            _encode(event)[:-9]
            if code == "malformed_json"
            else _encode(_spoiled(event, code, received))
        )
        self.injected.malformed[code] = self.injected.malformed.get(code, 0) + 1
        return Arrival(received, body)


_CODES = (
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


def _spoiled(event: dict, code: str, received: int) -> dict:
    """The event with the one fault that the contract refuses with `code`."""
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
        "ts_in_future": {"ts": received + 2 * HOUR, "sent_at": None},
    }[code]
    return {name: value for name, value in {**event, **changes}.items() if value is not None}


class Stationery:
    """Makes the events themselves, before they are sent: what stands in each, from users and items
    by number.
    """

    def __init__(self, users: Users, items: Items) -> None:
        self._items = items
        self._users = users
        self.item_ids = [item_id(item) for item in range(items.count)]
        self.user_ids = [user_id(user) for user in range(users.count)]
        self.anonymous_ids = [anonymous_id(user) for user in range(users.count)]
        device, country = users.device.tolist(), users.country.tolist()
        contexts = {
            (d, c): _context(d, c) for d in range(len(DEVICES)) for c in range(len(COUNTRIES))
        }
        self.contexts = [contexts[pair] for pair in zip(device, country, strict=True)]

    def person(self, user: int, known: bool) -> dict:
        """The fields that say who it is; a visitor who is not logged in has only an anonymous id."""
        if known:
            return {"user_id": self.user_ids[user], "anonymous_id": self.anonymous_ids[user]}
        return {"anonymous_id": self.anonymous_ids[user]}

    def item(self, item: int, at: int, day: float) -> dict:
        """The profile of an item as the shop's catalogue would send it at a time."""
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
                "on_sale": bool(items.on_sale(item, day)),
                "stock": 25 if items.in_stock(item, day) else 0,
            },
        }

    def user(self, user: int, at: int) -> dict:
        users = self._users
        properties = {
            "country": COUNTRIES[users.country[user]],
            "age_group": AGE_GROUPS[users.age_group[user]],
        }
        return {"type": "user", "ts": at, "user_id": self.user_ids[user], "properties": properties}


def _context(device: int, country: int) -> dict:
    return {
        "device": DEVICES[device],
        "country": COUNTRIES[country],
        "user_agent": AGENTS[DEVICES[device]],
        "utc_offset_min": UTC_OFFSETS_MIN[country],
    }


def write_lines(arrivals: Iterable[Arrival], path) -> int:
    """Write bodies as lines to a file; returns how many."""
    count = 0
    with open(path, "wb") as file:
        for arrival in arrivals:
            file.write(arrival.body)
            file.write(b"\n")
            count += 1
    return count
