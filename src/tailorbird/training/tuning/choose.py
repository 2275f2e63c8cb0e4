"""Final choice: fit the best few again under several seeds on every split, with the defaults.

    gain of a cell (split, seed) = NDCG@10 − mean over seeds of the reference on that split
    reference                      the first defaults
    winner                         the largest mean gain − its spread over cells, if above 0;
                                   otherwise the defaults stay

The best of many trials is partly the luckiest on these splits and this seed. Other seeds and splits
do not share the luck, so a setting that leads by less than its spread is not taken. The numbers are
still measured on rows that took part in the choice: the test part, on which `tailorbird train`
judges, shows what tuning is worth.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.tuning.fits import FitExecutor, FitResult, FitSpec
from tailorbird.training.tuning.study import Trial

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Finalist:
    """One of the last few trials.

    Attributes:
        ndcg: shape (splits, seeds), NDCG@10.
        gain: mean over cells of the gain over the reference.
        spread: standard deviation of the gain over cells.
        interval: of the gain over people, all splits together; each request is averaged over
            seeds.
        long_tail, long_tail_gain: NDCG@10 over long-tail items alone, and its gain; for
            information.
        seconds: mean duration of a fit.
    """

    trial: Trial
    ndcg: Floats
    gain: float
    spread: float
    interval: Interval
    long_tail: Interval
    long_tail_gain: Interval
    seconds: float

    @property
    def score(self) -> float:
        return self.gain - self.spread

    @property
    def name(self) -> str:
        return (
            f"{self.trial.architecture} "
            f"{'defaults' if self.trial.is_default else f'trial {self.trial.number}'}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the finalist as JSON."""
        score_fields = {"gain": self.gain, "spread": self.spread, "score": self.score}
        interval_fields = {
            "gain_low": self.interval.low,
            "gain_high": self.interval.high,
            "ndcg_10": float(self.ndcg.mean()),
        }
        for name, interval in (
            ("ndcg_10_long_tail", self.long_tail),
            ("gain_long_tail", self.long_tail_gain),
        ):
            interval_fields |= {
                name: interval.value,
                f"{name}_low": interval.low,
                f"{name}_high": interval.high,
            }
        figures = {
            name: round(float(value), 6) if np.isfinite(value) else None
            for name, value in (score_fields | interval_fields).items()
        }
        cell_values = [[round(float(result), 6) for result in row] for row in self.ndcg]
        return {
            "name": self.name,
            "architecture": self.trial.architecture,
            "number": self.trial.number,
            "default": self.trial.is_default,
        } | (
            figures
            | {
                "cells": cell_values,
                "seconds": round(self.seconds, 3),
                "settings": dict(self.trial.settings),
            }
        )


@dataclass(frozen=True)
class TuningDecision:
    """The result of the final comparison.

    Attributes:
        finalists: best score first.
        winner: the chosen finalist.
        why: the reason, a sentence.
    """

    finalists: tuple[Finalist, ...]
    reference: Finalist
    winner: Finalist
    why: str


def select_finalists(
    trials_by_architecture: Mapping[str, Sequence[Trial]], count: int
) -> list[Trial]:
    """Return the defaults and best trial of each architecture, and the best others.

    There are at most `count` trials that are not defaults, unless there are more architectures.
    """
    defaults = [
        next(trial for trial in architecture_trials if trial.is_default)
        for architecture_trials in trials_by_architecture.values()
        if any(trial.is_default for trial in architecture_trials)
    ]
    ranked_by_architecture = {
        name: sorted(
            _distinct_trials(architecture_trials), key=lambda trial: (-trial.value, trial.number)
        )
        for name, architecture_trials in trials_by_architecture.items()
    }
    best_trials = [
        ranked_trials[0] for ranked_trials in ranked_by_architecture.values() if ranked_trials
    ]
    other_finalists = sorted(
        (trial for ranked_trials in ranked_by_architecture.values() for trial in ranked_trials[1:]),
        key=lambda trial: (-trial.value, trial.number),
    )
    return [*defaults, *best_trials, *other_finalists[: max(count - len(best_trials), 0)]]


