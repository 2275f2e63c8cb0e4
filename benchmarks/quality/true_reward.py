"""The simulated site whose truth is known, and the true reward of lists there."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tailorbird.simulator import Site, behaviour
from tailorbird.simulator.taste import URGE_WEIGHT

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SEED, USERS, ITEMS, DAYS = 11, 3_000, 800, 21
SMALL_DAYS = 8


@dataclass(frozen=True)
class Reward:
    """The slot's objective over the first `size` items of a list."""

    size: int = 12
    click: float = 1.0
    purchase: float = 5.0


REWARD = Reward()
ORACLES = ("oracle", "oracle_lasting", "oracle_common")


def oracle_scores(
    site: Site, user: Ints, item: Ints, day: Floats, offsets: Ints
) -> dict[str, Floats]:
    """Score each pair with full knowledge, with lasting effects only, and with common effects.

    Common effects are those of everybody and of people of one's kind.
    """
    scores: dict[str, list[Floats]] = {name: [] for name in ORACLES}
    taste, era = site.taste, site.taste.eras[0]
    for row in range(len(user)):
        user_, day_ = user[row : row + 1], day[row : row + 1]
        items = item[offsets[row] : offsets[row + 1]]
        cart = behaviour.cart_probability(taste, user_, items[None, :], day_)[0]
        reward = REWARD.click + REWARD.purchase * cart * behaviour.PURCHASE_GIVEN_CART
        utility = taste.utility(user_, items, day_)[0]
        lasting = taste.lasting_taste(user_, day_, era)
        category = taste.items.category[items]
        utility_without_urge = utility - URGE_WEIGHT * (
            category == taste.urge_category(user_, day_, lasting)[0]
        )
        chance = np.exp(
            1.5 * lasting[0] - (1.5 * lasting[0]).max()
        )  # of each category to be what is wanted: a Gumbel maximum
        chance = (chance / chance.sum())[category]
        common_utility = (
            taste.appeal(float(day_[0]))[items]
            + era.group_taste[taste.users.country[user_[0]], taste.users.age_group[user_[0]]][
                category
            ]
        )
        scores["oracle"].append(behaviour.sigmoid(utility) * reward)
        scores["oracle_lasting"].append(
            (
                chance * behaviour.sigmoid(utility_without_urge + URGE_WEIGHT)
                + (1 - chance) * behaviour.sigmoid(utility_without_urge)
            )
            * reward
        )
        scores["oracle_common"].append(behaviour.sigmoid(common_utility) * reward)
    return {name: np.concatenate(parts) for name, parts in scores.items()}


def true_rewards(
    site: Site, user: Ints, item: Ints, day: Floats, offsets: Ints, score: Floats
) -> Floats:
    """Return the true expected reward of each request's best items by a score."""
    spans = [slice(low, high) for low, high in pairwise(offsets.tolist())]
    best = np.stack(
        [item[span][np.argsort(-score[span], kind="stable")[: REWARD.size]] for span in spans]
    )
    chances = behaviour.list_probabilities(site.taste, user, best, day)
    return (REWARD.click * chances.click + REWARD.purchase * chances.purchase).sum(axis=1)
