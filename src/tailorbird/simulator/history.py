"""History: days of traffic under the house policy, as the events that the site would have kept, in
order of arrival.

    history = site.history(days=14)
    for arrival in history: …          # arrival.body is a line of our own JSONL, with received_at
    history.injected                   # the dirt, counted; complete when the iteration is
    history.population                 # goes on in site.live(…, history.population)

Iterate once. Memory is one day's events and what arrives late.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tailorbird.events import DAY, HOUR, SECOND
from tailorbird.simulator.house import HousePolicy
from tailorbird.simulator.population import fresh_population
from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.taste import Taste
from tailorbird.simulator.traffic import (
    Outcome,
    Requests,
    Shown,
    Visits,
    draw_requests,
    draw_visits,
    pleasures,
    respond,
)
from tailorbird.simulator.wire import Arrival, Courier, Dirt, Stationery, write_lines
from tailorbird.simulator.world import Ints

REGISTERS = 0.12  # chance that a visitor without an account makes one at the end of a visit
MODEL = "house"


class History:
    """The past of a site; see the module."""

    def __init__(
        self,
        seed: int,
        start: int,
        days: int,
        taste: Taste,
        box: SearchBox,
        *,
        dirt: Dirt,
        size: int,
    ) -> None:
        self.population = fresh_population(taste.users)
        self.requests = 0
        self._rng = np.random.default_rng([seed, 3])
        self._start, self._days = start, days
        self._taste, self._box = taste, box
        self._dirt = dirt
        self._policy = HousePolicy(box, taste.items.count, size)
        self._courier = Courier(seed, dirt, "h", taste.users, server_fields=True)
        self._paper = Stationery(taste.users, taste.items)
        self._visits = 0

    @property
    def injected(self):
        """What dirt was put in so far."""
        return self._courier.injected

    def __iter__(self) -> Iterator[Arrival]:
        waiting = self._opening()
        for day in range(self._days):
            waiting += self._day(day)
            waiting.sort()
            midnight = self._start + (day + 1) * DAY
            ready = next(
                (i for i, arrival in enumerate(waiting) if arrival.received_at >= midnight),
                len(waiting),
            )
            yield from waiting[:ready]
            waiting = waiting[ready:]
        yield from waiting

    def write(self, path: Path) -> int:
        """Write all of it as JSONL; returns how many lines."""
        return write_lines(self, path)

    def _opening(self) -> list[Arrival]:
        """The catalogue and the accounts of the day before the start, each with the time since
        which it is valid.
        """
        arrivals: list[Arrival] = []
        items, users = self._taste.items, self._taste.users
        for item in np.flatnonzero(items.arrival < 0).tolist():
            arrivals += self._courier.send(
                self._paper.item(item, self._micros(items.arrival[item]), items.arrival[item])
            )
        for user in np.flatnonzero(users.member).tolist():
            arrivals += self._courier.send(self._paper.user(user, self._micros(users.joined[user])))
        return arrivals

    def _day(self, day: int) -> list[Arrival]:
        rng, taste = self._rng, self._taste
        weekday = (self._start // DAY + day + 3) % 7  # 1970-01-01 was a Thursday
        available = taste.items.available(float(day))
        self._policy.open_day(available)
        visits = draw_visits(rng, taste.users, self.population, day, weekday)
        requests = draw_requests(rng, visits, taste, self._box, available)
        shown = self._policy.choose(rng, requests)
        outcome = respond(rng, taste, self._box, requests, shown.items)
        self._policy.learn(
            shown.items[np.arange(shown.items.shape[1]) < outcome.seen[:, None]],
            shown.items[outcome.click],
        )
        arrivals = catalogue_changes(self._courier, self._paper, taste, self._start, day)
        arrivals += self._requests(requests, shown, outcome)
        arrivals += self._registrations(visits, requests)
        arrivals += self._bot(day, available)
        self.population.please(requests.user, pleasures(taste, shown.items, outcome))
        self.population.let_go(rng, np.unique(visits.user))
        self._visits += len(visits.user)
        self.requests += len(requests.user)
        return arrivals

    def _requests(self, requests: Requests, shown: Shown, outcome: Outcome) -> list[Arrival]:
        """The events of a day's requests. A loop, because each event becomes a text of its own."""
        paper, send = self._paper, self._courier.send
        ids, known = paper.item_ids, self.population.known.tolist()
        items, propensities = shown.items.tolist(), np.round(shown.propensity, 9).tolist()
        seen, counts = outcome.seen.tolist(), (shown.items >= 0).sum(axis=1).tolist()
        clicks = [np.flatnonzero(row).tolist() for row in outcome.click]
        times = (self._start + requests.day * DAY).astype(np.int64).tolist()
        arrivals: list[Arrival] = []
        for row, (user, visit, ts, query) in enumerate(
            zip(requests.user.tolist(), requests.visit.tolist(), times, requests.query, strict=True)
        ):
            person = paper.person(user, known[user])
            base = {
                **person,
                "session_id": f"hs{self._visits + visit:x}",
                "context": paper.contexts[user],
            }
            if query:
                arrivals += send(
                    {"type": "search", "ts": ts - 50_000, **base, "properties": {"query": query}},
                    user=user,
                )
            count = counts[row]
            if not count:
                continue
            listed = [ids[item] for item in items[row][:count]]
            base["request_id"] = f"hr{self.requests + row:x}"
            answer = {
                "slot": "search" if query else "home",
                "model": MODEL,
                "propensities": propensities[row][:count],
            }
            if query:
                answer["query"] = query
            arrivals += send(
                {"type": "answer", "ts": ts, **base, "items": listed, "answer": answer}
            )
            arrivals += send(
                {"type": "impression", "ts": ts + 700_000, **base, "items": listed[: seen[row]]},
                user=user,
            )
            for place in clicks[row]:
                item = items[row][place]
                after = after_click(
                    self._courier,
                    ts,
                    place,
                    dwell_s=float(outcome.dwell_s[row, place]),
                    cart=bool(outcome.cart[row, place]),
                    purchase=bool(outcome.purchase[row, place]),
                    price=float(self._taste.items.price_at(item, requests.day[row])),
                )
                for event in after:
                    arrivals += send({**event, **base, "item_id": ids[item]}, user=user)
        return arrivals

    def _registrations(self, visits: Visits, requests: Requests) -> list[Arrival]:
        """Visitors who make an account: `identify` and a profile, after the last list of the visit."""
        last = np.zeros(len(visits.user))
        np.maximum.at(last, requests.visit, requests.day)
        arrivals: list[Arrival] = []
        known = self.population.known
        for visit in np.flatnonzero(
            ~known[visits.user] & (self._rng.random(len(visits.user)) < REGISTERS)
        ).tolist():
            user = int(visits.user[visit])
            if not known[user]:
                known[user] = True
                ts = self._micros(last[visit]) + 240 * SECOND
                arrivals += register(
                    self._courier, self._paper, user, ts, f"hs{self._visits + visit:x}"
                )
        return arrivals

    def _bot(self, day: int, available: Ints) -> list[Arrival]:
        arrivals: list[Arrival] = []
        for when in (
            np.sort(self._rng.uniform(0, DAY, self._rng.poisson(self._dirt.bot_views_per_day)))
            .astype(np.int64)
            .tolist()
        ):
            item = self._paper.item_ids[int(self._rng.choice(available))]
            kind = "click" if when % 3 == 0 else "view"
            arrivals += self._courier.send_bot(
                {"type": kind, "ts": self._start + day * DAY + when, "item_id": item}
            )
        return arrivals

    def _micros(self, day: float) -> int:
        return self._start + int(day * DAY)


