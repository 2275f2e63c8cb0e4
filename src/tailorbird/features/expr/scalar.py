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

Get = Callable[[str, str], Any]


def number(expression: Expression, get: Get) -> float:
    """Evaluate the expression as a number: a truth is 1 or 0, a non-finite value is missing."""
    value = float(evaluate(expression, get))
    return value if math.isfinite(value) else math.nan


def truth(expression: Expression, get: Get) -> bool:
    """Evaluate the expression as a truth: a number is true where it is neither 0 nor missing."""
    return _truth(evaluate(expression, get))


def evaluate(expression: Expression, get: Get) -> Any:
    """Evaluate to a float (NaN = missing), a text or None, or a bool; `get(name, kind)` gives
    columns.
    """
    kinds = dict(expression.names)
    return _value(expression.tree, lambda name: get(name, kinds[name]))


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
    return None if reads_column else float(_value(node, lambda name: math.nan))


def _truth(value: Any) -> bool:
    return value == value and bool(value)


def _value(node: Node, get: Callable[[str], Any]) -> Any:
    match node:
        case nodes.Name():
            return get(node.path)
        case nodes.Constant():
            value = node.value
            return value if isinstance(value, str) or value is None else float(value)
        case nodes.Unary():
            value = _value(node.operand, get)
            if node.operator == "not":
                return not _truth(value)
            return -float(value) if node.operator == "-" else value
        case nodes.Binary():
            return _arithmetic(node, float(_value(node.left, get)), float(_value(node.right, get)))
        case nodes.Logic():
            holds = [_truth(_value(part, get)) for part in node.parts]
            return all(holds) if node.operator == "and" else any(holds)
        case nodes.Choice():
            chosen = node.body if _truth(_value(node.test, get)) else node.otherwise
            return float(_value(chosen, get))
        case nodes.Call():
            return _call(node.function, [_value(argument, get) for argument in node.arguments])
        case nodes.Constants():
            return [_value(element, get) for element in node.elements]
    assert isinstance(node, nodes.Compare)
    left = _value(node.first, get)
    for operator, side in node.steps:
        right = _value(side, get)
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
    a, b = float(arguments[0]), float(arguments[-1])
    if name == "abs":
        return abs(a)
    if name == "number":
        return a
    if name == "sqrt":
        return math.sqrt(a) if a >= 0 else math.nan
    if name in ("log", "log1p", "exp"):
        return {"log": log_scalar, "log1p": log1p_scalar, "exp": exp_scalar}[name](a)
    return (b if b < a else a) if name == "min" else (b if b > a else a)


def _compare(a: Any, sign: str, b: Any) -> bool:
    if sign in ("is", "is not"):
        return _is_missing(a) == (sign == "is")
    if sign in ("in", "not in"):
        return (a in b) == (sign == "in")
    if sign in ("==", "!="):
        return (a == b) == (sign == "==")
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[sign]


def _is_missing(value: Any) -> bool:
    return value is None or value != value
