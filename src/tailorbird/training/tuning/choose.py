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
        quality: shape (splits, seeds), NDCG@10.
        gain: mean over cells of the gain over the reference.
        spread: standard deviation of the gain over cells.
        interval: of the gain over people, all splits together; each request is averaged over
            seeds.
        long_tail, long_tail_gain: NDCG@10 over long-tail items alone, and its gain; for information.
        seconds: mean duration of a fit.
    """

    trial: Trial
    quality: Floats
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
        totals = {"gain": self.gain, "spread": self.spread, "score": self.score}
        interval_fields = {
            "gain_low": self.interval.low,
            "gain_high": self.interval.high,
            "ndcg_10": float(self.quality.mean()),
        }
        for name, each in (
            ("ndcg_10_long_tail", self.long_tail),
            ("gain_long_tail", self.long_tail_gain),
        ):
            interval_fields |= {
                name: each.value,
                f"{name}_low": each.low,
                f"{name}_high": each.high,
            }
        figures = {
            name: round(float(value), 6) if np.isfinite(value) else None
            for name, value in (totals | interval_fields).items()
        }
        cells = [[round(float(result), 6) for result in row] for row in self.quality]
        return {
            "name": self.name,
            "architecture": self.trial.architecture,
            "number": self.trial.number,
            "default": self.trial.is_default,
        } | (
            figures
            | {
                "cells": cells,
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


def select_finalists(trials: Mapping[str, Sequence[Trial]], count: int) -> list[Trial]:
    """Return the defaults and best trial of each architecture, and the best others.

    There are at most `count` trials that are not defaults, unless there are more architectures.
    """
    defaults = [
        next(trial for trial in architecture_trials if trial.is_default)
        for architecture_trials in trials.values()
        if any(trial.is_default for trial in architecture_trials)
    ]
    ranked = {
        name: sorted(
            _distinct_trials(architecture_trials), key=lambda trial: (-trial.value, trial.number)
        )
        for name, architecture_trials in trials.items()
    }
    best = [by_value[0] for by_value in ranked.values() if by_value]
    other_finalists = sorted(
        (trial for by_value in ranked.values() for trial in by_value[1:]),
        key=lambda trial: (-trial.value, trial.number),
    )
    return [*defaults, *best, *other_finalists[: max(count - len(best), 0)]]


def _distinct_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Return complete trials that are not defaults, each set of settings once."""
    distinct: dict[str, Trial] = {}
    for trial in trials:
        if trial.state == "complete" and not trial.is_default:
            distinct.setdefault(repr(sorted(trial.settings.items())), trial)
    return list(distinct.values())


def choose_finalist(
    trials: Sequence[Trial],
    people: Sequence[Ints],
    seeds: Sequence[int],
    fits: FitExecutor,
    progress: Callable[[int, int], None],
) -> TuningDecision:
    """Fit every finalist on every split under every seed, and choose.

    Args:
        trials: the first one is the reference.
        people: of each split, the person of each held-out request; −1 for unknown.
    """
    splits = range(len(people))
    jobs = [
        (index, split, seed) for index in range(len(trials)) for split in splits for seed in seeds
    ]
    progress(0, len(jobs))
    pending: dict[Future[FitResult], tuple[int, int, int]] = {}
    for trial_index, split, seed in jobs:
        trial = trials[trial_index]
        pending[fits.submit(FitSpec(trial.architecture, trial.settings, split, seed))] = (
            trial_index,
            split,
            seed,
        )
        progress(sum(future.done() for future in pending), len(jobs))
    results: dict[tuple[int, int, int], FitResult] = {}
    for future in as_completed(pending):
        results[pending[future]] = future.result()
        progress(len(results), len(jobs))
    person = np.concatenate(
        [
            np.where(
                split_people < 0,
                -1 - np.arange(len(split_people)) - 10_000_000 * split_index,
                split_people,
            )
            for split_index, split_people in enumerate(people)
        ]
    )
    bootstrap = Bootstrap(np.unique(person, return_inverse=True)[1])

    def cells(index: int) -> list[list[FitResult]]:
        return [[results[index, split, seed] for seed in seeds] for split in splits]

    reference = cells(0)
    reference_means = np.array([[result.mean for result in row] for row in reference]).mean(
        axis=1, keepdims=True
    )
    finalists = [
        _score_finalist(trial, cells(trial_index), reference_means, reference, bootstrap)
        for trial_index, trial in enumerate(trials)
    ]
    ordered = tuple(sorted(finalists, key=lambda trial: -trial.score))
    return _choose_winner(ordered, finalists[0])


def _score_finalist(
    trial: Trial,
    cells: Sequence[Sequence[FitResult]],
    reference_means: Floats,
    reference: Sequence[Sequence[FitResult]],
    bootstrap: Bootstrap,
) -> Finalist:
    quality = np.array([[result.mean for result in row] for row in cells])
    gains = quality - reference_means
    qualities, long_tail = (
        [_by_request(results, name) for results in (cells, reference)]
        for name in ("quality", "tail")
    )
    spread = float(gains.std(ddof=1)) if gains.size > 1 else 0.0
    seconds = float(np.mean([result.seconds for row in cells for result in row]))
    tail_intervals = bootstrap.mean(long_tail[0]), bootstrap.difference(*long_tail)
    return Finalist(
        trial,
        quality,
        round(float(gains.mean()), 12) + 0.0,
        spread,
        bootstrap.difference(*qualities),
        *tail_intervals,
        seconds,
    )


def _by_request(cells: Sequence[Sequence[FitResult]], name: str) -> Floats:
    """Return a metric of each request over all splits, averaged over seeds."""
    return np.concatenate(
        [np.mean([getattr(result, name) for result in row], axis=0) for row in cells]
    )


def _choose_winner(ordered: tuple[Finalist, ...], reference: Finalist) -> TuningDecision:
    best = next((finalist for finalist in ordered if finalist is not reference), reference)
    cells = f"{reference.quality.shape[0]} splits and {reference.quality.shape[1]} seeds"
    if best is reference:
        return TuningDecision(
            ordered, reference, reference, "the defaults stay: no trial was fitted for all splits"
        )
    if reference.quality.size < 2:
        summary = (
            f"{best.name} gains {best.gain:+.4f} over {reference.name} on one split under one seed"
        )
        return TuningDecision(
            ordered,
            reference,
            reference,
            f"the defaults stay: {summary}, which does not tell how much it varies",
        )
    summary = (
        f"{best.name} gains {best.gain:+.4f} over {reference.name}, with a spread of "
        f"{best.spread:.4f} over {cells}"
    )
    if best.score > 0:
        return TuningDecision(ordered, reference, best, f"{summary}: more than it varies by")
    return TuningDecision(
        ordered,
        reference,
        reference,
        f"the defaults stay: {summary}, which is no more than it varies by",
    )
