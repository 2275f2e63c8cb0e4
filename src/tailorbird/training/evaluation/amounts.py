"""Metrics of an expected amount such as `dwell_s`: absolute error, Poisson deviance and means.

Most amounts are 0. A constant prediction of 0, the median, therefore has a small absolute error
without telling rows apart. A value formula needs the mean, and the deviance is smallest where the
means are right, so the deviance compares models. All three are reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AmountMetrics:
    """Metrics of one head on the test part.

    Attributes:
        mae: mean absolute error.
        mae_mean, mae_median: the same for a constant prediction of the mean or median of these
            rows.
        deviance, deviance_mean: mean Poisson deviance of the model and of the constant mean.
        expected, happened: means of the predictions and of the observed amounts.
        positive_count, row_count: rows with an amount above 0, and all rows.
    """

    mae: Interval
    mae_mean: float
    mae_median: float
    deviance: Interval
    deviance_mean: float
    expected: float
    happened: float
    positive_count: int
    row_count: int

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON; each interval adds `_low` and `_high` keys."""
        fields: dict[str, Any] = {}
        for name in ("mae", "deviance"):
            interval: Interval = getattr(self, name)
            fields |= {
                name: round(interval.value, 6),
                f"{name}_low": round(interval.low, 6),
                f"{name}_high": round(interval.high, 6),
            }
        scalar_names = ("mae_mean", "mae_median", "deviance_mean", "expected", "happened")
        return (
            fields
            | {name: round(getattr(self, name), 6) for name in scalar_names}
            | {"positives": self.positive_count, "rows": self.row_count}
        )

    def cells(self) -> Mapping[str, str]:
        """Return the cells of a table of two columns."""
        return {
            "mean absolute error": str(self.mae),
            "of always the mean": f"{self.mae_mean:.4f}",
            "of always the median": f"{self.mae_median:.4f}",
            "deviance": str(self.deviance),
            "deviance of always the mean": f"{self.deviance_mean:.4f}",
            "expected on average": f"{self.expected:.4f}",
            "happened on average": f"{self.happened:.4f}",
            "rows with something": f"{self.positive_count:,} of {self.row_count:,}",
        }

    @property
    def summary(self) -> str:
        """Describe the metrics in one sentence."""
        return (
            f"mean absolute error {self.mae} (of always the mean {self.mae_mean:.4f}, the "
            f"median {self.mae_median:.4f}), "
            f"deviance {self.deviance} (of always the mean {self.deviance_mean:.4f}), "
            f"expected {self.expected:.4f} and happened {self.happened:.4f} on average"
        )


def compute_amount_metrics(
    expected: Floats, amount: Floats, request_index: Ints, bootstrap: Bootstrap
) -> AmountMetrics:
    """Compute the metrics of the rows of one head.

    Args:
        expected, amount: shape (n,).
        request_index: shape (n,), the request of each row.
        bootstrap: replicates over the users of the requests.
    """
    amount = amount.astype(np.float64)
    request_count = len(bootstrap.person_codes)
    row_counts = metrics.sum_by_index(request_index, np.ones(len(request_index)), request_count)
    error = np.abs(expected - amount)
    deviance = metrics.deviances(expected, amount)
    mean = float(amount.mean())
    median = float(np.median(amount))
    return AmountMetrics(
        mae=bootstrap.ratio(metrics.sum_by_index(request_index, error, request_count), row_counts),
        mae_mean=float(np.abs(amount - mean).mean()),
        mae_median=float(np.abs(amount - median).mean()),
        deviance=bootstrap.ratio(
            metrics.sum_by_index(request_index, deviance, request_count), row_counts
        ),
        deviance_mean=float(metrics.deviances(np.full(len(amount), mean), amount).mean()),
        expected=float(expected.mean()),
        happened=mean,
        positive_count=int(np.count_nonzero(amount)),
        row_count=len(amount),
    )
