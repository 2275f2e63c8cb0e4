"""Does the interval of an experiment hold the true uplift as often as it says? On the simulated
site, whose truth is known.

    python -m benchmarks.quality.experiment --runs 200 [--small] [--json]

One run is one experiment of `days` days: `users` people are drawn from the site's population,
assigned to two arms by the product's own hash (salted by the run), served fixed policies, and
reported on by the product's own statistics.

**The true uplift** is the relative difference in the ratio that the report estimates, clicks per
 item seen, between two worlds: everybody in the population gets the treatment for those days,
 everybody gets the control,

    true uplift = (E[clicks | all in T] / E[items seen | all in T]) / (E[clicks | all in C] /
    E[items seen | all in C]) − 1

with the expectation over the user drawn, its visits and its behaviour. It includes what
satisfaction does: pleased users come back more often, and so weigh more. A user's experience
depends on nobody else's, so the two worlds are what the arms are samples of. It is computed by
simulating the whole population in each world many times, with expected in place of drawn clicks;
the standard error of that is printed, and is small beside the intervals. Users are drawn with
replacement, so that they are independent draws from the population, as the statistics assume.

For comparison `clicks_as_units` is what many reports do: a two-proportion interval that takes every
item seen for independent of every other. Exit status 1 if the product's coverage is further than 3
% from 95 %.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, replace

import numpy as np

from tailorbird.experiments.assign import Experiment, assign
from tailorbird.experiments.statistics import (
    Moments,
    always_valid_uplift,
    proportion_interval,
    relative_uplift,
    sample_ratio_p,
)
from tailorbird.simulator import Site
from tailorbird.simulator.behaviour import list_probabilities
from tailorbird.simulator.population import new_population
from tailorbird.simulator.taste import Taste
from tailorbird.simulator.traffic import draw_requests, draw_visits, pleasures, respond
from tailorbird.simulator.world import Floats, Ints, Users

LIST = 12
CANDIDATES = 60  # the most appealing; the treatment reorders some of its lists among them
PERSONAL = 0.35  # share of the treatment's lists that are the user's own best
CLOSE = 0.03  # coverage may differ from 95 % by this much


@dataclass(frozen=True)
class Design:
    """What is run."""

    runs: int
    users: int  # per experiment
    population: int
    days: int
    truths: int  # simulations of each whole world


class Shop:
    """The site's population under the two policies."""

    def __init__(self, design: Design, seed: int) -> None:
        self.design = design
        self.site = Site(
            seed, users=design.population, items=400, days=design.days + 1, new_users_per_day=0.0
        )
        self.appealing = [self._appealing(day) for day in range(design.days)]

    def _appealing(self, day: int) -> Ints:
        available = self.site.items.available(float(day))
        return available[np.argsort(-self.site.taste.appeal(float(day))[available])[:CANDIDATES]]

    def lists(
        self,
        rng: np.random.Generator,
        taste: Taste,
        user: Ints,
        at: Floats,
        day: int,
        treated: np.ndarray,
    ) -> Ints:
        """The same popular list for everybody; in the treatment, sometimes the user's best of the
        popular.
        """
        popular = self.appealing[day]
        items = np.broadcast_to(popular[:LIST], (len(user), LIST)).copy()
        personal = np.flatnonzero(treated & (rng.random(len(user)) < PERSONAL))
        utility = taste.utility(user[personal], popular, at[personal])
        items[personal] = popular[np.argsort(-utility, axis=1)[:, :LIST]]
        return items

    def simulate(
        self, rng: np.random.Generator, drawn: Ints, treated: np.ndarray, *, expected: bool
    ) -> tuple[Floats, Floats]:
        """Clicks and items seen of each drawn user over the days, shape (drawn,): drawn, or
        expected given the visits.
        """
        site = self.site
        # What people come for in which hours is drawn anew as well: the seed decides it.
        taste = Taste(
            _subset(site.users, drawn),
            site.items,
            [_era_of(site.taste, drawn)],
            int(rng.integers(1 << 62)),
        )
        population = new_population(taste.users)
        clicks, seen = np.zeros(len(drawn)), np.zeros(len(drawn))
        for day in range(self.design.days):
            visits = draw_visits(rng, taste.users, population, day, (day + 3) % 7)
            requests = draw_requests(rng, visits, taste, None, self.appealing[day])
            items = self.lists(rng, taste, requests.user, requests.day, day, treated[requests.user])
            outcome = respond(rng, taste, None, requests, items)
            if expected:
                worth = list_probabilities(taste, requests.user, items, requests.day)
                list_clicks, list_seen = worth.click.sum(axis=1), worth.seen.sum(axis=1)
            else:
                list_clicks, list_seen = outcome.click.sum(axis=1), outcome.seen
            clicks += np.bincount(requests.user, weights=list_clicks, minlength=len(drawn))
            seen += np.bincount(requests.user, weights=list_seen, minlength=len(drawn))
            population.update_satisfaction(requests.user, pleasures(taste, items, outcome))
            population.remove_leavers(rng, np.unique(visits.user))
        return clicks, seen

    def true_uplift(self, seed: int) -> tuple[float, float]:
        """The true uplift and the standard error with which the simulation knows it."""
        everybody = np.arange(self.design.population)
        values = []
        for number in range(self.design.truths):
            ratios = []
            for treated in (True, False):
                rng = np.random.default_rng([seed, 77, number, treated])
                clicks, seen = self.simulate(
                    rng, everybody, np.full(len(everybody), treated), expected=True
                )
                ratios.append(clicks.sum() / seen.sum())
            values.append(ratios[0] / ratios[1] - 1)
        return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _subset(users: Users, drawn: Ints) -> Users:
    return replace(
        users, **{name: getattr(users, name)[drawn] for name in users.__dataclass_fields__}
    )


