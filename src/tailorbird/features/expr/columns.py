"""Evaluation of an expression over entire columns with NumPy.

What a value is, each user says: features have arrays of numbers and hashes
(`features.expr.expression`), rules also texts (`ranking.policy.rule_columns`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tailorbird.features.expr import nodes
from tailorbird.features.expr.nodes import Node

Array = npt.NDArray
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
V = TypeVar("V")

SUBSTRING_FUNCTION = "in"  # the function that `substring in text` calls, with the text first

_ARITHMETIC: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
}
_ORDER_OPERATORS: Mapping[str, Callable[[Floats, Floats], Bools]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


class Values(Protocol[V]):
    """The values of one user of expressions; each is for all rows (n,), or the same in all."""

    def column(self, path: str) -> V: ...
    def constant(self, value: float | str | bool | None) -> V: ...
    def call(self, function: str, arguments: Sequence[V | Array]) -> V | Array: ...
    def number(self, value: V | Array) -> Floats:
        """Convert to a number; NaN where missing."""
        ...

    def truth(self, value: V | Array) -> Bools:
        """Convert to a truth; False where missing."""
        ...

    def missing(self, value: V | Array) -> Bools: ...
    def equal(self, left: V | Array, right: V | Array) -> Bools:
        """Compare; a missing value equals nothing."""
        ...

    def divide(self, left: Floats, right: Floats) -> Floats: ...


def evaluate_columns(tree: Node, values: Values[V]) -> V | Array:
    """Return the value of a checked expression in each row."""
    with np.errstate(all="ignore"):
        return _evaluate_node(tree, values)


def _evaluate_node(node: Node, values: Values[V]) -> V | Array:
    match node:
        case nodes.Name():
            return values.column(node.path)
        case nodes.Constant():
            return values.constant(node.value)
        case nodes.Compare():
            return _compare(node, values)
        case nodes.Logic():
            combine = np.logical_and if node.operator == "and" else np.logical_or
            is_true = values.truth(_evaluate_node(node.parts[0], values))
            for part in node.parts[1:]:
                is_true = combine(is_true, values.truth(_evaluate_node(part, values)))
            return is_true
        case nodes.Unary(operator="not"):
            return ~values.truth(_evaluate_node(node.operand, values))
        case nodes.Unary():
            number = values.number(_evaluate_node(node.operand, values))
            return -number if node.operator == "-" else number
        case nodes.Binary():
            left = values.number(_evaluate_node(node.left, values))
            right = values.number(_evaluate_node(node.right, values))
            if node.operator == "/":
                return values.divide(left, right)
            return _ARITHMETIC[node.operator](left, right)
        case nodes.Choice():
            return np.where(
                values.truth(_evaluate_node(node.test, values)),
                values.number(_evaluate_node(node.body, values)),
                values.number(_evaluate_node(node.otherwise, values)),
            )
        case nodes.Duration():
            return values.constant(node.text)
        case nodes.Call():
            arguments = [_evaluate_node(argument, values) for argument in node.arguments]
            return values.call(node.function, arguments)
    raise AssertionError(f"{node.text} was not checked")


def _compare(node: nodes.Compare, values: Values[V]) -> Bools:
    left = _evaluate_node(node.first, values)
    result: Bools | None = None
    for operator, operand in node.steps:
        if operator in ("in", "not in") and isinstance(operand, nodes.Constants):
            right = left  # Nothing follows a list: the checker refuses it.
            is_true = np.zeros((), np.bool_)
            for element in operand.elements:
                is_true = is_true | values.equal(left, values.constant(element.value))
        else:
            right = _evaluate_node(operand, values)
            is_true = _compare_pair(left, operator, right, values)
        is_true = ~is_true if operator in ("not in", "!=", "is not") else is_true
        result = is_true if result is None else result & is_true
        left = right
    assert result is not None
    return result


def _compare_pair(
    left: V | Array, operator: nodes.Comparison, right: V | Array, values: Values[V]
) -> Bools:
    if operator in ("is", "is not"):
        return values.missing(left)
    if operator in ("in", "not in"):
        return values.truth(values.call(SUBSTRING_FUNCTION, (right, left)))
    if operator in ("==", "!="):
        return values.equal(left, right)
    return _ORDER_OPERATORS[operator](values.number(left), values.number(right))
