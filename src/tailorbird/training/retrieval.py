"""Where candidates come from: tables alone, or a tower's vectors too. Chosen on the validation
part, at the cost that is measured there.

Asked is what people did next, whatever they had been shown: of each question, whether it is among
the candidates, of which both ways have equally many. `auto` takes vectors where the lower end of
the paired gain in recall is above 0 and a request costs at most `COST_US_MAX` more. Everything is
as of the end of the training part, the tower included: it alone is learned to choose by, and those
of the other indexes only where vectors are taken.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.merge import bounded
from tailorbird.candidates.protocol import CandidateRequest, RankedList
from tailorbird.errors import UsageError
from tailorbird.features import FeatureSet
from tailorbird.ranking.computed import Keys, Times
from tailorbird.ranking.live import NOTHING_LIVE
from tailorbird.ranking.slot import Slot
from tailorbird.ranking.tower import with_sequence
from tailorbird.training.bootstrap import Bootstrap, Interval
from tailorbird.training.dataset import Dataset
from tailorbird.training.indexes import IndexSeries
from tailorbird.training.replaying import Near, Replay
from tailorbird.training.rows import Material
from tailorbird.training.thinned import thinned
from tailorbird.training.towers import Learner, TowerSettings, learner_for, why_none, with_spaces

Floats = npt.NDArray[np.float64]
Choice = Literal["auto", "tables", "sequence"]

CHOICES: tuple[Choice, ...] = ("auto", "tables", "sequence")
TABLES = "tables"
SHARES = (1 / 3, 2 / 3)  # of the candidates, that may come from vectors
QUESTIONS = 1_000
COST_US_MAX = 3_000.0
FEWEST = 100  # events, below which nothing is learned even if asked for


@dataclass(frozen=True)
class Chosen:
    """Where candidates come from.

    Attributes:
        series: the indexes, with vectors where these were taken.
        learner: of the tower, None without vectors.
        told: why, as a sentence; "" where nobody asked.
        figures: source or way → recall with its interval, candidates, microseconds; as JSON.
    """

    series: IndexSeries
    learner: Learner | None = None
    told: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def sources(self, slot: Slot) -> dict[str, int]:
        """The sources of the slot as a server with this choice asks them."""
        share = None if self.learner is None else self.learner.share
        return bounded(slot.sources if share is None else with_sequence(slot.sources, share))

    def near(self) -> Near | None:
        """What gives candidates by vectors, as of a time; None without them."""
        return None if self.learner is None else nearest_in(self.series)


@dataclass(frozen=True)
class _One:
    """One person's sequence."""

    item: Keys
    ts: Times


def nearest_in(series: IndexSeries) -> Near:
    """Return what is nearest to a person by the vectors over the newest index that a time may see."""

    def near(t: int, request: CandidateRequest, most: int) -> RankedList:
        space = series.space(int(series.place_of(np.array([t]))[0]))
        if space is None:
            return RankedList(np.zeros(0, np.uint64), np.zeros(0))
        found = space.nearest(space.ask(_One(request.recent, request.recent_ts)), most)
        came = (
            space.index.first_seen[found.rows] < t
        )  # the index holds what came until the next one
        return RankedList(space.index.keys[found.rows[came]], found.scores[came])

    return near


