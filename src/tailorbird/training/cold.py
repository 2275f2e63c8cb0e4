"""Cold start as a curve: how good lists are by how many events of the person, and of the item,
there were before the request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.training.bootstrap import Bootstrap, Interval, flat

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STARTS = (
    0,
    1,
    2,
    5,
    10,
)  # a step holds what has so many events, and fewer than the next step begins with
STEPS = ("0", "1", "2–4", "5–9", "10 and more")


@dataclass(frozen=True)
class Step:
    """One point of the curve.

    Attributes:
        events: how many events there were before the request, in words.
        requests: with something to find.
        figures: model or baseline → interval of NDCG@10.
    """

    events: str
    requests: int
    figures: Mapping[str, Interval]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "events": self.events,
            "requests": self.requests,
            **{name: flat({"ndcg_10": figure}) for name, figure in self.figures.items()},
        }


def step_of(events: npt.NDArray[Any]) -> Ints:
    """Return the step of each count, shape (n,)."""
    return np.searchsorted(np.array(STARTS), events, side="right").astype(np.int64) - 1


def curve(values: Sequence[Mapping[str, Floats]], bootstrap: Bootstrap) -> tuple[Step, ...]:
    """Return the steps that have a request.

    Args:
        values: of each step, by model, NDCG@10 of each request; NaN where the request is not of the
            step.
    """
    steps = []
    for events, by_model in zip(STEPS, values, strict=True):
        found = list(by_model.values())
        count = int(np.isfinite(found[0]).sum()) if found else 0
        if count:
            steps.append(
                Step(events, count, dict(zip(by_model, bootstrap.means(found), strict=True)))
            )
    return tuple(steps)
