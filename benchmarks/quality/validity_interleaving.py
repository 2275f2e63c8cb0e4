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

from benchmarks.quality.running import rate
from tailorbird.experiments.analysis import estimates
from tailorbird.experiments.analysis.anytime import anytime_bound
from tailorbird.experiments.interleaving import TUNED_FOR, balance_positions, estimate_share
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
        places: the best places in `available` by each ranker, shape (users, SIZE).
    """

    site: Site
    available: Ints
    scores: Floats
    places: tuple[Ints, Ints]


def make_world(seed: int, users: int) -> World:
    """Simulate the history and learn the rankers from its clicks."""
    site = Site(seed, users=users, items=600, days=HISTORY_DAYS + TRIAL_DAYS + 1)
    taste, count = site.taste, site.items.count
    rng, population = np.random.default_rng([seed, 11]), new_population(site.users)
    policy = HousePolicy(site.box, count, SIZE)
    seen, clicked = np.zeros(count), np.zeros(count)
    categories = int(site.items.category.max()) + 1
    own = np.zeros((site.users.count, categories))
    for day in range(HISTORY_DAYS):
        available = site.items.available(float(day))
        policy.open_day(available)
        visits = draw_visits(rng, site.users, population, day, day % 7)
        requests = draw_requests(rng, visits, taste, None, available)
        items = policy.choose(rng, requests).items
        outcome = draw_reactions(rng, taste, None, requests, items)
        is_seen = np.arange(SIZE) < outcome.seen[:, None]
        policy.learn(items[is_seen], items[outcome.click])
        seen += np.bincount(items[is_seen], minlength=count)
        clicked += np.bincount(items[outcome.click], minlength=count)
        user = np.repeat(requests.user, outcome.click.sum(axis=1))
        np.add.at(own, (user, site.items.category[items[outcome.click]]), 1.0)
    site_rate = clicked.sum() / seen.sum()
    score = np.log((clicked + PRIOR_SEEN * site_rate) / (seen + PRIOR_SEEN))
    share = (own.sum(axis=0) + 1.0) / (own.sum() + categories)
    own_share = (own + PRIOR_CLICKS * share) / (own.sum(axis=1, keepdims=True) + PRIOR_CLICKS)
    lift = np.log(own_share / share)[:, site.items.category]
    available = site.items.available(float(HISTORY_DAYS))
    scores = (score + lift)[:, available]
    shared = np.broadcast_to(score[available], scores.shape)
    return World(site, available, scores, (rank(shared), rank(scores)))


def draw_week(world: World, rng: np.random.Generator) -> Requests:
    """Draw the requests of the week after the history, of people who did not leave."""
    site, population = world.site, new_population(world.site.users)
    days = [
        draw_requests(
            rng,
            draw_visits(rng, site.users, population, day, day % 7),
            site.taste,
            None,
            world.available,
        )
        for day in range(HISTORY_DAYS, HISTORY_DAYS + TRIAL_DAYS)
    ]
    user = np.concatenate([each.user for each in days])
    day = np.concatenate([each.day for each in days])
    return Requests(np.arange(len(user)), user, day, [""] * len(user))


def rank(scores: Floats) -> Ints:
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
    first, second = (places[requests.user] for places in world.places)
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
    first, second = (world.available[places[requests.user]] for places in world.places)
    items = np.where(is_treated[:, None], second, first)
    outcome = draw_reactions(rng, world.site.taste, None, requests, items)
    arms, spreads = [], []
    for mask in (is_treated, ~is_treated):
        user = requests.user[mask]
        clicks = np.bincount(user, weights=outcome.click[mask].sum(axis=1))
        shown = np.bincount(user, weights=outcome.seen[mask])
        clicks, shown = clicks[shown > 0], shown[shown > 0]
        arms.append(estimates.ratio(clicks, shown))
        residual = clicks - shown * clicks.sum() / shown.sum()
        spreads.append(float((residual**2).mean() / clicks.mean()))
    effect = estimates.compare(*arms)
    assert effect is not None
    return effect.z, effect.log, float(np.mean(spreads))


def measure_people(runs: int, users: int, seed: int) -> dict[str, Any]:
    """Return the people that each method needs, and their ratio with a bootstrap interval."""
    world = make_world(seed, users)
    drafted, split, uplifts, spreads, people = np.empty((5, runs))
    for run in range(runs):
        rng = np.random.default_rng([seed, 12, run])
        requests = draw_week(world, rng)
        drafted[run], people[run] = interleaved_z(world, requests, rng)
        split[run], uplifts[run], spreads[run] = split_z(world, requests, rng)
    draws = np.random.default_rng([seed, 13]).integers(0, runs, (4_000, runs))

    def figure(values: Floats, value: float) -> dict[str, float]:
        low, high = np.nanquantile(values, [0.025, 0.975]).tolist()
        return {"value": value, "low": low, "high": high, "n": runs}

    def needed(z: Floats) -> dict[str, float]:
        each = people.mean() * (POWER_Z / z[draws].mean(axis=1)) ** 2
        return figure(each, float(people.mean() * (POWER_Z / z.mean()) ** 2))

    ratios = (drafted[draws].mean(axis=1) / split[draws].mean(axis=1)) ** 2
    return {
        "rankers": ["click_rate", "own_categories"],
        "people_in_a_run": float(people.mean()),
        "uplift": figure(np.expm1(uplifts[draws].mean(axis=1)), math.expm1(uplifts.mean())),
        "spread": figure(spreads[draws].mean(axis=1), float(spreads.mean())),
        "people_interleaving": needed(drafted),
        "people_ab": needed(split),
        "times_fewer": figure(ratios, float((drafted.mean() / split.mean()) ** 2)),
    }


def measure_null(runs: int, users: int, seed: int) -> dict[str, Any]:
    """Return false preferences of two exchangeable rankers, and the balance by position."""
    world = make_world(seed + 1, users)
    fixed = anytime = 0
    picks, clicks = np.zeros((SIZE, 2), np.int64), np.zeros((SIZE, 2), np.int64)
    for run in range(runs):
        rng = np.random.default_rng([seed, 14, run])
        requests = draw_week(world, rng)
        scores = world.scores[requests.user]
        first, second = (rank(scores + NOISE * rng.gumbel(size=scores.shape)) for _ in range(2))
        items, teams = draft_lists(first, second, rng)
        outcome = draw_reactions(rng, world.site.taste, None, requests, world.available[items])
        for team in (0, 1):
            picks[:, team] += (teams == team).sum(axis=0)
            clicks[:, team] += (outcome.click & (teams == team)).sum(axis=0)
        control, treatment = credits_by_user(requests, outcome.click, teams)
        share = estimate_share(control, treatment)
        z = abs(share.value - 0.5) / math.sqrt(share.variance)
        fixed += z > ndtri(0.975)
        anytime += z > float(anytime_bound(len(control), tuned_for=TUNED_FOR))
    return {
        "fixed": rate(int(fixed), runs),
        "anytime": rate(int(anytime), runs),
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
