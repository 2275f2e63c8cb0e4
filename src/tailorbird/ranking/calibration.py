"""Calibration: from a model's raw output to a probability that is right on average. Monotone, stored as small JSON tables.

`fit_isotonic` and `fit_platt` are for training; `Calibration.apply` runs in every answer.
"""

from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

KNOTS_MAX = 500
_TILT = 1e-7


class Isotonic(msgspec.Struct, frozen=True, tag="isotonic"):
    """A monotone table, linear between its knots.

    Attributes:
        x: raw outputs, ascending.
        y: probabilities, not descending.
    """

    name: ClassVar[str] = "isotonic"
    x: list[float]
    y: list[float]

    def apply(self, raw: Floats) -> Floats:
        """Probabilities (n,). Where the table is flat, a tilt of at most 1e-7 keeps the order that the model gave."""
        p = np.interp(raw, self.x, self.y)
        return np.clip(p + _TILT * raw / (1.0 + np.abs(raw)), 0.0, 1.0)


class Platt(msgspec.Struct, frozen=True, tag="platt"):
    """1 / (1 + exp(-(slope * raw + intercept))), after Platt (1999)."""

    name: ClassVar[str] = "platt"
    slope: float
    intercept: float

    def apply(self, raw: Floats) -> Floats:
        """Probabilities (n,)."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.slope * raw + self.intercept, -700.0, 700.0)))


class Identity(msgspec.Struct, frozen=True, tag="none"):
    """The output as the model gave it."""

    name: ClassVar[str] = "none"

    def apply(self, raw: Floats) -> Floats:
        """The same values."""
        return raw


Calibration = Isotonic | Platt | Identity


def fit_isotonic(raw: Floats, label: Floats, weight: Floats | None = None) -> Isotonic:
    """The monotone least-squares fit (pool adjacent violators), its steps joined by lines between their centres.

    Lines rather than steps keep the order of two items within a step, which a ranking needs. Labels are in [0, 1].
    """
    weight = np.ones(raw.size) if weight is None else weight
    x, position = np.unique(raw, return_inverse=True)
    mass = np.bincount(position, weights=weight).astype(np.float64)
    y = np.bincount(position, weights=weight * label) / mass
    starts = _pool(y, mass)
    total = np.add.reduceat(mass, starts)
    centre = np.add.reduceat(mass * x, starts) / total
    level = np.add.reduceat(mass * y, starts) / total
    if centre.size > KNOTS_MAX:
        kept = np.unique(np.linspace(0, centre.size - 1, KNOTS_MAX).round().astype(np.intp))
        centre, level = centre[kept], level[kept]
    return Isotonic(centre.tolist(), np.maximum.accumulate(level).tolist())


def _pool(y: Floats, mass: Floats) -> npt.NDArray[np.intp]:
    """Where each block of the isotonic fit starts. Offline, hence a plain loop: O(n)."""
    starts: list[int] = []
    sums: list[float] = []
    masses: list[float] = []
    for at, (value, share) in enumerate(zip(y.tolist(), mass.tolist(), strict=True)):
        starts.append(at)
        sums.append(value * share)
        masses.append(share)
        while len(starts) > 1 and sums[-2] * masses[-1] >= sums[-1] * masses[-2]:
            starts.pop()
            value, share = sums.pop(), masses.pop()
            sums[-1] += value
            masses[-1] += share
    return np.array(starts, np.intp)


def fit_platt(raw: Floats, label: Floats, weight: Floats | None = None, *, steps: int = 50) -> Platt:
    """Logistic regression on one input by Newton's method, with Platt's smoothed targets; a slope below 0 is set to 0."""
    weight = np.ones(raw.size) if weight is None else weight
    positive, negative = float(np.sum(weight * label)), float(np.sum(weight * (1 - label)))
    target = label * (positive + 1) / (positive + 2) + (1 - label) / (negative + 2)
    scale = float(np.std(raw)) or 1.0
    x = raw / scale
    slope, intercept = 0.0, float(np.log((positive + 1) / (negative + 1)))
    for _ in range(steps):
        p = Platt(slope, intercept).apply(x)
        error, curve = weight * (target - p), weight * np.maximum(p * (1 - p), 1e-12)
        gradient = np.array([np.sum(error * x), np.sum(error)])
        hessian = np.array([[np.sum(curve * x * x), np.sum(curve * x)], [np.sum(curve * x), np.sum(curve)]]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        slope, intercept = slope + float(step[0]), intercept + float(step[1])
        if np.abs(step).max() < 1e-10:
            break
    return Platt(max(slope, 0.0) / scale, intercept)
