"""Off-policy evaluation of bundles: logged responses, replayed with the candidates of their time.

    response (t, p) ─► candidates ─► features ─► values of each bundle ─► order ─► propensities of
    the logged slate ─► weights by position ─► values of both policies, and their difference

Candidates, features and scores come from the code that `evaluate` uses, the order and its
propensities from the code that serves (`ranking.policy`). Clicks are attributed as in training.
Weights are by item and position, so the click at a position is taken to depend on its own item.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import hash64s, parse_duration, to_iso
from tailorbird.experiments.off_policy.evaluate import ONE_STEP, PolicyEvaluation, evaluate_policies
from tailorbird.experiments.off_policy.sample import (
    PolicySample,
    divide_probabilities,
    to_positions,
)
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import History
from tailorbird.lake import Lake
from tailorbird.pages.notebook import text_html
from tailorbird.ranking.policy.diversity import SlateConstraints
from tailorbird.ranking.policy.policy import SlateSpec, apply_boosts, arrange_slate
from tailorbird.ranking.policy.rule_columns import RuleRequest as RuleInputs
from tailorbird.ranking.policy.rules import compile_rules
from tailorbird.ranking.policy.slate_distribution import (
    SlateDistribution,
    find_places,
    slate_distribution,
)
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.logged_answers import dataset_from_responses
from tailorbird.training.dataset.matrix import iterate_features_from
from tailorbird.training.dataset.replay import CandidateChunk, Replay
from tailorbird.training.dataset.rows import Material
from tailorbird.training.evaluation.evaluate import ROWS_AT_ONCE, Scorer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DRAWS = 4  # slates of an exploring policy over which its predicted reward is averaged
HEADLINE = "dr"
FALLBACK_HEADLINE = "snips"


@dataclass(frozen=True)
class OffPolicyReport:
    """The values of two bundles per logged response, with intervals.

    Attributes:
        outcome: what counts as reward, such as `click`.
        ts_from, ts_to: of the responses, microseconds.
        rebuilt: share of the logged items that are among the replayed candidates.
    """

    slot: str
    new: str
    old: str
    outcome: str
    ts_from: int
    ts_to: int
    rebuilt: float
    evaluation: PolicyEvaluation
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The estimator that decides: `dr` with a model of the reward, otherwise `snips`."""
        return HEADLINE if HEADLINE in self.evaluation.difference else FALLBACK_HEADLINE

    @property
    def is_worse(self) -> bool:
        """Return whether the new bundle is worse, with the whole interval below 0."""
        difference = self.evaluation.difference[self.headline]
        return not difference.is_refused and difference.high < 0

    @property
    def summary(self) -> str:
        """The result in one line."""
        subject = f"{self.outcome}s per answer, estimated from the log ({ONE_STEP})"
        if refusal := self.evaluation.refusal:
            return f"{subject}: not told, {refusal}"
        difference = self.evaluation.difference[self.headline]
        return (
            f"{subject}: {self.evaluation.new[self.headline].value:.4f} against "
            f"{self.evaluation.old[self.headline].value:.4f} of {self.old}, a difference of "
            f"{difference.value:+.4f} ({difference.low:+.4f} – {difference.high:+.4f})"
        )

    _repr_html_ = text_html

    def __repr__(self) -> str:
        return f"{self.new} against {self.old}, slot {self.slot}\n{self.evaluation}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "slot": self.slot,
            "new": self.new,
            "old": self.old,
            "outcome": self.outcome,
            "value": ONE_STEP,
            "from": to_iso(self.ts_from),
            "to": to_iso(self.ts_to),
            "rebuilt": self.rebuilt,
            "headline": self.headline,
            **self.evaluation.to_dict(),
            "refusal": self.evaluation.refusal,
            "summary": self.summary,
            "notes": list(self.notes),
        }


