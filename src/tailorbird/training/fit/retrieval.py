"""Choice of candidate retrieval on the validation part: tables alone, or also a tower's vectors.

Tables are the lists that candidate sources keep, such as the most popular items.

Both ways get equally many candidates and are compared by the recall of what people chose next,
whatever they had been shown. `auto` uses vectors if the lower end of the paired gain in recall is
above 0 and a request costs at most `COST_US_MAX` more. Everything, including the tower, is as of
the end of the training part. Towers for the other indexes are learned only if vectors are used.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from tailorbird.candidates.merge import bound_limits
from tailorbird.candidates.protocol import CandidateRequest, RankedList
from tailorbird.errors import UsageError
from tailorbird.features import FeatureSet
from tailorbird.ranking.encode.computed import Keys, Times
from tailorbird.ranking.encode.live import NO_LIVE_COLUMNS
from tailorbird.ranking.slot import Slot
from tailorbird.ranking.tower import add_sequence_source
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.replay import Replay, VectorRetriever
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.dataset.sampling import thin_evenly
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.fit.towers import (
    TowerLearner,
    TowerSettings,
    add_spaces,
    explain_missing_tower,
    make_learner,
)

Floats = npt.NDArray[np.float64]
RetrievalChoiceName = Literal["auto", "tables", "sequence"]

RETRIEVAL_CHOICES: tuple[RetrievalChoiceName, ...] = ("auto", "tables", "sequence")
TABLES = "tables"
VECTOR_SHARES = (1 / 3, 2 / 3)  # shares of the candidates that may come from vectors
COMPARED_REQUESTS_MAX = 1_000
COST_US_MAX = 3_000.0
LEARNED_EVENTS_MIN = 100  # events without which nothing is learned, even if requested


@dataclass(frozen=True)
class RetrievalChoice:
    """The chosen candidate retrieval.

    Attributes:
        index_series: the indexes, with vectors if these are used.
        learner: learner of the tower, None without vectors.
        summary: reason as a sentence; "" if not requested.
        measurements: source or way → recall with its interval, candidates, microseconds; as JSON.
    """

    index_series: IndexSeries
    learner: TowerLearner | None = None
    summary: str = ""
    measurements: Mapping[str, Any] = field(default_factory=dict)

    def source_limits(self, slot: Slot) -> dict[str, int]:
        """Return the sources of the slot as a server with this choice queries them."""
        share = None if self.learner is None else self.learner.vector_share
        return bound_limits(
            slot.sources if share is None else add_sequence_source(slot.sources, share)
        )

    def retriever(self) -> VectorRetriever | None:
        """Return the retriever by vectors, None without them."""
        return None if self.learner is None else make_retriever(self.index_series)


@dataclass(frozen=True)
class _PersonSequence:
    """The sequence of one person."""

    item: Keys
    ts: Times


def make_retriever(index_series: IndexSeries) -> VectorRetriever:
    """Return a retriever of items by vectors over the newest index before a time."""

    def retrieve(t: int, request: CandidateRequest, limit: int) -> RankedList:
        space = index_series.space(int(index_series.index_numbers_at(np.array([t]))[0]))
        if space is None:
            return RankedList(np.zeros(0, np.uint64), np.zeros(0))
        nearest = space.nearest(
            space.query(_PersonSequence(request.recent, request.recent_ts)), limit
        )
        # The index also holds items that first appeared before the next index.
        is_visible = space.index.first_seen[nearest.rows] < t
        return RankedList(space.index.keys[nearest.rows[is_visible]], nearest.scores[is_visible])

    return retrieve


def choose_retrieval(
    training_data: TrainingData,
    features: FeatureSet,
    slot: Slot,
    index_series: IndexSeries,
    validation_from: int,
    choice: RetrievalChoiceName,
    settings: TowerSettings,
    *,
    validation: Dataset,
    seed: int,
    champion_share: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RetrievalChoice:
    """Choose between tables and vectors, and learn towers for the indexes if vectors are used.

    Args:
        validation_from: start of the validation part, of which there must be an index.
        validation: requests of the validation part.
        champion_share: share of vectors of the model that is continued, 0 without; taken without a
            comparison.

    Raises:
        UsageError: vectors were requested but are unavailable.
    """
    if champion_share:
        learner = make_learner(training_data, features, index_series, settings, seed)
        assert learner is not None  # as for the model that is continued
        learner.vector_share = champion_share
        learned_series = add_spaces(
            index_series, learner, validation_from, LEARNED_EVENTS_MIN, progress
        )
        summary = f"{champion_share:.0%} of the candidates come from vectors, as the champion's do"
        return RetrievalChoice(learned_series, learner, summary)
    if choice not in RETRIEVAL_CHOICES:
        raise UsageError(
            f"there is no retrieval {choice!r}", fix=f"use one of {', '.join(RETRIEVAL_CHOICES)}"
        )
    if choice == "tables" or champion_share == 0.0:
        return RetrievalChoice(index_series)
    reason = _explain_unavailable(slot, features)
    learner = (
        None if reason else make_learner(training_data, features, index_series, settings, seed)
    )
    events_min = settings.interactions_min if choice == "auto" else LEARNED_EVENTS_MIN
    if learner is not None and learner.count_interactions(validation_from) < events_min:
        reason = f"the training part has fewer than {events_min:,} events to learn from"
    if reason or learner is None:
        if choice == "sequence":
            raise UsageError(
                f"retrieval by vectors cannot be had: {reason}", fix="--retrieval tables"
            )
        return RetrievalChoice(index_series, summary=f"candidates come from tables alone: {reason}")
    progress(0, 1)
    trial_series = _series_at(index_series, learner, validation_from)
    with threadpool_limits(1, user_api="blas"):  # as in a server, or busy cores would change costs
        best_share, gain, measurements = compare_retrieval(
            training_data=training_data,
            features=features,
            slot=slot,
            index_series=trial_series,
            validation=validation,
            seed=seed,
        )
    extra_cost_us = measurements[_vector_label(best_share)]["us"] - measurements[TABLES]["us"]
    gain_note = (
        f"{gain.signed_text} in recall with as many candidates, for {extra_cost_us:+,.0f} µs"
    )
    progress(1, 1)
    if choice == "auto" and not (gain.has_bounds and gain.low > 0 and extra_cost_us <= COST_US_MAX):
        return RetrievalChoice(
            index_series,
            None,
            f"candidates come from tables alone: vectors would bring {gain_note}",
            measurements,
        )
    learner = make_learner(training_data, features, index_series, settings, seed)
    assert learner is not None  # as at the first call
    learner.vector_share = best_share
    learned_series = add_spaces(index_series, learner, validation_from, events_min, progress)
    choice_note = ", as asked for" if choice == "sequence" else ""
    return RetrievalChoice(
        learned_series,
        learner,
        f"{best_share:.0%} of the candidates come from vectors{choice_note}: {gain_note}",
        measurements,
    )


def _series_at(index_series: IndexSeries, learner: TowerLearner, as_of: int) -> IndexSeries:
    """Return the index at the start of the validation part, with vectors as of that moment."""
    index_number = int(index_series.index_numbers_at(np.array([as_of]))[0])
    index_as_of = int(index_series.as_of_times[index_number])
    index = index_series.indexes[index_number]
    return IndexSeries(
        index_series.as_of_times[index_number : index_number + 1],
        (index,),
        (learner.build_space(index, index_as_of),),
    )


def _explain_unavailable(slot: Slot, features: FeatureSet) -> str:
    """Return why vectors are unavailable, "" if they are not."""
    if "sequence" not in add_sequence_source(slot.sources, VECTOR_SHARES[0]):
        return f"slot {slot.name} does not ask for what goes with a person's items"
    return explain_missing_tower(features)


def compare_retrieval(
    training_data: TrainingData,
    features: FeatureSet,
    slot: Slot,
    index_series: IndexSeries,
    validation: Dataset,
    seed: int,
) -> tuple[float, Interval, dict[str, dict[str, float]]]:
    """Compare tables with vectors.

    Returns:
        The better share of vectors, its gain in recall over tables alone, and recall and cost of
        each source and way.
    """
    data = validation.take(
        thin_evenly(np.arange(validation.request_count), COMPARED_REQUESTS_MAX, seed)
    )
    limits_by_way: dict[str, dict[str, int]] = {
        TABLES: bound_limits({name: n for name, n in slot.sources.items() if name != "sequence"})
    }
    limits_by_way |= {
        _vector_label(share): bound_limits(add_sequence_source(slot.sources, share))
        for share in VECTOR_SHARES
    }
    candidate_limit = sum(limits_by_way[TABLES].values())
    limits_by_way |= {
        name: {name: candidate_limit} for name in ("sequence", *limits_by_way[TABLES])
    }
    retriever = make_retriever(index_series)
    replay = Replay(
        training_data.events_with_profiles,
        features,
        slot,
        training_data.item_vocabulary,
        NO_LIVE_COLUMNS,
        retriever=retriever,
    )
    recalls = {name: np.full(data.request_count, np.nan) for name in limits_by_way}
    durations: dict[str, list[float]] = {name: [] for name in limits_by_way}
    for request_index, lists in replay.iterate_request_lists(data, replay.read_sequences(data)):
        chosen_codes = data.item_codes[
            data.offsets[request_index] : data.offsets[request_index + 1]
        ]
        for name, sources in limits_by_way.items():
            start = time.process_time()  # CPU time, so that other processes do not matter
            candidate_codes = replay.merge_sources(int(data.t[request_index]), lists, sources).rows
            durations[name].append(time.process_time() - start)
            recalls[name][request_index] = (
                float(np.isin(chosen_codes, candidate_codes).mean())
                if len(chosen_codes)
                else np.nan
            )
    user_codes = np.where(
        data.person_codes < 0, -1 - np.arange(data.request_count), data.person_codes
    )
    bootstrap = Bootstrap(np.unique(user_codes, return_inverse=True)[1], seed=seed)
    best_share = max(
        VECTOR_SHARES, key=lambda share: (np.nansum(recalls[_vector_label(share)]), -share)
    )
    measurements = {
        name: _to_measurements(
            bootstrap.mean(recall), durations[name], sum(limits_by_way[name].values())
        )
        for name, recall in recalls.items()
    }
    return (
        best_share,
        bootstrap.difference(recalls[_vector_label(best_share)], recalls[TABLES]),
        measurements,
    )


def _vector_label(share: float) -> str:
    return f"{share:.0%} by vectors"


def _to_measurements(
    recall: Interval, durations: list[float], candidate_count: int
) -> dict[str, float]:
    median_us = float(np.median(durations)) * 1e6 if durations else float("nan")
    values = {
        "recall": recall.value,
        "recall_low": recall.low,
        "recall_high": recall.high,
        "us": median_us,
    }
    return {name: round(value, 6) for name, value in values.items()} | {
        "candidates": candidate_count
    }
