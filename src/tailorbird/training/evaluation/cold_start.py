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
        step_label: number of events before the request, as text.
        request_count: requests with a positive.
        intervals: model or baseline → interval of NDCG@10.
    """

    step_label: str
    request_count: int
    intervals: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON."""
        return {
            "events": self.step_label,
            "requests": self.request_count,
            **{
                name: flatten_intervals({"ndcg_10": figure})
                for name, figure in self.intervals.items()
            },
        }


def assign_steps(event_counts: npt.NDArray[Any]) -> Ints:
    """Return the step of each event count, shape (n,)."""
    return np.searchsorted(np.array(STEP_STARTS), event_counts, side="right").astype(np.int64) - 1


def cold_start_curve(
    step_values: Sequence[Mapping[str, Floats]], bootstrap: Bootstrap
) -> tuple[ColdStartStep, ...]:
    """Return the steps that have a request.

    Args:
        step_values: for each step, NDCG@10 of each request by model; NaN where the request is in
            another step.
    """
    steps = []
    for step_label, values_by_model in zip(STEP_LABELS, step_values, strict=True):
        model_values = list(values_by_model.values())
        request_count = int(np.isfinite(model_values[0]).sum()) if model_values else 0
        if request_count:
            steps.append(
                ColdStartStep(
                    step_label,
                    request_count,
                    dict(zip(values_by_model, bootstrap.means(model_values), strict=True)),
                )
            )
    return tuple(steps)
