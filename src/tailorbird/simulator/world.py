"""The users and items of the simulated site, drawn once from a seed and then immutable.

`simulator.taste` has preferences, `simulator.behaviour` reactions to lists. Everything hidden
(tastes, quality, appeal) stays here and in `simulator.truth`; `wire.EventFactory` turns the visible
part into profile events. Arrays are indexed by user u or item i, numbered in order of arrival.
Times are days since the site's start, float64; events use microseconds.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.simulator.words import BRANDS, CATEGORY_WORDS, COLOURS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Day = Floats | np.float64 | float  # one time or many
Item = Ints | int  # one item's number or many

STYLE_DIMENSIONS = 6  # dimensions of style, from brand and material
DEVICES = ("phone", "desktop", "tablet")
DEVICE_SHARES = (0.58, 0.34, 0.08)
AGE_GROUPS = ("18-24", "25-34", "35-44", "45-54", "55+")
COUNTRIES = ("NO", "SE", "DE", "FR", "GB", "US")
COUNTRY_SHARES = (0.12, 0.15, 0.25, 0.16, 0.17, 0.15)
UTC_OFFSETS_MINUTES = (60, 60, 60, 60, 0, -300)
USER_AGENTS = {
    "phone": "Mozilla/5.0 (Linux; Android 16; Pixel 10) Mobile",
    "desktop": "Mozilla/5.0 (X11; Linux x86_64) Firefox/150.0",
    "tablet": "Mozilla/5.0 (iPad; CPU OS 26_0 like Mac OS X)",
}


@dataclass(frozen=True)
class Items:
    """The catalogue, shape (items,). Hidden: `quality`, `style`, and the waves of appeal."""

    titles: list[str]
    descriptions: list[str]
    category: Ints
    brand: Ints
    colour: Ints
    price: Floats
    arrival_day: Floats  # days since start, negative for earlier arrivals
    quality: Floats  # about N(0, 1)
    style: Floats  # (items, STYLE_DIMENSIONS)
    wave_amplitude: Floats  # amplitude of the appeal's wave
    wave_period_days: Floats  # its period
    wave_phase: Floats
    sale_period_days: Floats  # period of four-day price cuts; 0: never
    sale_phase: Floats
    sold_out_period_days: Floats  # period of two-day stock-outs; 0: never
    sold_out_phase: Floats
    withdrawn_day: Floats  # never in stock from then on; infinite without an incident
    promoted_from_day: Floats  # a price cut by an incident; infinite without one
    promoted_until_day: Floats

    @property
    def count(self) -> int:
        return len(self.titles)

    def price_at(self, item: Item, day: Day) -> Floats:
        """Return an item's price at a time, price cuts included; shapes broadcast."""
        return np.round(self.price[item] * np.where(self.is_on_sale(item, day), 0.75, 1.0), 2)

    def is_on_sale(self, item: Item, day: Day) -> npt.NDArray[np.bool_]:
        return _is_in_phase(self.sale_period_days[item], self.sale_phase[item], day, 4.0) | (
            (day >= self.promoted_from_day[item]) & (day < self.promoted_until_day[item])
        )

    def is_in_stock(self, item: Item, day: Day) -> npt.NDArray[np.bool_]:
        is_sold_out = _is_in_phase(
            self.sold_out_period_days[item], self.sold_out_phase[item], day, 2.0
        )
        return ~is_sold_out & (day < self.withdrawn_day[item])

    def list_available(self, day: float) -> Ints:
        """Return the items that have arrived and are in stock, shape (k,), ascending."""
        arrived_items = np.arange(np.searchsorted(self.arrival_day, day, side="right"))
        return arrived_items[self.is_in_stock(arrived_items, day)]


@dataclass(frozen=True)
class Users:
    """All users, shape (users,). Hidden: all but device, country and age group."""

    joined_day: Floats  # days since start, negative for earlier users
    device: Ints
    country: Ints
    age_group: Ints
    is_member: npt.NDArray[np.bool_]  # has an account when first seen
    visits_a_day: Floats
    price_sensitivity: Floats  # about 1
    drift: Floats  # rotation of the taste, radians a day

    @property
    def count(self) -> int:
        return len(self.joined_day)

    def utc_offset_minutes(self, user: Ints) -> Ints:
        """Return minutes by which a user's local time is ahead of UTC."""
        return np.asarray(UTC_OFFSETS_MINUTES)[self.country[user]]


def user_id(user: int) -> str:
    return f"u{user:06d}"


def anonymous_id(user: int) -> str:
    return f"a{user:06d}"


def item_id(item: int) -> str:
    return f"i{item:05d}"


