"""Measure how much of the oracle's true gain a log can teach, by the length of the log.

    python -m benchmarks.quality.learnable [--days 7,14,30] [--seeds 3] [--small] [--keep FOLDER]
    [--json]

The site is simulated. The learner here is given the truth about everything but the person: it is no
model to be used, but about the most that any model could achieve. The rest of the oracle's gain is
in no log of that length. `--keep` keeps the results of each length and seed.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.parts.learnable_taste import (
    Rows,
    Taste,
    expected_reward,
    infer_taste,
    known_taste,
    unknown_taste,
)
from benchmarks.quality.running import environment
from benchmarks.quality.true_reward import ITEMS, REWARD, SEED, USERS, oracle_scores, true_rewards
from tailorbird.events import DAY
from tailorbird.simulator import Site
from tailorbird.simulator.house import HousePolicy
from tailorbird.simulator.population import new_population
from tailorbird.simulator.traffic import (
    Requests,
    draw_reactions,
    draw_requests,
    draw_visits,
    list_pleasures,
)
from tailorbird.simulator.world import Floats, Ints
from tailorbird.training.evaluation.bootstrap import Bootstrap
from tailorbird.training.fit.resume import load_or_compute_arrays

LENGTHS = (7, 14, 30)
QUESTIONS, NEWEST_SHARE, POPULAR_DAYS = 600, 0.15, 7.0
OFTEN_SHOWN_MIN = 500  # items shown, from which somebody is well known
KNOWLEDGE_BY_METHOD = {
    "kind": "all but the person: what everybody likes, and people of one's country and age",
    "learner": "the same, and infers the person from what it did before",
    "lasting": "the person's lasting taste too, and infers what it came for in these four hours",
}
ORACLE, POPULAR = "oracle", "popular_7d"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.learnable", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--days", default=",".join(map(str, LENGTHS)), help="lengths of the log")
    parser.add_argument("--seeds", type=int, default=3, help="sites of that kind")
    parser.add_argument("--small", action="store_true", help="seven days, one site, few questions")
    parser.add_argument(
        "--keep", type=Path, help="keep what was found in this folder, and go on from there"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    arguments = parser.parse_args()
    lengths = (
        (LENGTHS[0],)
        if arguments.small
        else tuple(int(values) for values in arguments.days.split(","))
    )
    with tempfile.TemporaryDirectory(prefix="tailorbird-learnable-") as scratch:
        keep = arguments.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        result = run_lengths(
            keep,
            lengths,
            1 if arguments.small else arguments.seeds,
            QUESTIONS // 10 if arguments.small else QUESTIONS,
        )
    result["small"] = arguments.small
    print(json.dumps(result, indent=1) if arguments.json else _format_report(result))


def run_lengths(keep: Path, lengths: Sequence[int], seeds: int, questions: int) -> dict[str, Any]:
    """Measure each length over all sites."""
    results = {}
    for days in lengths:
        rewards = [
            load_or_compute_arrays(
                keep,
                f"{days} {seed} {questions}",
                partial(measure_rewards, SEED + seed, days, questions),
            )
            for seed in range(seeds)
        ]
        results[days] = _shares_of_gain(rewards)
    return {
        "benchmark": "learnable",
        "title": "The simulated site: how much of the oracle's true gain over popularity its log "
        "can tell anybody",
        "protocol": [
            f"{USERS:,} people, {ITEMS} items; {seeds} site(s); {questions} of the newest "
            f"{NEWEST_SHARE:.0%} of each site's "
            f"requests; out of all items that there are, the {REWARD.size} first by expected "
            "reward; intervals resample people",
            "what a learner knows it was told, exactly, as no model can be; `learner` takes "
            "the most likely taste of each person, with its "
            "spread, after all that was shown, clicked, passed over, read and searched "
            "before the request, by Bayes' rule with the very "
            "distributions that the site is made by",
        ],
        "knowing": KNOWLEDGE_BY_METHOD,
        "often": OFTEN_SHOWN_MIN,
        "lengths": results,
        "environment": environment(),
    }


def measure_rewards(seed: int, days: int, questions: int) -> dict[str, npt.NDArray]:
    """Return the true expected reward of each question's list, by method."""
    site = Site(seed, users=USERS, items=ITEMS, days=days + 1)
    views, searches, requests, is_search = simulate_days(site, days)
    home_requests = np.flatnonzero(~is_search)
    newest = home_requests[round(len(home_requests) * (1 - NEWEST_SHARE)) :]
    question_rows = np.sort(
        np.random.default_rng(seed).choice(newest, min(questions, len(newest)), replace=False)
    )
    user, day = requests["user"][question_rows], requests["day"][question_rows]
    candidate_lists = [site.items.list_available(float(t)) for t in day]
    offsets = np.concatenate(([0], np.cumsum([len(each) for each in candidate_lists]))).astype(
        np.int64
    )
    item = np.concatenate(candidate_lists)
    inferred_taste = infer_taste(site, views, searches, user, day)
    lasting_taste = known_taste(site, user, np.zeros_like(inferred_taste.urge_log_odds))
    taste_by_method: dict[str, Taste] = {
        "kind": unknown_taste(site, user),
        "learner": inferred_taste,
        "lasting": infer_taste(site, views, searches, user, day, taste=lasting_taste),
    }
    weights = (REWARD.click, REWARD.purchase)
    scores = {
        name: np.concatenate(
            [
                expected_reward(
                    site=site,
                    taste=taste,
                    request=row,
                    user=user[row],
                    day=day[row],
                    items=candidates,
                    weights=weights,
                )
                for row, candidates in enumerate(candidate_lists)
            ]
        )
        for name, taste in taste_by_method.items()
    }
    scores[ORACLE] = oracle_scores(site, user, item, day, offsets)[ORACLE]
    scores[POPULAR] = np.concatenate(
        [
            _popularity_scores(views, t, site.items.count)[candidates]
            for t, candidates in zip(day, candidate_lists, strict=True)
        ]
    )
    rewards = {
        name: true_rewards(site=site, user=user, item=item, day=day, offsets=offsets, score=score)
        for name, score in scores.items()
    }
    shown = np.bincount(views["user"], minlength=site.users.count)[user]
    return {**rewards, "person": user, "shown": shown, "clicks": np.array(views["click"].sum())}


