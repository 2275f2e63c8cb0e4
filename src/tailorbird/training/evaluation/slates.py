"""Distributions of slates that scorers make of logged requests, with the candidates of their time.

Candidates, features and scores come from the code that `evaluate` uses, the order and its
propensities from the code that serves (`ranking.policy`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.events import hash64s
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import History
from tailorbird.ranking.policy.diversity import SlateConstraints
from tailorbird.ranking.policy.policy import SlateSpec, apply_boosts, arrange_slate
from tailorbird.ranking.policy.rule_columns import RuleRequest
from tailorbird.ranking.policy.rules import compile_rules
from tailorbird.ranking.policy.slate_distribution import SlateDistribution, slate_distribution
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.matrix import iterate_features_from
from tailorbird.training.dataset.replay import CandidateChunk, Replay
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.evaluation.evaluate import CHUNK_ROWS, Scorer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReplayedResponse:
    """Slates that each scorer would show in place of one logged response.

    Attributes:
        request: its number in the data set.
        items: (n,), codes of the candidates that the slot may show.
        distributions: scorer → distribution of slates, places in `items`.
        predictions: scorer → its predicted outcome of each (n,), of those that predict it.
    """

    request: int
    items: Ints
    distributions: Mapping[str, SlateDistribution]
    predictions: Mapping[str, Floats]


class SlateReplay:
    """Replays responses of a slot for several scorers."""

    def __init__(
        self,
        features: FeatureSet,
        slot: Slot,
        data: Dataset,
        index_series: IndexSeries,
        scorers: Mapping[str, Scorer],
        outcome: str,
        training_data: TrainingData,
    ) -> None:
        self._data, self._series, self._scorers = data, index_series, scorers
        self._outcome = outcome
        self._history = History(features, training_data.events)
        self._slot = slot = replayed_settings(slot)
        self._rules = compile_rules(slot.rules)
        self._boosts = [(boost.factor, compile_rules([boost.when])) for boost in slot.boosts]
        self._allow, self._deny = hash64s(sorted(slot.allow)), hash64s(sorted(slot.deny))

    def responses(self, replay: Replay) -> Iterator[ReplayedResponse]:
        """Yield what each scorer would show, response by response."""
        for chunk in replay.draw_candidates(self._data):
            start = 0
            candidates = _candidate_rows(self._data, chunk)
            for piece in iterate_features_from(self._history, candidates, rows_max=CHUNK_ROWS):
                scored = {name: scorer(piece) for name, scorer in self._scorers.items()}
                part = piece.part
                for index in range(part.requests):
                    rows = slice(part.offsets[index], part.offsets[index + 1])
                    yield self._respond(
                        int(chunk.request[start + index]),
                        part.item[rows],
                        {name: value[rows] for name, (_, value) in scored.items()},
                        {
                            name: heads[self._outcome][rows]
                            for name, (heads, _) in scored.items()
                            if self._outcome in heads
                        },
                    )
                start += part.requests

    def _respond(
        self,
        request: int,
        items: Ints,
        values: Mapping[str, Floats],
        predictions: Mapping[str, Floats],
    ) -> ReplayedResponse:
        data = self._data
        keys = data.items.keys[items]
        index = self._series.indexes[
            int(self._series.positions_at(data.t[request : request + 1])[0])
        ]
        places = index.find(keys)
        inputs = RuleRequest(index, np.maximum(places, 0), int(data.t[request]))
        visible = np.flatnonzero(self._visible(keys, places, inputs))
        items, places = items[visible], places[visible]
        if not items.size:
            return ReplayedResponse(request, items, {}, {})
        inputs = replace(inputs, rows=np.maximum(places, 0))
        spec = SlateSpec(index, places, self._slot.all_quotas, self._slot.diversity)
        constraints = spec.constraints()
        factors = [(factor, rules.mask(inputs)) for factor, rules in self._boosts]
        size = int(data.offsets[request + 1] - data.offsets[request])
        distributions = {}
        for name, value in values.items():
            boosted = apply_boosts(value[visible], factors) if factors else value[visible]
            distributions[name] = self._distribution(boosted, size, spec, constraints)
        predicted = {name: prediction[visible] for name, prediction in predictions.items()}
        return ReplayedResponse(request, items, distributions, predicted)

    def _visible(
        self, keys: npt.NDArray[np.uint64], positions: npt.NDArray[np.intp], inputs: RuleRequest
    ) -> npt.NDArray[np.bool_]:
        mask = self._rules.mask(inputs) | (positions < 0)
        if self._allow.size:
            mask &= np.isin(keys, self._allow)
        return mask & ~np.isin(keys, self._deny)

    def _distribution(
        self, values: Floats, size: int, spec: SlateSpec, constraints: SlateConstraints
    ) -> SlateDistribution:
        """Return the distribution of slates, as `serving.pipeline.stages` chooses from it."""
        order = arrange_slate(values, size, spec, constraints)
        return slate_distribution(order, size, self._slot.explore, values, constraints)


def replayed_settings(slot: Slot) -> Slot:
    """Return a slot with what a replay uses alone, whatever its name."""
    where = f"slot {slot.name}"

    def is_item_only(text: str) -> bool:
        return all(rule.is_item_only for rule in compile_rules([text], where=where).rules)

    return Slot(
        "replayed",
        objective=slot.objective,
        sources=slot.sources,
        rules=[rule for rule in slot.rules if is_item_only(rule)],
        hide_seen=slot.hide_seen,
        per_category=slot.per_category,
        quotas=slot.quotas,
        diversity=slot.diversity,
        explore=slot.explore,
        boosts=[boost for boost in slot.boosts if is_item_only(boost.when)],
        allow=slot.allow,
        deny=slot.deny,
    )


def expected_by_position(
    distribution: SlateDistribution,
    predictions: Sequence[Floats],
    size: int,
    rng: np.random.Generator,
    draws: int,
) -> Floats:
    """Return the mean predictions of what is shown at each position, (predictions, size).

    Args:
        predictions: by model, of each candidate.
        draws: slates over which they are averaged.
    """
    total = np.zeros((len(predictions), size))
    for _ in range(draws):
        slate = distribution.draw(rng)
        for row, predicted in zip(total, predictions, strict=True):
            row[: slate.size] += predicted[slate]
    return total / draws


def _candidate_rows(data: Dataset, chunk: CandidateChunk) -> Dataset:
    """Return requests with the candidates of a chunk as rows."""
    requests, n = data.take(chunk.request), len(chunk.item)
    return replace(
        requests,
        offsets=np.concatenate(([0], np.cumsum(chunk.size))).astype(np.int64),
        item=chunk.item,
        position=np.zeros(n, np.int32),
        propensity=np.ones(n),
        labels={},
        weight=np.ones(n),
        live=chunk.live,
    )
