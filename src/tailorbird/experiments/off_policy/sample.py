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
PROBABILITY_MAX = 1 + 1e-9  # sums of floats round


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
    def response_count(self) -> int:
        return len(self.reward)

    @property
    def person_groups(self) -> tuple[int, Ints]:
        """The number of people, and the number of each response's, shape (n,)."""
        is_anonymous = self.person < 0
        codes, person_number = np.unique(self.person, return_inverse=True)
        known_count = int(np.sum(codes >= 0))
        person_number = person_number - (len(codes) - known_count)
        person_number[is_anonymous] = known_count + np.arange(int(is_anonymous.sum()))
        return known_count + int(is_anonymous.sum()), person_number

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
        rewards = _to_column(reward)
        logged_probability = _to_column(logged)
        target_probability = _to_column(target)
        for name, column in (("logged", logged_probability), ("target", target_probability)):
            if len(column) != len(rewards):
                raise UsageError(
                    f"{len(column)} probabilities for {len(rewards)} rewards",
                    where=f"PolicySample.of_actions, {name}",
                    fix="give one for each reward",
                )
        _require_valid(np.isfinite(rewards), rewards, "reward", "a finite number")
        _require_valid(
            (logged_probability > 0) & (logged_probability <= PROBABILITY_MAX),
            logged_probability,
            "logged",
            "a probability above 0",
        )
        _require_valid(
            (target_probability >= 0) & (target_probability <= PROBABILITY_MAX),
            target_probability,
            "target",
            "a probability",
        )
        return cls(
            reward=rewards,
            weight=target_probability / logged_probability,
            person=np.arange(len(rewards)) if person is None else np.asarray(person, np.int64),
            shown=np.ones(rewards.shape, bool),
            prediction=None if prediction is None else _to_column(prediction),
            expected=None if expected is None else _to_column(expected),
            unsupported=None if unsupported is None else _to_column(unsupported),
        )


def to_positions(
    values: npt.NDArray, offsets: Ints, position_count: int, *, fill: float
) -> tuple[Floats, Bools]:
    """Arrange the rows of responses by position: (n, columns), and which of them are rows.

    Args:
        values: (rows,), one response after the other, best position first.
        offsets: (n + 1,), where each response begins.
    """
    slate_size = np.diff(offsets)
    has_position = np.arange(position_count)[None, :] < slate_size[:, None]
    matrix = np.full(has_position.shape, fill)
    row = np.arange(offsets[-1])
    response_index = np.repeat(np.arange(len(slate_size)), slate_size)
    position = row - offsets[response_index]
    matrix[response_index, position] = values
    return matrix, has_position


def divide_probabilities(target: Floats, logged: Floats, has_position: Bools) -> Floats:
    """Return the importance weights (n, k): 1 at positions that a response lacks."""
    weight = np.ones(target.shape)
    weight[has_position] = target[has_position] / logged[has_position]
    return weight


def _require_valid(is_valid: Bools, values: Floats, name: str, expected: str) -> None:
    if not is_valid.all():
        row = int(np.argmin(is_valid[:, 0]))
        raise UsageError(
            f"expected {expected}, got {values[row, 0]:g} in row {row}",
            where=f"PolicySample.of_actions, {name}",
            fix="correct it, or leave the row out if it was logged wrongly",
        )


def _to_column(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, np.float64).reshape(-1, 1)
