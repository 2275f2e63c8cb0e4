"""Check that an experiment's interval covers the true uplift as often as it claims.

    python -m benchmarks.quality.experiment --runs 200 [--small] [--json]

The site is simulated, so its truth is known. One run is one experiment of `days` days: `users`
people are drawn from the site's population, assigned to two arms by the product's own hash (salted
by the run), served fixed policies, and reported on by the product's own statistics.

**The true uplift** is the relative difference in the ratio that the report estimates, clicks per
item seen, between two worlds: everybody in the population gets the treatment for those days, or
everybody gets the control,

    true uplift = (E[clicks | all in T] / E[items seen | all in T]) / (E[clicks | all in C] /
    E[items seen | all in C]) − 1

with the expectation over the user drawn, its visits and its behaviour. It includes the effect of
satisfaction: pleased users return more often, and so weigh more. A user's experience depends on
nobody else's, so the arms are samples of the two worlds. It is computed by simulating the whole
population in each world many times, with expected in place of drawn clicks; the standard error of
that is printed, and is small beside the intervals. Users are drawn with replacement, so that they
are independent draws from the population, as the statistics assume.

For comparison, `clicks_as_units` is the method of many reports: a two-proportion interval that
takes every item seen for independent of every other. Exit status 1 if the product's coverage is
further than 3 % from 95 %.
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
from tailorbird.simulator.traffic import draw_reactions, draw_requests, draw_visits, list_pleasures
from tailorbird.simulator.world import Floats, Ints, Users

LIST_SIZE = 12
CANDIDATES = 60  # the most appealing; the treatment reorders some of its lists among them
PERSONAL_SHARE = 0.35  # share of the treatment's lists that are the user's own best
COVERAGE_TOLERANCE = 0.03  # coverage may differ from 95 % by this much


@dataclass(frozen=True)
class Design:
    """The size of the simulation."""

    runs: int
    users: int  # per experiment
    population: int
    days: int
    truths: int  # simulations of each world


class Shop:
    """The site's population under the two policies."""

    def __init__(self, design: Design, seed: int) -> None:
        self.design = design
        self.site = Site(
            seed, users=design.population, items=400, days=design.days + 1, new_users_per_day=0.0
        )
        self.appealing_by_day = [self._most_appealing_items(day) for day in range(design.days)]

    def _most_appealing_items(self, day: int) -> Ints:
        available = self.site.items.list_available(float(day))
        return available[np.argsort(-self.site.taste.appeal(float(day))[available])[:CANDIDATES]]

    def serve_lists(
        self,
        rng: np.random.Generator,
        taste: Taste,
        user: Ints,
        time: Floats,
        day: int,
        is_treated: np.ndarray,
    ) -> Ints:
        """Return the same popular list for everybody, or sometimes a personal one if treated.

        A personal list has the user's best of the popular items.
        """
        popular = self.appealing_by_day[day]
        items = np.broadcast_to(popular[:LIST_SIZE], (len(user), LIST_SIZE)).copy()
        personal = np.flatnonzero(is_treated & (rng.random(len(user)) < PERSONAL_SHARE))
        utility = taste.utility(user[personal], popular, time[personal])
        items[personal] = popular[np.argsort(-utility, axis=1)[:, :LIST_SIZE]]
        return items

    def simulate(
        self, rng: np.random.Generator, users_drawn: Ints, is_treated: np.ndarray, *, expected: bool
    ) -> tuple[Floats, Floats]:
        """Return clicks and items seen of each user over the days, shape (drawn,).

        Clicks are drawn, or expected given the visits.
        """
        site = self.site
        # The seed also decides the urge of each person in each window of hours.
        taste = Taste(
            _select_users(site.users, users_drawn),
            site.items,
            [_select_era(site.taste, users_drawn)],
            int(rng.integers(1 << 62)),
        )
        population = new_population(taste.users)
        clicks, seen = np.zeros(len(users_drawn)), np.zeros(len(users_drawn))
        for day in range(self.design.days):
            visits = draw_visits(rng, taste.users, population, day, (day + 3) % 7)
            requests = draw_requests(rng, visits, taste, None, self.appealing_by_day[day])
            items = self.serve_lists(
                rng=rng,
                taste=taste,
                user=requests.user,
                time=requests.day,
                day=day,
                is_treated=is_treated[requests.user],
            )
            outcome = draw_reactions(rng, taste, None, requests, items)
            if expected:
                expected_chances = list_probabilities(taste, requests.user, items, requests.day)
                list_clicks, list_seen = (
                    expected_chances.click.sum(axis=1),
                    expected_chances.seen.sum(axis=1),
                )
            else:
                list_clicks, list_seen = outcome.click.sum(axis=1), outcome.seen_count
            clicks += np.bincount(requests.user, weights=list_clicks, minlength=len(users_drawn))
            seen += np.bincount(requests.user, weights=list_seen, minlength=len(users_drawn))
            population.update_satisfaction(requests.user, list_pleasures(taste, items, outcome))
            population.remove_leavers(rng, np.unique(visits.user))
        return clicks, seen

    def true_uplift(self, seed: int) -> tuple[float, float]:
        """Return the true uplift and the standard error of its simulation."""
        all_users = np.arange(self.design.population)
        values = []
        for number in range(self.design.truths):
            ratios = []
            for is_treated in (True, False):
                rng = np.random.default_rng([seed, 77, number, is_treated])
                clicks, seen = self.simulate(
                    rng, all_users, np.full(len(all_users), is_treated), expected=True
                )
                ratios.append(clicks.sum() / seen.sum())
            values.append(ratios[0] / ratios[1] - 1)
        return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _select_users(users: Users, drawn: Ints) -> Users:
    return replace(
        users, **{name: getattr(users, name)[drawn] for name in users.__dataclass_fields__}
    )


