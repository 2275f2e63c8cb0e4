"""Mutable state of the users: satisfaction, departures and logins.

It is the only state of the simulation. History ends with a population; live traffic continues from
a copy of it.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.simulator.behaviour import MEAN_PLEASURE
from tailorbird.simulator.world import Floats, Ints, Users

SATISFACTION_DECAY = 0.9  # weight of earlier satisfaction, per list seen
VISIT_RATE_EFFECT = 1.5  # effect of satisfaction on the log rate of visits
LEAVING_PROBABILITY = 0.01  # after a visit, at average satisfaction
LEAVE_EFFECT = 6.0  # effect of satisfaction on its logarithm
# Relative visits by local hour, and by day of the week from Monday.
_VISITS_BY_HOUR = np.array(
    [2, 1, 1, 1, 1, 2, 4, 7, 8, 8, 8, 9, 11, 10, 8, 8, 9, 11, 14, 17, 19, 18, 12, 6],
    dtype=np.float64,
)
HOUR_SHARE = _VISITS_BY_HOUR / _VISITS_BY_HOUR.sum()
WEEKDAY_FACTOR = np.array([0.92, 0.90, 0.92, 0.96, 1.04, 1.15, 1.11])


@dataclass
class Population:
    """State of all users, shape (users,) each."""

    satisfaction: Floats  # 0 is average
    has_left: npt.NDArray[np.bool_]
    logged_in: npt.NDArray[np.bool_]  # events then carry the user id

    def copy(self) -> "Population":
        return replace(
            self,
            satisfaction=self.satisfaction.copy(),
            has_left=self.has_left.copy(),
            logged_in=self.logged_in.copy(),
        )

    def visit_rate(self, users: Users, day: float, weekday: int) -> Floats:
        """Return expected visits per day of each active user, shape (users,)."""
        is_active = ~self.has_left & (users.joined_day <= day)
        rate = (
            users.visits_a_day
            * WEEKDAY_FACTOR[weekday]
            * np.exp(VISIT_RATE_EFFECT * self.satisfaction)
        )
        return np.where(is_active, rate, 0.0)

    def update_satisfaction(self, user: Ints, pleasure: Floats) -> None:
        """Update satisfaction by the pleasure of lists.

        user (n,), repeats allowed; pleasure (n,).
        """
        user_count = len(self.has_left)
        list_counts = np.bincount(user, minlength=user_count)
        has_lists = list_counts > 0
        excess_pleasure = (
            np.bincount(user, weights=pleasure, minlength=user_count)[has_lists]
            / list_counts[has_lists]
            - MEAN_PLEASURE
        )
        decay = SATISFACTION_DECAY ** list_counts[has_lists]
        self.satisfaction[has_lists] = np.clip(
            decay * self.satisfaction[has_lists] + (1 - decay) * excess_pleasure, -1.0, 1.0
        )

    def remove_leavers(self, rng: np.random.Generator, user: Ints) -> None:
        """Let some visitors leave for good, more likely the dissatisfied; users are distinct."""
        leaving_probability = LEAVING_PROBABILITY * np.exp(-LEAVE_EFFECT * self.satisfaction[user])
        self.has_left[user[rng.random(len(user)) < leaving_probability]] = True


def new_population(users: Users) -> Population:
    n = users.count
    return Population(
        satisfaction=np.zeros(n), has_left=np.zeros(n, bool), logged_in=users.is_member.copy()
    )
