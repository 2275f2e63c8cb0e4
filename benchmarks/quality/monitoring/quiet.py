"""Months of a champion as good as the previous version: how often it is rolled back.

Sites have 1 to 100 requests a second. Traffic and click rate follow the hour and wander. People
come again and keep their appeal, so the few of the holdout may click more than the others all month
long. Decisions are taken as the trainer takes them: every ten seconds on the last ten minutes,
every five minutes on everything since the promotion.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.monitoring.diagnosis import share_with_interval
from benchmarks.quality.monitoring.runs import CLICK_RATE, LIST_SIZE, MEAN_CLICK_DELAY_S
from tailorbird.events import SECOND
from tailorbird.experiments.statistics import Moments
from tailorbird.monitoring.decisions.champion import (
    CLICK_HORIZON_US,
    FAILURES_MARGIN,
    WINDOW_US,
    ClickRate,
    ServiceStats,
    dispersion_of,
    judge_champion,
)

Floats = npt.NDArray[np.float64]
STEP_S = 10
DAYS = 30
TRAFFIC = ((1, 5), (5, 20), (20, 50), (50, 100))  # requests a second
HOLDOUT = 0.02
FAILURE_RATE = 0.001
APPEAL_SD = 0.533  # of people, relative to the mean
DISPERSION = 1.22  # of clicks within a minute, that people of this appeal cause
REQUESTS_A_PERSON = 30  # in a month, on average
ACTIVITY_DISPERSION = 4.0  # mean square over squared mean of the requests a person
WINDOW = WINDOW_US // SECOND // STEP_S
HORIZON = CLICK_HORIZON_US / SECOND
MINUTE, HOUR, DAY = 60 // STEP_S, 3_600 // STEP_S, 86_400 // STEP_S
LONG_RUN = 5 * MINUTE


def quiet_months(first_seed: int, months: int, *, faults: int = 0) -> dict[str, Any]:
    """Return the share of months with a false roll-back, also by guard-rail and by traffic.

    `faults` times a month a tenth of all responses fails for twenty minutes, the holdout's too.
    """
    months_drawn = [find_rollback(first_seed + number, faults) for number in range(months)]
    rolled_back = [name for _, name in months_drawn if name]
    by_traffic = {}
    for low, high in TRAFFIC:
        is_rolled_back = [bool(name) for traffic, name in months_drawn if low <= traffic < high]
        if is_rolled_back:
            by_traffic[f"{low} to {high}"] = share_with_interval(
                sum(is_rolled_back), len(is_rolled_back)
            )
    return share_with_interval(len(rolled_back), months) | {
        "guard_rails": {name: rolled_back.count(name) for name in sorted(set(rolled_back))},
        "by_traffic": by_traffic,
    }


def find_rollback(seed: int, faults: int = 0) -> tuple[float, str]:
    """Return requests a second, and the guard-rail that rolls back a good champion in a month.

    That is "" if none does.
    """
    rng = np.random.default_rng(seed)
    steps = DAYS * DAY
    hour = (np.arange(steps) // HOUR + rng.integers(24)) % 24
    wave = np.sin(2 * np.pi * np.arange(24) / 24)
    mean_traffic = 10 ** rng.uniform(0.0, 2.0)
    traffic = mean_traffic * (1.0 + rng.uniform(0.3, 0.8) * wave)[hour]
    ctr = CLICK_RATE * (1.0 + rng.uniform(0.0, 0.15) * np.roll(wave, int(rng.integers(24))))[hour]
    ctr *= rng.lognormal(0.0, 0.03, DAYS * 24).repeat(HOUR)
    failure_rate = (FAILURE_RATE * rng.lognormal(0.0, 0.5, DAYS * 24)).repeat(HOUR)
    for start in rng.integers(0, steps - 20 * MINUTE, faults):
        failure_rate[start : start + 20 * MINUTE] = 0.1
    arms, long_runs = [], []
    for share in (1.0 - HOLDOUT, HOLDOUT):
        requests = rng.poisson(STEP_S * share * traffic)
        arms.append((requests, rng.binomial(requests, failure_rate)))
        people = requests.sum() / REQUESTS_A_PERSON / ACTIVITY_DISPERSION
        appeal = max(0.1, 1.0 + rng.normal(0.0, APPEAL_SD / np.sqrt(people)))
        long_runs.append(_long_run(rng, requests, ctr * appeal))
    requests_before = int(traffic[0] * 1_200)
    before = ServiceStats(
        requests_before,
        {"error": int(rng.poisson(requests_before * FAILURE_RATE))},
        _soon_clicks(rng, requests_before, ctr[0]),
    )
    hour_clicks = [_soon_clicks(rng, int(arms[0][0][step]), ctr[step]) for step in range(HOUR)]
    return mean_traffic, _judge(arms, long_runs, before, hour_clicks)


def _soon_clicks(rng: np.random.Generator, people: int, ctr: float) -> Moments:
    """Draw the clicks of people within `HORIZON` of a response."""
    rate = np.minimum(ctr * rng.lognormal(-0.125, 0.5, people), 0.9)
    clicked = rng.binomial(LIST_SIZE, rate * (1.0 - np.exp(-HORIZON / MEAN_CLICK_DELAY_S)))
    return Moments.from_totals(clicked, np.full(people, float(LIST_SIZE)))


def _long_run(rng: np.random.Generator, requests: npt.NDArray[np.int64], ctr: Floats) -> Floats:
    """Return the fields of `Moments` over the minutes up to each, shape (minutes, 6).

    Clicks of a minute are beta-binomial.
    """
    seen = LIST_SIZE * requests.reshape(-1, MINUTE).sum(axis=1).astype(np.float64)
    rate, size = ctr[::MINUTE], np.maximum((seen - 1.0) / (DISPERSION - 1.0) - 1.0, 1.0)
    clicked = rng.binomial(seen.astype(np.int64), rng.beta(rate * size, (1.0 - rate) * size))
    fields = (seen > 0, clicked, seen, clicked**2, clicked * seen, seen**2)
    return np.column_stack(fields).cumsum(axis=0)


def _judge(
    arms: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
    long_runs: list[Floats],
    before: ServiceStats,
    first_hour: list[Moments],
) -> str:
    """Return the guard-rail of the first roll-back, "" without one.

    After the first hour, the ten minutes are judged where more than `FAILURES_MARGIN` of them failed:
    elsewhere there is no evidence for a roll-back in them.
    """
    (requests, failed), (holdout_requests, holdout_failed) = [
        tuple(np.concatenate([[0], np.cumsum(each)]) for each in arm) for arm in arms
    ]
    ends = np.arange(1, len(requests))
    starts = np.maximum(ends - WINDOW, 0)
    is_due = (failed[ends] - failed[starts]) > FAILURES_MARGIN * (requests[ends] - requests[starts])
    is_due |= (ends <= HOUR) | (ends % LONG_RUN == 0)
    for end in ends[is_due]:
        start = max(end - WINDOW, 0)
        click_rates = _compare_long(long_runs, end // LONG_RUN * (LONG_RUN // MINUTE) - 1)
        is_new = end <= HOUR
        first_hour_clicks = (
            sum(first_hour[start:end], Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0)) if is_new else None
        )
        verdict = judge_champion(
            ServiceStats(
                int(requests[end] - requests[start]),
                {"error": int(failed[end] - failed[start])},
                first_hour_clicks or before.clicks,
            ),
            before,
            ServiceStats(
                int(holdout_requests[end] - holdout_requests[start]),
                {"error": int(holdout_failed[end] - holdout_failed[start])},
                before.clicks,
            ),
            champion_long_run=click_rates[0],
            holdout_long_run=click_rates[1],
            compare_clicks=is_new,
        )
        if verdict.action == "roll_back":
            return verdict.guard_rail
    return ""


def _compare_long(long_runs: list[Floats], minute: int) -> list[ClickRate] | list[None]:
    """Return the clicks up to a minute, with their dispersion; None unless both have some."""
    if minute < 0 or min(run[minute, 1] for run in long_runs) == 0:
        return [None, None]
    moments = [Moments(int(run[minute, 0]), *run[minute, 1:].tolist()) for run in long_runs]
    return [ClickRate(each.x, each.y, dispersion_of(each)) for each in moments]