def _select_era(taste: Taste, drawn: Ints):
    era = taste.eras[0]
    return replace(era, own_taste=era.own_taste[:, drawn], style=era.style[drawn])


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


def run_experiment(shop: Shop, number: int, seed: int, *, is_null_test: bool = False) -> Run:
    """Run one experiment with fresh users; a null test gives both arms the control."""
    rng = np.random.default_rng([seed, number, is_null_test])
    drawn_users = rng.integers(0, shop.design.population, shop.design.users)
    experiment = Experiment(f"run-{number}", arms={"popular": 0.5, "personal": 0.5})
    is_treated = np.array(
        [assign(experiment, f"u{person}") == "personal" for person in range(len(drawn_users))]
    )
    clicks, seen = shop.simulate(rng, drawn_users, is_treated & (not is_null_test), expected=False)
    has_seen = seen > 0
    treatment, control = (
        Moments.from_totals(clicks[rows & has_seen], seen[rows & has_seen])
        for rows in (is_treated, ~is_treated)
    )
    fixed, always_valid = (
        relative_uplift(treatment, control),
        always_valid_uplift(treatment, control, tuned_for_units=shop.design.users),
    )
    naive_low, naive_high = clicks_as_units(treatment, control)
    srm_p = sample_ratio_p({"popular": control.users, "personal": treatment.users}, experiment.arms)
    return Run(
        uplift=fixed.value,
        low=fixed.low,
        high=fixed.high,
        always_low=always_valid.low,
        always_high=always_valid.high,
        naive_low=naive_low,
        naive_high=naive_high,
        srm_p=srm_p,
        clicks=clicks.sum(),
    )


def clicks_as_units(treatment: Moments, control: Moments) -> tuple[float, float]:
    """Return the interval of the relative uplift if items seen were independent trials."""
    log_ratio = math.log(treatment.ratio / control.ratio)
    half_width = 1.96 * math.sqrt(
        (1 - treatment.ratio) / treatment.x + (1 - control.ratio) / control.x
    )
    return math.expm1(log_ratio - half_width), math.expm1(log_ratio + half_width)


