"""Precision that a share of drawn slates would buy: what a log could tell of a policy.

Some logged responses are replayed. The control draws whole slates (Plackett–Luce) for a share s of
requests, and so do treatments with the same settings. π is then the chance of an item at a
position, by policy. With outcomes of rate r_j at position j, inverse propensity weights of the
treatment's items b give its difference from the control the variance

    Var = mean over responses of Σ_j r_j · (E[π_treatment(b) / π_control(b)] − 1)

a response, if the treatment earns what the control does. This is `ips` of `experiments.off_policy`;
`dr` is usually narrower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.experiments.off_policy.support import ESS_MIN
from tailorbird.experiments.plan import DrawnShare
from tailorbird.ranking.policy.slate_distribution import (
    PlackettLuce,
    SlateDistribution,
    find_positions,
    match_positions,
)
from tailorbird.ranking.slot import Explore
from tailorbird.training.evaluation.estimate import LoggedResponses
from tailorbird.training.evaluation.policies import Policy
from tailorbird.training.evaluation.slates import SlateReplay, mean_predictions_by_position

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DRAWN_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PLACKETT_LUCE_EXPLORE = Explore(method="plackett_luce", first=1, temperature=0.3)
Z_95 = 1.959964
COST_SLATE_DRAWS = 8  # slates of a response over which the cost of drawing is averaged


def drawn_policies(control: Policy, treatments: Sequence[Policy]) -> tuple[Policy, ...]:
    """Return the policies with all slates of the control's slot drawn.

    Raises DeclarationError if the slot has quotas, diversity, promotions or pins, which drawn
    slates would not keep.
    """
    slot = replace(control.slot, explore=PLACKETT_LUCE_EXPLORE)
    return replace(control, slot=slot), *(
        replace(policy, slot=slot) if policy.slot.name == slot.name else policy
        for policy in treatments
    )


def drawn_shares(
    logged_responses: LoggedResponses, outcome: str, response_count: float, *, seed: int = 0
) -> tuple[DrawnShare, ...]:
    """Return what each share of drawn slates tells of each treatment.

    Args:
        logged_responses: of `drawn_policies`, of which the first is the control.
        response_count: that the slot logs in the planned duration.
    """
    (control, *treatments) = (name for group in logged_responses.groups for name in group.scorers)
    slates_by_policy: dict[str, dict[int, ReplayedSlates]] = {name: {} for name in treatments}
    drawn_responses: dict[int, _DrawnResponse] = {}
    rng = np.random.default_rng(seed)
    for group in logged_responses.groups:
        slate_replay = SlateReplay(
            features=logged_responses.features,
            slot=group.slot,
            data=logged_responses.data,
            index_series=logged_responses.index_series,
            scorers=group.scorers,
            outcome=outcome,
            training_data=logged_responses.training_data,
        )
        for response in slate_replay.replay_responses(group.replay):
            for name, distribution in response.distributions.items():
                if name != control:
                    slates_by_policy[name][response.request_index] = ReplayedSlates.of(
                        distribution,
                        response.item_codes,
                        rng,
                        is_shared=group.slot.explore == PLACKETT_LUCE_EXPLORE,
                    )
                elif isinstance(distribution, PlackettLuce):
                    drawn_responses[response.request_index] = _DrawnResponse.of(
                        distribution, response.item_codes, response.predictions.get(name), rng
                    )
    outcome_rates = _outcome_rates(logged_responses, outcome)
    return tuple(
        drawn_share
        for name in treatments
        for drawn_share in _estimate_drawn_shares(
            name, drawn_responses, slates_by_policy[name], outcome_rates, response_count
        )
    )


@dataclass(frozen=True)
class ReplayedSlates:
    """The slate of a policy by value and a drawn one; one slate twice if it draws on its own terms.

    Attributes:
        item_codes: (2, k), codes.
        chances: (2, 2, k), of each slate's items at their positions: if no slate is drawn, and if
            all are.
    """

    item_codes: Ints
    chances: Floats

    @classmethod
    def of(
        cls,
        distribution: SlateDistribution,
        items: Ints,
        rng: np.random.Generator,
        *,
        is_shared: bool,
    ) -> "ReplayedSlates":
        """Return the slates; `is_shared`: the policy draws the same share as the control."""
        drawn_slate = distribution.draw(rng)
        if not (is_shared and isinstance(distribution, PlackettLuce)):
            chance = distribution.propensities(drawn_slate)[0]
            return cls(
                items[np.stack([drawn_slate, drawn_slate])],
                np.broadcast_to(chance, (2, 2, len(drawn_slate))),
            )
        slates = (distribution.ranked, drawn_slate)
        chances = [position_chances(distribution, slate) for slate in slates]
        return cls(items[np.stack(slates)], np.stack(chances))


def position_chances(distribution: PlackettLuce, slate: Ints) -> Floats:
    """Return the chance of a slate's items at their positions, (2, k): none drawn, all drawn."""
    ranked_chances = match_positions(slate, distribution.ranked).astype(np.float64)
    return np.stack([ranked_chances, distribution.propensities(slate)[0]])


