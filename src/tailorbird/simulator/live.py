"""Live traffic: visitors who arrive, request, get responses from elsewhere, and react.

    live = site.live(start, population)
    for request in live.requests(until):         # in order of time, over concurrent visits
        shown_ids = …                            # served in process or over HTTP
        arrivals = live.react(request, shown_ids, request_id)    # events of the visitor's browser
    arrivals = live.background(until)            # catalogue changes, the crawler

An arrival's `received_at` is when it should reach the collector: keep arrivals in an `Outbox` and
send those that are due. Bodies carry no server-owned field. The next request of a visit is only
scheduled once the last one was answered (or passed over).
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.events import DAY, EPOCH_WEEKDAY, HOUR, MINUTE, SECOND
from tailorbird.simulator import behaviour
from tailorbird.simulator.history import (
    REGISTRATION_PROBABILITY,
    catalogue_changes,
    events_after_click,
    registration_events,
)
from tailorbird.simulator.incidents import Incidents
from tailorbird.simulator.population import HOUR_SHARE, Population
from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.taste import Taste
from tailorbird.simulator.traffic import (
    CONTINUE_PROBABILITY,
    LISTS_MAX,
    SEARCH_SHARE,
    draw_target_items,
)
from tailorbird.simulator.wire import (
    BOT,
    BOT_AGENT,
    Arrival,
    DefectRates,
    EventFactory,
    InjectedCounts,
    Network,
)
from tailorbird.simulator.world import UTC_OFFSETS_MINUTES

_VISIT_STEP_US = 10 * MINUTE
_BOT_LISTS_A_DAY = 100


@dataclass(frozen=True)
class Request:
    """A visitor's request.

    `visitor` is the simulator's own number, for the truth only; crawlers have negative ones.
    """

    at: int  # microseconds
    slot: str  # "home" or "search"
    query: str | None
    user_id: str | None
    anonymous_id: str
    session_id: str
    device: str
    country: str
    utc_offset_min: int
    user_agent: str
    visitor: int
    lists_before: int

    @property
    def local_hour(self) -> int:
        return (self.at + self.utc_offset_min * MINUTE) // HOUR % 24

    @property
    def context(self) -> dict:
        """The context as a client sends it with requests and events."""
        return {
            "device": self.device,
            "country": self.country,
            "user_agent": self.user_agent,
            "utc_offset_min": self.utc_offset_min,
        }


class Outbox:
    """Arrivals on their way, removed in order of arrival."""

    def __init__(self) -> None:
        self._heap: list[Arrival] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, arrivals: Iterable[Arrival]) -> None:
        for arrival in arrivals:
            heapq.heappush(self._heap, arrival)

    def pop_due(self, now: int) -> list[Arrival]:
        """Remove and return arrivals up to and including `now`."""
        due_arrivals = []
        while self._heap and self._heap[0].received_at <= now:
            due_arrivals.append(heapq.heappop(self._heap))
        return due_arrivals


class LiveTraffic:
    """Live traffic from `start` on; see the module.

    The same responses give the same visitors, however the calls are spaced.
    """

    def __init__(
        self,
        seed: int,
        site_start: int,
        start: int,
        taste: Taste,
        search_box: SearchBox,
        population: Population,
        *,
        defects: DefectRates,
        prefix: str,
        incidents: Incidents,
    ) -> None:
        self._incidents = incidents
        self.population = population
        # The time since the site's start, so that another calendar date gives the same visitors.
        elapsed_us = (start - site_start) % (1 << 62)
        self._rng = np.random.default_rng([seed, 4, elapsed_us])
        self._rng_background = np.random.default_rng([seed, 5, elapsed_us])
        self._site_start = site_start
        self._taste = taste
        self._search_box = search_box
        self._visits_drawn_until = start  # end of the drawn visits
        self._background_until = start
        self._prefix = prefix
        self._network = Network(
            seed, defects, prefix, taste.users, has_server_fields=False, incidents=incidents
        )
        self._event_factory = EventFactory(taste.users, taste.items)
        self._bot_lists_a_day = _BOT_LISTS_A_DAY if defects.bot_views_per_day else 0
        self._bot_views_a_day = defects.bot_views_per_day
        self._due_requests: list[
            tuple[int, int, int, str, int]
        ] = []  # (at, number, visitor, session, lists before)
        self._schedule_count = 0

    @property
    def injected(self) -> InjectedCounts:
        """Counts of injected dirt so far."""
        return self._network.injected

    def requests(self, until: int) -> Iterator[Request]:
        """Yield the requests before `until`, in order of time. Call again to continue."""
        while True:
            if self._due_requests and self._due_requests[0][0] < min(
                self._visits_drawn_until, until
            ):
                yield self._build_request(*heapq.heappop(self._due_requests))
            elif self._visits_drawn_until < until:
                self._draw_visits(
                    self._visits_drawn_until, self._visits_drawn_until + _VISIT_STEP_US
                )
            else:
                return

    def react(
        self, request: Request, shown_ids: Sequence[str], request_id: str, *, at: int | None = None
    ) -> list[Arrival]:
        """Return the events of the visitor's reaction to a list, and schedule the next request.

        Args:
            request: from `requests`.
            shown_ids: ids of the items shown, best first; may be empty.
            request_id: of the response, which the browser sends along.
            at: time of the response, if not that of the request (microseconds).
        """
        ts = request.at if at is None else at
        if request.visitor < 0:
            return self._react_as_crawler(request, shown_ids, request_id, ts)
        return self._react(request, shown_ids, request_id, ts) + self._continue_or_leave(
            request, ts
        )

    def background(self, until: int) -> list[Arrival]:
        """Return catalogue changes and crawler views up to the last full hour before `until`."""
        arrivals: list[Arrival] = []
        while self._background_until + HOUR <= until:
            hour_start = self._background_until
            hours_since_start = (hour_start - self._site_start) // HOUR
            arrivals += catalogue_changes(
                network=self._network,
                event_factory=self._event_factory,
                taste=self._taste,
                start=self._site_start,
                day=hours_since_start // 24,
                first_hour=hours_since_start % 24,
                hour_count=1,
            )
            available_items = self._taste.items.list_available(hours_since_start / 24)
            rng = self._rng_background
            for offset_us in (
                rng.uniform(0, HOUR, rng.poisson(self._bot_views_a_day / 24))
                .astype(np.int64)
                .tolist()
            ):
                item = self._event_factory.item_ids[int(rng.choice(available_items))]
                arrivals += self._network.send_bot(
                    {"type": "view", "ts": hour_start + offset_us, "item_id": item}
                )
            self._background_until += HOUR
        return sorted(arrivals)

    def _draw_visits(self, start: int, end: int) -> None:
        taste = self._taste
        rng = self._rng
        users = taste.users
        day = (start - self._site_start) / DAY
        length_days = (end - start) / DAY
        visit_rates = self.population.visit_rate(users, day, (start // DAY + EPOCH_WEEKDAY) % 7)
        local_hour = ((start // MINUTE + np.asarray(UTC_OFFSETS_MINUTES)[users.country]) // 60) % 24
        visit_factor = self._incidents.visit_factor(start)
        visit_means = visit_factor * visit_rates * HOUR_SHARE[local_hour] * 24 * length_days
        visit_counts = rng.poisson(visit_means)
        is_new = (
            (users.joined_day > day)
            & (users.joined_day <= day + length_days)
            & ~self.population.has_left
        )
        for user in np.repeat(np.arange(users.count), np.maximum(visit_counts, is_new)).tolist():
            self._schedule(int(rng.integers(start, end)), user, self._session_id(), 0)
        for _ in range(int(rng.poisson(self._bot_lists_a_day * length_days))):
            self._schedule(int(rng.integers(start, end)), -1, self._session_id(), 0)
        for crawlers in self._incidents.crawlers(start):
            lists_mean = crawlers.size * visit_means.sum() / (1 - CONTINUE_PROBABILITY)
            for _ in range(int(rng.poisson(lists_mean))):
                crawler = -2 - int(rng.integers(crawlers.crawler_count))
                self._schedule(int(rng.integers(start, end)), crawler, self._session_id(), 0)
        self._visits_drawn_until = end

    def _session_id(self) -> str:
        return f"{self._prefix}s{self._schedule_count:x}"

    def _schedule(self, at: int, visitor: int, session_id: str, lists_before: int) -> None:
        self._schedule_count += 1
        heapq.heappush(
            self._due_requests, (at, self._schedule_count, visitor, session_id, lists_before)
        )

    def _build_request(
        self, at: int, number: int, visitor: int, session_id: str, lists_before: int
    ) -> Request:
        if visitor < 0:
            return Request(
                at=at,
                slot="home",
                query=None,
                user_id=None,
                anonymous_id=_crawler_id(visitor),
                session_id=session_id,
                device="desktop",
                country="US",
                utc_offset_min=0,
                user_agent=BOT_AGENT,
                visitor=visitor,
                lists_before=lists_before,
            )
        event_factory = self._event_factory
        query = None
        if self._rng.random() < SEARCH_SHARE:
            day = (at - self._site_start) / DAY
            candidates = self._taste.items.list_available(day)
            target_item = draw_target_items(
                self._rng, self._taste, np.array([visitor]), np.array([day]), candidates
            )
            query = self._search_box.draw_query(self._rng, int(target_item[0]))
        context = self._incidents.context(visitor, at, event_factory.contexts[visitor])
        return Request(
            at=at,
            slot="search" if query else "home",
            query=query,
            user_id=event_factory.user_ids[visitor] if self.population.logged_in[visitor] else None,
            anonymous_id=event_factory.anonymous_ids[visitor],
            session_id=session_id,
            device=context["device"],
            country=context["country"],
            utc_offset_min=context["utc_offset_min"],
            user_agent=context["user_agent"],
            visitor=visitor,
            lists_before=lists_before,
        )

    def _react(
        self, request: Request, shown_ids: Sequence[str], request_id: str, ts: int
    ) -> list[Arrival]:
        rng = self._rng
        user = request.visitor
        send = self._network.send
        common_fields = {
            **self._event_factory.identity_fields(user, request.user_id is not None),
            "session_id": request.session_id,
            "context": request.context,
        }
        arrivals: list[Arrival] = []
        if request.query:
            search_event = {
                "type": "search",
                "ts": request.at - 50_000,
                **common_fields,
                "properties": {"query": request.query},
            }
            arrivals += send(search_event, user=user)
        if not shown_ids:
            self.population.update_satisfaction(np.array([user]), np.zeros(1))
            return arrivals
        common_fields["request_id"] = request_id
        items = np.array([[int(item[1:]) for item in shown_ids[: behaviour.POSITIONS_MAX]]])
        user_index = np.array([user])
        day = np.array([(ts - self._site_start) / DAY])
        relevance = self._search_box.relevance(request.query, items) if request.query else 0.0
        probabilities = behaviour.list_probabilities(self._taste, user_index, items, day, relevance)
        seen_count = int(
            behaviour.draw_seen_count(rng, self._taste.users.device[user_index], items.shape[1])[0]
        )
        arrivals += send(
            {
                "type": "impression",
                "ts": ts + 700_000,
                **common_fields,
                "items": list(shown_ids[:seen_count]),
            },
            user=user,
        )
        positions = np.flatnonzero(
            rng.random(seen_count) < probabilities.click_if_seen[0, :seen_count]
        )
        purchase_count = 0
        for position in positions.tolist():
            item = items[0, position]
            is_carted = rng.random() < probabilities.cart_if_clicked[0, position]
            is_purchased = is_carted and rng.random() < behaviour.PURCHASE_GIVEN_CART
            purchase_count += is_purchased
            dwell_s = behaviour.draw_dwell_s(
                rng, probabilities.utility[0, position], self._taste.items.quality[item]
            )
            price = float(self._taste.items.price_at(item, day[0]))
            follow_up_events = events_after_click(
                self._network,
                ts,
                position,
                dwell_s=float(dwell_s),
                is_carted=bool(is_carted),
                is_purchased=bool(is_purchased),
                price=price,
            )
            for event in follow_up_events:
                arrivals += send(
                    {**event, **common_fields, "item_id": shown_ids[position]}, user=user
                )
        quality_sum = self._taste.items.quality[items[0, positions]].sum()
        self.population.update_satisfaction(
            user_index,
            behaviour.list_pleasure(
                np.array([len(positions)]), quality_sum, np.array([purchase_count])
            ),
        )
        return arrivals

    def _continue_or_leave(self, request: Request, ts: int) -> list[Arrival]:
        rng = self._rng
        user = request.visitor
        if rng.random() < CONTINUE_PROBABILITY and request.lists_before + 1 < LISTS_MAX:
            gap_us = (20.0 + rng.exponential(70.0)) * SECOND
            self._schedule(
                max(ts, request.at) + int(gap_us),
                user,
                request.session_id,
                request.lists_before + 1,
            )
            return []
        self.population.remove_leavers(rng, np.array([user]))
        if self.population.logged_in[user] or rng.random() >= REGISTRATION_PROBABILITY:
            return []
        self.population.logged_in[user] = True
        return registration_events(
            self._network, self._event_factory, user, ts + 60 * SECOND, request.session_id
        )

    def _react_as_crawler(
        self, request: Request, shown_ids: Sequence[str], request_id: str, ts: int
    ) -> list[Arrival]:
        common_fields = {"session_id": request.session_id, "request_id": request_id}
        crawler = request.anonymous_id
        arrivals = (
            self._network.send_bot(
                {
                    "type": "impression",
                    "ts": ts + 100_000,
                    **common_fields,
                    "items": list(shown_ids),
                },
                crawler,
            )
            if shown_ids
            else []
        )
        for position, item in enumerate(shown_ids[:4]):
            arrivals += self._network.send_bot(
                {
                    "type": "click",
                    "ts": ts + (position + 2) * 100_000,
                    **common_fields,
                    "item_id": item,
                },
                crawler,
            )
        return arrivals


def _crawler_id(visitor: int) -> str:
    return BOT if visitor == -1 else f"{BOT}-{-visitor - 2}"
