"""Training in a given time: how many requests and trees fit, decided before anything is learned.

The sizes are stored in the manifest (`about["budget"]`): repeating a training bit for bit needs the
same sizes, not the same time.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightgbm as lgb
import numpy as np

from tailorbird.errors import UsageError
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.training.settings import TrainSettings

BUDGET_MIN_S = 30.0
FULL_BUDGET_S = 600.0  # time that the default settings are made for
_REQUESTS_PER_S = 50.0
_TEST_REQUESTS_PER_S = 15.0
# Reading a longer log and looking requests up in its tables costs more: with two million events,
# 0.6 as many requests fit.
_EVENTS_WITHOUT_COST = 250_000
_EVENTS_PER_DOUBLING = 2_600_000
# at two minutes and below
_TREES_MIN = 300
_TREES_MIN_S = 120.0
_DEFAULTS = TrainSettings()
_VECTORS_MIN_S = 480.0  # below this budget, no vectors are learned
_SPEED_STEPS = (
    0.25,
    0.5,
    1.0,
)  # speeds are rounded to these, so that a machine gives the same sizes twice
_PROBE_ROWS = 20_000
_PROBE_COLUMNS = 60
_PROBE_TREES = 20
_PROBE_REFERENCE_S = 0.35  # duration of the probe on two idle cores of a 2024 server


@dataclass(frozen=True)
class Budget:
    """The training sizes that fit into a time.

    Attributes:
        seconds: the given time.
        speed: current speed of this machine, 1 for two idle cores.
        rate: learning rate of the trees; higher with fewer of them.
        vectors: whether a tower of item vectors may be learned.
    """

    seconds: float
    speed: float
    requests: int
    test_requests: int
    trees: int
    rate: float
    vectors: bool

    def apply(self, settings: TrainSettings) -> TrainSettings:
        """Return the settings limited to this budget."""
        gbdt = replace(settings.gbdt, trees=self.trees, rate=self.rate)
        requests = min(settings.requests or self.requests, self.requests)
        test_requests = min(settings.test_requests or self.test_requests, self.test_requests)
        retrieval = (
            settings.retrieval if self.vectors or settings.retrieval == "sequence" else "tables"
        )
        return replace(
            settings,
            gbdt=gbdt,
            requests=requests,
            test_requests=test_requests,
            retrieval=retrieval,
            budget=self.to_dict(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the budget as JSON."""
        return {**asdict(self), "summary": self.summary}

    @property
    def summary(self) -> str:
        """Describe the budget in one sentence."""
        return (
            f"a budget of {self.seconds:.0f} s: {self.requests:,} requests and at most "
            f"{self.trees} trees; a longer one learns more"
        )


def plan_budget(seconds: float, speed: float, event_count: int = 0) -> Budget:
    """Plan the sizes that fit into a time on a machine of this speed.

    Args:
        event_count: number of events in the log.

    Raises:
        UsageError: the time is less than half a minute.
    """
    if seconds < BUDGET_MIN_S:
        raise UsageError(
            f"expected at least {BUDGET_MIN_S:.0f}s, got {seconds:.0f}s", where="--budget"
        )
    effective_seconds = min(seconds * speed, FULL_BUDGET_S)
    request_seconds = effective_seconds / (
        1 + max(0, event_count - _EVENTS_WITHOUT_COST) / _EVENTS_PER_DOUBLING
    )
    trees_max = _DEFAULTS.gbdt.trees
    trees = round(
        _TREES_MIN
        + (trees_max - _TREES_MIN)
        * max(0.0, effective_seconds - _TREES_MIN_S)
        / (FULL_BUDGET_S - _TREES_MIN_S)
    )
    # Fewer trees learn as much at a higher rate.
    rate = round(trees_max * _DEFAULTS.gbdt.rate / trees, 4)
    requests = round(request_seconds * _REQUESTS_PER_S)
    test_requests = round(request_seconds * _TEST_REQUESTS_PER_S)
    return Budget(
        seconds,
        speed,
        min(_DEFAULTS.requests, requests),
        min(_DEFAULTS.test_requests, test_requests),
        trees,
        rate,
        effective_seconds >= _VECTORS_MIN_S,
    )


def measure_speed() -> float:
    """Measure how fast this machine grows trees, rounded to one of a few steps.

    Takes less than a second on an idle machine.
    """
    rng = np.random.default_rng(7)
    matrix = rng.random((_PROBE_ROWS, _PROBE_COLUMNS), dtype=np.float32)
    labels = (matrix[:, 0] + rng.random(_PROBE_ROWS) > 1.2).astype(np.float32)
    settings = {
        "objective": "binary",
        "num_leaves": 15,
        "num_threads": GbdtSettings().resolve_sizes(1, 1).threads,
        "verbosity": -1,
        "seed": 7,
    }
    probe_dataset = lgb.Dataset(matrix, labels)
    probe_dataset.construct()
    started = time.monotonic()
    lgb.train(settings, probe_dataset, num_boost_round=_PROBE_TREES)
    speed = _PROBE_REFERENCE_S / max(time.monotonic() - started, 1e-6)
    return max((step for step in _SPEED_STEPS if step <= speed * 1.2), default=_SPEED_STEPS[0])
