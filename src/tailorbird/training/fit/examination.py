"""Examination probability of positions, learned from exploration, and click weights based on it.

An item further down is clicked less because fewer people look there and because worse items stand
there. For two positions that the logged policy could exchange, the second effect can be removed:
weighted by 1 ÷ propensity, both positions hold the same mixture of items, and the remaining
difference is examination (a position-based model: P(click) = P(examined | position) · P(click |
item)). The ratio of neighbouring positions is therefore estimated only from responses whose
exploration could exchange the two, and the ratios are multiplied from the first position on. What a
response could exchange is inferred from the propensities of its rows:

- `plackett_luce`, uniform draws, mixtures of them: any drawn item could stand at any drawn
  position.
- `swap`: an item could stand only at the two positions of its pair. Pairs of one response do not
  overlap. Pairs with `first=1` and pairs with `first=2` do, and only together do they link the
  first position to the last.
- `item`: an item stands at its ranked position or is not shown, so no two positions have the same
  mixture. Such responses are not used.

Possible exchanges must also have happened now and then. At a low temperature of `plackett_luce`, a
weak item stands first once in many thousand responses: in the log, never. Its weight is missing
there but not further down, so the first position looks better than it is and the rest hardly
examined. The weights reveal this: over many draws, the weights of a position add up to 1 per
possible item, so positions of the same responses have the same mean weight. A position that falls
short of another has missing items and is rejected.

If only items that the client reported as seen are rows, the method still holds, since being seen
depends on the position and not on the item. The result is then the probability that an item on the
screen is examined.

Source: Joachims, Swaminathan and Schnabel, WSDM 2017 (weights; propensities by randomisation,
section 5 there); Agarwal et al., WSDM 2019, and Fang, Agarwal and Joachims, SIGIR 2019
(intervention harvesting: only exchangeable items are compared).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.training.dataset.exploration import (
    NO_ROW,
    PAIRS,
    ExplorationRows,
    collect_exploration_rows,
    exchangeable_rows,
)

Floats = npt.NDArray[np.float64]

# Upper bound of a click weight: one click at a rarely examined position must not outweigh a hundred
# others.
CLICK_WEIGHT_MAX = 10.0
CLICKS_MIN = 20  # clicks of a position; with fewer, it gets the value of the one before it
IMPORTANCE_MAX = 1_000.0  # importance weight of a row, in the mean over its position
# Share of the expected mean weight of a position. It bounds how far items missing at one position
# alone can distort a ratio. With 10 items on six positions and 1,000 responses, the lowest share
# was .81 or more at temperatures from .2 on, and .66 or less at .1.
WEIGHT_SHARE_MIN = 0.75
_ALTERNATIVE_FIX = "or train without --position weights"
_EXPLORE_FIX = (
    'let the slot explore by Explore(method="plackett_luce", first=1, rate=1, '
    f"temperature=0.3), {_ALTERNATIVE_FIX}"
)


@dataclass(frozen=True)
class Examination:
    """Examination probabilities of positions.

    Attributes:
        chance_by_position: shape (positions,), relative to the first position; ≤ 1, never rising.
        click_counts: shape (positions,), clicks that it was learned from.
    """

    chance_by_position: Floats
    click_counts: npt.NDArray[np.int64]

    def chance_at(self, position: npt.NDArray) -> Floats:
        """Return the probability at each position (n,), from 1; the last one extends further."""
        return self.chance_by_position[
            np.clip(position, 1, len(self.chance_by_position)).astype(np.intp) - 1
        ]


def estimate_examination(
    position: npt.NDArray, is_clicked: npt.NDArray, propensity: Floats, request_index: npt.NDArray
) -> Examination:
    """Estimate examination probabilities from shown rows.

    Args:
        position: shape (n,), from 1.
        is_clicked: shape (n,).
        propensity: shape (n,), probability with which the item was shown at that position.
        request_index: shape (n,), the response of each row.

    Raises:
        UsageError: there is nothing to learn from: no row was shown or drawn at random, the first
            position has none or hardly any clicks, two neighbouring positions were never exchanged,
            or items never stood at a position that they could have.
    """
    is_shown = position >= 1
    if not is_shown.any():
        fix = f"ask for logged answers by --rows answers, {_ALTERNATIVE_FIX}"
        raise UsageError(
            "rows are drawn from what people chose, and stood at no place",
            where="--position weights",
            fix=fix,
        )
    if not (is_shown & (propensity < 1)).any():
        raise UsageError(
            "no logged row was drawn at random", fix=f"let the slot explore, {_ALTERNATIVE_FIX}"
        )
    rows = collect_exploration_rows(
        position[is_shown], is_clicked[is_shown] > 0, propensity[is_shown], request_index[is_shown]
    )
    is_informative = rows.is_drawn & (rows.kind != NO_ROW)
    if not is_informative.any():
        problem = (
            "no two places can be compared: answers were explored by method=item, which "
            "never moves an item to another place"
        )
        raise UsageError(problem, where="--position weights", fix=_EXPLORE_FIX)
    position_count = int(rows.position_index[is_informative].max()) + 1
    click_counts = np.bincount(
        rows.position_index[is_informative & rows.is_clicked], minlength=position_count
    ).astype(np.int64)
    return Examination(_chain_ratios(rows, click_counts), click_counts)


def click_weights(
    examination: Examination,
    position: npt.NDArray,
    label: npt.NDArray,
    *,
    weight_max: float = CLICK_WEIGHT_MAX,
) -> Floats:
    """Return the weight of each row, shape (n,): for positives 1 ÷ examination up to `weight_max`.

    All other rows have the weight 1.
    """
    return np.where(
        label > 0,
        np.minimum(1.0 / np.maximum(examination.chance_at(position), 1e-12), weight_max),
        1.0,
    )


def _chain_ratios(rows: ExplorationRows, click_counts: npt.NDArray[np.int64]) -> Floats:
    """Return the probability at each position as a product of the ratios of neighbours."""
    position_count = len(click_counts)
    importance_weights = np.minimum(1.0 / np.maximum(rows.propensity, 1e-12), IMPORTANCE_MAX)
    drawn_counts = np.where(
        rows.kind == PAIRS, 2, np.bincount(rows.response_index, rows.is_drawn)[rows.response_index]
    )
    weighted_log_ratios = np.zeros(position_count)
    evidence_totals = np.zeros(position_count)
    is_linked = np.zeros(position_count, bool)
    first_position_clicks = 0
    comparisons = []
    for upper_rows in exchangeable_rows(rows):
        lower_rows = upper_rows + 1
        position_index = rows.position_index[upper_rows]
        is_linked |= np.bincount(position_index + 1, minlength=position_count)[:position_count] > 0
        upper_rates = _compute_rates(
            position_index,
            rows.is_clicked[upper_rows],
            importance_weights[upper_rows],
            position_count,
        )
        lower_rates = _compute_rates(
            position_index,
            rows.is_clicked[lower_rows],
            importance_weights[lower_rows],
            position_count,
        )
        comparisons.append(
            (
                upper_rates,
                lower_rates,
                np.bincount(position_index, drawn_counts[upper_rows], position_count)
                / np.maximum(np.bincount(position_index, minlength=position_count), 1),
            )
        )
        first_position_clicks += int(upper_rates.clicks[0])
        has_enough_clicks = np.minimum(upper_rates.clicks, lower_rates.clicks) >= CLICKS_MIN
        log_rate_ratio = np.log(
            np.divide(
                lower_rates.click_rate,
                upper_rates.click_rate,
                out=np.ones(position_count),
                where=has_enough_clicks,
            )
        )
        # Ratios of several kinds are averaged, each weighted by its number of equivalent clicks.
        equivalent_clicks = (
            np.divide(
                1.0,
                1.0 / np.maximum(upper_rates.effective_clicks, 1e-12)
                + 1.0 / np.maximum(lower_rates.effective_clicks, 1e-12),
            )
            * has_enough_clicks
        )
        weighted_log_ratios[1:] += (equivalent_clicks * log_rate_ratio)[:-1]
        evidence_totals[1:] += equivalent_clicks[:-1]
    last_position = int(np.flatnonzero(click_counts >= CLICKS_MIN).max(initial=0))
    _refuse_unlinked_positions(is_linked, click_counts, last_position)
    if last_position and first_position_clicks < CLICKS_MIN:
        raise UsageError(
            f"only {first_position_clicks} clicks on the first place of drawn lists",
            fix="take a longer window",
        )
    for upper_rates, lower_rates, item_counts in comparisons:
        _refuse_missing_items(upper_rates, lower_rates, item_counts)
    mean_log_ratios = np.divide(
        weighted_log_ratios,
        evidence_totals,
        out=np.zeros(position_count),
        where=evidence_totals > 0,
    )
    return np.minimum.accumulate(np.exp(np.cumsum(mean_log_ratios)))


def _refuse_unlinked_positions(
    is_linked: npt.NDArray[np.bool_], click_counts: npt.NDArray[np.int64], last_position: int
) -> None:
    """Raise if a position up to `last_position` was never exchanged with the one before it."""
    if not last_position and click_counts[0] < CLICKS_MIN:
        raise UsageError(
            f"only {click_counts[0]} clicks on the first place of drawn lists",
            fix="take a longer window",
        )
    unlinked_positions = np.flatnonzero(~is_linked[1 : last_position + 1]) + 1
    if not unlinked_positions.size:
        return
    if not click_counts[0] and unlinked_positions[0] == 1:
        problem = "what stood on the first place was never drawn at random"
    else:
        names = ", ".join(f"{gap} and {gap + 1}" for gap in unlinked_positions[:3].tolist()) + (
            ", …" if unlinked_positions.size > 3 else ""
        )
        problem = f"no answer could have exchanged what stood on places {names}"
    overlap_fix = (
        'log answers of Explore(method="swap", first=1) and, for as long, of first=2, so '
        "that the pairs overlap"
    )
    raise UsageError(problem, where="--position weights", fix=f"{overlap_fix}; or {_EXPLORE_FIX}")


def _refuse_missing_items(
    upper: "_PositionRates", lower: "_PositionRates", item_counts: Floats
) -> None:
    """Raise if the rows of a position weigh far less than expected, so that items are missing.

    Neighbours are compared within the responses that have both, and others through them, since
    shorter responses may have had fewer items.
    """
    compared_positions = np.flatnonzero(np.minimum(upper.clicks, lower.clicks) >= CLICKS_MIN)
    if not compared_positions.size:
        return
    weight_ratios = np.ones(len(item_counts))
    weight_ratios[compared_positions + 1] = (
        lower.mean_weight[compared_positions] / upper.mean_weight[compared_positions]
    )
    mean_weights = upper.mean_weight[compared_positions[0]] * np.cumprod(
        weight_ratios[compared_positions[0] : compared_positions[-1] + 2]
    )
    worst_position = int(mean_weights.argmin())
    expected_weight = max(float(mean_weights.max()), float(item_counts[compared_positions[0]]))
    if mean_weights[worst_position] < WEIGHT_SHARE_MIN * expected_weight:
        detail = (
            f"rows there weigh {mean_weights[worst_position]:.1f} in the mean, and would weigh "
            f"{expected_weight:.1f}"
        )
        problem = (
            f"place {compared_positions[0] + worst_position + 1} of drawn lists hardly ever had "
            f"the items that other places had, so they cannot be compared: {detail}"
        )
        raise UsageError(
            problem,
            where="--position weights",
            fix=f"{_EXPLORE_FIX}; a low temperature or rate needs far more answers",
        )


@dataclass(frozen=True)
class _PositionRates:
    """Rates of the rows at each position.

    Attributes:
        mean_weight: mean weight.
        click_rate: weighted share of clicked rows.
        clicks: number of clicks.
        effective_clicks: number of equally weighted clicks with the same variance.
    """

    mean_weight: Floats
    click_rate: Floats
    clicks: npt.NDArray[np.int64]
    effective_clicks: Floats


def _compute_rates(
    position_index: npt.NDArray, is_clicked: npt.NDArray, weight: Floats, position_count: int
) -> _PositionRates:
    total_weight = np.bincount(position_index, weight, position_count)
    clicked_weight = np.bincount(position_index, weight * is_clicked, position_count)
    squared_weights = np.bincount(position_index, np.square(weight) * is_clicked, position_count)
    clicks = np.bincount(position_index, is_clicked, position_count).astype(np.int64)
    mean = total_weight / np.maximum(np.bincount(position_index, minlength=position_count), 1)
    return _PositionRates(
        mean,
        clicked_weight / np.maximum(total_weight, 1e-12),
        clicks,
        np.square(clicked_weight) / np.maximum(squared_weights, 1e-12),
    )
