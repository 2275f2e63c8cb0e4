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
from tailorbird.training.evaluation.slates import SlateReplay, expected_by_position

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
DRAWN = Explore(method="plackett_luce", first=1, temperature=0.3)
Z_95 = 1.959964
DRAWS = 8  # slates of a response over which the cost of drawing is averaged


def drawn_policies(control: Policy, treatments: Sequence[Policy]) -> tuple[Policy, ...]:
    """Return the policies with all slates of the control's slot drawn.

    Raises DeclarationError if the slot has quotas, diversity, promotions or pins, which drawn
    slates would not keep.
    """
    slot = replace(control.slot, explore=DRAWN)
    return replace(control, slot=slot), *(
        replace(policy, slot=slot) if policy.slot.name == slot.name else policy
        for policy in treatments
    )


def drawn_shares(
    log: LoggedResponses, outcome: str, responses: float, *, seed: int = 0
) -> tuple[DrawnShare, ...]:
    """Return what each share of drawn slates tells of each treatment.

    Args:
        log: of `drawn_policies`, of which the first is the control.
        responses: that the slot logs in the planned duration.
    """
    (control, *treatments) = (name for group in log.groups for name in group.scorers)
    slates: dict[str, dict[int, ReplayedSlates]] = {name: {} for name in treatments}
    drawing: dict[int, _DrawnResponse] = {}
    rng = np.random.default_rng(seed)
    for group in log.groups:
        replayed = SlateReplay(
            log.features,
            group.slot,
            log.data,
            log.series,
            group.scorers,
            outcome,
            log.training_data,
        )
        for response in replayed.responses(group.replay):
            for name, distribution in response.distributions.items():
                if name != control:
                    slates[name][response.request] = ReplayedSlates.of(
                        distribution, response.items, rng, is_shared=group.slot.explore == DRAWN
                    )
                elif isinstance(distribution, PlackettLuce):
                    drawing[response.request] = _DrawnResponse.of(
                        distribution, response.items, response.predictions.get(name), rng
                    )
    rate = _rates(log, outcome)
    return tuple(
        row
        for name in treatments
        for row in _shares_of(name, drawing, slates[name], rate, responses)
    )


@dataclass(frozen=True)
class ReplayedSlates:
    """The slate of a policy by value and a drawn one; one slate twice if it draws on its own terms.

    Attributes:
        items: (2, k), codes.
        chance: (2, 2, k), of each slate's items at their positions: if no slate is drawn, and if
            all are.
    """

    items: Ints
    chance: Floats

    @classmethod
    def of(
        cls,
        distribution: SlateDistribution,
        items: Ints,
        rng: np.random.Generator,
        *,
        is_shared: bool,
    ) -> "ReplayedSlates":
        """Return the slates; `is_shared` says that the policy draws the same share as the control."""
        drawn = distribution.draw(rng)
        if not (is_shared and isinstance(distribution, PlackettLuce)):
            chance = distribution.propensities(drawn)[0]
            return cls(items[np.stack([drawn, drawn])], np.broadcast_to(chance, (2, 2, len(drawn))))
        slates = (distribution.ranked, drawn)
        chances = [position_chances(distribution, slate) for slate in slates]
        return cls(items[np.stack(slates)], np.stack(chances))


def position_chances(distribution: PlackettLuce, slate: Ints) -> Floats:
    """Return the chance of a slate's items at their positions, (2, k): none drawn, all drawn."""
    ranked = match_positions(slate, distribution.ranked).astype(np.float64)
    return np.stack([ranked, distribution.propensities(slate)[0]])


@dataclass(frozen=True)
class _DrawnResponse:
    """A response whose slates are drawn.

    Attributes:
        items: (n,), codes of the candidates.
        predicted: (2, k), predicted outcome of the ranked and of the drawn items; None without a
            model.
    """

    distribution: PlackettLuce
    items: Ints
    predicted: Floats | None

    @classmethod
    def of(
        cls,
        distribution: PlackettLuce,
        items: Ints,
        prediction: Floats | None,
        rng: np.random.Generator,
    ) -> "_DrawnResponse":
        ranked, predicted = distribution.ranked, None
        if prediction is not None:
            drawn = expected_by_position(distribution, [prediction], ranked.size, rng, DRAWS)[0]
            predicted = np.stack([prediction[ranked], drawn])
        return cls(distribution, items, predicted)

    def chances(self, slate: Ints) -> Floats:
        """Return the control's chance of another slate's items at their positions, (2, k)."""
        return position_chances(self.distribution, find_positions(slate, self.items))


def _rates(log: LoggedResponses, outcome: str) -> Floats:
    """Return the share of shown items that led to the outcome, by position."""
    data = log.data
    position = data.position - 1
    shown = np.bincount(position)
    return np.bincount(position, data.labels[outcome] > 0) / np.maximum(shown, 1)


def _shares_of(
    name: str,
    drawing: Mapping[int, _DrawnResponse],
    slates: Mapping[int, ReplayedSlates],
    rate: Floats,
    responses: float,
) -> list[DrawnShare]:
    """Return the rows of one treatment."""
    requests = [request for request in drawing if request in slates]
    size = len(rate)
    target, logging = np.ones((2, len(requests), 2, 2, size))  # slate, then how much is drawn
    predicted = np.zeros((2, size))
    for row, request in enumerate(requests):
        drawn, treatment = drawing[request], slates[request]
        k = min(size, treatment.items.shape[1])
        target[row, :, :, :k] = treatment.chance[:, :, :k]
        for slate in range(2):
            logging[row, slate, :, :k] = drawn.chances(treatment.items[slate, :k])
        if drawn.predicted is not None:
            k = min(size, drawn.predicted.shape[1])
            predicted[:, :k] += drawn.predicted[:, :k]
    value = float(rate.sum())
    scale = np.divide(rate, predicted[0], out=np.zeros(size), where=predicted[0] > 0)
    loss = 1.0 - float(scale @ predicted[1]) / value if value > 0 and predicted[0].any() else 0.0
    rows = []
    for share in SHARES:
        mixed = np.array([1 - share, share])
        new, old = (np.einsum("d,rsdk->rsk", mixed, chance) for chance in (target, logging))
        is_possible = old > 0
        ratio = np.divide(new, old, out=np.zeros(new.shape), where=is_possible)
        weight = np.einsum("s,rsk->rk", mixed, ratio)  # the mean weight of what it shows
        unsupported = np.einsum("s,rsk->", mixed, ~is_possible) / (len(requests) * size)
        variance = float((np.maximum(weight - 1, 0.0) * rate).sum(axis=1).mean())
        effective = responses / float(weight.mean(axis=0).max(initial=1.0))
        rows.append(
            DrawnShare(
                name,
                share,
                Z_95 * float(np.sqrt(variance / max(responses, 1.0))) / value,
                effective,
                effective >= ESS_MIN,
                share * loss,
                float(unsupported),
            )
        )
    return rows
