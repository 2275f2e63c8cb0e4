"""Visitor behaviour on a list: viewing depth, clicks, dwell time, cart, purchase and satisfaction.

History, live traffic and truth share one set of probabilities, so expectations match what is drawn:

    P(click at position j) = P(seen at j) · P(examined | seen, j) · σ(utility + query relevance)
    P(purchase)            = P(click) · P(cart | click) · P(purchase | cart)

Given user, list and time, positions are independent.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.simulator.taste import LEVEL, Taste
from tailorbird.simulator.world import DEVICES, Floats, Ints

# Probabilities of seeing 4 items, 8 items or the whole list, by device.
SEEN_DEPTHS = (4, 8, 1_000)
DEPTH_PROBABILITIES = np.array([[0.40, 0.28, 0.32], [0.12, 0.28, 0.60], [0.22, 0.30, 0.48]])
ATTENTION_DECAY = np.array([0.10, 0.06, 0.07])  # examined with 1 / (1 + this · (position − 1))
POSITIONS_MAX = 64

PURCHASE_GIVEN_CART = 0.5
MEAN_PLEASURE = 0.3  # average of a list; more raises satisfaction, less lowers it


@dataclass(frozen=True)
class ListProbabilities:
    """Probabilities for lists: each (n, k)."""

    seen: Floats
    click: Floats  # unconditional: seen, examined and clicked
    click_if_seen: Floats
    cart_if_clicked: Floats
    utility: Floats  # includes query relevance

    @property
    def purchase(self) -> Floats:
        return self.click * self.cart_if_clicked * PURCHASE_GIVEN_CART


def _compute_seen_probability() -> Floats:
    positions = np.arange(1, POSITIONS_MAX + 1)
    return np.stack(
        [
            sum(
                probability * (positions <= depth)
                for probability, depth in zip(probabilities, SEEN_DEPTHS, strict=True)
            )
            for probabilities in DEPTH_PROBABILITIES
        ]
    )


def _compute_attention() -> Floats:
    return np.float64(1.0) / (1.0 + ATTENTION_DECAY[:, None] * np.arange(POSITIONS_MAX))


_SEEN_PROBABILITY = _compute_seen_probability()  # (devices, positions)
_ATTENTION_BY_POSITION = _compute_attention()
assert len(DEPTH_PROBABILITIES) == len(ATTENTION_DECAY) == len(DEVICES)


def list_probabilities(
    taste: Taste, user: Ints, items: Ints, day: Floats, relevance: Floats | float = 0.0
) -> ListProbabilities:
    """Return the probabilities of each item of each list.

    user (n,), items (n, k), day since the site's start (n,), relevance (n, k) or 0.
    """
    k = items.shape[1]
    if k > POSITIONS_MAX:
        raise ValueError(f"a list has at most {POSITIONS_MAX} items, got {k}")
    device = taste.users.device[user]
    utility = taste.utility(user, items, day) + relevance
    seen_probability = _SEEN_PROBABILITY[device, :k]
    click_if_seen = _ATTENTION_BY_POSITION[device, :k] * sigmoid(utility)
    return ListProbabilities(
        seen_probability,
        seen_probability * click_if_seen,
        click_if_seen,
        cart_probability(taste, user, items, day),
        utility,
    )


def cart_probability(taste: Taste, user: Ints, items: Ints, day: Floats) -> Floats:
    """Return P(cart | click) (n, k): higher for good items and price cuts; 0 out of stock."""
    item_table = taste.items
    day_column = day[:, None]
    log_odds = (
        -2.0
        + 0.45 * item_table.quality[items]
        + 0.7 * item_table.is_on_sale(items, day_column)
        + 0.3 * (1 - taste.users.price_sensitivity[user][:, None])
    )
    return sigmoid(log_odds) * item_table.is_in_stock(items, day_column)


def draw_seen_count(rng: np.random.Generator, device: Ints, k: int) -> Ints:
    """Draw how many items of a list of k each visitor sees, shape (n,)."""
    cumulative_probability = np.cumsum(DEPTH_PROBABILITIES[device], axis=1)
    depth_index = (rng.random(len(device))[:, None] > cumulative_probability[:, :-1]).sum(axis=1)
    return np.minimum(np.asarray(SEEN_DEPTHS)[depth_index], k)


def draw_dwell_s(rng: np.random.Generator, utility: Floats, quality: Floats) -> Floats:
    """Draw dwell times, longer for preferred and good items; median about 18 s.

    Shapes broadcast.
    """
    median_s = 18.0 * np.exp(0.3 * np.clip(utility - LEVEL, -2, 4) + 0.35 * quality - 0.3)
    return np.clip(
        median_s * np.exp(0.7 * rng.normal(size=np.broadcast_shapes(utility.shape, quality.shape))),
        1.0,
        900.0,
    )


def list_pleasure(clicks: Floats, clicked_quality: Floats, purchases: Floats) -> Floats:
    """Return the pleasure of a list from clicks, summed quality of clicked items, and purchases."""
    return np.minimum(clicks, 2.0) * 0.8 + 0.15 * clicked_quality + 0.6 * purchases


def sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


def draw_bernoulli(rng: np.random.Generator, probability: Floats) -> npt.NDArray[np.bool_]:
    """Draw a boolean for each probability."""
    return rng.random(probability.shape) < probability