def read_responses(
    lake: Lake, material: Material, slot: Slot, outcome: str, *, ts_from: int
) -> Dataset:
    """Return a slot's responses since a time, with every shown item, seen or not.

    Raises:
        NotReadyError: there is no response whose outcome is known by now.
    """
    return dataset_from_responses(
        material.events,
        slot.name,
        [outcome],
        ts_from=ts_from,
        mature_before=material.complete_until,
        attribution=parse_duration(slot.attribution),
        denominator="answer",
        responses=lake.responses(["request_id", "p", "positions"])
        if lake.exists("answers")
        else None,
        people=material.people,
        items=material.codes,
        with_interleaved=False,  # a draft of two rankings tells nothing of a third
    )


def evaluate_off_policy(
    material: Material,
    features: FeatureSet,
    slot: Slot,
    data: Dataset,
    replay: Replay,
    index_series: IndexSeries,
    scorers: Mapping[str, Scorer],
    outcome: str,
    *,
    seed: int = 0,
) -> OffPolicyReport:
    """Estimate the values of two scorers from logged responses.

    Args:
        data: the responses, from `read_responses`.
        replay: replay of the slot, with the live columns that either scorer reads.
        index_series: indexes, of which the first is not after the first response.
        scorers: the new one, then the old one. The new one's predicted outcome is the model of the
            reward, scaled per position to what the log shows.

    Raises:
        NotReadyError: there is no response.
        UsageError: the outcome never happened.
    """
    if not data.requests:
        raise NotReadyError(
            f"slot {slot.name!r} has no answer that could be replayed",
            fix="log more, or a longer --since",
        )
    if not (data.labels[outcome] > 0).any():
        raise UsageError(
            f"none of {data.requests:,} answers of slot {slot.name!r} led to a {outcome!r}",
            fix="name an event type of the log: --outcome click",
        )
    new, old = scorers
    replayer = _Replayer(features, slot, data, index_series, scorers, outcome, seed, material)
    replayer.run(replay)
    evaluation = evaluate_policies(replayer.sample(new), replayer.sample(old), seed=seed)
    return OffPolicyReport(
        slot.name,
        new,
        old,
        outcome,
        int(data.t[0]),
        int(data.t[-1]),
        float(replayer.is_candidate.mean()),
        evaluation,
        ignored_rules(slot),
    )


def ignored_rules(slot: Slot) -> tuple[str, ...]:
    """Describe the parts of a slot that a replay leaves out."""
    rules = compile_rules(slot.rules, where=f"slot {slot.name}")
    parts = [rule.text for rule in rules.rules if not rule.is_item_only]
    names = (("caps", slot.caps), ("pins", slot.pins), ("promotions", slot.promotions))
    parts += [name for name, declared in names if declared]
    return (f"not replayed: {', '.join(parts)}",) if parts else ()


