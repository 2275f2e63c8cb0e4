"""Off-policy evaluation: logged responses, replayed with the candidates of their time.

    response (t, p) ─► candidates ─► features ─► values of each policy ─► order ─► propensities of
    the logged slate ─► weights by position ─► values of both policies, and their difference

`slates` replays them, once for the policies of each `PolicyGroup`. Clicks are attributed as in
training. Weights are by item and position, so the click at a position is taken to depend on its own
item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import parse_duration, to_iso
from tailorbird.experiments.off_policy.evaluate import ONE_STEP, PolicyEvaluation, evaluate_policies
from tailorbird.experiments.off_policy.sample import (
    PolicySample,
    divide_probabilities,
    to_positions,
)
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.pages.notebook import text_html
from tailorbird.ranking.policy.slate_distribution import find_positions
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.logged_answers import dataset_from_responses
from tailorbird.training.dataset.replay import Replay
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.evaluation.evaluate import Scorer
from tailorbird.training.evaluation.slates import (
    ReplayedResponse,
    SlateReplay,
    mean_predictions_by_position,
    replayable_slot,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

REWARD_SLATE_DRAWS = 4  # slates of an exploring policy over which its predicted reward is averaged
HEADLINE_ESTIMATOR = "dr"
FALLBACK_ESTIMATOR = "snips"


@dataclass(frozen=True)
class PolicyGroup:
    """Policies that one replay serves: those that differ in model and formula alone.

    Attributes:
        slot: whose sources, rules, boosts and exploration they have.
        replay: of the slot's candidates, with the live columns that any scorer reads.
        scorers: policy → scorer.
    """

    slot: Slot
    replay: Replay
    scorers: Mapping[str, Scorer]


@dataclass(frozen=True)
class OffPolicyReport:
    """The values of two policies per logged response, with intervals.

    Attributes:
        outcome: what counts as reward, such as `click`.
        ts_from, ts_to: of the responses, microseconds.
        rebuilt_share: share of the logged items that are among the replayed candidates.
    """

    slot: str
    new: str
    old: str
    outcome: str
    ts_from: int
    ts_to: int
    rebuilt_share: float
    evaluation: PolicyEvaluation
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The estimator that decides: `dr` with a model of the reward, otherwise `snips`."""
        return (
            HEADLINE_ESTIMATOR
            if HEADLINE_ESTIMATOR in self.evaluation.difference
            else FALLBACK_ESTIMATOR
        )

    @property
    def is_worse(self) -> bool:
        """Return whether the new policy is worse, with the whole interval below 0."""
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
        rebuilt_note = (
            f"{self.rebuilt_share:.1%} of the logged items are among the replayed candidates"
        )
        title = f"{self.new} against {self.old}, slot {self.slot}"
        return "\n".join([title, str(self.evaluation), rebuilt_note, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "slot": self.slot,
            "policies": {"new": self.new, "old": self.old},
            "outcome": self.outcome,
            "value": ONE_STEP,
            "from": to_iso(self.ts_from),
            "to": to_iso(self.ts_to),
            "rebuilt": self.rebuilt_share,
            "headline": self.headline,
            **self.evaluation.to_dict(),
            "refusal": self.evaluation.refusal,
            "summary": self.summary,
            "notes": list(self.notes),
        }


def read_responses(
    lake: Lake, training_data: TrainingData, slot: Slot, outcome: str, *, ts_from: int
) -> Dataset:
    """Return a slot's responses since a time, with every shown item, seen or not.

    Raises:
        NotReadyError: there is no response whose outcome is known by now.
    """
    return dataset_from_responses(
        training_data.events,
        slot.name,
        [outcome],
        ts_from=ts_from,
        complete_until=training_data.complete_until,
        attribution_us=parse_duration(slot.attribution),
        denominator="answer",
        response_log=lake.responses(["request_id", "p", "positions"])
        if lake.exists("answers")
        else None,
        person_vocabulary=training_data.person_vocabulary,
        item_vocabulary=training_data.item_vocabulary,
        with_interleaved=False,  # a draft of two rankings tells nothing of a third
    )


def evaluate_off_policy(
    training_data: TrainingData,
    features: FeatureSet,
    slot: Slot,
    data: Dataset,
    groups: Sequence[PolicyGroup],
    index_series: IndexSeries,
    outcome: str,
    *,
    reward_model: str = "",
    seed: int = 0,
) -> OffPolicyReport:
    """Estimate the values of two policies from logged responses.

    Args:
        slot: the slot that logged them.
        data: the responses, from `read_responses`.
        groups: with the new policy, then the old one.
        index_series: indexes, of which the first is not after the first response.
        reward_model: the policy whose predicted outcome is the model of the reward, scaled per
            position to what the log shows; by default the new one.

    Raises:
        NotReadyError: there is no response.
        UsageError: the outcome never happened.
    """
    if not data.request_count:
        raise NotReadyError(
            f"slot {slot.name!r} has no answer that could be replayed",
            fix="log more, or a longer --since",
        )
    if not (data.labels[outcome] > 0).any():
        raise UsageError(
            f"none of {data.request_count:,} answers of slot {slot.name!r} led to a {outcome!r}",
            fix="name an event type of the log: --outcome click",
        )
    scorers = {name: scorer for group in groups for name, scorer in group.scorers.items()}
    new_name, old_name = scorers
    reward_model = reward_model or new_name
    samples = {}
    rebuilt_share = 0.0
    for group in groups:
        group_scorers = {**group.scorers, reward_model: scorers[reward_model]}
        slate_replay = SlateReplay(
            features=features,
            slot=group.slot,
            data=data,
            index_series=index_series,
            scorers=group_scorers,
            outcome=outcome,
            training_data=training_data,
        )
        recorder = _PropensityRecorder(group, data, reward_model, outcome, seed)
        for response in slate_replay.replay_responses(group.replay):
            recorder.record(response)
        samples |= {name: recorder.build_sample(name) for name in group.scorers}
        rebuilt_share = max(rebuilt_share, float(recorder.is_candidate.mean()))
    return OffPolicyReport(
        slot=slot.name,
        new=new_name,
        old=old_name,
        outcome=outcome,
        ts_from=int(data.t[0]),
        ts_to=int(data.t[-1]),
        rebuilt_share=rebuilt_share,
        evaluation=evaluate_policies(samples[new_name], samples[old_name], seed=seed),
        notes=tuple(
            dict.fromkeys(note for group in groups for note in ignored_settings(group.slot, slot))
        ),
    )


def ignored_settings(slot: Slot, logged_slot: Slot) -> tuple[str, ...]:
    """Describe the settings of a slot that a replay of another one's responses leaves out."""
    item_only_slot = replayable_slot(slot)
    ignored = [rule for rule in slot.rules if rule not in item_only_slot.rules]
    ignored += [
        f"boost {boost.when}" for boost in slot.boosts if boost not in item_only_slot.boosts
    ]
    unsupported_settings = (
        ("caps", slot.caps),
        ("pins", slot.pins),
        ("promotions", slot.promotions),
    )
    ignored += [name for name, declared in unsupported_settings if declared]
    ignored += (
        [f"size {slot.size}, but that of each answer"] if slot.size != logged_slot.size else []
    )
    return (f"not replayed: {', '.join(ignored)}",) if ignored else ()


class _PropensityRecorder:
    """Collects the propensities and predictions of a group by row of the logged responses."""

    def __init__(
        self, group: PolicyGroup, data: Dataset, reward_model: str, outcome: str, seed: int
    ) -> None:
        self._slot = group.slot
        self._data = data
        self._outcome = outcome
        self._rng = np.random.default_rng(seed)
        self._reward_model = reward_model
        self.is_candidate = np.zeros(data.row_count, bool)
        self._predicted_rewards = np.zeros(data.row_count)
        self._has_model = True
        self._target_propensities = {name: np.zeros(data.row_count) for name in group.scorers}
        self._expected_rewards = {name: np.zeros(data.row_count) for name in group.scorers}

    def record(self, response: ReplayedResponse) -> None:
        """Record how each policy would have shown what one response showed."""
        rows = slice(*self._data.offsets[response.request_index : response.request_index + 2])
        candidate_index = find_positions(self._data.item_codes[rows], response.item_codes)
        self.is_candidate[rows] = candidate_index >= 0
        if not response.item_codes.size:
            return
        predictions = response.predictions.get(self._reward_model)
        self._has_model &= predictions is not None
        if predictions is not None:
            self._predicted_rewards[rows] = np.where(
                candidate_index >= 0, predictions[np.maximum(candidate_index, 0)], 0.0
            )
        for name in self._target_propensities:
            distribution = response.distributions[name]
            self._target_propensities[name][rows] = distribution.propensities(candidate_index)[0]
            if predictions is not None:
                draw_count = REWARD_SLATE_DRAWS if self._slot.explore is not None else 1
                self._expected_rewards[name][rows] = mean_predictions_by_position(
                    distribution, [predictions], candidate_index.size, self._rng, draw_count
                )[0]

    def build_sample(self, name: str) -> PolicySample:
        """Return the weights of a policy."""
        data = self._data
        position_count = int(np.diff(data.offsets).max())

        def pad_by_position(values: npt.NDArray, fill: float = 0.0) -> Floats:
            return to_positions(values, data.offsets, position_count, fill=fill)[0]

        reward, is_shown = to_positions(
            data.labels[self._outcome].astype(np.float64), data.offsets, position_count, fill=0.0
        )
        weight = divide_probabilities(
            pad_by_position(self._target_propensities[name], 1.0),
            pad_by_position(data.propensity, 1.0),
            is_shown,
        )
        if not self._has_model:
            return PolicySample(reward, weight, data.person_codes, is_shown)
        prediction = pad_by_position(self._predicted_rewards)
        expected = pad_by_position(self._expected_rewards[name])
        is_predicted = pad_by_position(self.is_candidate) > 0
        return build_model_sample(
            reward=reward,
            weight=weight,
            person_codes=data.person_codes,
            is_shown=is_shown,
            prediction=prediction,
            expected=expected,
            is_predicted=is_predicted,
        )


def build_model_sample(
    reward: Floats,
    weight: Floats,
    person_codes: Ints,
    is_shown: npt.NDArray[np.bool_],
    prediction: Floats,
    expected: Floats,
    is_predicted: npt.NDArray[np.bool_],
) -> PolicySample:
    """Return a sample whose predictions are scaled per position to what the log shows.

    A model predicts an outcome at the first position; the log says what others are worth. Items
    that the policy may not show have no prediction, and do not count.
    """
    prediction_totals = prediction.sum(axis=0, where=is_predicted)
    reward_totals = reward.sum(axis=0, where=is_predicted)
    scale = np.divide(
        reward_totals,
        prediction_totals,
        out=np.zeros(len(prediction_totals)),
        where=prediction_totals > 0,
    )
    return PolicySample(
        reward=reward,
        weight=weight,
        person=person_codes,
        shown=is_shown,
        prediction=prediction * scale,
        expected=expected * scale,
    )
