"""Interleaving on the simulated site: balance by position, and people needed beside an A/B test.

Two rankers learn from the clicks of 28 days of the house policy. `click_rate` shows everybody the
items of the highest smoothed click rate. `own_categories` multiplies it by how much more a person
clicked in the item's category than all people did. For a week, the same people are split between
both rankers, and, in another world, get drafts of both.

The people needed for a power of 80 % at 5 % follow from the mean statistic of the runs, which grows
with the square root of the people.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from benchmarks.quality.running import share_with_interval
from tailorbird.experiments.analysis import estimates
from tailorbird.experiments.analysis.anytime import anytime_bound
from tailorbird.experiments.interleaving import TUNED_FOR_UNITS, balance_positions, estimate_share
from tailorbird.ranking.policy.interleaving import TeamDraft
from tailorbird.simulator import Site
from tailorbird.simulator.house import HousePolicy
from tailorbird.simulator.population import new_population
from tailorbird.simulator.traffic import Requests, draw_reactions, draw_requests, draw_visits

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HISTORY_DAYS, TRIAL_DAYS = 28, 7
SIZE = 12
PRIOR_SEEN, PRIOR_CLICKS = 40.0, 3.0
NOISE = 0.3  # of the two exchangeable rankers of the A/A test, on log scores
POSITION_ALARM = 0.005  # of each of two families, so that a fair draft passes in 99 % of runs
POWER_Z = float(ndtri(0.975) + ndtri(0.8))


@dataclass(frozen=True)
class World:
    """A site after its history, with what both rankers learned.

    Attributes:
        available: items that may be shown, shape (items,).
        scores: log scores of `own_categories`, shape (users, items).
        positions_by_ranker: the best places in `available` by each ranker, shape (users, SIZE).
    """

    site: Site
    available: Ints
    scores: Floats
    positions_by_ranker: tuple[Ints, Ints]


def make_world(seed: int, users: int) -> World:
    """Simulate the history and learn the rankers from its clicks."""
    site = Site(seed, users=users, items=600, days=HISTORY_DAYS + TRIAL_DAYS + 1)
    taste, item_count = site.taste, site.items.count
    rng, population = np.random.default_rng([seed, 11]), new_population(site.users)
    policy = HousePolicy(site.search_box, item_count, SIZE)
    impressions, clicks = np.zeros(item_count), np.zeros(item_count)
    categories = int(site.items.category.max()) + 1
    category_clicks = np.zeros((site.users.count, categories))
    for day in range(HISTORY_DAYS):
        available = site.items.list_available(float(day))
        policy.open_day(available)
        visits = draw_visits(rng, site.users, population, day, day % 7)
        requests = draw_requests(rng, visits, taste, None, available)
        items = policy.draw_slates(rng, requests).items
        outcome = draw_reactions(rng, taste, None, requests, items)
        is_seen = np.arange(SIZE) < outcome.seen_count[:, None]
        policy.learn(items[is_seen], items[outcome.click])
        impressions += np.bincount(items[is_seen], minlength=item_count)
        clicks += np.bincount(items[outcome.click], minlength=item_count)
        user = np.repeat(requests.user, outcome.click.sum(axis=1))
        np.add.at(category_clicks, (user, site.items.category[items[outcome.click]]), 1.0)
    site_rate = clicks.sum() / impressions.sum()
    log_click_rate = np.log((clicks + PRIOR_SEEN * site_rate) / (impressions + PRIOR_SEEN))
    category_share = (category_clicks.sum(axis=0) + 1.0) / (category_clicks.sum() + categories)
    category_share_of_user = (category_clicks + PRIOR_CLICKS * category_share) / (
        category_clicks.sum(axis=1, keepdims=True) + PRIOR_CLICKS
    )
    lift = np.log(category_share_of_user / category_share)[:, site.items.category]
    available = site.items.list_available(float(HISTORY_DAYS))
    scores = (log_click_rate + lift)[:, available]
    shared_scores = np.broadcast_to(log_click_rate[available], scores.shape)
    return World(site, available, scores, (rank_positions(shared_scores), rank_positions(scores)))


def draw_week(world: World, rng: np.random.Generator) -> Requests:
    """Draw the requests of the week after the history, of people who did not leave."""
    site, population = world.site, new_population(world.site.users)
    requests_by_day = [
        draw_requests(
            rng,
            draw_visits(rng, site.users, population, day, day % 7),
            site.taste,
            None,
            world.available,
        )
        for day in range(HISTORY_DAYS, HISTORY_DAYS + TRIAL_DAYS)
    ]
    user = np.concatenate([each.user for each in requests_by_day])
    day = np.concatenate([each.day for each in requests_by_day])
    return Requests(np.arange(len(user)), user, day, [""] * len(user))


def rank_positions(scores: Floats) -> Ints:
    """Return the best places, best first, shape (rows, SIZE)."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :SIZE]


