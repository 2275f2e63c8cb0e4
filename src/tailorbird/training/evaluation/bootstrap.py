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
from tailorbird.training.evaluation.metrics import sum_by_index

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
    def signed_text(self) -> str:
        """Return the interval as text of a difference, with its sign."""
        return f"{self.value:+.4f} " + (
            f"[{self.low:+.4f}, {self.high:+.4f}]" if self.has_bounds else NO_INTERVAL_NOTE
        )

    def __str__(self) -> str:
        return f"{self.value:.4f}" + (
            f" [{self.low:.4f}, {self.high:.4f}]" if self.has_bounds else ""
        )


def encode_people(person_codes: Ints) -> Ints:
    """Return codes for `Bootstrap`; each request of an unknown person, −1, is one of its own."""
    anonymous_codes = int(person_codes.max(initial=0)) + 1 + np.arange(len(person_codes))
    return np.unique(
        np.where(person_codes >= 0, person_codes, anonymous_codes), return_inverse=True
    )[1]


class Bootstrap:
    """Bootstrap replicates over users, drawn once.

    Args:
        person_codes: shape (requests,), a code in [0, people) for each request.
        replicates: number of replicates; 1,000 give the ends of an interval to about 2 % of its
            width.
        level: confidence level of the intervals.
        seed: seed of the draw; the same seed and users give the same replicates.
    """

    def __init__(
        self, person_codes: Ints, *, replicates: int = 1_000, level: float = 0.95, seed: int = 0
    ) -> None:
        self.person_codes = np.asarray(person_codes, np.int64)
        self.person_count = int(self.person_codes.max(initial=-1)) + 1
        self.replicates = replicates
        self._tail_share = (1 - level) / 2
        self._seed = seed
        self._cached_weights: npt.NDArray[np.float32] | None = None

    def mean(self, value: Floats) -> Interval:
        """Return the mean over requests of `value` (requests,), with interval; NaN are left out."""
        return self.means([value])[0]

    def means(self, values: Sequence[Floats]) -> list[Interval]:
        """Return the mean of several metrics from the same replicates."""
        numerators, denominators = self._sum_by_person(values)
        estimates = _ratio(numerators.sum(axis=0), denominators.sum(axis=0))
        draws = _ratio(self._resample(numerators), self._resample(denominators))
        return [self.interval(c, draws[:, i]) for i, c in enumerate(estimates)]

    def difference(self, first: Floats, second: Floats) -> Interval:
        """Return mean(first) − mean(second) over the same requests, with its paired interval."""
        is_finite = np.isfinite(first) & np.isfinite(second)
        differences = np.where(is_finite, first - second, np.nan)
        return self.mean(differences)

    def ratio(self, numerator: Floats, denominator: Floats) -> Interval:
        """Return Σ numerator ÷ Σ denominator, both by request, with its interval."""
        sums = np.stack(
            [
                sum_by_index(self.person_codes, amounts, self.person_count)
                for amounts in (numerator, denominator)
            ],
            axis=1,
        )
        draws = self._resample(sums)
        total = sums.sum(axis=0)
        return self.interval(float(_ratio(total[0], total[1])), _ratio(draws[:, 0], draws[:, 1]))

    def auc(self, value: float, influence: Floats, request_index: Ints) -> Interval:
        """Return an AUC with its first-order interval.

        Args:
            influence: `metrics.auc_influence` of each row.
            request_index: the request of each row.
        """
        sums = sum_by_index(self.person_codes[request_index], influence, self.person_count)[:, None]
        return self.interval(value, value + self._resample(sums)[:, 0] - sums.sum())

    def calibration_errors(
        self,
        calibration: CalibrationBins,
        probability: Floats,
        label: npt.NDArray,
        request_index: Ints,
    ) -> tuple[Interval, Interval]:
        """Return the ECE and the debiased error, each with its interval; bins stay fixed.

        The upward bias of the ECE remains.
        """
        bin_count = len(calibration.counts)
        person_bin_codes = self.person_codes[request_index] * bin_count + calibration.row_bins
        person_bin_count = self.person_count * bin_count
        weights = (np.ones(len(person_bin_codes)), probability, label > 0)
        count, predicted, observed = (
            self._resample(
                sum_by_index(person_bin_codes, w, person_bin_count).reshape(
                    self.person_count, bin_count
                )
            )
            for w in weights
        )
        safe_counts = np.maximum(count, 1e-12)
        draws = np.array(
            [
                calibration_errors(c, p, o)
                for c, p, o in zip(
                    count, predicted / safe_counts, observed / safe_counts, strict=True
                )
            ]
        )
        return (
            self.interval(calibration.ece, draws[:, 0]),
            self.interval(calibration.debiased_error, draws[:, 1]),
        )

    def resample_metrics(self, compute_metrics: Callable[[Floats], Sequence[float]]) -> Floats:
        """Return the metrics of each replicate, shape (replicates, metrics).

        Args:
            compute_metrics: figures of the users with these weights, shape (users,); for those that
                are no ratio of sums.
        """
        return np.array(
            [
                compute_metrics(weights)
                for start, stop in self._replicate_ranges()
                for weights in self._draw_weights(start, stop)
            ]
        )

    def interval(self, value: float, draws: Floats) -> Interval:
        """Return the interval of a value from the same value of each replicate."""
        draws = draws[np.isfinite(draws)]
        if not len(draws) or self.person_count < 2:
            return Interval(float(value), float("nan"), float("nan"))
        low, high = np.quantile(draws, [self._tail_share, 1 - self._tail_share])
        return Interval(float(value), float(low), float(high))

    def _sum_by_person(self, values: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return sum and count of each metric for each user, shapes (people, metrics)."""
        finite_masks = [np.isfinite(value) for value in values]
        numerator = [
            sum_by_index(self.person_codes, np.where(finite_mask, value, 0.0), self.person_count)
            for value, finite_mask in zip(values, finite_masks, strict=True)
        ]
        denominator = [
            sum_by_index(self.person_codes, finite_mask, self.person_count)
            for finite_mask in finite_masks
        ]
        return np.stack(numerator, axis=1), np.stack(denominator, axis=1)

    def _resample(self, sums: Floats) -> Floats:
        """Return weighted sums over users for each replicate, shape (replicates, columns)."""
        sums_by_replicate = np.empty((self.replicates, sums.shape[1]))
        for start, stop in self._replicate_ranges():
            sums_by_replicate[start:stop] = self._draw_weights(start, stop) @ sums
        return sums_by_replicate

    def _replicate_ranges(self) -> Iterator[tuple[int, int]]:
        step = max(1, 20_000_000 // max(self.person_count, 1))
        for start in range(0, self.replicates, step):
            yield start, min(start + step, self.replicates)

    def _draw_weights(self, start: int, stop: int) -> Floats:
        """Return the Poisson counts of replicates start…stop, shape (stop − start, people).

        Small matrices are cached.
        """
        if self.replicates * self.person_count <= 50_000_000:
            if self._cached_weights is None:
                rng = np.random.default_rng(self._seed)
                self._cached_weights = rng.poisson(
                    1.0, (self.replicates, self.person_count)
                ).astype(np.float32)
            return self._cached_weights[start:stop].astype(np.float64)
        rng = np.random.default_rng((self._seed, start))
        return rng.poisson(1.0, (stop - start, self.person_count)).astype(np.float64)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(
        numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0
    )


def flatten_intervals(intervals: Mapping[str, Interval]) -> dict[str, float | None]:
    """Return `name`, `name_low` and `name_high` for each metric; None where not finite."""
    flat: dict[str, float | None] = {}
    for name, interval in intervals.items():
        flat[name], flat[f"{name}_low"], flat[f"{name}_high"] = (
            round_finite(x) for x in (interval.value, interval.low, interval.high)
        )
    return flat


def flatten_tables(
    results: Mapping[str, Mapping[str, Interval]],
) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each model, see `flatten_intervals`."""
    return {name: flatten_intervals(intervals) for name, intervals in results.items()}


def round_finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