def after_click(
    courier: Courier,
    ts: int,
    place: int,
    *,
    dwell_s: float,
    cart: bool,
    purchase: bool,
    price: float,
) -> list[dict]:
    """The events of a click at a place (from 0) of a list that was answered at `ts`, without person
    and item.
    """
    clicked = ts + int((1.5 + 1.2 * place + courier.uniform(0.0, 3.0)) * SECOND)
    dwell = int(dwell_s * 1_000)
    events: list[dict] = [
        {"type": "click", "ts": clicked},
        {"type": "view", "ts": clicked + dwell * 1_000, "properties": {"dwell_ms": dwell}},
    ]
    if cart:
        put = clicked + dwell * 600
        events.append({"type": "cart", "ts": put, "properties": {"price": price, "quantity": 1}})
        if purchase:
            paid = put + int(courier.uniform(30, 400) * SECOND)
            events.append(
                {"type": "purchase", "ts": paid, "properties": {"price": price, "quantity": 1}}
            )
    return events


def register(
    courier: Courier, paper: Stationery, user: int, ts: int, session: str
) -> list[Arrival]:
    """A visitor becomes a user: who it is, and what its profile says."""
    event = {
        "type": "identify",
        "ts": ts,
        **paper.person(user, True),
        "session_id": session,
        "context": paper.contexts[user],
    }
    return courier.send(event) + courier.send(paper.user(user, ts + 1))


def catalogue_changes(
    courier: Courier,
    paper: Stationery,
    taste: Taste,
    start: int,
    day: int,
    hour_from: int = 0,
    hours: int = 24,
) -> list[Arrival]:
    """Profiles of items that arrive, change price, or go out of or into stock, hour by hour from an
    hour of a day on.
    """
    items = taste.items
    arrivals: list[Arrival] = []
    for hour in range(hour_from, hour_from + hours):
        now = day + (hour + 1) / 24
        arrived = np.flatnonzero((items.arrival > now - 1 / 24) & (items.arrival <= now))
        there = np.arange(np.searchsorted(items.arrival, now - 1 / 24, side="right"))
        before, after = now - 1 / 24, now
        changed = there[
            (items.on_sale(there, before) != items.on_sale(there, after))
            | (items.in_stock(there, before) != items.in_stock(there, after))
        ]
        for item in np.concatenate([changed, arrived]).tolist():
            arrivals += courier.send(paper.item(item, start + day * DAY + (hour + 1) * HOUR, now))
    return arrivals