def _era_of(taste: Taste, drawn: Ints):
    era = taste.eras[0]
    return replace(era, own=era.own[:, drawn], style=era.style[drawn])


@dataclass(frozen=True)
class Run:
    """One experiment's figures."""

    uplift: float
    low: float
    high: float
    always_low: float
    always_high: float
    naive_low: float
    naive_high: float
    srm_p: float
    clicks: float


def run_experiment(shop: Shop, number: int, seed: int, *, same: bool = False) -> Run:
    """One experiment with fresh users; with `same`, both arms get the control: an A/A test."""
    rng = np.random.default_rng([seed, number, same])
    drawn = rng.integers(0, shop.design.population, shop.design.users)
    experiment = Experiment(f"run-{number}", arms={"popular": 0.5, "personal": 0.5})
    arm = np.array([assign(experiment, f"u{person}") == "personal" for person in range(len(drawn))])
    clicks, seen = shop.simulate(rng, drawn, arm & (not same), expected=False)
    came = seen > 0
    treatment, control = (
        Moments.of(clicks[rows & came], seen[rows & came]) for rows in (arm, ~arm)
    )
    fixed, always = (
        relative_uplift(treatment, control),
        always_valid_uplift(treatment, control, tuned_for=shop.design.users),
    )
    naive_low, naive_high = clicks_as_units(treatment, control)
    srm_p = sample_ratio_p({"popular": control.users, "personal": treatment.users}, experiment.arms)
    return Run(
        fixed.value,
        fixed.low,
        fixed.high,
        always.low,
        always.high,
        naive_low,
        naive_high,
        srm_p,
        clicks.sum(),
    )


def clicks_as_units(treatment: Moments, control: Moments) -> tuple[float, float]:
    """The 95 % interval of the relative uplift if items seen were independent trials."""
    log = math.log(treatment.ratio / control.ratio)
    half = 1.96 * math.sqrt((1 - treatment.ratio) / treatment.x + (1 - control.ratio) / control.x)
    return math.expm1(log - half), math.expm1(log + half)


