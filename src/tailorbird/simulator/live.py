"""Live traffic: visitors who come, ask, are answered by somebody else, and react, one request at a
time.

    live = site.live(start, population)
    for request in live.requests(until):                      # in order of time, over all concurrent visits
        shown = …                                             # whoever answers: in process or over HTTP
        arrivals = live.respond(request, shown, request_id)   # what the visitor's browser will send, and when
    arrivals = live.background(until)                         # catalogue changes, the crawler

An arrival's `received_at` is when it should reach the door: keep them in an `Outbox` and hand over
what is due. Bodies carry no server-owned field. The follow-up of a visit is only planned when its
request was answered (or passed over).
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.events import DAY, HOUR, MINUTE, SECOND
from tailorbird.simulator import behaviour
from tailorbird.simulator.history import REGISTERS, after_click, catalogue_changes, register
from tailorbird.simulator.population import HOUR_SHARE, Population
from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.taste import Taste
from tailorbird.simulator.traffic import GO_ON, LISTS_MAX, SEARCH_SHARE, wanted_items
from tailorbird.simulator.wire import BOT, BOT_AGENT, Arrival, Courier, Dirt, Injected, Stationery
from tailorbird.simulator.world import COUNTRIES, DEVICES, UTC_OFFSETS_MIN

_STEP = 10 * MINUTE
_BOT_LISTS_A_DAY = 100


@dataclass(frozen=True)
class Request:
    """What a visitor asks for. `visitor` is the simulator's own number, for the truth only; −1 is
    the crawler.
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
        """As a client sends it with its request and its events."""
        return {
            "device": self.device,
            "country": self.country,
            "user_agent": self.user_agent,
            "utc_offset_min": self.utc_offset_min,
        }


class Outbox:
    """Arrivals on their way, taken out in order of arrival."""

    def __init__(self) -> None:
        self._heap: list[Arrival] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, arrivals: Iterable[Arrival]) -> None:
        for arrival in arrivals:
            heapq.heappush(self._heap, arrival)

    def due(self, now: int) -> list[Arrival]:
        """Take out what arrives until `now`, that moment included."""
        due = []
        while self._heap and self._heap[0].received_at <= now:
            due.append(heapq.heappop(self._heap))
        return due


