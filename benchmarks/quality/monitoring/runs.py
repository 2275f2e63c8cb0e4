"""The measurements: false alarms, delay to detection, roll-back times, delayed conversions, cost."""

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.monitoring import peers
from benchmarks.quality.monitoring.sites import (
    DRIFTS,
    HOURS_WEEK,
    Cohorts,
    Site,
    draw_cohorts,
    draw_site,
)
from tailorbird.events import DAY, HOUR, SECOND
from tailorbird.experiments.statistics import Moments
from tailorbird.lake import Lake
from tailorbird.monitoring.decisions.champion import ClickRate, ServiceStats, judge_champion
from tailorbird.monitoring.drift import Signal, find_episodes
from tailorbird.monitoring.drift.sketches import SketchStore
from tailorbird.monitoring.figures import FigureStore
from tailorbird.monitoring.figures.cells import SlotRule
from tailorbird.monitoring.figures.delays import (
    BUCKETS,
    correct_conversions,
    delay_buckets,
    estimate_delays,
)

WEEKS, DAYS = 8, 30
MONTH_HOURS = 730.0
Figure = dict[str, float | int | None]

REQUESTS_PER_S = 100
LIST_SIZE, CLICK_RATE, MEAN_CLICK_DELAY_S = (
    8,
    0.1,
    6.0,
)  # items, clicks per item seen, mean time to a click


def mean_with_interval(values: list[float]) -> Figure:
    """Return the mean with a 95 % interval by the normal approximation."""
    data = np.array(values, np.float64)
    error = 1.96 * data.std(ddof=1) / math.sqrt(len(data)) if len(data) > 1 else math.nan
    mean = float(data.mean())
    return {"value": mean, "low": mean - error, "high": mean + error, "n": len(data)}


def median_with_deciles(values: list[float]) -> Figure:
    """Return the median, with the tenth and ninetieth percentile as low and high."""
    low, value, high = (float(np.quantile(values, q)) for q in (0.1, 0.5, 0.9))
    return {"value": value, "low": low, "high": high, "n": len(values)}


def to_signals(site: Site) -> list[Signal]:
    counts = site.counts.astype(np.float64)
    return [
        *(
            Signal(f"f{index}", counts[:, index], bool(category))
            for index, category in enumerate(site.is_category)
        ),
        Signal("requests", site.requests[:, None].astype(np.float64), kind="traffic"),
    ]


def measure_false_alarms(first_seed: int, months: int) -> dict[str, Any]:
    """Return episodes a month without drift, for one stated, and peers' days with an alarm.

    Return also the threshold of each of `peers.METHODS` that causes as many alarms as Tailorbird.
    """
    ours: list[float] = []
    days_by_method: dict[str, list[float]] = {
        "ks_bonferroni": [],
        **{name: [] for name in peers.DEFAULT_THRESHOLDS},
    }
    statistics_by_method: dict[str, list[np.ndarray]] = {method: [] for method in peers.METHODS}
    for seed in range(first_seed, first_seed + months):
        site = draw_site(seed, weeks=WEEKS, days=DAYS)
        ours.append(len(find_episodes(to_signals(site), WEEKS * HOURS_WEEK)) * MONTH_HOURS / 720)
        days_by_method["ks_bonferroni"].append(count_ks_alarms(site) * MONTH_HOURS / 720)
        for method, statistic in peers.largest_statistics(site).items():
            statistics_by_method[method].append(statistic)
            if method in peers.DEFAULT_THRESHOLDS:
                is_alarm = statistic > peers.DEFAULT_THRESHOLDS[method]
                days_by_method[method].append(float(is_alarm.sum()) * MONTH_HOURS / 720)
    allowed_alarms = sum(ours) * 720 / MONTH_HOURS
    thresholds = {
        method: peers.find_threshold(values, allowed_alarms)
        for method, values in statistics_by_method.items()
    }
    return {
        "tailorbird": mean_with_interval(ours),
        **{name: mean_with_interval(values) for name, values in days_by_method.items()},
        "thresholds": thresholds,
    }


def count_ks_alarms(site: Site) -> int:
    """Return the days on which a KS test with Bonferroni's correction rejects, at one a month."""
    past = WEEKS * HOURS_WEEK
    reference = site.counts[:past].sum(axis=0).astype(np.float64)
    days = site.counts[past:].reshape(DAYS, 24, *site.counts.shape[1:]).sum(axis=1)
    level = 1.0 / DAYS / site.counts.shape[1]
    count = 0
    for day in days.astype(np.float64):
        n = day.sum(axis=1)
        gap = np.abs(
            np.cumsum(day, axis=1) / n[:, None]
            - np.cumsum(reference, axis=1) / reference.sum(axis=1)[:, None]
        ).max(axis=1)
        p = 2.0 * np.exp(-2.0 * n * gap**2)
        count += bool((p < level).any())
    return count


