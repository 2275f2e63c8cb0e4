"""How the users stand at a moment: what they know of the site and it of them. The one thing of the
simulation that has a memory.

History ends with a population; live traffic goes on from a copy of it.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.simulator.behaviour import PLEASURE_USUAL
from tailorbird.simulator.world import Floats, Ints, Users

MEMORY = 0.9  # weight of what was before, per list seen
EAGERNESS = 1.5  # by how much satisfaction changes the rate of visits (log)
LEAVING = 0.01  # chance after a visit to leave for good, at usual satisfaction …
DISAPPOINTMENT = 6.0  # … and by how much satisfaction lowers it (log)
# Visits by local hour, and by day of the week from Monday.
_HOURS = np.array(
    [2, 1, 1, 1, 1, 2, 4, 7, 8, 8, 8, 9, 11, 10, 8, 8, 9, 11, 14, 17, 19, 18, 12, 6],
    dtype=np.float64,
)
HOUR_SHARE = _HOURS / _HOURS.sum()
WEEKDAY_FACTOR = np.array([0.92, 0.90, 0.92, 0.96, 1.04, 1.15, 1.11])


@dataclass
class Population:
    """Shape (users,) each."""

    satisfaction: Floats  # 0 is usual
    left: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]  # logged in: events carry the user id

    def copy(self) -> "Population":
        return replace(
            self,
            satisfaction=self.satisfaction.copy(),
            left=self.left.copy(),
            known=self.known.copy(),
        )

    def visit_rate(self, users: Users, day: float, weekday: int) -> Floats:
        """Expected visits a day of each user who has come and not left, shape (users,)."""
        here = ~self.left & (users.joined <= day)
        rate = users.visits_a_day * WEEKDAY_FACTOR[weekday] * np.exp(EAGERNESS * self.satisfaction)
        return np.where(here, rate, 0.0)

    def please(self, user: Ints, pleasure: Floats) -> None:
        """Take in what lists gave their users: user (n,), repeats allowed; pleasure (n,)."""
        n = len(self.left)
        lists = np.bincount(user, minlength=n)
        touched = lists > 0
        mean = (
            np.bincount(user, weights=pleasure, minlength=n)[touched] / lists[touched]
            - PLEASURE_USUAL
        )
        kept = MEMORY ** lists[touched]
        self.satisfaction[touched] = np.clip(
            kept * self.satisfaction[touched] + (1 - kept) * mean, -1.0, 1.0
        )

    def let_go(self, rng: np.random.Generator, user: Ints) -> None:
        """Some of the users who visited leave for good: likelier the disappointed. user: distinct."""
        chance = LEAVING * np.exp(-DISAPPOINTMENT * self.satisfaction[user])
        self.left[user[rng.random(len(user)) < chance]] = True


def fresh_population(users: Users) -> Population:
    n = users.count
    return Population(satisfaction=np.zeros(n), left=np.zeros(n, bool), known=users.member.copy())