class _Replayer:
    """Replays responses, and collects the propensities and predictions of each scorer by row."""

    def __init__(
        self,
        features: FeatureSet,
        slot: Slot,
        data: Dataset,
        index_series: IndexSeries,
        scorers: Mapping[str, Scorer],
        outcome: str,
        seed: int,
        material: Material,
    ) -> None:
        self._slot, self._data, self._series, self._scorers = slot, data, index_series, scorers
        self._outcome, self._rng = outcome, np.random.default_rng(seed)
        self._history = History(features, material.events)
        where = f"slot {slot.name}"
        self._rules = compile_rules(slot.rules, where=where).item_only
        self._boosts = [
            (boost.factor, rules)
            for boost in slot.boosts
            if (rules := compile_rules([boost.when], where=where).item_only).rules
        ]
        self._allow, self._deny = hash64s(sorted(slot.allow)), hash64s(sorted(slot.deny))
        self.is_candidate = np.zeros(data.rows, bool)
        self._prediction = np.zeros(data.rows)
        self._has_model = True
        self._target = {name: np.zeros(data.rows) for name in scorers}
        self._expected = {name: np.zeros(data.rows) for name in scorers}

    def run(self, replay: Replay) -> None:
        """Replay all responses."""
        for chunk in replay.draw_candidates(self._data):
            start = 0
            candidates = _candidate_rows(self._data, chunk)
            for piece in iterate_features_from(self._history, candidates, rows_max=ROWS_AT_ONCE):
                scored = {name: scorer(piece) for name, scorer in self._scorers.items()}
                reward_model = next(iter(scored.values()))[0].get(self._outcome)
                self._has_model &= reward_model is not None
                values = {name: value for name, (_, value) in scored.items()}
                part = piece.part
                for index in range(part.requests):
                    rows = slice(part.offsets[index], part.offsets[index + 1])
                    self._weigh(
                        int(chunk.request[start + index]),
                        part.item[rows],
                        {name: value[rows] for name, value in values.items()},
                        None if reward_model is None else reward_model[rows],
                    )
                start += part.requests

    def _weigh(
        self, request: int, items: Ints, values: Mapping[str, Floats], predicted: Floats | None
    ) -> None:
        """Record how each scorer would have shown what one response showed."""
        data = self._data
        rows = slice(data.offsets[request], data.offsets[request + 1])
        keys = data.items.keys[items]
        index = self._series.indexes[
            int(self._series.positions_at(data.t[request : request + 1])[0])
        ]
        places = index.find(keys)
        inputs = RuleInputs(index, np.maximum(places, 0), int(data.t[request]))
        visible = np.flatnonzero(self._visible(keys, places, inputs))
        items, places = items[visible], places[visible]
        inputs = replace(inputs, rows=np.maximum(places, 0))
        shown = find_places(data.item[rows], items)
        self.is_candidate[rows] = shown >= 0
        if not len(visible):
            return
        if predicted is not None:
            predicted = predicted[visible]
            self._prediction[rows] = np.where(shown >= 0, predicted[np.maximum(shown, 0)], 0.0)
        spec = SlateSpec(index, places, self._slot.all_quotas, self._slot.diversity)
        constraints = spec.constraints()
        factors = [(factor, rules.mask(inputs)) for factor, rules in self._boosts]
        for name, value in values.items():
            boosted = apply_boosts(value[visible], factors) if factors else value[visible]
            distribution = self._distribution(boosted, len(shown), spec, constraints)
            self._target[name][rows] = distribution.propensities(shown)[0]
            if predicted is not None:
                self._expected[name][rows] = self._expect(distribution, predicted, len(shown))

    def _visible(
        self, keys: npt.NDArray[np.uint64], positions: npt.NDArray[np.intp], inputs: RuleInputs
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

    def _expect(self, distribution: SlateDistribution, predicted: Floats, size: int) -> Floats:
        """Return the predicted reward of what a policy shows at each position."""
        draws = DRAWS if self._slot.explore is not None else 1
        total = np.zeros(size)
        for _ in range(draws):
            slate = distribution.draw(self._rng)
            total[: slate.size] += predicted[slate]
        return total / draws

    def sample(self, name: str) -> PolicySample:
        """Return the weights of a scorer."""
        data = self._data
        columns = int(np.diff(data.offsets).max())

        def by_position(values: npt.NDArray, fill: float = 0.0) -> Floats:
            return to_positions(values, data.offsets, columns, fill=fill)[0]

        reward, shown = to_positions(
            data.labels[self._outcome].astype(np.float64), data.offsets, columns, fill=0.0
        )
        weight = divide_probabilities(
            by_position(self._target[name], 1.0), by_position(data.propensity, 1.0), shown
        )
        prediction = by_position(self._prediction)
        # The model predicts an outcome at the first position; the log says what others are worth.
        total = prediction.sum(axis=0)
        scale = np.divide(reward.sum(axis=0), total, out=np.zeros(columns), where=total > 0)
        has_model = self._has_model
        return PolicySample(
            reward,
            weight,
            data.person,
            shown,
            prediction * scale if has_model else None,
            by_position(self._expected[name]) * scale if has_model else None,
        )


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