def draw_items(
    rng: np.random.Generator, initial_count: int, arrivals_per_day: float, days: int
) -> Items:
    """Draw the initial catalogue and the arrivals of the following `days`."""
    later_count = round(arrivals_per_day * days)
    count = initial_count + later_count
    earlier_arrivals = -rng.exponential(60.0, initial_count) - 0.5
    arrival_days = np.sort(np.concatenate([earlier_arrivals, rng.uniform(0, days, later_count)]))
    category = rng.choice(len(CATEGORY_WORDS), count, p=_zipf_weights(len(CATEGORY_WORDS), 0.5))
    # A brand covers a few categories only, so brand and category are both informative.
    brand = (category * 3 + rng.integers(0, 9, count)) % len(BRANDS)
    noun, adjective, material = (rng.integers(0, n, count) for n in (8, 8, 6))
    colour = rng.integers(0, len(COLOURS), count)
    titles, descriptions = _draw_texts(category, brand, colour, noun, adjective, material)
    style = (
        0.75 * rng.normal(size=(len(BRANDS), STYLE_DIMENSIONS))[brand]
        + 0.5 * rng.normal(size=(len(CATEGORY_WORDS), 6, STYLE_DIMENSIONS))[category, material]
        + 0.35 * rng.normal(size=(count, STYLE_DIMENSIONS))
    )
    price_level = np.exp(0.35 * rng.normal(size=len(BRANDS)))[brand] * np.exp(
        0.3 * rng.normal(size=count)
    )
    price = (
        np.round(
            np.array([category_words.price for category_words in CATEGORY_WORDS])[category]
            * price_level
        )
        - 0.05
    )
    return Items(
        titles=titles,
        descriptions=descriptions,
        category=category,
        brand=brand,
        colour=colour,
        price=np.maximum(price, 2.95),
        arrival_day=arrival_days,
        quality=rng.normal(size=count),
        style=style,
        wave_amplitude=rng.gamma(2.0, 0.06, count),
        wave_period_days=rng.uniform(12, 60, count),
        wave_phase=rng.uniform(0, 2 * np.pi, count),
        sale_period_days=np.where(rng.random(count) < 0.3, rng.uniform(20, 60, count), 0.0),
        sale_phase=rng.uniform(0, 60, count),
        sold_out_period_days=np.where(rng.random(count) < 0.2, rng.uniform(15, 50, count), 0.0),
        sold_out_phase=rng.uniform(0, 50, count),
        withdrawn_day=np.full(count, np.inf),
        promoted_from_day=np.full(count, np.inf),
        promoted_until_day=np.full(count, np.inf),
    )


def draw_users(
    rng: np.random.Generator, initial_count: int, arrivals_per_day: float, days: int
) -> Users:
    """Draw the initial users and those who join in the following `days`."""
    later_count = round(arrivals_per_day * days)
    count = initial_count + later_count
    return Users(
        joined_day=np.sort(
            np.concatenate(
                [-rng.exponential(120.0, initial_count) - 0.01, rng.uniform(0, days, later_count)]
            )
        ),
        device=rng.choice(len(DEVICES), count, p=DEVICE_SHARES),
        country=rng.choice(len(COUNTRIES), count, p=COUNTRY_SHARES),
        age_group=rng.choice(len(AGE_GROUPS), count, p=(0.15, 0.28, 0.25, 0.18, 0.14)),
        is_member=np.concatenate([rng.random(initial_count) < 0.7, np.zeros(later_count, bool)]),
        visits_a_day=np.clip(rng.gamma(0.9, 0.45, count), 0.02, 4.0),
        price_sensitivity=rng.gamma(4.0, 0.25, count),
        drift=(np.pi / 2) / 90 * rng.uniform(0.3, 1.5, count),
    )


def _draw_texts(
    category: Ints, brand: Ints, colour: Ints, noun: Ints, adjective: Ints, material: Ints
) -> tuple[list[str], list[str]]:
    titles = []
    descriptions = []
    colours = tuple(COLOURS)
    for item, category_number in enumerate(category):
        category_words = CATEGORY_WORDS[category_number]
        title_words = (
            category_words.adjectives[adjective[item]],
            category_words.materials[material[item]],
            category_words.nouns[noun[item]],
        )
        titles.append(" ".join(title_words).capitalize())
        descriptions.append(
            f"{titles[-1]} in {colours[colour[item]]}, by {BRANDS[brand[item]]}. "
            f"{category_words.sentence}"
        )
    return titles, descriptions


def _zipf_weights(n: int, exponent: float) -> Floats:
    weights = 1.0 / np.arange(1, n + 1) ** exponent
    return weights / weights.sum()


def _is_in_phase(period: Floats, phase: Floats, day: Day, length: float) -> npt.NDArray[np.bool_]:
    """Return whether `day` is in the first `length` days of a period; never if it is 0."""
    has_no_period = period == 0
    return ~has_no_period & (np.mod(day + phase, np.where(has_no_period, 1.0, period)) < length)