class Live:
    """Live traffic from `start` on; see the module. The same answers give the same visitors,
    however the calls are spaced.
    """

    def __init__(
        self,
        seed: int,
        site_start: int,
        start: int,
        taste: Taste,
        box: SearchBox,
        population: Population,
        *,
        dirt: Dirt,
        prefix: str,
    ) -> None:
        self.population = population
        self._rng = np.random.default_rng([seed, 4, start % (1 << 62)])
        self._rng_background = np.random.default_rng([seed, 5, start % (1 << 62)])
        self._site_start, self._taste, self._box = site_start, taste, box
        self._drawn_until = start  # visits are drawn up to here
        self._background_until = start
        self._prefix = prefix
        self._courier = Courier(seed, dirt, prefix, taste.users, server_fields=False)
        self._paper = Stationery(taste.users, taste.items)
        self._bots = _BOT_LISTS_A_DAY if dirt.bot_views_per_day else 0
        self._bot_views = dirt.bot_views_per_day
        self._due: list[
            tuple[int, int, int, str, int]
        ] = []  # (at, number, visitor, session, lists before)
        self._number = 0

    @property
    def injected(self) -> Injected:
        """What dirt was put in so far."""
        return self._courier.injected

    def requests(self, until: int) -> Iterator[Request]:
        """The requests before `until`, in order of time. Call again to go on."""
        while True:
            if self._due and self._due[0][0] < min(self._drawn_until, until):
                yield self._request(*heapq.heappop(self._due))
            elif self._drawn_until < until:
                self._draw_visits(self._drawn_until, self._drawn_until + _STEP)
            else:
                return

    def respond(
        self, request: Request, shown: Sequence[str], request_id: str, *, at: int | None = None
    ) -> list[Arrival]:
        """What the visitor does with a list (best first), as the arrivals of its events; plans the
        visit's next request.

        Args:
            request: as `requests` gave it.
            shown: ids of the items shown, may be empty.
            request_id: the answer's, which the browser sends along.
            at: when the answer was given, if not at the time of the request (microseconds).
        """
        ts = request.at if at is None else at
        if request.visitor < 0:
            return self._crawl(request, shown, request_id, ts)
        return self._react(request, shown, request_id, ts) + self._go_on(request, ts)

    def background(self, until: int) -> list[Arrival]:
        """What happens meanwhile up to the last full hour before `until`: catalogue changes and the
        crawler's page views.
        """
        arrivals: list[Arrival] = []
        while self._background_until + HOUR <= until:
            now = self._background_until
            hours = (now - self._site_start) // HOUR
            arrivals += catalogue_changes(
                self._courier,
                self._paper,
                self._taste,
                self._site_start,
                hours // 24,
                hours % 24,
                1,
            )
            available = self._taste.items.available(hours / 24)
            rng = self._rng_background
            for when in (
                rng.uniform(0, HOUR, rng.poisson(self._bot_views / 24)).astype(np.int64).tolist()
            ):
                item = self._paper.item_ids[int(rng.choice(available))]
                arrivals += self._courier.send_bot(
                    {"type": "view", "ts": now + when, "item_id": item}
                )
            self._background_until += HOUR
        return sorted(arrivals)

    def _draw_visits(self, start: int, end: int) -> None:
        taste, rng = self._taste, self._rng
        users = taste.users
        day, length = (start - self._site_start) / DAY, (end - start) / DAY
        rate = self.population.visit_rate(users, day, (start // DAY + 3) % 7)
        local = ((start // MINUTE + np.asarray(UTC_OFFSETS_MIN)[users.country]) // 60) % 24
        visits = rng.poisson(rate * HOUR_SHARE[local] * 24 * length)
        new = (users.joined > day) & (users.joined <= day + length) & ~self.population.left
        for user in np.repeat(np.arange(users.count), np.maximum(visits, new)).tolist():
            self._plan(int(rng.integers(start, end)), user, self._session(), 0)
        for _ in range(int(rng.poisson(self._bots * length))):
            self._plan(int(rng.integers(start, end)), -1, self._session(), 0)
        self._drawn_until = end

    def _session(self) -> str:
        return f"{self._prefix}s{self._number:x}"

    def _plan(self, at: int, visitor: int, session: str, lists: int) -> None:
        self._number += 1
        heapq.heappush(self._due, (at, self._number, visitor, session, lists))

    def _request(self, at: int, number: int, visitor: int, session: str, lists: int) -> Request:
        if visitor < 0:
            return Request(
                at, "home", None, None, BOT, session, "desktop", "US", 0, BOT_AGENT, -1, lists
            )
        users, paper = self._taste.users, self._paper
        query = None
        if self._rng.random() < SEARCH_SHARE:
            day = (at - self._site_start) / DAY
            candidates = self._taste.items.available(day)
            wanted = wanted_items(
                self._rng, self._taste, np.array([visitor]), np.array([day]), candidates
            )
            query = self._box.draw(self._rng, int(wanted[0]))
        context = paper.contexts[visitor]
        return Request(
            at=at,
            slot="search" if query else "home",
            query=query,
            user_id=paper.user_ids[visitor] if self.population.known[visitor] else None,
            anonymous_id=paper.anonymous_ids[visitor],
            session_id=session,
            device=DEVICES[users.device[visitor]],
            country=COUNTRIES[users.country[visitor]],
            utc_offset_min=context["utc_offset_min"],
            user_agent=context["user_agent"],
            visitor=visitor,
            lists_before=lists,
        )

    def _react(
        self, request: Request, shown: Sequence[str], request_id: str, ts: int
    ) -> list[Arrival]:
        rng, user, send = self._rng, request.visitor, self._courier.send
        base = {
            **self._paper.person(user, request.user_id is not None),
            "session_id": request.session_id,
            "context": self._paper.contexts[user],
        }
        arrivals: list[Arrival] = []
        if request.query:
            search = {
                "type": "search",
                "ts": request.at - 50_000,
                **base,
                "properties": {"query": request.query},
            }
            arrivals += send(search, user=user)
        if not shown:
            self.population.please(np.array([user]), np.zeros(1))
            return arrivals
        base["request_id"] = request_id
        items = np.array([[int(item[1:]) for item in shown[: behaviour.POSITIONS_MAX]]])
        who, day = np.array([user]), np.array([(ts - self._site_start) / DAY])
        relevance = self._box.relevance(request.query, items) if request.query else 0.0
        chances = behaviour.chances(self._taste, who, items, day, relevance)
        seen = int(behaviour.draw_seen(rng, self._taste.users.device[who], items.shape[1])[0])
        arrivals += send(
            {"type": "impression", "ts": ts + 700_000, **base, "items": list(shown[:seen])},
            user=user,
        )
        places = np.flatnonzero(rng.random(seen) < chances.click_if_seen[0, :seen])
        bought = 0
        for place in places.tolist():
            item = items[0, place]
            cart = rng.random() < chances.cart_if_clicked[0, place]
            purchase = cart and rng.random() < behaviour.PURCHASE_GIVEN_CART
            bought += purchase
            dwell = behaviour.dwell_seconds(
                rng, chances.utility[0, place], self._taste.items.quality[item]
            )
            price = float(self._taste.items.price_at(item, day[0]))
            after = after_click(
                self._courier,
                ts,
                place,
                dwell_s=float(dwell),
                cart=bool(cart),
                purchase=bool(purchase),
                price=price,
            )
            for event in after:
                arrivals += send({**event, **base, "item_id": shown[place]}, user=user)
        quality = self._taste.items.quality[items[0, places]].sum()
        self.population.please(
            who, behaviour.pleasure(np.array([len(places)]), quality, np.array([bought]))
        )
        return arrivals

    def _go_on(self, request: Request, ts: int) -> list[Arrival]:
        rng, user = self._rng, request.visitor
        if rng.random() < GO_ON and request.lists_before + 1 < LISTS_MAX:
            gap = (20.0 + rng.exponential(70.0)) * SECOND
            self._plan(
                max(ts, request.at) + int(gap), user, request.session_id, request.lists_before + 1
            )
            return []
        self.population.let_go(rng, np.array([user]))
        if self.population.known[user] or rng.random() >= REGISTERS:
            return []
        self.population.known[user] = True
        return register(self._courier, self._paper, user, ts + 60 * SECOND, request.session_id)

    def _crawl(
        self, request: Request, shown: Sequence[str], request_id: str, ts: int
    ) -> list[Arrival]:
        base = {"session_id": request.session_id, "request_id": request_id}
        arrivals = (
            self._courier.send_bot(
                {"type": "impression", "ts": ts + 100_000, **base, "items": list(shown)}
            )
            if shown
            else []
        )
        for place, item in enumerate(shown[:4]):
            arrivals += self._courier.send_bot(
                {"type": "click", "ts": ts + (place + 2) * 100_000, **base, "item_id": item}
            )
        return arrivals
