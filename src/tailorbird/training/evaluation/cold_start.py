"""Cold-start curves: quality by the number of earlier events of the user and of the item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval, flatten_intervals

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STEP_STARTS = (0, 1, 2, 5, 10)  # fewest events of each step
STEP_LABELS = ("0", "1", "2–4", "5–9", "10 and more")


@dataclass(frozen=True)
class ColdStartStep:
    """One point of a cold-start curve.

    Attributes:
        events: number of events before the request, as text.
        requests: requests with a positive.
        figures: model or baseline → interval of NDCG@10.
    """

    events: str
    requests: int
    figures: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON."""
        return {
            "events": self.events,
            "requests": self.requests,
            **{
                name: flatten_intervals({"ndcg_10": figure})
                for name, figure in self.figures.items()
            },
        }


def assign_steps(events: npt.NDArray[Any]) -> Ints:
    """Return the step of each event count, shape (n,)."""
    return np.searchsorted(np.array(STEP_STARTS), events, side="right").astype(np.int64) - 1


def cold_start_curve(
    values: Sequence[Mapping[str, Floats]], bootstrap: Bootstrap
) -> tuple[ColdStartStep, ...]:
    """Return the steps that have a request.

    Args:
        values: for each step, NDCG@10 of each request by model; NaN where the request is in another
            step.
    """
    steps = []
    for events, by_model in zip(STEP_LABELS, values, strict=True):
        model_values = list(by_model.values())
        count = int(np.isfinite(model_values[0]).sum()) if model_values else 0
        if count:
            steps.append(
                ColdStartStep(
                    events, count, dict(zip(by_model, bootstrap.means(model_values), strict=True))
                )
            )
    return tuple(steps)
