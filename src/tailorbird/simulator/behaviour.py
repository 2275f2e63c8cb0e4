"""What a visitor does with a list: how far it looks, what it clicks, reads, puts into the cart and
buys, how pleased it is.

One set of probabilities serves history, live traffic and truth, so that what is expected is what is
drawn from:

    P(click at position j) = P(seen at j) · P(looked at | seen, j) · σ(utility + relevance to the query)
    P(purchase)            = P(click) · P(cart | click) · P(purchase | cart)

Given user, list and time, positions are independent of each other.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.simulator.taste import LEVEL, Taste
from tailorbird.simulator.world import DEVICES, Floats, Ints

# The list is seen down to 4 items, 8 items or its end, with these chances; by device.
DEPTHS = (4, 8, 1_000)
DEPTH_CHANCES = np.array([[0.40, 0.28, 0.32], [0.12, 0.28, 0.60], [0.22, 0.30, 0.48]])
ATTENTION_LOST = np.array([0.10, 0.06, 0.07])  # looked at with 1 / (1 + this · (position − 1))
POSITIONS_MAX = 64

PURCHASE_GIVEN_CART = 0.5
PLEASURE_USUAL = 0.3  # about what a list gives; more pleases, less disappoints


@dataclass(frozen=True)
class Chances:
    """Probabilities for lists: each (n, k)."""

    seen: Floats
    click: Floats  # unconditional: seen, looked at and clicked
    click_if_seen: Floats
    cart_if_clicked: Floats
    utility: Floats  # relevance included

    @property
    def purchase(self) -> Floats:
        return self.click * self.cart_if_clicked * PURCHASE_GIVEN_CART


def _seen_table() -> Floats:
    positions = np.arange(1, POSITIONS_MAX + 1)
    return np.stack(
        [
            sum(p * (positions <= depth) for p, depth in zip(chances, DEPTHS, strict=True))
            for chances in DEPTH_CHANCES
        ]
    )


def _attention_table() -> Floats:
    return np.float64(1.0) / (1.0 + ATTENTION_LOST[:, None] * np.arange(POSITIONS_MAX))


_SEEN = _seen_table()  # (devices, positions)
_ATTENTION = _attention_table()
assert len(DEPTH_CHANCES) == len(ATTENTION_LOST) == len(DEVICES)


def chances(
    taste: Taste, user: Ints, items: Ints, day: Floats, relevance: Floats | float = 0.0
) -> Chances:
    """For each list what may come of each of its items. user (n,), items (n, k), day (n,),
    relevance (n, k) or 0.
    """
    k = items.shape[1]
    if k > POSITIONS_MAX:
        raise ValueError(f"a list has at most {POSITIONS_MAX} items, got {k}")
    device = taste.users.device[user]
    utility = taste.utility(user, items, day) + relevance
    seen = _SEEN[device, :k]
    click_if_seen = _ATTENTION[device, :k] * sigmoid(utility)
    return Chances(
        seen, seen * click_if_seen, click_if_seen, cart_chance(taste, user, items, day), utility
    )


def cart_chance(taste: Taste, user: Ints, items: Ints, day: Floats) -> Floats:
    """P(cart | click): good items, price cuts and full purses; 0 out of stock. (n, k)"""
    table = taste.items
    at = day[:, None]
    odds = (
        -2.0
        + 0.45 * table.quality[items]
        + 0.7 * table.on_sale(items, at)
        + 0.3 * (1 - taste.users.price_sensitivity[user][:, None])
    )
    return sigmoid(odds) * table.in_stock(items, at)


def draw_seen(rng: np.random.Generator, device: Ints, k: int) -> Ints:
    """How many items of a list of k each visitor gets to see, shape (n,)."""
    bounds = np.cumsum(DEPTH_CHANCES[device], axis=1)
    which = (rng.random(len(device))[:, None] > bounds[:, :-1]).sum(axis=1)
    return np.minimum(np.asarray(DEPTHS)[which], k)


def dwell_seconds(rng: np.random.Generator, utility: Floats, quality: Floats) -> Floats:
    """How long an item's page is looked at: longer if it suits and is good. Median about 18 s;
    shapes broadcast.
    """
    median = 18.0 * np.exp(0.3 * np.clip(utility - LEVEL, -2, 4) + 0.35 * quality - 0.3)
    return np.clip(
        median * np.exp(0.7 * rng.normal(size=np.broadcast_shapes(utility.shape, quality.shape))),
        1.0,
        900.0,
    )


def pleasure(clicks: Floats, quality: Floats, purchases: Floats) -> Floats:
    """What a list gave a visitor, from its clicks, the summed quality of what was clicked, and its
    purchases.
    """
    return np.minimum(clicks, 2.0) * 0.8 + 0.15 * quality + 0.6 * purchases


def sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


def is_true(rng: np.random.Generator, chance: Floats) -> npt.NDArray[np.bool_]:
    """A draw for each chance."""
    return rng.random(chance.shape) < chance
