"""Recency, frequency and monetary baselines that every churn model must beat.

`recency` orders people by the time since their last purchase. `rfm_logistic` is a logistic
regression on the logarithms of recency, frequency, age and amount. Both get their level from a
regression on an earlier origin whose outcome is known.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rfm:
    """Purchase history of people at a moment, shape (n,) each.

    Attributes:
        recency: days since the last purchase.
        frequency: purchases.
        age: days since the first purchase.
        amount: total amount; 0 if unknown.
    """

    recency: Floats
    frequency: Floats
    age: Floats
    amount: Floats

    @property
    def columns(self) -> Floats:
        """Logarithms, shape (n, 4)."""
        return np.log1p(np.column_stack([self.recency, self.frequency, self.age, self.amount]))


@dataclass(frozen=True)
class RfmModel:
    """A regression on some of the columns of `Rfm`."""

    used: tuple[int, ...]
    centre: Floats
    scale: Floats
    fitted: LogisticRegression

    def returning(self, people: Rfm) -> Floats:
        """Return P(a purchase within the window), shape (n,)."""
        return self.fitted.predict_proba((people.columns[:, self.used] - self.centre) / self.scale)[
            :, 1
        ]


def fit_rfm(
    people: Rfm, returned: npt.NDArray[np.bool_], *, only_recency: bool = False
) -> RfmModel:
    """Fit to an earlier origin: people as they were then, and who returned."""
    used = (0,) if only_recency else (0, 1, 2, 3)
    columns = people.columns[:, used]
    centre, scale = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-9)
    return RfmModel(
        used,
        centre,
        scale,
        LogisticRegression(max_iter=500).fit((columns - centre) / scale, returned),
    )
