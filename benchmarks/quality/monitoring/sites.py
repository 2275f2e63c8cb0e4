"""Sites with known truth: hourly histograms of features, with and without a drift.

A site has its own traffic by hour and weekday, and features of several shapes. Each feature follows
the hour and the weekday a little, and wanders from day to day, so that windows of one site differ
without any drift. No two sites are alike. A drift changes some features from one hour on.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
HOURS_WEEK = 168
BINS = 16

DRIFTS = (
    "mean_shift",
    "scale",
    "missing",
    "zeros",
    "new_category",
    "category_mix",
    "tail",
    "two_features",
    "all_features_slightly",
    "gradual",
    "night_only",
    "traffic",
)


@dataclass(frozen=True)
class Site:
    """Histograms of a site.

    Attributes:
        counts: shape (hours, features, BINS); the first bin is for missing values.
        requests: of each hour, shape (hours,).
        is_category: of each feature, shape (features,).
        drift_at: hour from which it drifts; the number of hours without a drift.
    """

    counts: npt.NDArray[np.int64]
    requests: npt.NDArray[np.int64]
    is_category: npt.NDArray[np.bool_]
    drift_at: int


def draw_site(
    seed: int, *, features: int = 100, weeks: int = 8, days: int = 30, drift: str = ""
) -> Site:
    """Draw a site: a history of some weeks, then some days, with a drift after a day of them."""
    rng = np.random.default_rng(seed)
    hours = weeks * HOURS_WEEK + days * 24
    drift_at = weeks * HOURS_WEEK + 24 + int(rng.integers(24)) if drift else hours
    hour = np.arange(hours)
    is_drifted = hour >= drift_at
    daily = 1.0 + rng.uniform(0.3, 0.9) * np.sin(2 * np.pi * (hour % 24 - rng.uniform(0, 24)) / 24)
    weekly = np.repeat(rng.lognormal(0.0, 0.15, 7), 24)[hour % HOURS_WEEK]
    noise = rng.lognormal(0.0, 0.1, hours)
    rate = 10 ** rng.uniform(2.0, 3.5) * daily * weekly * noise + 20
    if drift == "traffic":
        rate = np.where(is_drifted, rate * 2.5, rate)
    requests = rng.poisson(rate)
    is_category = rng.random(features) < 0.3
    strength = drift_strength(drift, is_drifted, hour - drift_at)
    counts = np.empty((hours, features, BINS), np.int64)
    drifting_count = {"two_features": 2, "all_features_slightly": features}.get(
        drift, max(1, features // 20)
    )
    for feature in range(features):
        feature_strength = strength if feature < drifting_count else np.zeros(hours)
        probability = _probabilities(
            rng, hours, bool(is_category[feature]), drift, feature_strength
        )
        counts[:, feature] = rng.multinomial(requests, probability)
    return Site(counts, requests, is_category, drift_at)


def drift_strength(
    drift: str, is_drifted: npt.NDArray[np.bool_], hours_since_drift: npt.NDArray[np.int64]
) -> Floats:
    """Return how far each hour has drifted, 0 to 1."""
    strength = is_drifted.astype(np.float64)
    if drift == "gradual":
        strength = np.clip(hours_since_drift / (5 * 24), 0.0, 1.0)
    if drift == "night_only":
        strength = strength * ((hours_since_drift % 24) < 6)
    if drift == "all_features_slightly":
        strength = strength * 0.3
    return strength


def _probabilities(
    rng: np.random.Generator, hours: int, is_category: bool, drift: str, strength: Floats
) -> Floats:
    """Return the probability of each bin in each hour, shape (hours, BINS)."""
    day = np.arange(hours) // 24
    daily_shift = rng.normal(0.0, rng.uniform(0.0, 0.05), day.max() + 1)[day]
    season = rng.uniform(0.0, 0.2) * np.sin(
        2 * np.pi * (np.arange(hours) + rng.uniform(0, 24)) / 24
    )
    missing = np.full(hours, rng.choice([0.0, 0.01, 0.1]))
    if drift == "missing":
        missing = missing + 0.15 * strength
    if is_category:
        base = np.log(rng.dirichlet(np.full(BINS - 1, 0.5)) + 1e-4)
        tilt = rng.normal(0.0, 1.0, BINS - 1)
        logits = base + np.outer(season + daily_shift, tilt)
        if drift in (
            "category_mix",
            "mean_shift",
            "two_features",
            "all_features_slightly",
            "gradual",
            "night_only",
        ):
            logits = logits + np.outer(0.5 * strength, tilt)
        if drift == "new_category":
            logits[:, int(np.argmin(base))] += 5.0 * strength
    else:
        grid, skew = np.linspace(-3, 3, BINS - 1), rng.uniform(-0.5, 0.5)
        shift = season + daily_shift
        if drift in (
            "mean_shift",
            "two_features",
            "all_features_slightly",
            "gradual",
            "night_only",
            "category_mix",
        ):
            shift = shift + 0.5 * strength
        width = np.ones(hours) * (
            1.0 + (0.5 * strength if drift in ("scale", "new_category") else 0.0)
        )
        position = (grid[None, :] - shift[:, None]) / width[:, None]
        logits = -0.5 * position**2 + skew * position
        if drift == "tail":
            logits[:, -2:] += 3.0 * strength[:, None]
        if drift == "zeros":
            logits[:, BINS // 2] += 1.0 * strength
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability *= ((1.0 - missing) / probability.sum(axis=1))[:, None]
    return np.column_stack([missing, probability])


@dataclass(frozen=True)
class Cohorts:
    """Purchases of daily cohorts whose delays are known.

    Attributes:
        days: of each purchase, the day of its response.
        delay: in days.
        requests: of each day.
    """

    day: npt.NDArray[np.int64]
    delay: Floats
    requests: npt.NDArray[np.int64]


def draw_cohorts(seed: int, *, days: int = 60, mean_delay: float = 3.0) -> Cohorts:
    """Draw purchases: the conversion rate and the mean delay both change over time."""
    rng = np.random.default_rng(seed)
    requests = rng.poisson(4_000 * (1.0 + 0.3 * np.sin(np.arange(days) / 7 * 2 * np.pi)))
    walk = np.cumsum(rng.normal(0.0, 0.04, days))
    rate = 0.05 * np.exp(walk - walk.mean())
    mean = mean_delay * np.linspace(1.0, rng.uniform(0.85, 1.15), days)
    bought = rng.binomial(requests, np.minimum(rate, 0.5))
    day = np.repeat(np.arange(days), bought)
    return Cohorts(day, rng.exponential(mean[day]), requests)
