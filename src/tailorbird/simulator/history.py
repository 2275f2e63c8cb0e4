"""History: days of traffic under the house policy, as events in order of arrival.

    history = site.history(days=14)
    for arrival in history: …          # arrival.body is a line of our own JSONL, with received_at
    history.injected                   # counts of injected dirt, complete after the iteration
    history.population                 # continues in site.live(…, history.population)

Iterate once. Memory holds one day's events and late arrivals.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tailorbird.events import DAY, EPOCH_WEEKDAY, HOUR, SECOND
from tailorbird.simulator.house import HousePolicy
from tailorbird.simulator.incidents import Incidents
from tailorbird.simulator.population import new_population
from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.taste import Taste
from tailorbird.simulator.traffic import (
    Outcome,
    Requests,
    Slates,
    Visits,
    draw_reactions,
    draw_requests,
    draw_visits,
    list_pleasures,
    repeat_visits,
)
from tailorbird.simulator.wire import BOT, Arrival, DefectRates, EventFactory, Network, write_lines
from tailorbird.simulator.world import Ints

REGISTRATION_PROBABILITY = 0.12  # by visitors without an account, at the end of a visit
MODEL = "house"


class History:
    """The past of a site; see the module."""

    def __init__(
        self,
        seed: int,
        start: int,
        days: int,
        taste: Taste,
        search_box: SearchBox,
        *,
        defects: DefectRates,
        list_size: int,
        incidents: Incidents,
    ) -> None:
        self._incidents = incidents
        # Of its own, so that the rest of the history is the same without the incidents.
        self._incident_rng = np.random.default_rng([seed, 9])
        self.population = new_population(taste.users)
        self.request_count = 0
        self._rng = np.random.default_rng([seed, 3])
        self._start = start
        self._days = days
        self._taste = taste
        self._search_box = search_box
        self._defects = defects
        self._policy = HousePolicy(search_box, taste.items.count, list_size)
        self._network = Network(
            seed, defects, "h", taste.users, has_server_fields=True, incidents=incidents
        )
        self._event_factory = EventFactory(taste.users, taste.items)
        self._visit_count = 0

    @property
    def injected(self):
        """Counts of injected dirt so far."""
        return self._network.injected

    def __iter__(self) -> Iterator[Arrival]:
        pending_arrivals = self._initial_profiles()
        for day in range(self._days):
            pending_arrivals += self._simulate_day(day)
            pending_arrivals.sort()
            midnight = self._start + (day + 1) * DAY
            ready_count = next(
                (
                    i
                    for i, arrival in enumerate(pending_arrivals)
                    if arrival.received_at >= midnight
                ),
                len(pending_arrivals),
            )
            yield from pending_arrivals[:ready_count]
            pending_arrivals = pending_arrivals[ready_count:]
        yield from pending_arrivals

    def write(self, path: Path) -> int:
        """Write all of it as JSONL; returns the number of lines."""
        return write_lines(self, path)

    def _initial_profiles(self) -> list[Arrival]:
        """Return catalogue and accounts before the start, each with its time of validity."""
        arrivals: list[Arrival] = []
        items = self._taste.items
        users = self._taste.users
        for item in np.flatnonzero(items.arrival_day < 0).tolist():
            arrivals += self._network.send(
                self._event_factory.item(
                    item, self._to_micros(items.arrival_day[item]), items.arrival_day[item]
                )
            )
        for user in np.flatnonzero(users.is_member).tolist():
            arrivals += self._network.send(
                self._event_factory.user(user, self._to_micros(users.joined_day[user]))
            )
        return arrivals

    def _simulate_day(self, day: int) -> list[Arrival]:
        rng = self._rng
        taste = self._taste
        weekday = (self._start // DAY + day + EPOCH_WEEKDAY) % 7
        available_items = taste.items.list_available(float(day))
        self._policy.open_day(available_items)
        visits = draw_visits(rng, taste.users, self.population, day, weekday)
        if self._incidents:
            times = [self._to_micros(start) for start in visits.start]
            visits = repeat_visits(visits, self._incidents.visit_counts(self._incident_rng, times))
        requests = draw_requests(rng, visits, taste, self._search_box, available_items)
        slates = self._policy.draw_slates(rng, requests)
        outcome = draw_reactions(rng, taste, self._search_box, requests, slates.items)
        self._policy.learn(
            slates.items[np.arange(slates.items.shape[1]) < outcome.seen_count[:, None]],
            slates.items[outcome.click],
        )
        arrivals = catalogue_changes(self._network, self._event_factory, taste, self._start, day)
        arrivals += self._simulate_requests(requests, slates, outcome)
        arrivals += self._simulate_registrations(visits, requests)
        arrivals += self._simulate_bot(day, available_items)
        arrivals += self._simulate_crawlers(requests, available_items)
        self.population.update_satisfaction(
            requests.user, list_pleasures(taste, slates.items, outcome)
        )
        self.population.remove_leavers(rng, np.unique(visits.user))
        self._visit_count += len(visits.user)
        self.request_count += len(requests.user)
        return arrivals

    def _simulate_requests(
        self, requests: Requests, slates: Slates, outcome: Outcome
    ) -> list[Arrival]:
        """Return the events of a day's requests.

        It loops because each event is encoded separately.
        """
        event_factory = self._event_factory
        send = self._network.send
        item_ids = event_factory.item_ids
        logged_in = self.population.logged_in.tolist()
        items = slates.items.tolist()
        propensities = np.round(slates.propensity, 9).tolist()
        seen_counts = outcome.seen_count.tolist()
        list_lengths = (slates.items >= 0).sum(axis=1).tolist()
        clicked_positions = [np.flatnonzero(is_clicked).tolist() for is_clicked in outcome.click]
        times = (self._start + requests.day * DAY).astype(np.int64).tolist()
        arrivals: list[Arrival] = []
        for request_index, (user, visit, ts, query) in enumerate(
            zip(requests.user.tolist(), requests.visit.tolist(), times, requests.query, strict=True)
        ):
            identity_fields = event_factory.identity_fields(user, logged_in[user])
            common_fields = {
                **identity_fields,
                "session_id": f"hs{self._visit_count + visit:x}",
                "context": self._incidents.context(user, ts, event_factory.contexts[user]),
            }
            if query:
                arrivals += send(
                    {
                        "type": "search",
                        "ts": ts - 50_000,
                        **common_fields,
                        "properties": {"query": query},
                    },
                    user=user,
                )
            list_length = list_lengths[request_index]
            if not list_length:
                continue
            listed_ids = [item_ids[item] for item in items[request_index][:list_length]]
            common_fields["request_id"] = f"hr{self.request_count + request_index:x}"
            response = {
                "slot": "search" if query else "home",
                "model": MODEL,
                "propensities": propensities[request_index][:list_length],
            }
            if query:
                response["query"] = query
            arrivals += send(
                {
                    "type": "answer",
                    "ts": ts,
                    **common_fields,
                    "items": listed_ids,
                    "answer": response,
                }
            )
            arrivals += send(
                {
                    "type": "impression",
                    "ts": ts + 700_000,
                    **common_fields,
                    "items": listed_ids[: seen_counts[request_index]],
                },
                user=user,
            )
            for position in clicked_positions[request_index]:
                item = items[request_index][position]
                follow_up_events = events_after_click(
                    self._network,
                    ts,
                    position,
                    dwell_s=float(outcome.dwell_s[request_index, position]),
                    is_carted=bool(outcome.cart[request_index, position]),
                    is_purchased=bool(outcome.purchase[request_index, position]),
                    price=float(self._taste.items.price_at(item, requests.day[request_index])),
                )
                for event in follow_up_events:
                    arrivals += send(
                        {**event, **common_fields, "item_id": item_ids[item]}, user=user
                    )
        return arrivals

    def _simulate_registrations(self, visits: Visits, requests: Requests) -> list[Arrival]:
        """Return `identify` events and profiles of visitors who register, after their last list."""
        last_request_day = np.zeros(len(visits.user))
        np.maximum.at(last_request_day, requests.visit, requests.day)
        arrivals: list[Arrival] = []
        logged_in = self.population.logged_in
        for visit in np.flatnonzero(
            ~logged_in[visits.user]
            & (self._rng.random(len(visits.user)) < REGISTRATION_PROBABILITY)
        ).tolist():
            user = int(visits.user[visit])
            if not logged_in[user]:
                logged_in[user] = True
                ts = self._to_micros(last_request_day[visit]) + 240 * SECOND
                arrivals += registration_events(
                    self._network, self._event_factory, user, ts, f"hs{self._visit_count + visit:x}"
                )
        return arrivals

    def _simulate_bot(self, day: int, available_items: Ints) -> list[Arrival]:
        arrivals: list[Arrival] = []
        for offset_us in (
            np.sort(self._rng.uniform(0, DAY, self._rng.poisson(self._defects.bot_views_per_day)))
            .astype(np.int64)
            .tolist()
        ):
            item = self._event_factory.item_ids[int(self._rng.choice(available_items))]
            event_type = "click" if offset_us % 3 == 0 else "view"
            arrivals += self._network.send_bot(
                {"type": event_type, "ts": self._start + day * DAY + offset_us, "item_id": item}
            )
        return arrivals

    def _simulate_crawlers(self, requests: Requests, available_items: Ints) -> list[Arrival]:
        """Return views and clicks of the crawlers of incidents; the house shows them no list."""
        arrivals: list[Arrival] = []
        if not self._incidents:
            return arrivals
        for day in requests.day.tolist():
            at = self._to_micros(day)
            for crawlers in self._incidents.crawlers(at):
                # Five events, like the seen items of one list of a person.
                for number in range(5 * int(self._incident_rng.poisson(crawlers.size))):
                    crawler = f"{BOT}-{int(self._incident_rng.integers(crawlers.crawler_count))}"
                    item = self._event_factory.item_ids[
                        int(self._incident_rng.choice(available_items))
                    ]
                    event_type = "click" if number % 5 == 0 else "view"
                    event = {"type": event_type, "ts": at + number * SECOND, "item_id": item}
                    arrivals += self._network.send_bot(event, crawler)
        return arrivals

    def _to_micros(self, day: float) -> int:
        return self._start + int(day * DAY)


def events_after_click(
    network: Network,
    ts: int,
    position: int,
    *,
    dwell_s: float,
    is_carted: bool,
    is_purchased: bool,
    price: float,
) -> list[dict]:
    """Return the events of a click at a position (from 0), without person and item.

    `ts` is the time of the response.
    """
    click_ts = ts + int((1.5 + 1.2 * position + network.uniform(0.0, 3.0)) * SECOND)
    dwell_ms = int(dwell_s * 1_000)
    events: list[dict] = [
        {"type": "click", "ts": click_ts},
        {"type": "view", "ts": click_ts + dwell_ms * 1_000, "properties": {"dwell_ms": dwell_ms}},
    ]
    if is_carted:
        cart_ts = click_ts + dwell_ms * 600
        events.append(
            {"type": "cart", "ts": cart_ts, "properties": {"price": price, "quantity": 1}}
        )
        if is_purchased:
            purchase_ts = cart_ts + int(network.uniform(30, 400) * SECOND)
            events.append(
                {
                    "type": "purchase",
                    "ts": purchase_ts,
                    "properties": {"price": price, "quantity": 1},
                }
            )
    return events


def registration_events(
    network: Network, event_factory: EventFactory, user: int, ts: int, session_id: str
) -> list[Arrival]:
    """Return the events of a visitor who registers: `identify` and a profile."""
    event = {
        "type": "identify",
        "ts": ts,
        **event_factory.identity_fields(user, True),
        "session_id": session_id,
        "context": event_factory.contexts[user],
    }
    return network.send(event) + network.send(event_factory.user(user, ts + 1))


def catalogue_changes(
    network: Network,
    event_factory: EventFactory,
    taste: Taste,
    start: int,
    day: int,
    first_hour: int = 0,
    hour_count: int = 24,
) -> list[Arrival]:
    """Return profiles of items that arrive, change price or stock, hour by hour."""
    items = taste.items
    arrivals: list[Arrival] = []
    for hour in range(first_hour, first_hour + hour_count):
        hour_start = day + (hour + 1) / 24 - 1 / 24
        hour_end = day + (hour + 1) / 24
        arrived_items = np.flatnonzero(
            (items.arrival_day > hour_start) & (items.arrival_day <= hour_end)
        )
        existing_items = np.arange(np.searchsorted(items.arrival_day, hour_start, side="right"))
        changed_items = existing_items[
            (
                items.is_on_sale(existing_items, hour_start)
                != items.is_on_sale(existing_items, hour_end)
            )
            | (
                items.is_in_stock(existing_items, hour_start)
                != items.is_in_stock(existing_items, hour_end)
            )
        ]
        for item in np.concatenate([changed_items, arrived_items]).tolist():
            arrivals += network.send(
                event_factory.item(item, start + day * DAY + (hour + 1) * HOUR, hour_end)
            )
    return arrivals
