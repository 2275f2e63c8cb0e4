"""Expected purchases by BG/NBD, over NumPy alone, as a churn bundle computes them; fitting is `models.btyd`'s."""

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

DAY_S = 86_400.0
TERMS_MAX = 4_000  # of the hypergeometric series; it ends by itself long before, unless the span is many times the known time
_ENOUGH = 1e-12


class BgNbdColumns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted model, in days, and the places in a matrix of: seconds since the last purchase, purchases, seconds since the first."""

    r: float
    alpha: float
    a: float
    b: float
    recency: int
    frequency: int
    age: int

    def purchases(self, matrix: npt.NDArray[np.float32], start: float, stop: float) -> Floats:
        """Expected purchases from `start` to `stop` days from now, shape (n,); 0 for whom nothing is known."""
        since, count, age = (matrix[:, place].astype(np.float64) for place in (self.recency, self.frequency, self.age))
        known = np.isfinite(since) & np.isfinite(count) & np.isfinite(age)
        since, count, age = (np.where(known, each, 0.0) for each in (since, count, age))
        x, recency, days = np.maximum(count - 1, 0.0), np.maximum(age - since, 0.0) / DAY_S, age / DAY_S
        told = self._expected(x, recency, days, stop) - (self._expected(x, recency, days, start) if start else 0.0)
        return np.where(known, told, 0.0)

    def _expected(self, x: Floats, recency: Floats, age: Floats, span: float) -> Floats:
        """Equation 10 of Fader, Hardie, Lee (2005), its series after Euler's transformation: as printed it overflows."""
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        z = span / (alpha + age + span)
        series = hypergeometric(a - 1, a + b - 1 - r, a + b + x - 1, z)
        grown = (a + b + x - 1) / (a - 1) * (1 - (1 - z) ** (a - 1) * series)
        with np.errstate(over="ignore"):  # of many purchases and none for long: gone for certain
            odds = np.where(x > 0, a / (b + np.maximum(x, 1) - 1) * ((alpha + age) / (alpha + recency)) ** (r + x), 0.0)
        return grown / (1 + odds)


def hypergeometric(a: Floats | float, b: Floats | float, c: Floats, z: Floats) -> Floats:
    """₂F₁(a, b; c; z) for 0 ≤ z < 1, by its series, until the last term changes nothing."""
    term = np.ones(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c), np.shape(z)))
    total = term.copy()
    for n in range(TERMS_MAX):
        term = term * (a + n) * (b + n) / ((c + n) * (n + 1)) * z
        total += term
        if np.all(np.abs(term) <= _ENOUGH * np.abs(total)):
            break
    return total
