"""Precision that a share of drawn slates would buy: what a log could tell of a policy.

Some logged responses are replayed. The control draws whole slates (Plackett–Luce) for a share s of
requests; π_j(i) = s·PL_j(i) + (1 − s)·[i is ranked at j] is then the chance of item i at position j.
With clicks of rate r_j, inverse propensity weights give the difference between the treatment's item
b_j and the control's item a_j the variance

    Var = mean over responses of Σ_j [a_j ≠ b_j] · r_j · (1 / π_j(b_j) + 1 / π_j(a_j))

a response, if the treatment earns what the control does. This is `ips` of `experiments.off_policy`;
`dr` is usually narrower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.experiments.off_policy.support import ESS_MIN
from tailorbird.experiments.plan import DrawnShare
from tailorbird.ranking.policy.slate_distribution import PlackettLuce, find_positions
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
    """Return the control with all its slates drawn, and the treatments without exploration.

    Raises DeclarationError if the control's slot has quotas, diversity, promotions or pins, which
    drawn slates would not keep.
    """
    ranked = [replace(policy, slot=replace(policy.slot, explore=None)) for policy in treatments]
    return replace(control, slot=replace(control.slot, explore=DRAWN)), *ranked


def drawn_shares(
    log: LoggedResponses, outcome: str, responses: float, *, seed: int = 0
) -> tuple[DrawnShare, ...]:
    """Return what each share of drawn slates tells of each treatment.

    Args:
        log: of `drawn_policies`, of which the first is the control.
        responses: that the slot logs in the planned duration.
    """
    (control, *treatments) = (name for group in log.groups for name in group.scorers)
    slates: dict[str, dict[int, Ints]] = {name: {} for name in treatments}
    drawing: dict[int, _DrawnResponse] = {}
    rng = np.random.default_rng(seed)
    for group in log.groups:
        replayed = SlateReplay(
            log.features, group.slot, log.data, log.series, group.scorers, outcome, log.material
        )
        for response in replayed.responses(group.replay):
            for name, distribution in response.distributions.items():
                if name == control and isinstance(distribution, PlackettLuce):
                    drawing[response.request] = _DrawnResponse.of(
                        distribution, response.items, response.predictions.get(name), rng
                    )
                elif name != control:
                    slates[name][response.request] = response.items[distribution.draw(rng)]
    rate = _rates(log, outcome)
    return tuple(
        row
        for name in treatments
        for row in _shares_of(name, drawing, slates[name], rate, responses)
    )


@dataclass(frozen=True)
class _DrawnResponse:
    """A response whose slates are drawn.

    Attributes:
        items: (n,), codes of the candidates.
        ranked: (k,), codes of the slate by value.
        predicted: (2, k), predicted outcome of the ranked and of the drawn items; None without a
            model.
    """

    distribution: PlackettLuce
    items: Ints
    ranked: Ints
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
        return cls(distribution, items, items[ranked], predicted)

    def marginal(self, slate: Ints) -> Floats:
        """Return the chance that a drawn slate has each item of another slate at its position."""
        return self.distribution.propensities(find_positions(slate, self.items))[0]


def _rates(log: LoggedResponses, outcome: str) -> Floats:
    """Return the share of shown items that led to the outcome, by position."""
    data = log.data
    position = data.position - 1
    shown = np.bincount(position)
    return np.bincount(position, data.labels[outcome] > 0) / np.maximum(shown, 1)


def _shares_of(
    name: str,
    drawing: Mapping[int, _DrawnResponse],
    slates: Mapping[int, Ints],
    rate: Floats,
    responses: float,
) -> list[DrawnShare]:
    """Return the rows of one treatment."""
    requests = [request for request in drawing if request in slates]
    size = len(rate)
    chance, ranked_chance = np.ones((2, len(requests), size))
    differs = np.zeros((len(requests), size), bool)
    lost = np.zeros((2, size))
    for row, request in enumerate(requests):
        drawn, slate = drawing[request], slates[request]
        k = min(size, slate.size, drawn.ranked.size)
        differs[row, :k] = slate[:k] != drawn.ranked[:k]
        chance[row, :k] = drawn.marginal(slate[:k])
        ranked_chance[row, :k] = drawn.marginal(drawn.ranked[:k])
        if drawn.predicted is not None:
            lost[:, :k] += drawn.predicted[:, :k]
    value = float(rate.sum())
    scale = np.divide(rate, lost[0], out=np.zeros(size), where=lost[0] > 0)
    loss = 1.0 - float(scale @ lost[1]) / value if value > 0 and lost[0].any() else 0.0
    is_possible = chance > 0
    rows = []
    for share in SHARES:
        new = share * chance + (1 - share) * ~differs
        old = share * ranked_chance + (1 - share)
        counted = differs & is_possible
        inverse = np.where(counted, 1 / np.where(counted, new, 1.0) + 1 / old, 0.0)
        variance = float((inverse * rate).sum(axis=1).mean())
        weight = np.where(is_possible, 1 / np.where(is_possible, new, 1.0), 0.0).mean(axis=0)
        effective = responses / float(weight.max(initial=1.0))
        half_width = Z_95 * float(np.sqrt(variance / max(responses, 1.0))) / value
        rows.append(
            DrawnShare(
                name,
                share,
                half_width,
                effective,
                effective >= ESS_MIN,
                share * loss,
                float((~is_possible).mean()),
            )
        )
    return rows