def draft_lists(
    first: Ints, second: Ints, rng: np.random.Generator
) -> tuple[Ints, npt.NDArray[np.int8]]:
    """Draft a list of each row by the product's function, with the teams, shape (rows, SIZE)."""
    items, teams = np.empty((len(first), SIZE), np.int64), np.empty((len(first), SIZE), np.int8)
    for row, pair in enumerate(zip(first, second, strict=True)):
        items[row], teams[row] = TeamDraft(*pair, SIZE).draw_picks(rng)
    return items, teams


def credits_by_user(
    requests: Requests, click: Bools, teams: npt.NDArray[np.int8]
) -> tuple[Ints, Ints]:
    """Return the clicks of each user on items of the first and of the second team."""
    counts = [
        np.bincount(requests.user, weights=(click & (teams == team)).sum(axis=1)) for team in (0, 1)
    ]
    has_credit = counts[0] + counts[1] > 0
    return counts[0][has_credit], counts[1][has_credit]


def interleaved_z(world: World, requests: Requests, rng: np.random.Generator) -> tuple[float, int]:
    """Return the statistic of an interleaved week, and its people."""
    first, second = (places[requests.user] for places in world.positions_by_ranker)
    items, teams = draft_lists(first, second, rng)
    outcome = draw_reactions(rng, world.site.taste, None, requests, world.available[items])
    share = estimate_share(*credits_by_user(requests, outcome.click, teams))
    return (share.value - 0.5) / math.sqrt(share.variance), len(np.unique(requests.user))


