"""How much of the oracle's true gain a log can tell anybody: the simulated site, by the length of
its log.

python -m benchmarks.quality.learnable [--days 7,14,30] [--seeds 3] [--small] [--keep FOLDER]
[--json]

The learner here is told the truth about everything but the person: it is no model to be used, but
about the most that any model could have. What it falls short of the oracle is in no log of that
length. `--keep` keeps what was found of each length and seed.
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

from benchmarks.quality.learnable_taste import (
    Rows,
    Taste,
    infer_taste,
    known_taste,
    unknown_taste,
    worth,
)
from benchmarks.quality.running import environment
from benchmarks.quality.true_reward import ITEMS, REWARD, SEED, USERS, oracle_scores, worth_of
from tailorbird.events import DAY
from tailorbird.simulator import Site
from tailorbird.simulator.house import HousePolicy
from tailorbird.simulator.population import new_population
from tailorbird.simulator.traffic import Requests, draw_requests, draw_visits, pleasures, respond
from tailorbird.simulator.world import Floats, Ints
from tailorbird.training.bootstrap import Bootstrap
from tailorbird.training.resuming import load_or_make_arrays

LENGTHS = (7, 14, 30)
QUESTIONS, NEWEST, POPULAR_DAYS = 600, 0.15, 7.0
OFTEN = 500  # items shown, from which somebody is well known
KNOWING = {
    "kind": "all but the person: what everybody likes, and people of one's country and age",
    "learner": "the same, and infers the person from what it did before",
    "lasting": "the person's lasting taste too, and infers what it came for in these four hours",
}
ORACLE, POPULAR = "oracle", "popular_7d"


def main() -> None:
    """The command line."""
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
    given = parser.parse_args()
    lengths = (LENGTHS[0],) if given.small else tuple(int(each) for each in given.days.split(","))
    with tempfile.TemporaryDirectory(prefix="tailorbird-learnable-") as scratch:
        keep = given.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        result = run(
            keep,
            lengths,
            1 if given.small else given.seeds,
            QUESTIONS // 10 if given.small else QUESTIONS,
        )
    result["small"] = given.small
    print(json.dumps(result, indent=1) if given.json else _plainly(result))


def run(keep: Path, lengths: Sequence[int], seeds: int, questions: int) -> dict[str, Any]:
    """Each length, over all sites."""
    found = {}
    for days in lengths:
        each = [
            load_or_make_arrays(
                keep,
                f"{days} {seed} {questions}",
                partial(measure_rewards, SEED + seed, days, questions),
            )
            for seed in range(seeds)
        ]
        found[days] = _judged(each)
    return {
        "benchmark": "learnable",
        "title": "The simulated site: how much of the oracle's true gain over popularity its log "
        "can tell anybody",
        "protocol": [
            f"{USERS:,} people, {ITEMS} items; {seeds} site(s); {questions} of the newest "
            f"{NEWEST:.0%} of each site's "
            f"requests; out of all items that there are, the {REWARD.size} first by expected "
            "reward; intervals resample people",
            "what a learner knows it was told, exactly, as no model can be; `learner` takes "
            "the most likely taste of each person, with its "
            "spread, after all that was shown, clicked, passed over, read and searched "
            "before the request, by Bayes' rule with the very "
            "distributions that the site is made by",
        ],
        "knowing": KNOWING,
        "often": OFTEN,
        "lengths": found,
        "environment": environment(),
    }


def measure_rewards(seed: int, days: int, questions: int) -> dict[str, npt.NDArray]:
    """True expected reward of each question's list, by who made it."""
    site = Site(seed, users=USERS, items=ITEMS, days=days + 1)
    seen, asked, requests, query = simulate_days(site, days)
    home = np.flatnonzero(~query)
    newest = home[round(len(home) * (1 - NEWEST)) :]
    some = np.sort(
        np.random.default_rng(seed).choice(newest, min(questions, len(newest)), replace=False)
    )
    user, day = requests["user"][some], requests["day"][some]
    lists = [site.items.available(float(t)) for t in day]
    offsets = np.concatenate(([0], np.cumsum([len(each) for each in lists]))).astype(np.int64)
    item = np.concatenate(lists)
    learned = infer_taste(site, seen, asked, user, day)
    lasting = known_taste(site, user, np.zeros_like(learned.urge))
    knowing: dict[str, Taste] = {
        "kind": unknown_taste(site, user),
        "learner": learned,
        "lasting": infer_taste(site, seen, asked, user, day, taste=lasting),
    }
    weights = (REWARD.click, REWARD.purchase)
    scores = {
        name: np.concatenate(
            [
                worth(site, taste, row, user[row], day[row], these, weights)
                for row, these in enumerate(lists)
            ]
        )
        for name, taste in knowing.items()
    }
    scores[ORACLE] = oracle_scores(site, user, item, day, offsets)[ORACLE]
    scores[POPULAR] = np.concatenate(
        [_popular(seen, t, site.items.count)[these] for t, these in zip(day, lists, strict=True)]
    )
    rewards = {
        name: worth_of(site, user, item, day, offsets, score) for name, score in scores.items()
    }
    shown = np.bincount(seen["user"], minlength=site.users.count)[user]
    return {**rewards, "person": user, "shown": shown, "clicks": np.array(seen["click"].sum())}


def _popular(seen: Rows, t: float, count: int) -> Floats:
    newest = seen["click"] & (seen["day"] < t) & (seen["day"] >= t - POPULAR_DAYS)
    return np.bincount(seen["item"][newest], minlength=count).astype(np.float64)