def measure(design: Design, seed: int = 1) -> dict:
    """All runs and what they say."""
    began = time.monotonic()
    shop = Shop(design, seed)
    truth, truth_error = shop.true_uplift(seed)
    runs = [run_experiment(shop, number, seed) for number in range(design.runs)]
    held = sum(run.low <= truth <= run.high for run in runs)
    always = sum(run.always_low <= truth <= run.always_high for run in runs)
    coverage_low, coverage_high = proportion_interval(held, len(runs))
    naive = sum(run.naive_low <= truth <= run.naive_high for run in runs)
    naive_coverage_low, naive_coverage_high = proportion_interval(naive, len(runs))
    nulls = [run_experiment(shop, number, seed, same=True) for number in range(design.runs // 2)]
    found = [run.low > 0 or run.high < 0 for run in nulls]
    false_low, false_high = proportion_interval(sum(found), len(found))
    return {
        "results": {
            "tailorbird": {
                "runs": len(runs),
                "coverage": held / len(runs),
                "coverage_low": coverage_low,
                "coverage_high": coverage_high,
                "always_valid_coverage": always / len(runs),
                "false_positives": sum(found) / len(found),
                "false_positives_low": false_low,
                "false_positives_high": false_high,
                "null_runs": len(found),
                "true_uplift": truth,
                "true_uplift_error": truth_error,
                "mean_uplift": float(np.mean([run.uplift for run in runs])),
                "mean_width": float(np.mean([run.high - run.low for run in runs])),
                "mean_clicks": float(np.mean([run.clicks for run in runs])),
                "power": sum(run.low > 0 for run in runs) / len(runs),
                "srm_alarms": sum(run.srm_p < 0.001 for run in runs),
            },
            "clicks_as_units": {
                "coverage": naive / len(runs),
                "coverage_low": naive_coverage_low,
                "coverage_high": naive_coverage_high,
                "mean_width": float(np.mean([run.naive_high - run.naive_low for run in runs])),
            },
        },
        "held": abs(held / len(runs) - 0.95) <= CLOSE,
        "design": {name: getattr(design, name) for name in design.__dataclass_fields__},
        "wall_s": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=int, default=200, help="experiments to simulate (default 200)"
    )
    parser.add_argument(
        "--small", action="store_true", help="fewer users and days: within a minute"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    arguments = parser.parse_args()
    if arguments.small:
        design = Design(runs=arguments.runs, users=800, population=4_000, days=4, truths=20)
    else:
        design = Design(runs=arguments.runs, users=2_000, population=20_000, days=7, truths=20)
    found = measure(design, arguments.seed)
    if arguments.json:
        print(json.dumps(found))
    else:
        _show(found)
    raise SystemExit(0 if found["held"] else 1)


def _show(found: dict) -> None:
    r = found["results"]["tailorbird"]
    held = f"(95 % interval {r['coverage_low']:.1%} to {r['coverage_high']:.1%})"
    false = f"({r['false_positives_low']:.1%} to {r['false_positives_high']:.1%})"
    print(
        f"true uplift        {r['true_uplift']:+.2%} (known to ± "
        f"{1.96 * r['true_uplift_error']:.2%})"
    )
    print(
        f"mean of estimates  {r['mean_uplift']:+.2%}, interval {r['mean_width']:.2%} wide, "
        f"{r['mean_clicks']:,.0f} clicks a run"
    )
    print(f"coverage           {r['coverage']:.1%} of {r['runs']} intervals hold it {held}")
    naive = found["results"]["clicks_as_units"]
    print(
        f"clicks as units    {naive['coverage']:.1%} ({naive['coverage_low']:.1%} to "
        f"{naive['coverage_high']:.1%})"
    )
    print(
        f"always-valid       {r['always_valid_coverage']:.1%} (may be looked at at any time: "
        "expected above 95 %)"
    )
    print(
        f"A/A                {r['false_positives']:.1%} of {r['null_runs']} found a "
        f"difference {false}"
    )
    print(
        f"power              {r['power']:.0%}; split alarms {r['srm_alarms']}; {found['wall_s']} s"
    )
    print(
        "held: coverage within 95 % ± 3"
        if found["held"]
        else "NOT HELD: coverage is further than 3 % from 95 %"
    )


if __name__ == "__main__":
    main()
