"""A day of visitors under a policy, vectorised: visits, requests, lists and reactions.

It is the core of history and of simulated experiments. `simulator.live` handles one request at a
time with external responses; both use `simulator.behaviour`.

    draw_visits ─► draw_requests ─► policy ─► draw_reactions ─► Outcome ─► population
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.simulator import behaviour
from tailorbird.simulator.population import HOUR_SHARE, Population
from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.taste import Taste
from tailorbird.simulator.world import Floats, Ints, Users

Bools = npt.NDArray[np.bool_]

CONTINUE_PROBABILITY = 0.58  # that a visitor requests another list
LISTS_MAX = 12
SEARCH_SHARE = 0.16
_SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True)
class Visits:
    """Visits, shape (visits,): user, start (days since the site's start), number of lists."""

    user: Ints
    start: Floats
    list_count: Ints


@dataclass(frozen=True)
class Requests:
    """Requests, shape (requests,), in order of time; `query` is "" without a search."""

    visit: Ints
    user: Ints
    day: Floats
    query: list[str]


@dataclass(frozen=True)
class Slates:
    """A policy's lists: items (requests, k), −1 past the end, and their propensities."""

    items: Ints
    propensity: Floats


@dataclass(frozen=True)
class Outcome:
    """Reactions, (requests, k); `seen_count` (requests,) is the number of items seen."""

    seen_count: Ints
    click: Bools
    cart: Bools
    purchase: Bools
    dwell_s: Floats


def draw_visits(
    rng: np.random.Generator, users: Users, population: Population, day: int, weekday: int
) -> Visits:
    """Draw the visits of one day (UTC); new users of the day visit at least once."""
    visit_counts = rng.poisson(population.visit_rate(users, float(day), weekday))
    user = np.repeat(np.arange(users.count), visit_counts)
    local_minute = rng.choice(24, len(user), p=HOUR_SHARE) * 60 + rng.uniform(0, 60, len(user))
    start = day + np.mod(local_minute - users.utc_offset_minutes(user), 1440.0) / 1440.0
    new_users = np.flatnonzero(
        (users.joined_day > day) & (users.joined_day < day + 1) & ~population.has_left
    )
    user = np.concatenate([user, new_users])
    start = np.concatenate([start, users.joined_day[new_users]])
    order = np.argsort(start, kind="stable")
    list_count = np.minimum(rng.geometric(1 - CONTINUE_PROBABILITY, len(user)), LISTS_MAX)
    return Visits(user[order], start[order], list_count)


def repeat_visits(visits: Visits, counts: Ints) -> Visits:
    """Return visits with each taking place so many times, 0 for not at all; counts (visits,)."""
    return Visits(
        np.repeat(visits.user, counts),
        np.repeat(visits.start, counts),
        np.repeat(visits.list_count, counts),
    )


def draw_requests(
    rng: np.random.Generator,
    visits: Visits,
    taste: Taste,
    search_box: SearchBox | None,
    candidates: Ints,
) -> Requests:
    """Draw the requests of a day's visits. Without a search box nobody searches."""
    visit = np.repeat(np.arange(len(visits.user)), visits.list_count)
    gap_days = (20.0 + rng.exponential(70.0, len(visit))) / _SECONDS_A_DAY
    cumulative_gap = np.cumsum(gap_days)
    first_requests = np.cumsum(visits.list_count) - visits.list_count
    since_first_request = (
        cumulative_gap - cumulative_gap[np.repeat(first_requests, visits.list_count)]
    )
    day = visits.start[visit] + since_first_request
    order = np.argsort(day, kind="stable")
    visit = visit[order]
    day = day[order]
    user = visits.user[visit]
    query = [""] * len(visit)
    if search_box is not None:
        search_rows = np.flatnonzero(rng.random(len(visit)) < SEARCH_SHARE)
        for row, item in zip(
            search_rows,
            draw_target_items(rng, taste, user[search_rows], day[search_rows], candidates),
            strict=True,
        ):
            query[row] = search_box.draw_query(rng, int(item))
    return Requests(visit, user, day, query)


def draw_target_items(
    rng: np.random.Generator, taste: Taste, user: Ints, day: Floats, candidates: Ints
) -> Ints:
    """Draw the item each user has in mind for a search, more likely a preferred one, (n,)."""
    sampled_items = candidates[rng.integers(0, len(candidates), (len(user), 16))]
    best_index = np.argmax(
        taste.utility(user, sampled_items, day) + rng.gumbel(size=sampled_items.shape), axis=1
    )
    return sampled_items[np.arange(len(user)), best_index]


def draw_reactions(
    rng: np.random.Generator,
    taste: Taste,
    search_box: SearchBox | None,
    requests: Requests,
    items: Ints,
) -> Outcome:
    """Draw the visitors' reactions to lists; items (n, k), −1 past the end."""
    n, k = items.shape
    relevance = np.zeros((n, k))
    if search_box is not None:
        for row, query in enumerate(requests.query):
            if query:
                relevance[row] = search_box.relevance(query, items[row])
    probabilities = behaviour.list_probabilities(
        taste, requests.user, items, requests.day, relevance
    )
    seen_count = behaviour.draw_seen_count(rng, taste.users.device[requests.user], k)
    seen_count = np.minimum(seen_count, (items >= 0).sum(axis=1))
    click = behaviour.draw_bernoulli(rng, probabilities.click_if_seen) & (
        np.arange(k) < seen_count[:, None]
    )
    cart = click & behaviour.draw_bernoulli(rng, probabilities.cart_if_clicked)
    purchase = cart & (rng.random((n, k)) < behaviour.PURCHASE_GIVEN_CART)
    dwell_s = np.zeros((n, k))
    rows, columns = np.nonzero(click)
    clicked_items = items[rows, columns]
    dwell_s[rows, columns] = behaviour.draw_dwell_s(
        rng, probabilities.utility[rows, columns], taste.items.quality[clicked_items]
    )
    return Outcome(seen_count, click, cart, purchase, dwell_s)


def list_pleasures(taste: Taste, items: Ints, outcome: Outcome) -> Floats:
    """Return the pleasure of each list, shape (n,)."""
    quality = (outcome.click * taste.items.quality[items]).sum(axis=1)
    return behaviour.list_pleasure(outcome.click.sum(axis=1), quality, outcome.purchase.sum(axis=1))
