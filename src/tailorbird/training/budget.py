"""A training in a given time: how many requests and trees fit into it, decided before anything is
learned.

The numbers stand in the manifest (`about["budget"]`), since the same numbers, and not the same
time, repeat a training to the bit.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightgbm as lgb
import numpy as np

from tailorbird.errors import UsageError
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.training.settings import TrainSettings

LEAST_S = 30.0
WHOLE_S = 600.0  # what the settings without a budget are made for
_REQUESTS_A_S, _TESTED_A_S = 50.0, 15.0
# A longer log costs more to read, and its tables more to look each request up in: of two million
# events 0.6 as many requests fit.
_EVENTS, _EVENTS_TWICE = 250_000, 2_600_000
_FEWEST_TREES, _FEWEST_S = 300, 120.0  # at two minutes and below
_WHOLE = TrainSettings()
_VECTORS_S = 480.0  # below, no time is spent on learning vectors
_STEPS = (0.25, 0.5, 1.0)  # of the speed, so that a machine gives the same numbers twice
_ROWS, _COLUMNS, _PROBE_TREES = 20_000, 60, 20
_PROBE_S = 0.35  # what the probe takes on two quiet cores of a server of 2024


@dataclass(frozen=True)
class Budget:
    """What fits into a time.

    Attributes:
        seconds: the time that was given.
        speed: of this machine at the moment, 1 for two quiet cores.
    """

    seconds: float
    speed: float
    requests: int
    test_requests: int
    trees: int
    rate: float
    vectors: bool

    def applied(self, settings: TrainSettings) -> TrainSettings:
        """Return settings that keep to it."""
        gbdt = replace(settings.gbdt, trees=self.trees, rate=self.rate)
        requests = min(settings.requests or self.requests, self.requests)
        tested = min(settings.test_requests or self.test_requests, self.test_requests)
        retrieval = (
            settings.retrieval if self.vectors or settings.retrieval == "sequence" else "tables"
        )
        return replace(
            settings,
            gbdt=gbdt,
            requests=requests,
            test_requests=tested,
            retrieval=retrieval,
            budget=self.plain(),
        )

    def plain(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "told": self.told}

    @property
    def told(self) -> str:
        """Return it in a sentence."""
        return (
            f"a budget of {self.seconds:.0f} s: {self.requests:,} requests and at most "
            f"{self.trees} trees; a longer one learns more"
        )


def budget_of(seconds: float, speed: float, events: int = 0) -> Budget:
    """Return what fits into a time on a machine of this speed.

    Args:
        events: of the log.

    Raises:
        UsageError: less than half a minute.
    """
    if seconds < LEAST_S:
        raise UsageError(f"expected at least {LEAST_S:.0f}s, got {seconds:.0f}s", where="--budget")
    useful = min(seconds * speed, WHOLE_S)
    share = useful / (1 + max(0, events - _EVENTS) / _EVENTS_TWICE)
    most = _WHOLE.gbdt.trees
    trees = round(
        _FEWEST_TREES
        + (most - _FEWEST_TREES) * max(0.0, useful - _FEWEST_S) / (WHOLE_S - _FEWEST_S)
    )
    rate = round(most * _WHOLE.gbdt.rate / trees, 4)  # as much is learned by fewer
    requests, tested = round(share * _REQUESTS_A_S), round(share * _TESTED_A_S)
    return Budget(
        seconds,
        speed,
        min(_WHOLE.requests, requests),
        min(_WHOLE.test_requests, tested),
        trees,
        rate,
        useful >= _VECTORS_S,
    )


def speed_now() -> float:
    """Measure how fast this machine grows trees at the moment, as one of a few steps; takes less
    than a second where it is quiet.
    """
    draw = np.random.default_rng(7)
    matrix = draw.random((_ROWS, _COLUMNS), dtype=np.float32)
    labels = (matrix[:, 0] + draw.random(_ROWS) > 1.2).astype(np.float32)
    settings = {
        "objective": "binary",
        "num_leaves": 15,
        "num_threads": GbdtSettings().sized(1, 1).threads,
        "verbosity": -1,
        "seed": 7,
    }
    data = lgb.Dataset(matrix, labels)
    data.construct()
    began = time.monotonic()
    lgb.train(settings, data, num_boost_round=_PROBE_TREES)
    speed = _PROBE_S / max(time.monotonic() - began, 1e-6)
    return max((step for step in _STEPS if step <= speed * 1.2), default=_STEPS[0])