def measure_detection_delays(
    first_seed: int, sites: int, thresholds: dict[str, float]
) -> dict[str, dict[str, dict[str, Figure]]]:
    """Return by drift and method the hours to detection, and the share of sites that miss it.

    The median counts a miss as infinite.
    """
    result: dict[str, dict[str, dict[str, Figure]]] = {}
    for kind in DRIFTS:
        delays: dict[str, list[float]] = {method: [] for method in ("tailorbird", *thresholds)}
        for number in range(sites):
            site = draw_site(first_seed + number, weeks=WEEKS, days=15, drift=kind)
            episodes = find_episodes(to_signals(site), WEEKS * HOURS_WEEK)
            hits = [each.detected for each in episodes if each.detected > site.drift_at]
            delays["tailorbird"].append(float(min(hits) - site.drift_at) if hits else math.inf)
            at = site.drift_at - WEEKS * HOURS_WEEK
            for method, statistic in peers.largest_statistics(site).items():
                delays[method].append(
                    peers.detection_hours(statistic, thresholds[method], peers.scale_of(method), at)
                )
        result[kind] = {method: _delay_figure(own) for method, own in delays.items()}
    return result


def _delay_figure(delays: list[float]) -> dict[str, Figure]:
    low, value, high = np.quantile(delays, (0.1, 0.5, 0.9), method="nearest").tolist()
    hours: Figure = {
        name: each if math.isfinite(each) else None
        for name, each in (("value", value), ("low", low), ("high", high))
    }
    missed = mean_with_interval([float(math.isinf(delay)) for delay in delays])
    return {"hours": hours | {"n": len(delays)}, "missed": missed}


FAULTS: dict[str, dict[str, float]] = {
    "errors": {"failing": 0.3},
    "not_finite": {"failing": 1.0},
    "empty": {"failing": 0.5},
    "ctr_halved": {"ctr": 0.5},
    "ctr_minus_20": {"ctr": 0.8},
    "ctr_minus_10": {"ctr": 0.9},
}


def measure_rollback_times(first_seed: int, runs: int, limit_s: int) -> dict[str, Figure]:
    """Return seconds from the promotion to the decision at 100 requests/s, by fault."""
    result = {}
    for fault, change in FAULTS.items():
        limit = 300 if "failing" in change or fault == "ctr_halved" else limit_s
        times = [
            rollback_time(np.random.default_rng(first_seed + number), limit_s=limit, **change)
            for number in range(runs)
        ]
        detected = [time for time in times if math.isfinite(time)]
        figure = median_with_deciles(detected) if detected else {"value": None, "n": 0}
        result[fault] = figure | {"missed": runs - len(detected)}
    return result


def rollback_time(
    rng: np.random.Generator, *, limit_s: int, failing: float = 0.0, ctr: float = 1.0
) -> float:
    """Return when a champion is rolled back, in seconds; infinity if not within the limit.

    The commit of the lake and the tick of the trainer add seven seconds at most.
    """
    before = ServiceStats(
        120_000,
        {"error": int(rng.poisson(120)), "not_finite": 0, "empty": 0},
        draw_clicks(rng, 1_200, CLICK_RATE, 15.0),
    )
    requests = REQUESTS_PER_S * limit_s
    is_holdout = rng.random(requests) < 0.02
    appeal = rng.lognormal(-0.125, 0.5, requests)
    rate = np.minimum(CLICK_RATE * appeal * np.where(is_holdout, 1.0, ctr), 0.9)
    clicked = rng.binomial(LIST_SIZE, rate)
    clicked_soon = rng.binomial(clicked, 1.0 - math.exp(-15.0 / MEAN_CLICK_DELAY_S))
    failed = (rng.random(requests) < failing) & ~is_holdout
    step = 5 if limit_s <= 3_600 else 60
    for second in range(step, limit_s + 1, step):
        first, last = max(0, second - 600) * REQUESTS_PER_S, second * REQUESTS_PER_S
        window = slice(first, max(first, last - 15 * REQUESTS_PER_S))
        is_champion = ~is_holdout[window]
        soon_clicks = clicked_soon[window][is_champion].astype(np.float64)
        champion = ServiceStats(
            int((~is_holdout[first:last]).sum()),
            {"error": int(failed[first:last].sum())},
            Moments.from_totals(soon_clicks, np.full(len(soon_clicks), float(LIST_SIZE))),
        )
        is_holdout_so_far = is_holdout[:last]
        long_runs = [
            ClickRate(float(clicked[:last][part].sum()), float(LIST_SIZE * part.sum()), 1.5)
            for part in (~is_holdout_so_far, is_holdout_so_far)
        ]
        verdict = judge_champion(
            champion,
            before,
            champion_long_run=long_runs[0],
            holdout_long_run=long_runs[1] if long_runs[1].clicks else None,
            compare_clicks=second < 3_600,
        )
        if verdict.action == "roll_back":
            return float(second + 7)
    return math.inf


