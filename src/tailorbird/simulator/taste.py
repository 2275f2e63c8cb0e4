"""What the users of the simulated site want, at any time, in closed form: nothing has to be stepped
to ask about next week.

    utility(u, i, t) = level
                     + base[i] + wave of i at t + novelty · e^(−age/7d) + season[category]     the same for everybody
                     + category taste[u] + style taste[u] · style[i]                           lasting, drifts
                     + urge, if the category is what u came for in these four hours            passing
                     − price sensitivity[u] · thrift · (log price − what the category costs)

Own tastes turn slowly (a rotation, so their spread stays), and country and age group shift them. A
`shift` starts a new era, as a season does: people have had enough of what they wanted most and want
something else, in part the opposite; what is dear comes into fashion and what is new is no longer
loved. What everybody likes changes less. A model trained before it is then wrong in what it
learned, and long memories mislead; lists of what is popular suffer less.
"""

from dataclasses import dataclass

import numpy as np

from tailorbird.events import combine
from tailorbird.simulator.words import SHELVES
from tailorbird.simulator.world import (
    AGE_GROUPS,
    COUNTRIES,
    STYLES,
    Day,
    Floats,
    Ints,
    Items,
    Users,
)

LEVEL = -3.5
URGE = 0.9
URGES_A_DAY = 6  # what a user came for changes every four hours
NOVELTY_DAYS = 7.0
_C = len(SHELVES)


@dataclass(frozen=True)
class Era:
    """The tastes from `start` (days) on, until the next era."""

    start: float
    base: Floats  # (items,)
    season: Floats  # (categories,)
    group: Floats  # (countries, age groups, categories)
    own: Floats  # (2, users, categories): the taste is on the circle through the two
    style: Floats  # (users, STYLES)
    thrift: float
    novelty: float


def first_era(rng: np.random.Generator, users: Users, items: Items) -> Era:
    return _draw_era(rng, users, items, start=-np.inf, thrift=0.3, novelty=0.7)


def next_era(
    rng: np.random.Generator, users: Users, items: Items, before: Era, start: float, strength: float
) -> Era:
    """The era after a shift of a strength in [0, 1]; 0 changes nothing, 1 leaves nothing of the
    tastes before.
    """
    new = _draw_era(rng, users, items, start=start, thrift=-1.0, novelty=-0.3)
    shared = 0.3 * strength

    def mix(a: Floats, b: Floats, share: float) -> Floats:
        # Divided by the norm, so that the spread, and with it the difficulty, stays what it was.
        return ((1 - share) * a + share * b) / np.hypot(1 - share, share)

    def tire(a: Floats, b: Floats) -> Floats:
        enough = 0.8 * b - 0.6 * a  # as widely spread as a, and against it
        mixed = (1 - strength) * a + strength * enough
        return mixed * (np.std(a) / np.std(mixed))

    return Era(
        start=start,
        base=mix(before.base, new.base, shared),
        season=mix(before.season, new.season, shared),
        group=tire(before.group, new.group),
        own=tire(before.own, new.own),
        style=tire(before.style, new.style),
        thrift=(1 - strength) * before.thrift + strength * new.thrift,
        novelty=(1 - strength) * before.novelty + strength * new.novelty,
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
        season=0.12 * rng.normal(size=_C),
        group=0.2 * rng.normal(size=(len(COUNTRIES), 1, _C))
        + 0.2 * rng.normal(size=(1, len(AGE_GROUPS), _C)),
        own=0.45 * rng.normal(size=(2, users.count, _C)),
        style=0.09 * rng.normal(size=(users.count, STYLES)),
        thrift=thrift,
        novelty=novelty,
    )


class Taste:
    """Utilities of items for users at times. Pure: the same arguments give the same numbers."""

    def __init__(self, users: Users, items: Items, eras: list[Era], seed: int) -> None:
        self.users = users
        self.items = items
        self.eras = eras
        self._seed = np.array(seed, np.uint64)
        self._usual = np.log([shelf.price for shelf in SHELVES])

    def utility(self, user: Ints, items: Ints, day: Floats) -> Floats:
        """Log odds of a click on an item that is looked at. user (n,), items (n, k) or (k,), day
        (n,) → (n, k).
        """
        items = np.broadcast_to(items, (len(user), items.shape[-1]))
        if len(self.eras) == 1:
            return self._utility(self.eras[0], user, items, day)
        which = np.searchsorted([era.start for era in self.eras], day, side="right") - 1
        result = np.empty(items.shape)
        for number in np.unique(which):
            rows = which == number
            result[rows] = self._utility(self.eras[number], user[rows], items[rows], day[rows])
        return result

    def appeal(self, day: float) -> Floats:
        """What all users share of the utilities at a time, thrift included, shape (items,): how
        popular an item should be.
        """
        everything = np.arange(self.items.count)
        era = self.eras[
            int(np.searchsorted([era.start for era in self.eras], day, side="right")) - 1
        ]
        return self._shared(era, everything, day) - era.thrift * self._dearness(everything, day)

    def lasting(self, user: Ints, day: Floats, era: Era) -> Floats:
        """Category tastes without the passing urge, shape (n, categories)."""
        users = self.users
        angle = (users.drift[user] * day)[:, None]
        own = np.cos(angle) * era.own[0, user] + np.sin(angle) * era.own[1, user]
        return own + era.group[users.country[user], users.age_group[user]]

    def urge(self, user: Ints, day: Floats, lasting: Floats) -> Ints:
        """The category for which a user comes in these hours: likelier one that it likes. Shape
        (n,).
        """
        window = np.floor(day * URGES_A_DAY).astype(np.int64).astype(np.uint64)
        keys = combine(
            self._seed,
            user.astype(np.uint64)[:, None],
            window[:, None],
            np.arange(_C, dtype=np.uint64),
        )
        uniform = ((keys >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
        return np.argmax(1.5 * lasting - np.log(-np.log(uniform)), axis=1)

    def _utility(self, era: Era, user: Ints, items: Ints, day: Floats) -> Floats:
        lasting = self.lasting(user, day, era)
        urge = self.urge(user, day, lasting)
        category = self.items.category[items]
        at = day[:, None]
        result = self._shared(era, items, at)
        result += np.take_along_axis(lasting, category, axis=1)
        result += URGE * (category == urge[:, None])
        result += np.einsum("nd,nkd->nk", era.style[user], self.items.style[items])
        result -= (
            era.thrift * self.users.price_sensitivity[user][:, None] * self._dearness(items, at)
        )
        return result

    def _shared(self, era: Era, items: Ints, day: Day) -> Floats:
        table = self.items
        wave = table.wave_size[items] * np.sin(
            2 * np.pi * day / table.wave_days[items] + table.wave_phase[items]
        )
        age = np.maximum(day - table.arrival[items], 0.0)
        return (
            LEVEL
            + era.base[items]
            + era.season[table.category[items]]
            + wave
            + era.novelty * np.exp(-age / NOVELTY_DAYS)
        )

    def _dearness(self, items: Ints, day: Day) -> Floats:
        return np.log(self.items.price_at(items, day)) - self._usual[self.items.category[items]]
