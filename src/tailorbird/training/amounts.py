"""How good an expected amount is, such as `dwell_s`: its error beside that of a constant, and what
was said and happened on average.

Most rows amount to nothing, so that a constant of 0, the median, has a small absolute error and
tells nothing apart: the mean is what a value formula needs, and the deviance, which is least where
means are right, is what compares models. All three are told.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.training import metrics
from tailorbird.training.bootstrap import Bootstrap, Interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AmountFigures:
    """Of one head on the test part.

    Attributes:
        mae: mean absolute error. mae_mean, mae_median: of always the mean, or the median, of these
        very rows. deviance, deviance_mean: mean Poisson deviance; of always the mean. expected,
        happened: the means. positives, rows: with something, of all.
    """

    mae: Interval
    mae_mean: float
    mae_median: float
    deviance: Interval
    deviance_mean: float
    expected: float
    happened: float
    positives: int
    rows: int

    def plain(self) -> dict[str, Any]:
        """As JSON: intervals with `_low` and `_high` beside each."""
        found: dict[str, Any] = {}
        for name in ("mae", "deviance"):
            each: Interval = getattr(self, name)
            found |= {
                name: round(each.value, 6),
                f"{name}_low": round(each.low, 6),
                f"{name}_high": round(each.high, 6),
            }
        more = ("mae_mean", "mae_median", "deviance_mean", "expected", "happened")
        return (
            found
            | {name: round(getattr(self, name), 6) for name in more}
            | {"positives": self.positives, "rows": self.rows}
        )

    def cells(self) -> Mapping[str, str]:
        """For a table of two columns."""
        return {
            "mean absolute error": str(self.mae),
            "of always the mean": f"{self.mae_mean:.4f}",
            "of always the median": f"{self.mae_median:.4f}",
            "deviance": str(self.deviance),
            "deviance of always the mean": f"{self.deviance_mean:.4f}",
            "expected on average": f"{self.expected:.4f}",
            "happened on average": f"{self.happened:.4f}",
            "rows with something": f"{self.positives:,} of {self.rows:,}",
        }

    @property
    def told(self) -> str:
        """A sentence."""
        return (
            f"mean absolute error {self.mae} (of always the mean {self.mae_mean:.4f}, the "
            f"median {self.mae_median:.4f}), "
            f"deviance {self.deviance} (of always the mean {self.deviance_mean:.4f}), "
            f"expected {self.expected:.4f} and happened {self.happened:.4f} on average"
        )


def amount_figures(
    expected: Floats, amount: Floats, request: Ints, bootstrap: Bootstrap
) -> AmountFigures:
    """The figures of rows.

    Args:
        expected, amount: shape (n,).
        request: shape (n,), of each row.
        bootstrap: over the people of the requests.
    """
    amount, size = amount.astype(np.float64), len(bootstrap.person)
    rows = metrics.totals(request, np.ones(len(request)), size)
    error, deviance = np.abs(expected - amount), metrics.deviances(expected, amount)
    mean, median = float(amount.mean()), float(np.median(amount))
    return AmountFigures(
        mae=bootstrap.ratio(metrics.totals(request, error, size), rows),
        mae_mean=float(np.abs(amount - mean).mean()),
        mae_median=float(np.abs(amount - median).mean()),
        deviance=bootstrap.ratio(metrics.totals(request, deviance, size), rows),
        deviance_mean=float(metrics.deviances(np.full(len(amount), mean), amount).mean()),
        expected=float(expected.mean()),
        happened=mean,
        positives=int(np.count_nonzero(amount)),
        rows=len(amount),
    )
