"""Evaluation of an expression value by value: plain Python, for the reference of features.

`features.expr.columns` computes the same over columns, in a second implementation on purpose.
"""

import math
from collections.abc import Callable
from typing import Any

from tailorbird.features.expr import nodes
from tailorbird.features.expr.expression import Expression
from tailorbird.features.expr.nodes import Node, walk
from tailorbird.features.expr.series import exp_scalar, log1p_scalar, log_scalar

ReadColumn = Callable[[str, str], Any]


def evaluate_number(expression: Expression, read_column: ReadColumn) -> float:
    """Evaluate the expression as a number: a truth is 1 or 0, a non-finite value is missing."""
    value = float(evaluate(expression, read_column))
    return value if math.isfinite(value) else math.nan


def evaluate_truth(expression: Expression, read_column: ReadColumn) -> bool:
    """Evaluate the expression as a truth: a number is true where it is neither 0 nor missing."""
    return _to_truth(evaluate(expression, read_column))


def evaluate(expression: Expression, read_column: ReadColumn) -> Any:
    """Evaluate to a float (NaN = missing), a text or None, or a bool; `read_column(name, kind)`
    gives columns.
    """
    kinds = dict(expression.names)
    return _evaluate_node(expression.tree, lambda name: read_column(name, kinds[name]))


def check_computable(expression: Expression) -> None:
    """Raise if a part is missing whatever the event has: `1 / 0`, `price / 0`, `sqrt(-1)`.

    Raises:
        ExpressionError: names the part.
    """
    for node in walk(expression.tree):
        match node:
            case nodes.Binary(operator="/", right=right) if _constant_of(right) == 0:
                raise node.error(f"{node.text} divides by 0, which is always missing")
            case nodes.Binary() | nodes.Call() if not math.isfinite(_constant_of(node) or 0.0):
                raise node.error(f"{node.text} cannot be computed, so it is always missing")


def _constant_of(node: Node) -> float | None:
    """Return the value of a part that no column decides; None for another."""
    reads_column = any(
        isinstance(part, nodes.Name)
        or (isinstance(part, nodes.Constant) and isinstance(part.value, str | None))
        for part in walk(node)
    )
    return None if reads_column else float(_evaluate_node(node, lambda name: math.nan))


def _to_truth(value: Any) -> bool:
    return value == value and bool(value)


def _evaluate_node(node: Node, read_column: Callable[[str], Any]) -> Any:
    match node:
        case nodes.Name():
            return read_column(node.path)
        case nodes.Constant():
            value = node.value
            return value if isinstance(value, str) or value is None else float(value)
        case nodes.Unary():
            value = _evaluate_node(node.operand, read_column)
            if node.operator == "not":
                return not _to_truth(value)
            return -float(value) if node.operator == "-" else value
        case nodes.Binary():
            return _arithmetic(
                node,
                float(_evaluate_node(node.left, read_column)),
                float(_evaluate_node(node.right, read_column)),
            )
        case nodes.Logic():
            truths = [_to_truth(_evaluate_node(part, read_column)) for part in node.parts]
            return all(truths) if node.operator == "and" else any(truths)
        case nodes.Choice():
            branch = (
                node.body if _to_truth(_evaluate_node(node.test, read_column)) else node.otherwise
            )
            return float(_evaluate_node(branch, read_column))
        case nodes.Call():
            return _call(
                node.function,
                [_evaluate_node(argument, read_column) for argument in node.arguments],
            )
        case nodes.Constants():
            return [_evaluate_node(element, read_column) for element in node.elements]
    assert isinstance(node, nodes.Compare)
    left = _evaluate_node(node.first, read_column)
    for operator, operand in node.steps:
        right = _evaluate_node(operand, read_column)
        if not _compare(left, operator, right):
            return False
        left = right
    return True


def _arithmetic(node: nodes.Binary, a: float, b: float) -> float:
    if node.operator == "+":
        return a + b
    if node.operator == "-":
        return a - b
    if node.operator == "*":
        return a * b
    return a / b if b else math.nan


def _call(name: str, arguments: list[Any]) -> Any:
    if name == "missing":
        return _is_missing(arguments[0])
    a = float(arguments[0])
    b = float(arguments[-1])
    if name == "abs":
        return abs(a)
    if name == "number":
        return a
    if name == "sqrt":
        return math.sqrt(a) if a >= 0 else math.nan
    if name in ("log", "log1p", "exp"):
        return {"log": log_scalar, "log1p": log1p_scalar, "exp": exp_scalar}[name](a)
    return (b if b < a else a) if name == "min" else (b if b > a else a)


def _compare(a: Any, operator: str, b: Any) -> bool:
    if operator in ("is", "is not"):
        return _is_missing(a) == (operator == "is")
    if operator in ("in", "not in"):
        return (a in b) == (operator == "in")
    if operator in ("==", "!="):
        return (a == b) == (operator == "==")
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]


def _is_missing(value: Any) -> bool:
    return value is None or value != value