@dataclass(frozen=True)
class _DrawnResponse:
    """A response whose slates are drawn.

    Attributes:
        item_codes: (n,), codes of the candidates.
        predicted: (2, k), predicted outcome of the ranked and of the drawn items; None without a
            model.
    """

    distribution: PlackettLuce
    item_codes: Ints
    predicted: Floats | None

    @classmethod
    def of(
        cls,
        distribution: PlackettLuce,
        items: Ints,
        prediction: Floats | None,
        rng: np.random.Generator,
    ) -> "_DrawnResponse":
        ranked = distribution.ranked
        predicted = None
        if prediction is not None:
            drawn = mean_predictions_by_position(
                distribution, [prediction], ranked.size, rng, COST_SLATE_DRAWS
            )[0]
            predicted = np.stack([prediction[ranked], drawn])
        return cls(distribution, items, predicted)

    def chances(self, slate: Ints) -> Floats:
        """Return the control's chance of another slate's items at their positions, (2, k)."""
        return position_chances(self.distribution, find_positions(slate, self.item_codes))


def _outcome_rates(logged_responses: LoggedResponses, outcome: str) -> Floats:
    """Return the share of shown items that led to the outcome, by position."""
    data = logged_responses.data
    position_index = data.position - 1
    shown_counts = np.bincount(position_index)
    return np.bincount(position_index, data.labels[outcome] > 0) / np.maximum(shown_counts, 1)


def _estimate_drawn_shares(
    name: str,
    drawn_responses: Mapping[int, _DrawnResponse],
    treatment_slates: Mapping[int, ReplayedSlates],
    outcome_rates: Floats,
    response_count: float,
) -> list[DrawnShare]:
    """Return the rows of one treatment."""
    request_indexes = [
        request_index for request_index in drawn_responses if request_index in treatment_slates
    ]
    position_count = len(outcome_rates)
    target_chances, logging_chances = np.ones(
        (2, len(request_indexes), 2, 2, position_count)
    )  # slate, then how much is drawn
    predicted = np.zeros((2, position_count))
    for row, request_index in enumerate(request_indexes):
        drawn_response = drawn_responses[request_index]
        treatment = treatment_slates[request_index]
        k = min(position_count, treatment.item_codes.shape[1])
        target_chances[row, :, :, :k] = treatment.chances[:, :, :k]
        for slate in range(2):
            logging_chances[row, slate, :, :k] = drawn_response.chances(
                treatment.item_codes[slate, :k]
            )
        if drawn_response.predicted is not None:
            k = min(position_count, drawn_response.predicted.shape[1])
            predicted[:, :k] += drawn_response.predicted[:, :k]
    value = float(outcome_rates.sum())
    scale = np.divide(
        outcome_rates, predicted[0], out=np.zeros(position_count), where=predicted[0] > 0
    )
    relative_loss = (
        1.0 - float(scale @ predicted[1]) / value if value > 0 and predicted[0].any() else 0.0
    )
    rows = []
    for share in DRAWN_SHARES:
        mixture = np.array([1 - share, share])
        target, logging = (
            np.einsum("d,rsdk->rsk", mixture, chance)
            for chance in (target_chances, logging_chances)
        )
        is_possible = logging > 0
        ratio = np.divide(target, logging, out=np.zeros(target.shape), where=is_possible)
        weight = np.einsum("s,rsk->rk", mixture, ratio)  # the mean weight of what it shows
        unsupported = np.einsum("s,rsk->", mixture, ~is_possible) / (
            len(request_indexes) * position_count
        )
        variance = float((np.maximum(weight - 1, 0.0) * outcome_rates).sum(axis=1).mean())
        effective_sample_size = response_count / float(weight.mean(axis=0).max(initial=1.0))
        rows.append(
            DrawnShare(
                arm=name,
                share=share,
                half_width=Z_95 * float(np.sqrt(variance / max(response_count, 1.0))) / value,
                effective=effective_sample_size,
                is_enough=effective_sample_size >= ESS_MIN,
                cost=share * relative_loss,
                unsupported=float(unsupported),
            )
        )
    return rows
