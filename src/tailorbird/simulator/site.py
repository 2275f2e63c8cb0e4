"""The simulated site: creates history and live traffic, and knows the truth.

Everything follows from its seed.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tailorbird.events import DAY
from tailorbird.simulator.history import History
from tailorbird.simulator.incidents import Incident, Incidents
from tailorbird.simulator.live import LiveTraffic
from tailorbird.simulator.population import Population, new_population
from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.taste import Taste, first_era, next_era
from tailorbird.simulator.truth import Truth
from tailorbird.simulator.wire import DefectRates
from tailorbird.simulator.world import draw_items, draw_users

DEFAULT_START = 1_790_553_600_000_000 // DAY * DAY  # a midnight in September 2026


class Site:
    """A shop with growing numbers of users and items.

    Args:
        seed: the same seed and arguments give the same world, history and (for the same
            responses) live traffic.
        users, items: numbers at the start.
        start: start of the history, microseconds; a midnight UTC.
        days: length of the simulation; users and items stop arriving after it.
        new_users_per_day, new_items_per_day: by default 1 and 0.6 % of the initial numbers.
        list_size: length of the house policy's lists.
        incidents: see `simulator.incidents`; `site.incidents` tells what is true of them.

    >>> site = Site(seed=1, users=50, items=120, days=10)
    >>> lines = list(site.history(days=2))
    >>> 0 < site.truth.expected_clicks("u000007", ["i00001", "i00002"], site.start + DAY) < 2
    True
    """

    def __init__(
        self,
        seed: int = 1,
        *,
        users: int = 4_000,
        items: int = 1_500,
        start: int = DEFAULT_START,
        days: int = 120,
        new_users_per_day: float | None = None,
        new_items_per_day: float | None = None,
        list_size: int = 12,
        incidents: Sequence[Incident] = (),
    ) -> None:
        self.incidents = Incidents(incidents)
        self.seed = seed
        self.start = start
        self.days = days
        rng = np.random.default_rng([seed, 1])
        self.items = draw_items(
            rng, items, 0.006 * items if new_items_per_day is None else new_items_per_day, days
        )
        for incident in self.incidents:
            self.items = incident.change_items(self.items, start)
        self.users = draw_users(
            rng, users, 0.01 * users if new_users_per_day is None else new_users_per_day, days
        )
        self._list_size = list_size
        self.taste = Taste(self.users, self.items, [first_era(rng, self.users, self.items)], seed)
        self.search_box = SearchBox(self.items)
        self.truth = Truth(self.taste, self.search_box, start)
        for incident in self.incidents:
            people = incident.taste_shift(self.users)
            if people is not None:
                self._change_tastes(incident, people)

    def _change_tastes(self, incident: Incident, people: npt.NDArray[np.bool_]) -> None:
        """Shift tastes at an incident's start, and back at its end if it has one."""
        before = self.taste.eras[-1]
        self.shift_tastes(incident.start, incident.size, people)
        if incident.stop is not None:
            stop_day = (incident.stop - self.start) / DAY
            self.taste.eras.append(replace(before, start=stop_day))

    def shift_tastes(
        self, at: int, strength: float = 0.7, people: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Change tastes from `at` on: strength 0 changes nothing, 1 replaces them.

        `at` must ascend. `people`, a boolean for each user, are those whose tastes change.
        """
        rng = np.random.default_rng([self.seed, 2, len(self.taste.eras)])
        last_era = self.taste.eras[-1]
        day = (at - self.start) / DAY
        if day <= last_era.start or not 0 <= strength <= 1:
            raise ValueError(
                f"expected a time after the last shift and a strength in [0, 1], got {at} "
                f"and {strength}"
            )
        self.taste.eras.append(
            next_era(
                rng=rng,
                users=self.users,
                items=self.items,
                previous=last_era,
                start=day,
                strength=strength,
                people=people,
            )
        )

    def history(self, days: int, *, defects: DefectRates | None = None) -> History:
        """Return days of traffic from the start under the house policy; iterate it once."""
        return History(
            self.seed,
            self.start,
            days,
            self.taste,
            self.search_box,
            defects=defects or DefectRates(),
            list_size=self._list_size,
            incidents=self.incidents,
        )

    def live(
        self,
        start: int,
        population: Population | None = None,
        *,
        defects: DefectRates | None = None,
        prefix: str = "l",
    ) -> LiveTraffic:
        """Return live traffic from `start` on, with the users as history left them.

        `prefix` keeps the ids of several live runs apart.
        """
        live_population = new_population(self.users) if population is None else population.copy()
        return LiveTraffic(
            seed=self.seed,
            site_start=self.start,
            start=start,
            taste=self.taste,
            search_box=self.search_box,
            population=live_population,
            defects=defects or DefectRates(),
            prefix=prefix,
            incidents=self.incidents,
        )
