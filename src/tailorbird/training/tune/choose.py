"""What is taken in the end: the best few, fitted again under several seeds on every split, beside
the defaults.

    gain of a cell (split, seed) = NDCG@10 − mean over seeds of the reference's on that split       reference: the first defaults
    taken: the largest mean gain − its spread over cells, if that is above 0; else the defaults stay

The best of many trials is partly the luckiest of them, on these splits and under this seed. Another
seed and the other splits do not share the luck, so a setting that is ahead by less than it varies
is not taken. Figures here are still of rows that were chosen by: what tuning is worth is told by
the test part, which `tailorbird train` judges on.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.training.bootstrap import Bootstrap, Interval
from tailorbird.training.tune.fits import Fit, Fits, Found
from tailorbird.training.tune.study import Trial

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Finalist:
    """One of the last few.

    Attributes:
        quality: shape (splits, seeds), NDCG@10.
        gain: mean over cells of what it is above the reference; spread: their standard deviation.
        interval: of the gain over people, all splits together; the mean over seeds stands for a
        request. tail, tail_gain: the same figure where only items of the long tail count, and its
        gain. They have no say.
        seconds: mean of a fit.
    """

    trial: Trial
    quality: Floats
    gain: float
    spread: float
    interval: Interval
    tail: Interval
    tail_gain: Interval
    seconds: float

    @property
    def score(self) -> float:
        return self.gain - self.spread

    @property
    def name(self) -> str:
        return (
            f"{self.trial.architecture} "
            f"{'defaults' if self.trial.default else f'trial {self.trial.number}'}"
        )

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        ends = {"gain": self.gain, "spread": self.spread, "score": self.score}
        span = {
            "gain_low": self.interval.low,
            "gain_high": self.interval.high,
            "ndcg_10": float(self.quality.mean()),
        }
        for name, each in (("ndcg_10_long_tail", self.tail), ("gain_long_tail", self.tail_gain)):
            span |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        figures = {
            name: round(float(value), 6) if np.isfinite(value) else None
            for name, value in (ends | span).items()
        }
        cells = [[round(float(each), 6) for each in row] for row in self.quality]
        return {
            "name": self.name,
            "architecture": self.trial.architecture,
            "number": self.trial.number,
            "default": self.trial.default,
        } | (
            figures
            | {
                "cells": cells,
                "seconds": round(self.seconds, 3),
                "settings": dict(self.trial.settings),
            }
        )


@dataclass(frozen=True)
class Choice:
    """Attributes:
    finalists: best score first.
    taken: the one that is taken; why: in a sentence.
    """

    finalists: tuple[Finalist, ...]
    reference: Finalist
    taken: Finalist
    why: str


def finalists_of(trials: Mapping[str, Sequence[Trial]], count: int) -> list[Trial]:
    """The defaults of every architecture, the best trial of each, and the best of all others up to
    `count` that are no defaults.
    """
    defaults = [
        next(one for one in each if one.default)
        for each in trials.values()
        if any(one.default for one in each)
    ]
    ranked = {
        name: sorted(_others(each), key=lambda one: (-one.value, one.number))
        for name, each in trials.items()
    }
    best = [each[0] for each in ranked.values() if each]
    rest = sorted(
        (one for each in ranked.values() for one in each[1:]),
        key=lambda one: (-one.value, one.number),
    )
    return [*defaults, *best, *rest[: max(count - len(best), 0)]]


def _others(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials that are no defaults, each set of settings once."""
    found: dict[str, Trial] = {}
    for one in trials:
        if one.state == "complete" and not one.default:
            found.setdefault(repr(sorted(one.settings.items())), one)
    return list(found.values())


def choose(
    trials: Sequence[Trial],
    people: Sequence[Ints],
    seeds: Sequence[int],
    fits: Fits,
    progress: Callable[[int, int], None],
) -> Choice:
    """Fit every finalist on every split under every seed, and choose.

    Args:
        trials: the first one is the reference.
        people: of each split, who asked each judged request; −1 for nobody.
    """
    splits = range(len(people))
    asked = [
        (place, split, seed) for place in range(len(trials)) for split in splits for seed in seeds
    ]
    progress(0, len(asked))
    wanted: dict[Future[Found], tuple[int, int, int]] = {}
    for place, split, seed in asked:
        one = trials[place]
        wanted[fits.submit(Fit(one.architecture, one.settings, split, seed))] = (place, split, seed)
        progress(sum(future.done() for future in wanted), len(asked))
    found: dict[tuple[int, int, int], Found] = {}
    for future in as_completed(wanted):
        found[wanted[future]] = future.result()
        progress(len(found), len(asked))
    person = np.concatenate(
        [
            np.where(each < 0, -1 - np.arange(len(each)) - 10_000_000 * n, each)
            for n, each in enumerate(people)
        ]
    )
    bootstrap = Bootstrap(np.unique(person, return_inverse=True)[1])

    def cells(place: int) -> list[list[Found]]:
        return [[found[place, split, seed] for seed in seeds] for split in splits]

    reference = cells(0)
    level = np.array([[each.mean for each in row] for row in reference]).mean(axis=1, keepdims=True)
    finalists = [
        _finalist(one, cells(place), level, reference, bootstrap)
        for place, one in enumerate(trials)
    ]
    ordered = tuple(sorted(finalists, key=lambda one: -one.score))
    return _taken(ordered, finalists[0])


def _finalist(
    trial: Trial,
    cells: Sequence[Sequence[Found]],
    level: Floats,
    reference: Sequence[Sequence[Found]],
    bootstrap: Bootstrap,
) -> Finalist:
    quality = np.array([[each.mean for each in row] for row in cells])
    gains = quality - level
    whole, tail = (
        [_by_request(each, name) for each in (cells, reference)] for name in ("quality", "tail")
    )
    spread = float(gains.std(ddof=1)) if gains.size > 1 else 0.0
    seconds = float(np.mean([each.seconds for row in cells for each in row]))
    of_tail = bootstrap.mean(tail[0]), bootstrap.difference(*tail)
    return Finalist(
        trial,
        quality,
        round(float(gains.mean()), 12) + 0.0,
        spread,
        bootstrap.difference(*whole),
        *of_tail,
        seconds,
    )


def _by_request(cells: Sequence[Sequence[Found]], name: str) -> Floats:
    """A figure of each request of all splits, the mean over seeds."""
    return np.concatenate([np.mean([getattr(each, name) for each in row], axis=0) for row in cells])


def _taken(ordered: tuple[Finalist, ...], reference: Finalist) -> Choice:
    best = next((one for one in ordered if one is not reference), reference)
    cells = f"{reference.quality.shape[0]} splits and {reference.quality.shape[1]} seeds"
    if best is reference:
        return Choice(
            ordered, reference, reference, "the defaults stay: no trial was fitted for all splits"
        )
    if reference.quality.size < 2:
        told = (
            f"{best.name} gains {best.gain:+.4f} over {reference.name} on one split under one seed"
        )
        return Choice(
            ordered,
            reference,
            reference,
            f"the defaults stay: {told}, which does not tell how much it varies",
        )
    told = (
        f"{best.name} gains {best.gain:+.4f} over {reference.name}, with a spread of "
        f"{best.spread:.4f} over {cells}"
    )
    if best.score > 0:
        return Choice(ordered, reference, best, f"{told}: more than it varies by")
    return Choice(
        ordered,
        reference,
        reference,
        f"the defaults stay: {told}, which is no more than it varies by",
    )