def choose_retrieval(
    material: Material,
    features: FeatureSet,
    slot: Slot,
    series: IndexSeries,
    between: tuple[int, int],
    choice: Choice,
    settings: TowerSettings,
    *,
    held: Dataset,
    seed: int,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Chosen:
    """Learn towers for the indexes and take them, or not.

    Args:
        between: where the validation part begins and ends; an index must be of its beginning.
        held: the requests of the validation part.
    Raises:
        UsageError: vectors were asked for, and cannot be had.
    """
    if choice not in CHOICES:
        raise UsageError(
            f"there is no retrieval {choice!r}", fix=f"use one of {', '.join(CHOICES)}"
        )
    if choice == "tables":
        return Chosen(series)
    why = _why_not(slot, features)
    learner = None if why else learner_for(material, features, series, settings, seed)
    least = settings.interactions_min if choice == "auto" else FEWEST
    if learner is not None and learner.count(between[0]) < least:
        why = f"the training part has fewer than {least:,} events to learn from"
    if why or learner is None:
        if choice == "sequence":
            raise UsageError(f"retrieval by vectors cannot be had: {why}", fix="--retrieval tables")
        return Chosen(series, told=f"candidates come from tables alone: {why}")
    tell(0, 1)
    tried = _at_border(series, learner, between[0])
    best, gain, figures = compare(material, features, slot, tried, held, seed)
    cost = figures[_way(best)]["us"] - figures[TABLES]["us"]
    told = f"{gain.signed} in recall with as many candidates, for {cost:+,.0f} µs"
    tell(1, 1)
    if choice == "auto" and not (gain.known and gain.low > 0 and cost <= COST_US_MAX):
        return Chosen(
            series, None, f"candidates come from tables alone: vectors would bring {told}", figures
        )
    learner = learner_for(material, features, series, settings, seed)
    assert learner is not None  # there was one before
    learner.share = best
    made = with_spaces(series, learner, between[0], least, tell)
    asked = ", as asked for" if choice == "sequence" else ""
    return Chosen(
        made, learner, f"{best:.0%} of the candidates come from vectors{asked}: {told}", figures
    )


def _at_border(series: IndexSeries, learner: Learner, border: int) -> IndexSeries:
    """Return the index that is there when the validation part begins, with vectors as of that
    moment.
    """
    place = int(series.place_of(np.array([border]))[0])
    moment, index = int(series.moments[place]), series.indexes[place]
    return IndexSeries(series.moments[place : place + 1], (index,), (learner.space(index, moment),))


def _why_not(slot: Slot, features: FeatureSet) -> str:
    """Why vectors are out of the question, "" if they are not."""
    if "sequence" not in with_sequence(slot.sources, SHARES[0]):
        return f"slot {slot.name} does not ask for what goes with a person's items"
    return why_none(features)


def compare(
    material: Material,
    features: FeatureSet,
    slot: Slot,
    series: IndexSeries,
    held: Dataset,
    seed: int,
) -> tuple[float, Interval, dict[str, dict[str, float]]]:
    """Return the better share of vectors, its gain in recall over tables alone, and what each
    source and each way finds at which cost.
    """
    data = held.take(thinned(np.arange(held.requests), QUESTIONS, seed))
    ways: dict[str, dict[str, int]] = {
        TABLES: bounded({name: n for name, n in slot.sources.items() if name != "sequence"})
    }
    ways |= {_way(share): bounded(with_sequence(slot.sources, share)) for share in SHARES}
    total = sum(ways[TABLES].values())
    ways |= {name: {name: total} for name in ("sequence", *ways[TABLES])}
    near = nearest_in(series)
    replay = Replay(material.log, features, slot, material.codes, NOTHING_LIVE, near=near)
    found = {name: np.full(data.requests, np.nan) for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for question, lists in replay.asked(data, replay.sequences(data)):
        truth = data.item[data.offsets[question] : data.offsets[question + 1]]
        for name, sources in ways.items():
            start = time.process_time()  # so that what else the machine does decides nothing
            rows = replay.merged(int(data.t[question]), lists, sources).rows
            spent[name].append(time.process_time() - start)
            found[name][question] = float(np.isin(truth, rows).mean()) if len(truth) else np.nan
    person = np.where(data.person < 0, -1 - np.arange(data.requests), data.person)
    bootstrap = Bootstrap(np.unique(person, return_inverse=True)[1], seed=seed)
    best = max(SHARES, key=lambda share: (np.nansum(found[_way(share)]), -share))
    figures = {
        name: _figures(bootstrap.mean(hit), spent[name], sum(ways[name].values()))
        for name, hit in found.items()
    }
    return best, bootstrap.difference(found[_way(best)], found[TABLES]), figures


def _way(share: float) -> str:
    return f"{share:.0%} by vectors"


def _figures(recall: Interval, spent: list[float], count: int) -> dict[str, float]:
    us = float(np.median(spent)) * 1e6 if spent else float("nan")
    values = {
        "recall": recall.value,
        "recall_low": recall.low,
        "recall_high": recall.high,
        "us": us,
    }
    return {name: round(value, 6) for name, value in values.items()} | {"candidates": count}
