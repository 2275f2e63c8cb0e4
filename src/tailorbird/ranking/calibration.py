"""Calibration of raw model outputs to probabilities or amounts that are right on average.

Maps are monotone and stored as small JSON tables.

The `fit_…` functions are for training; `Calibration.apply` runs in every response.
`training.fit.calibrate` chooses the method, if any. `Beta` and `Temperature` take probabilities,
the others any score.
"""

from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BLOCKS_MAX = 500  # of an isotonic table; each has two knots
_SLOPE_MIN = 1e-7
_PROBABILITY_MARGIN = 1e-7  # distance of probabilities from 0 and 1 before the logarithm


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
        """Return probabilities (n,).

        A tilt of at most 1e-7 keeps the model's order where the table is flat, as it is within each
        block.
        """
        x = np.asarray(self.x)
        y = np.asarray(self.y)
        # Rounding lets a line end one step of a float above its upper knot, which would exceed the
        # score of the next item.
        p = np.minimum(np.interp(raw, x, y), y.take(np.searchsorted(x, raw), mode="clip"))
        return np.clip(p + _SLOPE_MIN * raw / (1.0 + np.abs(raw)), 0.0, 1.0)


class Platt(msgspec.Struct, frozen=True, tag="platt"):
    """Platt scaling: 1 / (1 + exp(-(slope * raw + intercept))), after Platt (1999)."""

    name: ClassVar[str] = "platt"
    slope: float
    intercept: float

    def apply(self, raw: Floats) -> Floats:
        """Return probabilities (n,)."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.slope * raw + self.intercept, -700.0, 700.0)))


class Beta(msgspec.Struct, frozen=True, tag="beta"):
    """Beta calibration: 1 / (1 + exp(-(a * ln p - b * ln(1 - p) + c))) of a probability p.

    Source: Kull, Silva Filho, Flach, AISTATS 2017.

    Its two slopes bend the low and the high end separately, unlike Platt's curve. a = b = 1, c = 0
    is the identity.
    """

    name: ClassVar[str] = "beta"
    a: float
    b: float
    c: float

    def apply(self, raw: Floats) -> Floats:
        """Return probabilities (n,)."""
        p = np.clip(raw, _PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
        return _sigmoid(self.a * np.log(p) - self.b * np.log1p(-p) + self.c)


class Temperature(msgspec.Struct, frozen=True, tag="temperature"):
    """Temperature scaling: 1 / (1 + exp(-logit(p) / temperature)) of a probability p.

    Sharper below 1, softer above. Source: Guo et al., ICML 2017.
    """

    name: ClassVar[str] = "temperature"
    temperature: float

    def apply(self, raw: Floats) -> Floats:
        """Return probabilities (n,)."""
        return _sigmoid(_logit(raw) / self.temperature)


class Scale(msgspec.Struct, frozen=True, tag="scale"):
    """Scaling of an expected amount by a factor: right on average, and never below 0."""

    name: ClassVar[str] = "scale"
    factor: float

    def apply(self, raw: Floats) -> Floats:
        """Return amounts (n,)."""
        return np.maximum(self.factor * raw, 0.0)


class Identity(msgspec.Struct, frozen=True, tag="none"):
    """The identity: the output as the model gave it."""

    name: ClassVar[str] = "none"

    def apply(self, raw: Floats) -> Floats:
        """Return the values unchanged."""
        return raw


Calibration = Isotonic | Platt | Beta | Temperature | Scale | Identity


def fit_scale(raw: Floats, amount: Floats, weight: Floats | None = None) -> Scale:
    """Fit the factor that makes the expected total match the observed one.

    1 if nothing was expected.
    """
    weight = np.ones(raw.size) if weight is None else weight
    expected = float(weight @ raw)
    return Scale(float(weight @ amount) / expected if expected > 0 else 1.0)


def fit_isotonic(raw: Floats, label: Floats, weight: Floats | None = None) -> Isotonic:
    """Fit a monotone least-squares table (pool adjacent violators), linear between blocks.

    Each block has a knot at either end, so that its prediction equals the observed mean. Lines
    between block centres would pull a large block towards its neighbours. The tilt of
    `Isotonic.apply` keeps the order of items within a block. A block without, or only with,
    positives gets half a row of the other kind, so that nothing becomes certain. Labels are in [0,
    1].
    """
    weight = np.ones(raw.size) if weight is None else weight
    x, block_of_row = np.unique(raw, return_inverse=True)
    value_weights = np.bincount(block_of_row, weights=weight).astype(np.float64)
    y = np.bincount(block_of_row, weights=weight * label) / value_weights
    block_starts = _pool_blocks(y, value_weights)
    if block_starts.size > BLOCKS_MAX:  # neighbours become one: the mean stays right
        block_starts = block_starts[
            np.linspace(0, block_starts.size, BLOCKS_MAX, endpoint=False).astype(np.intp)
        ]
    block_weights = np.add.reduceat(value_weights, block_starts)
    levels = np.maximum.accumulate(np.add.reduceat(value_weights * y, block_starts) / block_weights)
    low = 0.5 / (block_weights + 1)
    high = (block_weights + 0.5) / (block_weights + 1)
    if levels.size > 1:
        low[0] = min(low[0], levels[1])
        high[-1] = max(high[-1], levels[-2])
    levels = np.where(levels <= 0, low, np.where(levels >= 1, high, levels))
    block_start = x[block_starts]
    block_stop = x[np.append(block_starts[1:], x.size) - 1]
    is_single_value = block_start == block_stop
    knots = np.column_stack([block_start, block_stop]).ravel()
    is_knot = ~np.column_stack([np.zeros(block_starts.size, bool), is_single_value]).ravel()
    return Isotonic(knots[is_knot].tolist(), np.repeat(levels, 2)[is_knot].tolist())


def _pool_blocks(y: Floats, value_weights: Floats) -> npt.NDArray[np.intp]:
    """Return the start of each block of the isotonic fit.

    A plain loop, O(n), since it runs offline.
    """
    block_starts: list[int] = []
    sums: list[float] = []
    block_weights: list[float] = []
    for row, (value, weight) in enumerate(zip(y.tolist(), value_weights.tolist(), strict=True)):
        block_starts.append(row)
        sums.append(value * weight)
        block_weights.append(weight)
        while (
            len(block_starts) > 1 and sums[-2] * block_weights[-1] >= sums[-1] * block_weights[-2]
        ):
            block_starts.pop()
            value = sums.pop()
            weight = block_weights.pop()
            sums[-1] += value
            block_weights[-1] += weight
    return np.array(block_starts, np.intp)


def fit_platt(raw: Floats, label: Floats, weight: Floats | None = None) -> Platt:
    """Fit a logistic regression on one input, with Platt's smoothed targets.

    All items get the mean where a higher score would mean less, or all scores are equal.
    """
    weight = np.ones(raw.size) if weight is None else weight
    positive = float(np.sum(weight * label))
    negative = float(np.sum(weight * (1 - label)))
    target = label * (positive + 1) / (positive + 2) + (1 - label) / (negative + 2)
    mean = float(np.average(target, weights=weight))
    constant = Platt(0.0, float(np.log(mean / (1 - mean))))
    scale = float(np.std(raw))
    if scale <= 1e-12 * float(np.abs(raw).max(initial=0.0)):
        return constant
    centre = float(np.average(raw, weights=weight))
    slope, intercept = _fit_logistic([(raw - centre) / scale], target, weight).tolist()
    return Platt(slope / scale, intercept - slope / scale * centre) if slope > 0 else constant


def fit_beta(raw: Floats, label: Floats, weight: Floats | None = None) -> Beta:
    """Fit the curve of maximum likelihood.

    As its authors do, a slope below 0 is set to 0 and the rest fitted again.
    """
    p = np.clip(raw, _PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
    columns = [np.log(p), -np.log1p(-p)]
    used_columns = [0, 1]
    while used_columns:
        coefficients = _fit_logistic([columns[index] for index in used_columns], label, weight)
        most_negative = int(np.argmin(coefficients[:-1]))
        if coefficients[most_negative] >= 0:
            break
        del used_columns[most_negative]
    else:
        coefficients = _fit_logistic([], label, weight)
    slopes = dict(zip(used_columns, coefficients[:-1].tolist(), strict=True))
    return Beta(slopes.get(0, 0.0), slopes.get(1, 0.0), float(coefficients[-1]))


def fit_temperature(raw: Floats, label: Floats, weight: Floats | None = None) -> Temperature:
    """Fit the temperature of maximum likelihood, at most 1,000.

    A model whose order is no better than chance is flattened, not reversed.
    """
    slope = _fit_logistic([_logit(raw)], label, weight, intercept=False)[0]
    return Temperature(1.0 / max(float(slope), 1e-3))


def _fit_logistic(
    columns: list[Floats],
    label: Floats,
    weight: Floats | None,
    *,
    intercept: bool = True,
    steps: int = 60,
) -> Floats:
    """Fit a logistic regression by Newton's method; the constant's coefficient is last.

    Steps are halved until they reduce the loss, since full steps diverge where a few outliers
    dominate.

    Args:
        label: (n,), from 0 to 1.
    """
    design = np.column_stack([*columns, *([np.ones(label.size)] if intercept else [])])
    weight = np.ones(label.size) if weight is None else weight
    coefficients: Floats = np.zeros(design.shape[1])
    loss = _compute_loss(design @ coefficients, label, weight)
    for _ in range(steps):
        p = _sigmoid(design @ coefficients)
        curvature = weight * np.maximum(p * (1 - p), 1e-12)
        hessian = (design * curvature[:, None]).T @ design + 1e-6 * np.eye(len(coefficients))
        step = np.linalg.solve(hessian, design.T @ (weight * (label - p)) - 1e-6 * coefficients)
        for _ in range(30):
            new_loss = _compute_loss(design @ (coefficients + step), label, weight)
            if new_loss <= loss:
                break
            step = step / 2
        coefficients = np.asarray(coefficients + step, np.float64)
        loss = new_loss
        if np.abs(step).max() < 1e-9:
            break
    return coefficients


def _compute_loss(z: Floats, label: Floats, weight: Floats) -> float:
    return float(np.sum(weight * (np.logaddexp(0.0, z) - label * z)))


def _sigmoid(z: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -700.0, 700.0)))


def _logit(raw: Floats) -> Floats:
    p = np.clip(raw, _PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
    return np.log(p) - np.log1p(-p)