def split_z(
    world: World, requests: Requests, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the statistic of a week split between both rankers, the uplift, and the spread.

    The spread is the variance of a person's clicks around their mean, over that of as many
    independent clicks: what it exceeds 1 by is all that interleaving can remove.
    """
    is_treated = (rng.random(world.site.users.count) < 0.5)[requests.user]
    first, second = (world.available[places[requests.user]] for places in world.positions_by_ranker)
    items = np.where(is_treated[:, None], second, first)
    outcome = draw_reactions(rng, world.site.taste, None, requests, items)
    arms, spreads = [], []
    for mask in (is_treated, ~is_treated):
        user = requests.user[mask]
        clicks = np.bincount(user, weights=outcome.click[mask].sum(axis=1))
        shown = np.bincount(user, weights=outcome.seen_count[mask])
        clicks, shown = clicks[shown > 0], shown[shown > 0]
        arms.append(estimates.ratio(clicks, shown))
        residual = clicks - shown * clicks.sum() / shown.sum()
        spreads.append(float((residual**2).mean() / clicks.mean()))
    effect = estimates.compare(*arms)
    assert effect is not None
    return effect.z, effect.log_ratio, float(np.mean(spreads))


def measure_people(runs: int, users: int, seed: int) -> dict[str, Any]:
    """Return the people that each method needs, and their ratio with a bootstrap interval."""
    world = make_world(seed, users)
    interleaved_statistics, split_statistics, uplifts, spreads, people = np.empty((5, runs))
    for run in range(runs):
        rng = np.random.default_rng([seed, 12, run])
        requests = draw_week(world, rng)
        interleaved_statistics[run], people[run] = interleaved_z(world, requests, rng)
        split_statistics[run], uplifts[run], spreads[run] = split_z(world, requests, rng)
    draws = np.random.default_rng([seed, 13]).integers(0, runs, (4_000, runs))

    def with_interval(values: Floats, value: float) -> dict[str, float]:
        low, high = np.nanquantile(values, [0.025, 0.975]).tolist()
        return {"value": value, "low": low, "high": high, "n": runs}

    def people_needed(z: Floats) -> dict[str, float]:
        each = people.mean() * (POWER_Z / z[draws].mean(axis=1)) ** 2
        return with_interval(each, float(people.mean() * (POWER_Z / z.mean()) ** 2))

    ratios = (
        interleaved_statistics[draws].mean(axis=1) / split_statistics[draws].mean(axis=1)
    ) ** 2
    return {
        "rankers": ["click_rate", "own_categories"],
        "people_in_a_run": float(people.mean()),
        "uplift": with_interval(np.expm1(uplifts[draws].mean(axis=1)), math.expm1(uplifts.mean())),
        "spread": with_interval(spreads[draws].mean(axis=1), float(spreads.mean())),
        "people_interleaving": people_needed(interleaved_statistics),
        "people_ab": people_needed(split_statistics),
        "times_fewer": with_interval(
            ratios, float((interleaved_statistics.mean() / split_statistics.mean()) ** 2)
        ),
    }


def measure_null(runs: int, users: int, seed: int) -> dict[str, Any]:
    """Return false preferences of two exchangeable rankers, and the balance by position."""
    world = make_world(seed + 1, users)
    fixed_rejections = anytime_rejections = 0
    picks, clicks = np.zeros((SIZE, 2), np.int64), np.zeros((SIZE, 2), np.int64)
    for run in range(runs):
        rng = np.random.default_rng([seed, 14, run])
        requests = draw_week(world, rng)
        scores = world.scores[requests.user]
        first, second = (
            rank_positions(scores + NOISE * rng.gumbel(size=scores.shape)) for _ in range(2)
        )
        items, teams = draft_lists(first, second, rng)
        outcome = draw_reactions(rng, world.site.taste, None, requests, world.available[items])
        for team in (0, 1):
            picks[:, team] += (teams == team).sum(axis=0)
            clicks[:, team] += (outcome.click & (teams == team)).sum(axis=0)
        control, treatment = credits_by_user(requests, outcome.click, teams)
        share = estimate_share(control, treatment)
        z = abs(share.value - 0.5) / math.sqrt(share.variance)
        fixed_rejections += z > ndtri(0.975)
        anytime_rejections += z > float(
            anytime_bound(len(control), tuned_for_units=TUNED_FOR_UNITS)
        )
    return {
        "fixed": share_with_interval(int(fixed_rejections), runs),
        "anytime": share_with_interval(int(anytime_rejections), runs),
        "positions": [
            {
                "position": pick.position,
                "picks": [pick.control, pick.treatment],
                "picks_p": pick.p,
                "clicks": [click.control, click.treatment],
                "clicks_p": click.p,
            }
            for pick, click in zip(balance_positions(picks), balance_positions(clicks), strict=True)
        ],
    }


def measure_interleaving(*, small: bool, seed: int) -> dict[str, Any]:
    """Measure the A/A test and the people needed."""
    return {
        "aa": measure_null(20 if small else 400, 300, seed),
        **measure_people(3 if small else 40, 1_000 if small else 4_000, seed),
    }


def position_violations(aa: dict[str, Any]) -> list[str]:
    """Return the positions that are off, adjusted by Holm over all of them."""
    return [
        f"interleaving, position {row['position']}: {kind} {row[kind]}"
        for row in aa["positions"]
        for kind in ("picks", "clicks")
        if row[f"{kind}_p"] < POSITION_ALARM
    ]
