"""Months of a champion as good as the previous version: how often it is rolled back.

Sites have 1 to 100 requests a second. Traffic and click rate follow the hour and wander. People
come again and keep their appeal, so the few of the holdout may click more than the others all month
long. Decisions are taken as the trainer takes them: every ten seconds on the last ten minutes,
every five minutes on everything since the promotion.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.monitoring.diagnosis import share_figure
from benchmarks.quality.monitoring.runs import CTR, LIST, PATIENCE_S
from tailorbird.events import SECOND
from tailorbird.experiments.statistics import Moments
from tailorbird.monitoring.decisions.champion import (
    FAILURES_MARGIN,
    HORIZON_US,
    WINDOW_US,
    ClickRate,
    Service,
    dispersion_of,
    judge_champion,
)

Floats = npt.NDArray[np.float64]
STEP_S = 10
DAYS = 30
TRAFFIC = ((1, 5), (5, 20), (20, 50), (50, 100))  # requests a second
HOLDOUT = 0.02
FAILING = 0.001
APPEAL_SD = 0.533  # of people, relative to the mean
DISPERSION = 1.22  # of clicks within a minute, that people of this appeal cause
REQUESTS_A_PERSON = 30  # in a month, on average
ACTIVITY = 4.0  # mean square over squared mean of the requests a person
WINDOW = WINDOW_US // SECOND // STEP_S
HORIZON = HORIZON_US / SECOND
MINUTE, HOUR, DAY = 60 // STEP_S, 3_600 // STEP_S, 86_400 // STEP_S
LONG_RUN = 5 * MINUTE


def quiet_months(first_seed: int, months: int, *, faults: int = 0) -> dict[str, Any]:
    """Return the share of months with a false roll-back, also by guard-rail and by traffic.

    `faults` times a month a tenth of all responses fails for twenty minutes, the holdout's too.
    """
    drawn = [roll_back_of(first_seed + number, faults) for number in range(months)]
    rolled_back = [name for _, name in drawn if name]
    by_traffic = {}
    for low, high in TRAFFIC:
        own = [bool(name) for traffic, name in drawn if low <= traffic < high]
        if own:
            by_traffic[f"{low} to {high}"] = share_figure(sum(own), len(own))
    return share_figure(len(rolled_back), months) | {
        "guard_rails": {name: rolled_back.count(name) for name in sorted(set(rolled_back))},
        "by_traffic": by_traffic,
    }


def roll_back_of(seed: int, faults: int = 0) -> tuple[float, str]:
    """Return requests a second, and the guard-rail that rolls back a good champion in a month.

    That is "" if none does.
    """
    rng = np.random.default_rng(seed)
    steps = DAYS * DAY
    hour = (np.arange(steps) // HOUR + rng.integers(24)) % 24
    wave = np.sin(2 * np.pi * np.arange(24) / 24)
    usual = 10 ** rng.uniform(0.0, 2.0)
    traffic = usual * (1.0 + rng.uniform(0.3, 0.8) * wave)[hour]
    ctr = CTR * (1.0 + rng.uniform(0.0, 0.15) * np.roll(wave, int(rng.integers(24))))[hour]
    ctr *= rng.lognormal(0.0, 0.03, DAYS * 24).repeat(HOUR)
    failing = (FAILING * rng.lognormal(0.0, 0.5, DAYS * 24)).repeat(HOUR)
    for start in rng.integers(0, steps - 20 * MINUTE, faults):
        failing[start : start + 20 * MINUTE] = 0.1
    arms, runs = [], []
    for share in (1.0 - HOLDOUT, HOLDOUT):
        requests = rng.poisson(STEP_S * share * traffic)
        arms.append((requests, rng.binomial(requests, failing)))
        people = requests.sum() / REQUESTS_A_PERSON / ACTIVITY
        appeal = max(0.1, 1.0 + rng.normal(0.0, APPEAL_SD / np.sqrt(people)))
        runs.append(_long_run(rng, requests, ctr * appeal))
    asked = int(traffic[0] * 1_200)
    before = Service(
        asked, {"error": int(rng.poisson(asked * FAILING))}, _soon_clicks(rng, asked, ctr[0])
    )
    hour_clicks = [_soon_clicks(rng, int(arms[0][0][step]), ctr[step]) for step in range(HOUR)]
    return usual, _judge(arms, runs, before, hour_clicks)


def _soon_clicks(rng: np.random.Generator, people: int, ctr: float) -> Moments:
    """Draw the clicks of people within `HORIZON` of a response."""
    rate = np.minimum(ctr * rng.lognormal(-0.125, 0.5, people), 0.9)
    clicked = rng.binomial(LIST, rate * (1.0 - np.exp(-HORIZON / PATIENCE_S)))
    return Moments.from_totals(clicked, np.full(people, float(LIST)))


def _long_run(rng: np.random.Generator, requests: npt.NDArray[np.int64], ctr: Floats) -> Floats:
    """Return the fields of `Moments` over the minutes up to each, shape (minutes, 6).

    Clicks of a minute are beta-binomial.
    """
    seen = LIST * requests.reshape(-1, MINUTE).sum(axis=1).astype(np.float64)
    rate, size = ctr[::MINUTE], np.maximum((seen - 1.0) / (DISPERSION - 1.0) - 1.0, 1.0)
    clicked = rng.binomial(seen.astype(np.int64), rng.beta(rate * size, (1.0 - rate) * size))
    fields = (seen > 0, clicked, seen, clicked**2, clicked * seen, seen**2)
    return np.column_stack(fields).cumsum(axis=0)


def _judge(
    arms: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
    runs: list[Floats],
    before: Service,
    first_hour: list[Moments],
) -> str:
    """Return the guard-rail of the first roll-back, "" without one.

    After the first hour, the ten minutes are judged where more than `FAILURES_MARGIN` of them failed:
    elsewhere there is no evidence for a roll-back in them.
    """
    (requests, failed), (held, held_failed) = [
        tuple(np.concatenate([[0], np.cumsum(each)]) for each in arm) for arm in arms
    ]
    ends = np.arange(1, len(requests))
    starts = np.maximum(ends - WINDOW, 0)
    is_due = (failed[ends] - failed[starts]) > FAILURES_MARGIN * (requests[ends] - requests[starts])
    is_due |= (ends <= HOUR) | (ends % LONG_RUN == 0)
    for end in ends[is_due]:
        start = max(end - WINDOW, 0)
        pair = _compare_long(runs, end // LONG_RUN * (LONG_RUN // MINUTE) - 1)
        is_new = end <= HOUR
        soon = sum(first_hour[start:end], Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0)) if is_new else None
        verdict = judge_champion(
            Service(
                int(requests[end] - requests[start]),
                {"error": int(failed[end] - failed[start])},
                soon or before.clicks,
            ),
            before,
            Service(
                int(held[end] - held[start]),
                {"error": int(held_failed[end] - held_failed[start])},
                before.clicks,
            ),
            champion_long_run=pair[0],
            holdout_long_run=pair[1],
            compare_clicks=is_new,
        )
        if verdict.action == "roll_back":
            return verdict.guard_rail
    return ""


def _compare_long(runs: list[Floats], minute: int) -> list[ClickRate] | list[None]:
    """Return the clicks up to a minute, with their dispersion; None unless both have some."""
    if minute < 0 or min(run[minute, 1] for run in runs) == 0:
        return [None, None]
    moments = [Moments(int(run[minute, 0]), *run[minute, 1:].tolist()) for run in runs]
    return [ClickRate(each.x, each.y, dispersion_of(each)) for each in moments]
