"""Confidence intervals by resampling users.

Requests of one user are correlated, so users are resampled rather than requests. A replicate gives
each user a Poisson(1) count, which approximates the bootstrap's count for many users (Chamandy et
al., 2012) and needs no table of indices. Every metric that is a ratio of sums then costs one matrix
product over per-user sums. All models and metrics share the replicates, so differences are paired.
The metrics themselves are in `training.evaluation.metrics`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation.calibration import CalibrationBins, calibration_errors
from tailorbird.training.evaluation.metrics import totals

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NO_INTERVAL_NOTE = "(too few people for an interval)"


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval, by default of level 95 %."""

    value: float
    low: float
    high: float

    @property
    def has_bounds(self) -> bool:
        """Return whether both ends of the interval are finite."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def signed(self) -> str:
        """Return the interval as text of a difference, with its sign."""
        return f"{self.value:+.4f} " + (
            f"[{self.low:+.4f}, {self.high:+.4f}]" if self.has_bounds else NO_INTERVAL_NOTE
        )

    def __str__(self) -> str:
        return f"{self.value:.4f}" + (
            f" [{self.low:.4f}, {self.high:.4f}]" if self.has_bounds else ""
        )


def code_people(person: Ints) -> Ints:
    """Return codes for `Bootstrap`; each request of an unknown person, −1, is one of its own."""
    anonymous = int(person.max(initial=0)) + 1 + np.arange(len(person))
    return np.unique(np.where(person >= 0, person, anonymous), return_inverse=True)[1]


class Bootstrap:
    """Bootstrap replicates over users, drawn once.

    Args:
        person: shape (requests,), a code in [0, people) for each request.
        replicates: number of replicates; 1,000 give the ends of an interval to about 2 % of its
            width.
        level: confidence level of the intervals.
        seed: seed of the draw; the same seed and users give the same replicates.
    """

    def __init__(
        self, person: Ints, *, replicates: int = 1_000, level: float = 0.95, seed: int = 0
    ) -> None:
        self.person = np.asarray(person, np.int64)
        self.people = int(self.person.max(initial=-1)) + 1
        self.replicates = replicates
        self._tail = (1 - level) / 2
        self._seed = seed
        self._counts: npt.NDArray[np.float32] | None = None

    def mean(self, value: Floats) -> Interval:
        """Return the mean over requests of `value` (requests,), with interval; NaN are left out."""
        return self.means([value])[0]

    def means(self, values: Sequence[Floats]) -> list[Interval]:
        """Return the mean of several metrics from the same replicates."""
        numerator, denominator = self._sums(values)
        centre = _ratio(numerator.sum(axis=0), denominator.sum(axis=0))
        spread = _ratio(self._resample(numerator), self._resample(denominator))
        return [self.interval(c, spread[:, i]) for i, c in enumerate(centre)]

    def difference(self, first: Floats, second: Floats) -> Interval:
        """Return mean(first) − mean(second) over the same requests, with its paired interval."""
        is_finite = np.isfinite(first) & np.isfinite(second)
        masked = np.where(is_finite, first - second, np.nan)
        return self.mean(masked)

    def ratio(self, numerator: Floats, denominator: Floats) -> Interval:
        """Return Σ numerator ÷ Σ denominator, both by request, with its interval."""
        sums = np.stack(
            [totals(self.person, amounts, self.people) for amounts in (numerator, denominator)],
            axis=1,
        )
        draws = self._resample(sums)
        centre = sums.sum(axis=0)
        return self.interval(float(_ratio(centre[0], centre[1])), _ratio(draws[:, 0], draws[:, 1]))

    def auc(self, value: float, influence: Floats, request: Ints) -> Interval:
        """Return an AUC with its first-order interval.

        Args:
            influence: `metrics.auc_influence` of each row.
            request: the request of each row.
        """
        sums = totals(self.person[request], influence, self.people)[:, None]
        return self.interval(value, value + self._resample(sums)[:, 0] - sums.sum())

    def calibration_errors(
        self, calibration: CalibrationBins, probability: Floats, label: npt.NDArray, request: Ints
    ) -> tuple[Interval, Interval]:
        """Return the ECE and the debiased error, each with its interval; bins stay fixed.

        The upward bias of the ECE remains.
        """
        bins = len(calibration.count)
        cell = self.person[request] * bins + calibration.bin
        size = self.people * bins
        weights = (np.ones(len(cell)), probability, label > 0)
        count, predicted, observed = (
            self._resample(totals(cell, w, size).reshape(self.people, bins)) for w in weights
        )
        positive_counts = np.maximum(count, 1e-12)
        draws = np.array(
            [
                calibration_errors(c, p, o)
                for c, p, o in zip(
                    count, predicted / positive_counts, observed / positive_counts, strict=True
                )
            ]
        )
        return (
            self.interval(calibration.error, draws[:, 0]),
            self.interval(calibration.debiased, draws[:, 1]),
        )

    def draw(self, figure: Callable[[Floats], Sequence[float]]) -> Floats:
        """Return the figures of each replicate, shape (replicates, figures).

        Args:
            figure: figures of the users with these weights, shape (users,); for those that are no
                ratio of sums.
        """
        return np.array(
            [
                figure(w)
                for start, stop in self._replicate_ranges()
                for w in self._weights(start, stop)
            ]
        )

    def interval(self, value: float, draws: Floats) -> Interval:
        """Return the interval of a value from the same value of each replicate."""
        draws = draws[np.isfinite(draws)]
        if not len(draws) or self.people < 2:
            return Interval(float(value), float("nan"), float("nan"))
        low, high = np.quantile(draws, [self._tail, 1 - self._tail])
        return Interval(float(value), float(low), float(high))

    def _sums(self, values: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return sum and count of each metric for each user, shapes (people, metrics)."""
        finite_masks = [np.isfinite(value) for value in values]
        numerator = [
            totals(self.person, np.where(k, v, 0.0), self.people)
            for v, k in zip(values, finite_masks, strict=True)
        ]
        denominator = [totals(self.person, k, self.people) for k in finite_masks]
        return np.stack(numerator, axis=1), np.stack(denominator, axis=1)

    def _resample(self, sums: Floats) -> Floats:
        """Return weighted sums over users for each replicate, shape (replicates, columns)."""
        sums_by_replicate = np.empty((self.replicates, sums.shape[1]))
        for start, stop in self._replicate_ranges():
            sums_by_replicate[start:stop] = self._weights(start, stop) @ sums
        return sums_by_replicate

    def _replicate_ranges(self) -> Iterator[tuple[int, int]]:
        step = max(1, 20_000_000 // max(self.people, 1))
        for start in range(0, self.replicates, step):
            yield start, min(start + step, self.replicates)

    def _weights(self, start: int, stop: int) -> Floats:
        """Return the Poisson counts of replicates start…stop, shape (stop − start, people).

        Small matrices are cached.
        """
        if self.replicates * self.people <= 50_000_000:
            if self._counts is None:
                rng = np.random.default_rng(self._seed)
                self._counts = rng.poisson(1.0, (self.replicates, self.people)).astype(np.float32)
            return self._counts[start:stop].astype(np.float64)
        rng = np.random.default_rng((self._seed, start))
        return rng.poisson(1.0, (stop - start, self.people)).astype(np.float64)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(
        numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0
    )


def flatten_intervals(figures: Mapping[str, Interval]) -> dict[str, float | None]:
    """Return `name`, `name_low` and `name_high` for each metric; None where not finite."""
    flat: dict[str, float | None] = {}
    for name, figure in figures.items():
        flat[name], flat[f"{name}_low"], flat[f"{name}_high"] = (
            round_finite(x) for x in (figure.value, figure.low, figure.high)
        )
    return flat


def flatten_tables(
    results: Mapping[str, Mapping[str, Interval]],
) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each model, see `flatten_intervals`."""
    return {name: flatten_intervals(figures) for name, figures in results.items()}


def round_finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