def _popularity_scores(seen: Rows, t: float, count: int) -> Floats:
    is_recent_click = seen["click"] & (seen["day"] < t) & (seen["day"] >= t - POPULAR_DAYS)
    return np.bincount(seen["item"][is_recent_click], minlength=count).astype(np.float64)


def simulate_days(site: Site, days: int) -> tuple[Rows, Rows, Rows, npt.NDArray[np.bool_]]:
    """Simulate days of the site under its own policy.

    Returns views and searches, by user and day, all requests, and which of them were searches.
    """
    taste, rng = site.taste, np.random.default_rng([site.seed, 3])
    population, policy = (
        new_population(taste.users),
        HousePolicy(site.search_box, taste.items.count, REWARD.size),
    )
    views: list[Rows] = []
    searches_by_day: list[Rows] = []
    requests_by_day: list[Requests] = []
    for day in range(days):
        policy.open_day(available := taste.items.list_available(float(day)))
        visits = draw_visits(rng, taste.users, population, day, (site.start // DAY + day + 3) % 7)
        requests = draw_requests(rng, visits, taste, site.search_box, available)
        items = policy.draw_slates(rng, requests).items
        outcome = draw_reactions(rng, taste, site.search_box, requests, items)
        is_seen = np.arange(items.shape[1]) < outcome.seen_count[:, None]
        policy.learn(items[is_seen], items[outcome.click])
        population.update_satisfaction(requests.user, list_pleasures(taste, items, outcome))
        population.remove_leavers(rng, np.unique(visits.user))
        row, position = np.nonzero(is_seen)
        relevance = np.zeros(items.shape)
        search_rows = np.flatnonzero([bool(query) for query in requests.query])
        for search_row in search_rows:
            relevance[search_row] = site.search_box.relevance(
                requests.query[search_row], items[search_row]
            )
        category_appeal = _category_appeal(site, available, float(day))
        categories = np.array(
            [
                _likeliest_category(site, requests.query[search_row], category_appeal)
                for search_row in search_rows
            ],
            np.int64,
        )
        has_category = categories >= 0
        views.append(
            {
                "user": requests.user[row],
                "day": requests.day[row],
                "item": items[row, position],
                "position": position,
            }
            | {
                "click": outcome.click[row, position],
                "relevance": relevance[row, position],
                "dwell_s": outcome.dwell_s[row, position],
            }
        )
        searches_by_day.append(
            {
                "user": requests.user[search_rows][has_category],
                "day": requests.day[search_rows][has_category],
                "category": categories[has_category],
            }
            | {
                "shelf": np.broadcast_to(
                    category_appeal, (int(has_category.sum()), len(category_appeal))
                )
            }
        )
        requests_by_day.append(requests)
    all_requests = {
        name: np.concatenate([getattr(requests_, name) for requests_ in requests_by_day])
        for name in ("user", "day")
    }
    return (
        _sort_rows(views),
        _sort_rows(searches_by_day),
        all_requests,
        np.array([bool(query) for requests_ in requests_by_day for query in requests_.query]),
    )


def _sort_rows(parts: list[Rows]) -> Rows:
    rows = {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}
    order = np.lexsort((rows["day"], rows["user"]))
    return {name: column[order] for name, column in rows.items()}


def _category_appeal(site: Site, available: Ints, day: float) -> Floats:
    """Return the log probability that a user without any taste wants each category, shape (C,)."""
    preference = np.exp(site.taste.appeal(day)[available])
    return np.log(
        np.bincount(
            site.items.category[available],
            weights=preference,
            minlength=site.taste.eras[0].season.size,
        )
        + 1e-12
    )


def _likeliest_category(site: Site, query: str, category_appeal: Floats) -> int:
    """Return the likeliest category among the best title matches of a query, or −1."""
    match = site.search_box.match_share(query)
    if not match.max(initial=0.0):
        return -1
    categories = np.unique(site.items.category[match == match.max()])
    return int(categories[np.argmax(category_appeal[categories])])


def _shares_of_gain(rewards_by_site: Sequence[Mapping[str, npt.NDArray]]) -> dict[str, Any]:
    """Return shares of the oracle's gain over popularity, with intervals over the people."""
    reward = {
        name: np.concatenate([site_rewards[name] for site_rewards in rewards_by_site])
        for name in (*KNOWLEDGE_BY_METHOD, ORACLE, POPULAR)
    }
    person = np.concatenate(
        [
            site_rewards["person"] + 10_000_000 * place
            for place, site_rewards in enumerate(rewards_by_site)
        ]
    )
    bootstrap = Bootstrap(np.unique(person, return_inverse=True)[1].astype(np.int64))
    shares = {
        name: bootstrap.ratio(reward[name] - reward[POPULAR], reward[ORACLE] - reward[POPULAR])
        for name in KNOWLEDGE_BY_METHOD
    }
    is_often = (
        np.concatenate([site_rewards["shown"] for site_rewards in rewards_by_site])
        >= OFTEN_SHOWN_MIN
    )
    if is_often.any():
        gain, possible_gain = (
            (reward[name] - reward[POPULAR]) * is_often for name in ("learner", ORACLE)
        )
        shares |= {"learner_often": bootstrap.ratio(gain, possible_gain)}
    return {
        "shares": {
            name: [
                round(value, 6)
                for value in (site_rewards.value, site_rewards.low, site_rewards.high)
            ]
            for name, site_rewards in shares.items()
        },
        "by_seed": {
            name: [
                round(
                    float(
                        (site_rewards[name] - site_rewards[POPULAR]).sum()
                        / (site_rewards[ORACLE] - site_rewards[POPULAR]).sum()
                    ),
                    6,
                )
                for site_rewards in rewards_by_site
            ]
            for name in KNOWLEDGE_BY_METHOD
        },
        "clicks": round(
            float(np.mean([site_rewards["clicks"] for site_rewards in rewards_by_site]))
        ),
        "often": round(float(is_often.mean()), 4),
        "shown": round(
            float(
                np.mean(np.concatenate([site_rewards["shown"] for site_rewards in rewards_by_site]))
            ),
            1,
        ),
    }


def _format_report(result: Mapping[str, Any]) -> str:
    lines = [
        result["title"],
        *result["protocol"],
        *(f"{name}: {meaning}" for name, meaning in result["knowing"].items()),
    ]
    for days, length_result in result["lengths"].items():
        shares = ", ".join(
            f"{name} {v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})"
            for name, v in length_result["shares"].items()
        )
        lines.append(
            f"{days} days, {length_result['clicks']:,} clicks, {length_result['shown']:.0f} "
            "items shown to who "
            f"asks: {shares}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