def _distinct_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Return complete trials that are not defaults, each set of settings once."""
    trial_by_settings: dict[str, Trial] = {}
    for trial in trials:
        if trial.state == "complete" and not trial.is_default:
            trial_by_settings.setdefault(repr(sorted(trial.settings.items())), trial)
    return list(trial_by_settings.values())


def choose_finalist(
    trials: Sequence[Trial],
    person_by_split: Sequence[Ints],
    seeds: Sequence[int],
    fit_executor: FitExecutor,
    progress: Callable[[int, int], None],
) -> TuningDecision:
    """Fit every finalist on every split under every seed, and choose.

    Args:
        trials: the first one is the reference.
        person_by_split: of each split, the person of each held-out request; −1 for unknown.
    """
    split_indexes = range(len(person_by_split))
    fit_keys = [  # (trial index, split, seed)
        (index, split, seed)
        for index in range(len(trials))
        for split in split_indexes
        for seed in seeds
    ]
    progress(0, len(fit_keys))
    key_by_future: dict[Future[FitResult], tuple[int, int, int]] = {}
    for trial_index, split, seed in fit_keys:
        trial = trials[trial_index]
        key_by_future[
            fit_executor.submit(FitSpec(trial.architecture, trial.settings, split, seed))
        ] = (trial_index, split, seed)
        progress(sum(future.done() for future in key_by_future), len(fit_keys))
    result_by_key: dict[tuple[int, int, int], FitResult] = {}
    for future in as_completed(key_by_future):
        result_by_key[key_by_future[future]] = future.result()
        progress(len(result_by_key), len(fit_keys))
    # Each request of an unknown person counts as a person of its own.
    person = np.concatenate(
        [
            np.where(
                split_person < 0,
                -1 - np.arange(len(split_person)) - 10_000_000 * split_index,
                split_person,
            )
            for split_index, split_person in enumerate(person_by_split)
        ]
    )
    bootstrap = Bootstrap(np.unique(person, return_inverse=True)[1])

    def collect_results(trial_index: int) -> list[list[FitResult]]:
        return [
            [result_by_key[trial_index, split, seed] for seed in seeds] for split in split_indexes
        ]

    reference_results = collect_results(0)
    reference_means = np.array(
        [[result.mean_ndcg for result in row] for row in reference_results]
    ).mean(axis=1, keepdims=True)
    finalists = [
        _score_finalist(
            trial, collect_results(trial_index), reference_means, reference_results, bootstrap
        )
        for trial_index, trial in enumerate(trials)
    ]
    finalists_by_score = tuple(sorted(finalists, key=lambda finalist: -finalist.score))
    return _choose_winner(finalists_by_score, finalists[0])


def _score_finalist(
    trial: Trial,
    results: Sequence[Sequence[FitResult]],
    reference_means: Floats,
    reference_results: Sequence[Sequence[FitResult]],
    bootstrap: Bootstrap,
) -> Finalist:
    mean_ndcg = np.array([[result.mean_ndcg for result in row] for row in results])
    gains = mean_ndcg - reference_means
    ndcg, reference_ndcg = (
        _average_by_request(cells, "ndcg") for cells in (results, reference_results)
    )
    long_tail, reference_long_tail = (
        _average_by_request(cells, "long_tail_ndcg") for cells in (results, reference_results)
    )
    spread = float(gains.std(ddof=1)) if gains.size > 1 else 0.0
    seconds = float(np.mean([result.seconds for row in results for result in row]))
    return Finalist(
        trial,
        mean_ndcg,
        gain=round(float(gains.mean()), 12) + 0.0,
        spread=spread,
        interval=bootstrap.difference(ndcg, reference_ndcg),
        long_tail=bootstrap.mean(long_tail),
        long_tail_gain=bootstrap.difference(long_tail, reference_long_tail),
        seconds=seconds,
    )


def _average_by_request(results: Sequence[Sequence[FitResult]], metric: str) -> Floats:
    """Return a metric of each request over all splits, averaged over seeds."""
    return np.concatenate(
        [np.mean([getattr(result, metric) for result in row], axis=0) for row in results]
    )


def _choose_winner(finalists_by_score: tuple[Finalist, ...], reference: Finalist) -> TuningDecision:
    best = next(
        (finalist for finalist in finalists_by_score if finalist is not reference), reference
    )
    cell_counts = f"{reference.ndcg.shape[0]} splits and {reference.ndcg.shape[1]} seeds"
    if best is reference:
        return TuningDecision(
            finalists_by_score,
            reference,
            reference,
            "the defaults stay: no trial was fitted for all splits",
        )
    if reference.ndcg.size < 2:
        summary = (
            f"{best.name} gains {best.gain:+.4f} over {reference.name} on one split under one seed"
        )
        return TuningDecision(
            finalists_by_score,
            reference,
            reference,
            f"the defaults stay: {summary}, which does not tell how much it varies",
        )
    summary = (
        f"{best.name} gains {best.gain:+.4f} over "
        f"{reference.name}, with a spread of "
        f"{best.spread:.4f} over {cell_counts}"
    )
    if best.score > 0:
        return TuningDecision(
            finalists_by_score, reference, best, f"{summary}: more than it varies by"
        )
    return TuningDecision(
        finalists_by_score,
        reference,
        reference,
        f"the defaults stay: {summary}, which is no more than it varies by",
    )
