"""Off-policy evaluation of bundles: logged responses, replayed with the candidates of their time.

    response (t, p) ─► candidates ─► features ─► values of each bundle ─► order ─► propensities of
    the logged slate ─► weights by position ─► values of both policies, and their difference

`slates` replays them. Clicks are attributed as in training. Weights are by item and position, so
the click at a position is taken to depend on its own item.
"""

from collections.abc import Mapping
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
from tailorbird.ranking.policy.rules import compile_rules
from tailorbird.ranking.policy.slate_distribution import find_positions
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.logged_answers import dataset_from_responses
from tailorbird.training.dataset.replay import Replay
from tailorbird.training.dataset.rows import Material
from tailorbird.training.evaluation.evaluate import Scorer
from tailorbird.training.evaluation.slates import (
    ReplayedResponse,
    SlateReplay,
    expected_by_position,
)

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
    slates = SlateReplay(features, slot, data, index_series, scorers, outcome, material)
    recorder = _Recorder(slot, data, scorers, outcome, seed)
    for response in slates.responses(replay):
        recorder.record(response)
    evaluation = evaluate_policies(recorder.sample(new), recorder.sample(old), seed=seed)
    return OffPolicyReport(
        slot.name,
        new,
        old,
        outcome,
        int(data.t[0]),
        int(data.t[-1]),
        float(recorder.is_candidate.mean()),
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


class _Recorder:
    """Collects the propensities and predictions of each scorer by row of the logged responses."""

    def __init__(
        self, slot: Slot, data: Dataset, scorers: Mapping[str, Scorer], outcome: str, seed: int
    ) -> None:
        self._slot, self._data, self._outcome = slot, data, outcome
        self._rng, self._new = np.random.default_rng(seed), next(iter(scorers))
        self.is_candidate = np.zeros(data.rows, bool)
        self._prediction = np.zeros(data.rows)
        self._has_model = True
        self._target = {name: np.zeros(data.rows) for name in scorers}
        self._expected = {name: np.zeros(data.rows) for name in scorers}

    def record(self, response: ReplayedResponse) -> None:
        """Record how each scorer would have shown what one response showed."""
        rows = slice(*self._data.offsets[response.request : response.request + 2])
        shown = find_positions(self._data.item[rows], response.items)
        self.is_candidate[rows] = shown >= 0
        predicted = response.predictions.get(self._new)
        self._has_model &= predicted is not None
        if not response.items.size:
            return
        if predicted is not None:
            self._prediction[rows] = np.where(shown >= 0, predicted[np.maximum(shown, 0)], 0.0)
        for name, distribution in response.distributions.items():
            self._target[name][rows] = distribution.propensities(shown)[0]
            if predicted is not None:
                draws = DRAWS if self._slot.explore is not None else 1
                self._expected[name][rows] = expected_by_position(
                    distribution, [predicted], shown.size, self._rng, draws
                )[0]

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
        if not self._has_model:
            return PolicySample(reward, weight, data.person, shown)
        prediction, expected = by_position(self._prediction), by_position(self._expected[name])
        return model_sample(reward, weight, data.person, shown, prediction, expected)


def model_sample(
    reward: Floats,
    weight: Floats,
    person: Ints,
    shown: npt.NDArray[np.bool_],
    prediction: Floats,
    expected: Floats,
) -> PolicySample:
    """Return a sample whose predictions are scaled per position to what the log shows.

    A model predicts an outcome at the first position; the log says what others are worth.
    """
    total = prediction.sum(axis=0)
    scale = np.divide(reward.sum(axis=0), total, out=np.zeros(len(total)), where=total > 0)
    return PolicySample(reward, weight, person, shown, prediction * scale, expected * scale)