def draw_clicks(rng: np.random.Generator, seconds: int, ctr: float, horizon_s: float) -> Moments:
    """Draw clicks of people within a horizon."""
    people = REQUESTS_PER_S * seconds
    rate = np.minimum(ctr * rng.lognormal(-0.125, 0.5, people), 0.9)
    soon = rng.binomial(LIST_SIZE, rate * (1.0 - math.exp(-horizon_s / MEAN_CLICK_DELAY_S))).astype(
        np.float64
    )
    return Moments.from_totals(soon, np.full(people, float(LIST_SIZE)))


def measure_delayed_conversions(first_seed: int, runs: int) -> dict[str, Figure]:
    """Return bias and coverage of the newest full day's conversions, one day after its end."""
    ours: list[float] = []
    naive: list[float] = []
    covered: list[float] = []
    estimated: list[float] = []
    for number in range(runs):
        cohorts = draw_cohorts(first_seed + number)
        value, observed, truth, inside = estimate_newest(cohorts)
        ours.append(value / truth - 1.0)
        naive.append(observed / truth - 1.0)
        covered.append(float(inside))
        estimated.append(1.0 - observed / value)
    return {
        "bias": mean_with_interval(ours),
        "coverage": mean_with_interval(covered),
        "bias_naive": mean_with_interval(naive),
        "estimated_share": mean_with_interval(estimated),
    }


def estimate_newest(cohorts: Cohorts) -> tuple[float, float, float, bool]:
    """Return estimate, observed and true count of a day, and whether the interval holds the truth.

    Responses are spread over their day, and the day of interest ended a day before `now`.
    """
    days = len(cohorts.requests)
    rng = np.random.default_rng(int(cohorts.requests.sum()))
    response_day = cohorts.day + rng.random(len(cohorts.day))
    now, target_day = float(days), days - 2
    hour = np.floor(response_day * 24).astype(np.int64)
    is_seen = response_day + cohorts.delay < now
    hour_count = days * 24
    counts = np.zeros((hour_count, BUCKETS))
    seen_delay = (cohorts.delay[is_seen] * DAY).astype(np.int64)
    np.add.at(counts, (hour[is_seen], delay_buckets(seen_delay)), 1.0)
    ages = (now - (np.arange(hour_count) + 0.5) / 24) * DAY
    delays = estimate_delays(counts, ages)
    target_hours = slice(target_day * 24, (target_day + 1) * 24)
    requests = np.full(24, cohorts.requests[target_day] / 24)
    corrected = correct_conversions(
        counts[target_hours].sum(axis=1), requests, ages[target_hours], delays
    )
    truth = float((cohorts.day == target_day).sum())
    return corrected.value, corrected.observed, truth, corrected.low <= truth <= corrected.high


def measure_cost_us(build_lake: Callable[[Path], int], repeats: int) -> dict[str, Any]:
    """Return the microseconds of CPU that figures and sketches take for each response of an hour.

    The trainer makes both from the lake; a worker that serves makes neither.
    """
    start = 1_790_553_600_000_000
    figures, sketches = [], []
    with tempfile.TemporaryDirectory() as name:
        responses = build_lake(Path(name, "lake"))
        lake = Lake(Path(name, "lake"))
        for repeat in range(repeats):
            folder = Path(name, str(repeat))
            began = time.process_time()
            FigureStore(folder / "figures", lake, {"home": SlotRule()}).refresh(
                start, start + 2 * HOUR
            )
            middle = time.process_time()
            store = SketchStore(folder / "sketches", lake, [f"f{n}" for n in range(100)], "s")
            store.refresh(start, start + 2 * HOUR + 15 * 60 * SECOND)
            figures.append((middle - began) / responses * 1e6)
            sketches.append((time.process_time() - middle) / responses * 1e6)
    return {"figures": median_with_deciles(figures), "sketches": median_with_deciles(sketches)}