def measure(design: Design, seed: int = 1) -> dict:
    """Run all experiments and return coverage, error rates and widths."""
    started = time.monotonic()
    shop = Shop(design, seed)
    truth, truth_error = shop.true_uplift(seed)
    runs = [run_experiment(shop, number, seed) for number in range(design.runs)]
    covering_count = sum(run.low <= truth <= run.high for run in runs)
    always_covering_count = sum(run.always_low <= truth <= run.always_high for run in runs)
    coverage_low, coverage_high = proportion_interval(covering_count, len(runs))
    naive_covering_count = sum(run.naive_low <= truth <= run.naive_high for run in runs)
    naive_coverage_low, naive_coverage_high = proportion_interval(naive_covering_count, len(runs))
    null_runs = [
        run_experiment(shop, number, seed, is_null_test=True) for number in range(design.runs // 2)
    ]
    is_rejected = [run.low > 0 or run.high < 0 for run in null_runs]
    false_low, false_high = proportion_interval(sum(is_rejected), len(is_rejected))
    return {
        "results": {
            "tailorbird": {
                "runs": len(runs),
                "coverage": covering_count / len(runs),
                "coverage_low": coverage_low,
                "coverage_high": coverage_high,
                "always_valid_coverage": always_covering_count / len(runs),
                "false_positives": sum(is_rejected) / len(is_rejected),
                "false_positives_low": false_low,
                "false_positives_high": false_high,
                "null_runs": len(is_rejected),
                "true_uplift": truth,
                "true_uplift_error": truth_error,
                "mean_uplift": float(np.mean([run.uplift for run in runs])),
                "mean_width": float(np.mean([run.high - run.low for run in runs])),
                "mean_clicks": float(np.mean([run.clicks for run in runs])),
                "power": sum(run.low > 0 for run in runs) / len(runs),
                "srm_alarms": sum(run.srm_p < 0.001 for run in runs),
            },
            "clicks_as_units": {
                "coverage": naive_covering_count / len(runs),
                "coverage_low": naive_coverage_low,
                "coverage_high": naive_coverage_high,
                "mean_width": float(np.mean([run.naive_high - run.naive_low for run in runs])),
            },
        },
        "held": abs(covering_count / len(runs) - 0.95) <= COVERAGE_TOLERANCE,
        "design": {name: getattr(design, name) for name in design.__dataclass_fields__},
        "wall_s": round(time.monotonic() - started, 1),
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
    report = measure(design, arguments.seed)
    if arguments.json:
        print(json.dumps(report))
    else:
        _print_report(report)
    raise SystemExit(0 if report["held"] else 1)


def _print_report(report: dict) -> None:
    results = report["results"]["tailorbird"]
    coverage_interval = (
        f"(95 % interval {results['coverage_low']:.1%} to {results['coverage_high']:.1%})"
    )
    false_positive_interval = (
        f"({results['false_positives_low']:.1%} to {results['false_positives_high']:.1%})"
    )
    print(
        f"true uplift        {results['true_uplift']:+.2%} (known to ± "
        f"{1.96 * results['true_uplift_error']:.2%})"
    )
    print(
        f"mean of estimates  {results['mean_uplift']:+.2%}, interval "
        f"{results['mean_width']:.2%} wide, "
        f"{results['mean_clicks']:,.0f} clicks a run"
    )
    print(
        f"coverage           {results['coverage']:.1%} of {results['runs']} intervals hold "
        f"it {coverage_interval}"
    )
    naive = report["results"]["clicks_as_units"]
    print(
        f"clicks as units    {naive['coverage']:.1%} ({naive['coverage_low']:.1%} to "
        f"{naive['coverage_high']:.1%})"
    )
    print(
        f"always-valid       {results['always_valid_coverage']:.1%} (may be looked at at any time: "
        "expected above 95 %)"
    )
    print(
        f"A/A                {results['false_positives']:.1%} of {results['null_runs']} found a "
        f"difference {false_positive_interval}"
    )
    print(
        f"power              {results['power']:.0%}; split alarms {results['srm_alarms']}; "
        f"{report['wall_s']} s"
    )
    print(
        "held: coverage within 95 % ± 3"
        if report["held"]
        else "NOT HELD: coverage is further than 3 % from 95 %"
    )


if __name__ == "__main__":
    main()
