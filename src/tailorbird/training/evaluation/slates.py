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
        request_index: its number in the data set.
        item_codes: (n,), codes of the candidates that the slot may show.
        distributions: scorer → distribution of slates, places in `item_codes`.
        predictions: scorer → its predicted outcome of each (n,), of those that predict it.
    """

    request_index: int
    item_codes: Ints
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
        self._data = data
        self._index_series = index_series
        self._scorers = scorers
        self._outcome = outcome
        self._history = History(features, training_data.events)
        self._slot = slot = replayable_slot(slot)
        self._rules = compile_rules(slot.rules)
        self._boosts = [(boost.factor, compile_rules([boost.when])) for boost in slot.boosts]
        self._allowed_keys = hash64s(sorted(slot.allow))
        self._denied_keys = hash64s(sorted(slot.deny))

    def replay_responses(self, replay: Replay) -> Iterator[ReplayedResponse]:
        """Yield what each scorer would show, response by response."""
        for chunk in replay.iterate_candidates(self._data):
            first_request = 0
            candidates = _candidate_rows(self._data, chunk)
            for feature_chunk in iterate_features_from(
                self._history, candidates, rows_max=CHUNK_ROWS
            ):
                results_by_scorer = {
                    name: scorer(feature_chunk) for name, scorer in self._scorers.items()
                }
                requests = feature_chunk.data
                for index in range(requests.request_count):
                    rows = slice(requests.offsets[index], requests.offsets[index + 1])
                    yield self._replay_response(
                        int(chunk.request_indexes[first_request + index]),
                        requests.item_codes[rows],
                        {name: value[rows] for name, (_, value) in results_by_scorer.items()},
                        {
                            name: heads[self._outcome][rows]
                            for name, (heads, _) in results_by_scorer.items()
                            if self._outcome in heads
                        },
                    )
                first_request += requests.request_count

    def _replay_response(
        self,
        request_index: int,
        item_codes: Ints,
        values: Mapping[str, Floats],
        predictions: Mapping[str, Floats],
    ) -> ReplayedResponse:
        data = self._data
        item_keys = data.item_vocabulary.keys[item_codes]
        index = self._index_series.indexes[
            int(self._index_series.index_numbers_at(data.t[request_index : request_index + 1])[0])
        ]
        index_rows = index.find(item_keys)
        rule_request = RuleRequest(index, np.maximum(index_rows, 0), int(data.t[request_index]))
        visible_candidates = np.flatnonzero(self._visible_mask(item_keys, index_rows, rule_request))
        item_codes = item_codes[visible_candidates]
        index_rows = index_rows[visible_candidates]
        if not item_codes.size:
            return ReplayedResponse(request_index, item_codes, {}, {})
        rule_request = replace(rule_request, rows=np.maximum(index_rows, 0))
        slate_spec = SlateSpec(index, index_rows, self._slot.all_quotas, self._slot.diversity)
        constraints = slate_spec.constraints()
        boost_factors = [(factor, rules.mask(rule_request)) for factor, rules in self._boosts]
        slate_size = int(data.offsets[request_index + 1] - data.offsets[request_index])
        distributions = {}
        for name, value in values.items():
            boosted_values = (
                apply_boosts(value[visible_candidates], boost_factors)
                if boost_factors
                else value[visible_candidates]
            )
            distributions[name] = self._slate_distribution(
                boosted_values, slate_size, slate_spec, constraints
            )
        visible_predictions = {
            name: prediction[visible_candidates] for name, prediction in predictions.items()
        }
        return ReplayedResponse(request_index, item_codes, distributions, visible_predictions)

    def _visible_mask(
        self,
        item_keys: npt.NDArray[np.uint64],
        index_rows: npt.NDArray[np.intp],
        rule_request: RuleRequest,
    ) -> npt.NDArray[np.bool_]:
        mask = self._rules.mask(rule_request) | (index_rows < 0)
        if self._allowed_keys.size:
            mask &= np.isin(item_keys, self._allowed_keys)
        return mask & ~np.isin(item_keys, self._denied_keys)

    def _slate_distribution(
        self, values: Floats, slate_size: int, spec: SlateSpec, constraints: SlateConstraints
    ) -> SlateDistribution:
        """Return the distribution of slates, as `serving.pipeline.stages` chooses from it."""
        order = arrange_slate(values, slate_size, spec, constraints)
        return slate_distribution(order, slate_size, self._slot.explore, values, constraints)


def replayable_slot(slot: Slot) -> Slot:
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


def mean_predictions_by_position(
    distribution: SlateDistribution,
    predictions: Sequence[Floats],
    position_count: int,
    rng: np.random.Generator,
    draw_count: int,
) -> Floats:
    """Return the mean predictions of what is shown at each position, (predictions, size).

    Args:
        predictions: by model, of each candidate.
        draw_count: slates over which they are averaged.
    """
    totals = np.zeros((len(predictions), position_count))
    for _ in range(draw_count):
        slate = distribution.draw(rng)
        for row, predicted in zip(totals, predictions, strict=True):
            row[: slate.size] += predicted[slate]
    return totals / draw_count


def _candidate_rows(data: Dataset, chunk: CandidateChunk) -> Dataset:
    """Return requests with the candidates of a chunk as rows."""
    requests = data.take(chunk.request_indexes)
    n = len(chunk.item_codes)
    return replace(
        requests,
        offsets=np.concatenate(([0], np.cumsum(chunk.sizes))).astype(np.int64),
        item_codes=chunk.item_codes,
        position=np.zeros(n, np.int32),
        propensity=np.ones(n),
        labels={},
        weight=np.ones(n),
        live_values=chunk.live_values,
    )
