"""The simulated site whose truth is known, and what a list is truly worth there."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tailorbird.simulator import Site, behaviour
from tailorbird.simulator.taste import URGE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SEED, USERS, ITEMS, DAYS = 11, 3_000, 800, 21
SMALL_DAYS = 8


@dataclass(frozen=True)
class Reward:
    """What a list is worth: the slot's objective over its first `size` items."""

    size: int = 12
    click: float = 1.0
    purchase: float = 5.0


REWARD = Reward()
ORACLES = ("oracle", "oracle_lasting", "oracle_common")


def oracle_scores(
    site: Site, user: Ints, item: Ints, day: Floats, offsets: Ints
) -> dict[str, Floats]:
    """What each pair is worth to who knows all, all that lasts, or what is common to everybody and
    to people of one's kind.
    """
    found: dict[str, list[Floats]] = {name: [] for name in ORACLES}
    taste, era = site.taste, site.taste.eras[0]
    for row in range(len(user)):
        who, at = user[row : row + 1], day[row : row + 1]
        these = item[offsets[row] : offsets[row + 1]]
        cart = behaviour.cart_chance(taste, who, these[None, :], at)[0]
        worth = REWARD.click + REWARD.purchase * cart * behaviour.PURCHASE_GIVEN_CART
        utility = taste.utility(who, these, at)[0]
        lasting = taste.lasting(who, at, era)
        category = taste.items.category[these]
        calm = utility - URGE * (category == taste.urge(who, at, lasting)[0])
        chance = np.exp(
            1.5 * lasting[0] - (1.5 * lasting[0]).max()
        )  # of each category to be what is wanted: a Gumbel maximum
        chance = (chance / chance.sum())[category]
        shared = (
            taste.appeal(float(at[0]))[these]
            + era.group[taste.users.country[who[0]], taste.users.age_group[who[0]]][category]
        )
        found["oracle"].append(behaviour.sigmoid(utility) * worth)
        found["oracle_lasting"].append(
            (chance * behaviour.sigmoid(calm + URGE) + (1 - chance) * behaviour.sigmoid(calm))
            * worth
        )
        found["oracle_common"].append(behaviour.sigmoid(shared) * worth)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def worth_of(
    site: Site, user: Ints, item: Ints, day: Floats, offsets: Ints, score: Floats
) -> Floats:
    """True expected reward of each request's best items by a score."""
    spans = [slice(low, high) for low, high in pairwise(offsets.tolist())]
    best = np.stack(
        [item[span][np.argsort(-score[span], kind="stable")[: REWARD.size]] for span in spans]
    )
    chances = behaviour.list_probabilities(site.taste, user, best, day)
    return (REWARD.click * chances.click + REWARD.purchase * chances.purchase).sum(axis=1)
