"""Time budgets of the stages of an answer, with a circuit breaker for each dependency that
exceeds its budget.

| stage | at the end of its budget |
|---|---|
| retrieval | the remaining sources are skipped (`retrieval`) |
| features | an outage of the store; after three, stale features for 1 s (`last_known`) |
| ranking | fewer candidates (`ranking`); a late model opens its breaker |
| policy | after three, diversity is skipped for a second (`policy`) |
| log | after three, answers are not logged for a second (`log`) |

A stage that computes is never interrupted, because Python cannot do that. A Valkey, which may hang,
has a deadline of its own (`store.hedge`).
"""

import math
import threading
from dataclasses import dataclass

from tailorbird.store.breaker import CircuitBreaker

ROWS_MIN = 50  # rows that are always scored, the minimum for an answer
_VERSIONS_MAX = 8
_SMOOTHING = 0.1  # weight of a new measurement


@dataclass(frozen=True)
class Budgets:
    """Seconds that each stage of an answer may take; unbounded by default."""

    retrieval_s: float = math.inf
    features_s: float = math.inf
    ranking_s: float = math.inf
    policy_s: float = math.inf
    log_s: float = math.inf


UNBOUNDED = Budgets()


class Dependency:
    """An optional dependency of an answer, with a breaker that counts late answers as failures.

    >>> store = Dependency("store", budget_s=0.05)
    >>> [store.record(0.2) for _ in range(3)], store.allow(), store.late_count
    ([None, None, None], False, 3)
    """

    def __init__(
        self, name: str, budget_s: float = math.inf, breaker: CircuitBreaker | None = None
    ) -> None:
        self.name = name
        self._budget_s = budget_s
        self.breaker = breaker or CircuitBreaker()
        self.late_count = 0

    def allow(self) -> bool:
        """Return whether to call it now."""
        return self.breaker.allow()

    def record(self, seconds: float, *, failed: bool = False) -> None:
        """Record a call that took so long, or `failed`."""
        is_late = seconds > self._budget_s
        self.late_count += is_late
        if failed or is_late:
            self.breaker.record_failure()
        else:
            self.breaker.record_success()


class ModelBreakers:
    """A breaker for each bundle that scores, and the cost of one row."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._dependencies: dict[str, Dependency] = {}
        self._row_s_by_version: dict[str, float] = {}
        self._lock = threading.Lock()

    def dependency_for(self, version: str) -> Dependency:
        """Return the model of a version as a dependency, with its breaker."""
        with self._lock:
            dependency = self._dependencies.get(version)
            if dependency is None:
                while len(self._dependencies) >= _VERSIONS_MAX:
                    oldest_version = next(iter(self._dependencies))
                    self._dependencies.pop(oldest_version)
                    self._row_s_by_version.pop(oldest_version, None)
                dependency = self._dependencies[version] = Dependency("model", self._budget_s)
            return dependency

    def rows_max(self, version: str) -> float:
        """Return how many rows a version can score within its budget."""
        row_s = self._row_s_by_version.get(version, 0.0)
        return math.inf if row_s <= 0 else max(ROWS_MIN, self._budget_s / row_s)

    def record_scoring(self, version: str, rows: int, seconds: float) -> None:
        """Record that a version scored so many rows."""
        self.dependency_for(version).record(seconds)
        if rows >= ROWS_MIN:
            row_s = seconds / rows
            previous_row_s = self._row_s_by_version.get(version)
            self._row_s_by_version[version] = (
                row_s
                if previous_row_s is None
                else previous_row_s + _SMOOTHING * (row_s - previous_row_s)
            )

    def late_count(self) -> int:
        with self._lock:
            return sum(dependency.late_count for dependency in self._dependencies.values())

    def any_open(self) -> bool:
        """Return whether any of the breakers is open."""
        with self._lock:
            return any(dependency.breaker.is_open for dependency in self._dependencies.values())

    def open_count(self) -> int:
        with self._lock:
            return sum(dependency.breaker.open_count for dependency in self._dependencies.values())


@dataclass(frozen=True)
class BreakerState:
    """The state of a dependency for metrics."""

    name: str
    open: bool
    open_count: int
    late_count: int


class Breakers:
    """The breakers of a pipeline: `store`, `policy` and `log` by name, models by version."""

    def __init__(self, budgets: Budgets) -> None:
        self.budgets = budgets
        self.store = Dependency("store", budgets.features_s)
        self.policy = Dependency("policy", budgets.policy_s)
        self.log = Dependency("log", budgets.log_s)
        self.model_breakers = ModelBreakers(budgets.ranking_s)

    def states(self) -> list[BreakerState]:
        """Return the current state of each."""
        states = [
            BreakerState(
                dependency.name,
                dependency.breaker.is_open,
                dependency.breaker.open_count,
                dependency.late_count,
            )
            for dependency in (self.store, self.policy, self.log)
        ]
        return [
            *states,
            BreakerState(
                "model",
                self.model_breakers.any_open(),
                self.model_breakers.open_count(),
                self.model_breakers.late_count(),
            ),
        ]
