"""Preferences of the simulated users at any time, in closed form without stepping.

    utility(u, i, t) = level
        + base[i] + wave of i at t + novelty · e^(−age/7d) + season[category]     common
        + category taste[u] + style taste[u] · style[i]                           lasting, drifts
        + urge, if u came for this category in these four hours                   passing
        − price sensitivity[u] · thrift · (log price − typical log price of the category)

Personal tastes rotate slowly, so their spread stays constant; country and age group shift them. A
`shift` starts a new era, like a season: people tire of what they wanted most and partly want the
opposite, expensive items come into fashion and new ones lose appeal. Common preferences change
less. A model trained before a shift is then wrong, and long memories mislead, while popularity
lists suffer less.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.events import combine_keys
from tailorbird.simulator.words import CATEGORY_WORDS
from tailorbird.simulator.world import (
    AGE_GROUPS,
    COUNTRIES,
    STYLE_DIMENSIONS,
    Day,
    Floats,
    Ints,
    Items,
    Users,
)

LEVEL = -3.5  # log odds of a click on an average item
URGE_WEIGHT = 0.9
URGE_WINDOWS_A_DAY = 6  # the category changes every four hours
NOVELTY_DAYS = 7.0
_CATEGORY_COUNT = len(CATEGORY_WORDS)


@dataclass(frozen=True)
class Era:
    """An era: the tastes from `start` (days) until the next shift."""

    start: float
    base: Floats  # (items,)
    season: Floats  # (categories,)
    group_taste: Floats  # (countries, age groups, categories)
    own_taste: Floats  # (2, users, categories): the taste rotates through the two
    style: Floats  # (users, STYLE_DIMENSIONS)
    thrift: float
    novelty: float


def first_era(rng: np.random.Generator, users: Users, items: Items) -> Era:
    return _draw_era(rng, users, items, start=-np.inf, thrift=0.3, novelty=0.7)


def next_era(
    rng: np.random.Generator,
    users: Users,
    items: Items,
    previous: Era,
    start: float,
    strength: float,
    people: npt.NDArray[np.bool_] | None = None,
) -> Era:
    """Return the era after a shift: strength 0 changes nothing, 1 replaces all tastes.

    Of a part of the people, (users,), only the own tastes change, not what all have in common.
    """
    new_era = _draw_era(rng, users, items, start=start, thrift=-1.0, novelty=-0.3)
    common_strength = 0.3 * strength  # Common preferences change less.

    def mix(a: Floats, b: Floats, share: float) -> Floats:
        # Dividing by the norm keeps the spread, and therefore the difficulty.
        return ((1 - share) * a + share * b) / np.hypot(1 - share, share)

    def mix_opposite(a: Floats, b: Floats) -> Floats:
        opposite = 0.8 * b - 0.6 * a  # same spread as a, negatively correlated
        mixed = (1 - strength) * a + strength * opposite
        return mixed * (np.std(a) / np.std(mixed))

    own_taste = mix_opposite(previous.own_taste, new_era.own_taste)
    style = mix_opposite(previous.style, new_era.style)
    if people is not None and not people.all():
        own_taste = np.where(people[:, None], own_taste, previous.own_taste)
        style = np.where(people[:, None], style, previous.style)
        return replace(previous, start=start, own_taste=own_taste, style=style)
    return Era(
        start=start,
        base=mix(previous.base, new_era.base, common_strength),
        season=mix(previous.season, new_era.season, common_strength),
        group_taste=mix_opposite(previous.group_taste, new_era.group_taste),
        own_taste=own_taste,
        style=style,
        thrift=(1 - strength) * previous.thrift + strength * new_era.thrift,
        novelty=(1 - strength) * previous.novelty + strength * new_era.novelty,
    )


def _draw_era(
    rng: np.random.Generator,
    users: Users,
    items: Items,
    start: float,
    thrift: float,
    novelty: float,
) -> Era:
    base = rng.gumbel(0.0, 0.19, items.count)  # a long upper tail: few hits
    return Era(
        start=start,
        base=base - np.euler_gamma * 0.19 + 0.08 * items.quality,
        season=0.12 * rng.normal(size=_CATEGORY_COUNT),
        group_taste=0.2 * rng.normal(size=(len(COUNTRIES), 1, _CATEGORY_COUNT))
        + 0.2 * rng.normal(size=(1, len(AGE_GROUPS), _CATEGORY_COUNT)),
        own_taste=0.45 * rng.normal(size=(2, users.count, _CATEGORY_COUNT)),
        style=0.09 * rng.normal(size=(users.count, STYLE_DIMENSIONS)),
        thrift=thrift,
        novelty=novelty,
    )


class Taste:
    """Utilities of items for users at times; a pure function of its arguments."""

    def __init__(self, users: Users, items: Items, eras: list[Era], seed: int) -> None:
        self.users = users
        self.items = items
        self.eras = eras
        self._seed = np.array(seed, np.uint64)
        self._typical_log_price = np.log([words.price for words in CATEGORY_WORDS])

    def utility(self, user: Ints, items: Ints, day: Floats) -> Floats:
        """Return the log odds of a click on an examined item, (n, k).

        user (n,), items (n, k) or (k,), day (n,).
        """
        items = np.broadcast_to(items, (len(user), items.shape[-1]))
        if len(self.eras) == 1:
            return self._compute_utility(self.eras[0], user, items, day)
        era_index = np.searchsorted([era.start for era in self.eras], day, side="right") - 1
        result = np.empty(items.shape)
        for number in np.unique(era_index):
            is_in_era = era_index == number
            result[is_in_era] = self._compute_utility(
                self.eras[number], user[is_in_era], items[is_in_era], day[is_in_era]
            )
        return result

    def appeal(self, day: float) -> Floats:
        """Return the common part of the utilities at a time, thrift included, shape (items,).

        It ranks items by true popularity.
        """
        all_items = np.arange(self.items.count)
        era = self.eras[
            int(np.searchsorted([era.start for era in self.eras], day, side="right")) - 1
        ]
        return self._shared_taste(era, all_items, day) - era.thrift * self._relative_price(
            all_items, day
        )

    def lasting_taste(self, user: Ints, day: Floats, era: Era) -> Floats:
        """Return category tastes without the passing urge, shape (n, categories)."""
        users = self.users
        angle = (users.drift[user] * day)[:, None]
        own_taste = np.cos(angle) * era.own_taste[0, user] + np.sin(angle) * era.own_taste[1, user]
        return own_taste + era.group_taste[users.country[user], users.age_group[user]]

    def urge_category(self, user: Ints, day: Floats, lasting_taste: Floats) -> Ints:
        """Return the category a user currently wants, more likely a preferred one, (n,)."""
        urge_window = np.floor(day * URGE_WINDOWS_A_DAY).astype(np.int64).astype(np.uint64)
        keys = combine_keys(
            self._seed,
            user.astype(np.uint64)[:, None],
            urge_window[:, None],
            np.arange(_CATEGORY_COUNT, dtype=np.uint64),
        )
        uniform_draw = ((keys >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
        return np.argmax(1.5 * lasting_taste - np.log(-np.log(uniform_draw)), axis=1)

    def _compute_utility(self, era: Era, user: Ints, items: Ints, day: Floats) -> Floats:
        lasting_taste = self.lasting_taste(user, day, era)
        urge_category = self.urge_category(user, day, lasting_taste)
        category = self.items.category[items]
        day_column = day[:, None]
        utility = self._shared_taste(era, items, day_column)
        utility += np.take_along_axis(lasting_taste, category, axis=1)
        utility += URGE_WEIGHT * (category == urge_category[:, None])
        utility += np.einsum("nd,nkd->nk", era.style[user], self.items.style[items])
        utility -= (
            era.thrift
            * self.users.price_sensitivity[user][:, None]
            * self._relative_price(items, day_column)
        )
        return utility

    def _shared_taste(self, era: Era, items: Ints, day: Day) -> Floats:
        item_table = self.items
        wave = item_table.wave_amplitude[items] * np.sin(
            2 * np.pi * day / item_table.wave_period_days[items] + item_table.wave_phase[items]
        )
        age_days = np.maximum(day - item_table.arrival_day[items], 0.0)
        return (
            LEVEL
            + era.base[items]
            + era.season[item_table.category[items]]
            + wave
            + era.novelty * np.exp(-age_days / NOVELTY_DAYS)
        )

    def _relative_price(self, items: Ints, day: Day) -> Floats:
        return (
            np.log(self.items.price_at(items, day))
            - self._typical_log_price[self.items.category[items]]
        )
