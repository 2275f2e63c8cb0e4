"""Scores of people as of past moments, and what became of them."""

from collections.abc import Mapping

import numpy as np

from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.lake import Lake, time_filter
from tailorbird.ranking.churn.bundle import ChurnBundle
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.storage_paths import StoragePath
from tailorbird.training.dataset.rows import log_end
from tailorbird.training.tasks.churn.labels import Floats, Ints, Window, build_activity
from tailorbird.training.tasks.churn.rows import PeopleFeatures, needed_columns


class PastScores:
    """Scores people with versions of a churn model, with what was known at a past moment.

    Nothing is stored about a person: the lake tells what was known when.

    Args:
        bundles: by version; each brings the declarations of its columns.
        now: what is known now; the newest `lateness_us` may be incomplete and are left out.

    Raises:
        NotReadyError: the lake has no activity.
    """

    def __init__(
        self,
        bundles: Mapping[str, ChurnBundle],
        churn: Churn,
        *,
        lake: StoragePath,
        now: int,
        lateness_us: int,
    ) -> None:
        self._bundles = {
            version: (bundle, features)
            for version, bundle in bundles.items()
            if (features := bundle.features) is not None
        }
        features = [each for _, each in self._bundles.values()]
        self._events = JoinedEvents(Lake(lake).pin_versions(), *features).table(
            needed_columns(*features), time_filter(ts_to=now)
        )
        until = min(now, log_end(self._events) + lateness_us)
        self._activity = build_activity(self._events, churn, until, lateness_us)
        self._churn = churn

    def can_score(self, version: str) -> bool:
        """Return whether a version is there, and predicts what `churn` declares."""
        if version not in self._bundles:
            return False
        plan = self._bundles[version][0].plan
        churn = self._churn
        declared_target = set(churn.types), churn.gap_us, churn.window_us
        return (set(plan.types), plan.gap, plan.window) == declared_target

    def people(self, version: str, origin: int, limit: int) -> Ints:
        """Return the people that a version is asked about at a moment, at most so many of them."""
        known_activity = self._activity.as_of(origin)
        person = known_activity.active_people(origin, self._bundles[version][0].plan.active)
        if len(person) <= limit:
            return person
        return np.sort(np.random.default_rng(origin).choice(person, limit, replace=False))

    def probabilities(self, version: str, origin: int, person: Ints) -> Floats:
        """Return the chance of leaving of people by a version, shape (n,)."""
        bundle, features = self._bundles[version]
        people = PeopleFeatures(
            features, self._events, self._activity, bundle.feature_columns, bundle.space
        )
        tables = people.read_projected(origin, person, bundle.moments(origin))
        return bundle.score([(each.numeric, each.categorical) for each in tables]).churn_probability

    def has_gone(self, origin: int, person: Ints) -> Floats:
        """Return 1 for people who left and 0 for the others, NaN for those merged meanwhile.

        Raises:
            LeakError: the window is not over.
        """
        window = Window(origin, self._churn.gap_us, self._churn.window_us)
        outcome_activity = self._activity.as_of(window.stop)
        is_gone = outcome_activity.count_activity(person, window.start, window.stop) == 0
        is_merged = outcome_activity.had_identity_merge(person, window.origin, window.stop)
        return np.where(is_merged, np.nan, is_gone.astype(np.float64))