def simulate_days(site: Site, days: int) -> tuple[Rows, Rows, Rows, npt.NDArray[np.bool_]]:
    """Days of the site under its own policy: what was seen and searched, by user and day; all
    requests, and which were searches.
    """
    taste, rng = site.taste, np.random.default_rng([site.seed, 3])
    population, policy = (
        new_population(taste.users),
        HousePolicy(site.box, taste.items.count, REWARD.size),
    )
    seen: list[Rows] = []
    asked: list[Rows] = []
    every: list[Requests] = []
    for day in range(days):
        policy.open_day(available := taste.items.available(float(day)))
        visits = draw_visits(rng, taste.users, population, day, (site.start // DAY + day + 3) % 7)
        requests = draw_requests(rng, visits, taste, site.box, available)
        items = policy.choose(rng, requests).items
        outcome = respond(rng, taste, site.box, requests, items)
        looked = np.arange(items.shape[1]) < outcome.seen[:, None]
        policy.learn(items[looked], items[outcome.click])
        population.update_satisfaction(requests.user, pleasures(taste, items, outcome))
        population.remove_leavers(rng, np.unique(visits.user))
        row, place = np.nonzero(looked)
        relevance = np.zeros(items.shape)
        searches = np.flatnonzero([bool(query) for query in requests.query])
        for one in searches:
            relevance[one] = site.box.relevance(requests.query[one], items[one])
        shelf = _shelves(site, available, float(day))
        meant = np.array(
            [_category(site, requests.query[one], shelf) for one in searches], np.int64
        )
        known = meant >= 0
        seen.append(
            {
                "user": requests.user[row],
                "day": requests.day[row],
                "item": items[row, place],
                "position": place,
            }
            | {
                "click": outcome.click[row, place],
                "relevance": relevance[row, place],
                "dwell_s": outcome.dwell_s[row, place],
            }
        )
        asked.append(
            {
                "user": requests.user[searches][known],
                "day": requests.day[searches][known],
                "category": meant[known],
            }
            | {"shelf": np.broadcast_to(shelf, (int(known.sum()), len(shelf)))}
        )
        every.append(requests)
    whole = {
        name: np.concatenate([getattr(each, name) for each in every]) for name in ("user", "day")
    }
    return (
        _sorted(seen),
        _sorted(asked),
        whole,
        np.array([bool(query) for each in every for query in each.query]),
    )


def _sorted(parts: list[Rows]) -> Rows:
    rows = {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}
    order = np.lexsort((rows["day"], rows["user"]))
    return {name: column[order] for name, column in rows.items()}


def _shelves(site: Site, available: Ints, day: float) -> Floats:
    """Log of how likely an item of each category is wanted by somebody without any taste, shape
    (C,).
    """
    likes = np.exp(site.taste.appeal(day)[available])
    return np.log(
        np.bincount(
            site.items.category[available], weights=likes, minlength=site.taste.eras[0].season.size
        )
        + 1e-12
    )


def _category(site: Site, query: str, shelf: Floats) -> int:
    """For which category a query asks: the likeliest of those whose titles match it best; −1 where
    none does.
    """
    match = site.box.match(query)
    if not match.max(initial=0.0):
        return -1
    found = np.unique(site.items.category[match == match.max()])
    return int(found[np.argmax(shelf[found])])


def _judged(each: Sequence[Mapping[str, npt.NDArray]]) -> dict[str, Any]:
    """Shares of the oracle's gain over popularity, with intervals over the people of all sites."""
    reward = {
        name: np.concatenate([one[name] for one in each]) for name in (*KNOWING, ORACLE, POPULAR)
    }
    person = np.concatenate([one["person"] + 10_000_000 * place for place, one in enumerate(each)])
    bootstrap = Bootstrap(np.unique(person, return_inverse=True)[1].astype(np.int64))
    shares = {
        name: bootstrap.ratio(reward[name] - reward[POPULAR], reward[ORACLE] - reward[POPULAR])
        for name in KNOWING
    }
    often = np.concatenate([one["shown"] for one in each]) >= OFTEN
    if often.any():
        gained, possible = (
            (reward[name] - reward[POPULAR]) * often for name in ("learner", ORACLE)
        )
        shares |= {"learner_often": bootstrap.ratio(gained, possible)}
    return {
        "shares": {
            name: [round(value, 6) for value in (one.value, one.low, one.high)]
            for name, one in shares.items()
        },
        "by_seed": {
            name: [
                round(
                    float((one[name] - one[POPULAR]).sum() / (one[ORACLE] - one[POPULAR]).sum()), 6
                )
                for one in each
            ]
            for name in KNOWING
        },
        "clicks": round(float(np.mean([one["clicks"] for one in each]))),
        "often": round(float(often.mean()), 4),
        "shown": round(float(np.mean(np.concatenate([one["shown"] for one in each]))), 1),
    }


def _plainly(result: Mapping[str, Any]) -> str:
    lines = [
        result["title"],
        *result["protocol"],
        *(f"{name}: {what}" for name, what in result["knowing"].items()),
    ]
    for days, each in result["lengths"].items():
        told_ = ", ".join(
            f"{name} {v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" for name, v in each["shares"].items()
        )
        lines.append(
            f"{days} days, {each['clicks']:,} clicks, {each['shown']:.0f} items shown to who "
            f"asks: {told_}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
