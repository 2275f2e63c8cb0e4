"""A day of visitors under a policy, all at once: who visits, what they ask, what they are shown and
what they do.

The vectorised core of history and of simulated experiments. One request at a time, with somebody
else's answers, is `simulator.live`; both use `simulator.behaviour`.

    draw_visits ─► draw_requests ─► policy ─► respond ─► Outcome ─► population.please
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.simulator import behaviour
from tailorbird.simulator.population import HOUR_SHARE, Population
from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.taste import Taste
from tailorbird.simulator.world import Floats, Ints, Users

Bools = npt.NDArray[np.bool_]

GO_ON = 0.58  # chance that a visitor asks for another list
LISTS_MAX = 12
SEARCH_SHARE = 0.16
_SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True)
class Visits:
    """Shape (visits,): who, from when (days since the site's start), and for how many lists."""

    user: Ints
    start: Floats
    lists: Ints


@dataclass(frozen=True)
class Requests:
    """Shape (requests,), in order of time. `query` is "" where nothing is searched for."""

    visit: Ints
    user: Ints
    day: Floats
    query: list[str]


@dataclass(frozen=True)
class Shown:
    """What a policy answered: items (requests, k), −1 where a list is shorter; with which
    probability each stood there.
    """

    items: Ints
    propensity: Floats


class Policy(Protocol):
    """Chooses a list for each request; knows nothing hidden unless it was given it."""

    def choose(self, rng: np.random.Generator, requests: Requests) -> Shown: ...


@dataclass(frozen=True)
class Outcome:
    """What came of it: (requests, k), and `seen` (requests,) how many of the list were seen."""

    seen: Ints
    click: Bools
    cart: Bools
    purchase: Bools
    dwell_s: Floats


def draw_visits(
    rng: np.random.Generator, users: Users, population: Population, day: int, weekday: int
) -> Visits:
    """The visits of one day (UTC); everybody who is new on that day comes at least once."""
    times = rng.poisson(population.visit_rate(users, float(day), weekday))
    user = np.repeat(np.arange(users.count), times)
    local = rng.choice(24, len(user), p=HOUR_SHARE) * 60 + rng.uniform(0, 60, len(user))
    start = day + np.mod(local - users.offset_min(user), 1440.0) / 1440.0
    new = np.flatnonzero((users.joined > day) & (users.joined < day + 1) & ~population.left)
    user, start = np.concatenate([user, new]), np.concatenate([start, users.joined[new]])
    order = np.argsort(start, kind="stable")
    lists = np.minimum(rng.geometric(1 - GO_ON, len(user)), LISTS_MAX)
    return Visits(user[order], start[order], lists)


def draw_requests(
    rng: np.random.Generator, visits: Visits, taste: Taste, box: SearchBox | None, candidates: Ints
) -> Requests:
    """The lists that the visitors of a day ask for. Without a search box nobody searches."""
    visit = np.repeat(np.arange(len(visits.user)), visits.lists)
    gap = (20.0 + rng.exponential(70.0, len(visit))) / _SECONDS_A_DAY
    total = np.cumsum(gap)
    first = np.cumsum(visits.lists) - visits.lists
    since = total - total[np.repeat(first, visits.lists)]
    day = visits.start[visit] + since
    order = np.argsort(day, kind="stable")
    visit, day = visit[order], day[order]
    user = visits.user[visit]
    query = [""] * len(visit)
    if box is not None:
        searching = np.flatnonzero(rng.random(len(visit)) < SEARCH_SHARE)
        for row, item in zip(
            searching,
            wanted_items(rng, taste, user[searching], day[searching], candidates),
            strict=True,
        ):
            query[row] = box.draw(rng, int(item))
    return Requests(visit, user, day, query)


def wanted_items(
    rng: np.random.Generator, taste: Taste, user: Ints, day: Floats, candidates: Ints
) -> Ints:
    """An item that each user has in mind when it searches: one of a few at random, likelier one
    that it likes. Shape (n,).
    """
    some = candidates[rng.integers(0, len(candidates), (len(user), 16))]
    best = np.argmax(taste.utility(user, some, day) + rng.gumbel(size=some.shape), axis=1)
    return some[np.arange(len(user)), best]


def respond(
    rng: np.random.Generator, taste: Taste, box: SearchBox | None, requests: Requests, items: Ints
) -> Outcome:
    """What the visitors do with the lists that they were shown; items (n, k), −1 where a list is
    shorter.
    """
    n, k = items.shape
    relevance = np.zeros((n, k))
    if box is not None:
        for row, query in enumerate(requests.query):
            if query:
                relevance[row] = box.relevance(query, items[row])
    chances = behaviour.chances(taste, requests.user, items, requests.day, relevance)
    seen = behaviour.draw_seen(rng, taste.users.device[requests.user], k)
    seen = np.minimum(seen, (items >= 0).sum(axis=1))
    click = behaviour.is_true(rng, chances.click_if_seen) & (np.arange(k) < seen[:, None])
    cart = click & behaviour.is_true(rng, chances.cart_if_clicked)
    purchase = cart & (rng.random((n, k)) < behaviour.PURCHASE_GIVEN_CART)
    dwell = np.zeros((n, k))
    rows, columns = np.nonzero(click)
    clicked = items[rows, columns]
    dwell[rows, columns] = behaviour.dwell_seconds(
        rng, chances.utility[rows, columns], taste.items.quality[clicked]
    )
    return Outcome(seen, click, cart, purchase, dwell)


def pleasures(taste: Taste, items: Ints, outcome: Outcome) -> Floats:
    """What each list gave its visitor, shape (n,)."""
    quality = (outcome.click * taste.items.quality[items]).sum(axis=1)
    return behaviour.pleasure(outcome.click.sum(axis=1), quality, outcome.purchase.sum(axis=1))
