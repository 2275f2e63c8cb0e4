"""Logged rewards with the importance weights of an evaluated policy.

A slate has a column per position; a log of single actions has one column. Two kinds of weights
make a slate tractable:

- item-position (IIPS; Li et al. 2018): the click at a position depends on its own item. The weight
  is the ratio of the probabilities of this item at this position.
- cascade (RIPS; McInerney et al. 2020): it depends on the items up to its position. The weight is
  the ratio of the probabilities of the slate down to this position.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
ONE = 1 + 1e-9  # sums of floats round


@dataclass(frozen=True)
class PolicySample:
    """Logged responses and the weights of an evaluated policy; shapes (n, k) unless stated.

    A position that a response lacks has weight 1 and reward 0.

    Attributes:
        reward: what came of the item at the position, such as 1 for a click.
        weight: probability under the evaluated policy, divided by the logged propensity.
        person: (n,), code of the person; negative for a response of its own.
        prediction: the reward that a model predicts for the logged item; None without a model.
        expected: the predicted reward of what the evaluated policy shows at the position.
        shown: whether the response has the position.
        unsupported: probability of the evaluated policy's choices that the log could never have
            shown, where the logging policy is known; None to infer it from the weights.
    """

    reward: Floats
    weight: Floats
    person: Ints
    shown: Bools
    prediction: Floats | None = None
    expected: Floats | None = None
    unsupported: Floats | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "shown", "prediction", "expected", "unsupported"):
            column = getattr(self, name)
            if column is not None and column.shape != self.reward.shape:
                raise ValueError(f"{name}: expected shape {self.reward.shape}, got {column.shape}")
        if self.person.shape != self.reward.shape[:1]:
            raise ValueError(f"person: expected one per response, got {self.person.shape}")

    @property
    def responses(self) -> int:
        return len(self.reward)

    @property
    def people(self) -> tuple[int, Ints]:
        """The number of people, and the number of each response's, shape (n,)."""
        alone = self.person < 0
        codes, unit = np.unique(self.person, return_inverse=True)
        known = int(np.sum(codes >= 0))
        unit = unit - (len(codes) - known)
        unit[alone] = known + np.arange(int(alone.sum()))
        return known + int(alone.sum()), unit

    @property
    def has_model(self) -> bool:
        """Return whether there are predicted rewards, which doubly robust estimators need."""
        return self.prediction is not None and self.expected is not None

    @classmethod
    def of_actions(
        cls,
        reward: npt.ArrayLike,
        logged: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        person: npt.ArrayLike | None = None,
        prediction: npt.ArrayLike | None = None,
        expected: npt.ArrayLike | None = None,
        unsupported: npt.ArrayLike | None = None,
    ) -> "PolicySample":
        """Build a sample of single actions; all arguments have shape (n,).

        Args:
            logged, target: probability of the logged action under each policy.

        Raises:
            UsageError: they differ in length, or are no probabilities; what was logged had one
                above 0.
        """
        rewards, drawn, wanted = _column(reward), _column(logged), _column(target)
        for name, column in (("logged", drawn), ("target", wanted)):
            if len(column) != len(rewards):
                raise UsageError(
                    f"{len(column)} probabilities for {len(rewards)} rewards",
                    where=f"PolicySample.of_actions, {name}",
                    fix="give one for each reward",
                )
        _require(np.isfinite(rewards), rewards, "reward", "a finite number")
        _require((drawn > 0) & (drawn <= ONE), drawn, "logged", "a probability above 0")
        _require((wanted >= 0) & (wanted <= ONE), wanted, "target", "a probability")
        return cls(
            rewards,
            wanted / drawn,
            np.arange(len(rewards)) if person is None else np.asarray(person, np.int64),
            np.ones(rewards.shape, bool),
            None if prediction is None else _column(prediction),
            None if expected is None else _column(expected),
            None if unsupported is None else _column(unsupported),
        )


def to_positions(
    values: npt.NDArray, offsets: Ints, columns: int, *, fill: float
) -> tuple[Floats, Bools]:
    """Arrange the rows of responses by position: (n, columns), and which of them are rows.

    Args:
        values: (rows,), one response after the other, best position first.
        offsets: (n + 1,), where each response begins.
    """
    size = np.diff(offsets)
    shown = np.arange(columns)[None, :] < size[:, None]
    matrix = np.full(shown.shape, fill)
    row = np.arange(offsets[-1])
    response = np.repeat(np.arange(len(size)), size)
    position = row - offsets[response]
    matrix[response, position] = values
    return matrix, shown


def divide_probabilities(target: Floats, logged: Floats, shown: Bools) -> Floats:
    """Return the importance weights (n, k): 1 at positions that a response lacks."""
    weight = np.ones(target.shape)
    weight[shown] = target[shown] / logged[shown]
    return weight


def _require(is_valid: Bools, values: Floats, name: str, expected: str) -> None:
    if not is_valid.all():
        row = int(np.argmin(is_valid[:, 0]))
        raise UsageError(
            f"expected {expected}, got {values[row, 0]:g} in row {row}",
            where=f"PolicySample.of_actions, {name}",
            fix="correct it, or leave the row out if it was logged wrongly",
        )


def _column(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, np.float64).reshape(-1, 1)
