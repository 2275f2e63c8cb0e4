"""Expressions evaluated value by value, and conversions of JSON values, for the reference.

`features.expr.expression` checks the same trees and evaluates them over columns.
"""

import ast
import math
import re
import struct
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tailorbird.events.clock import HOUR
from tailorbird.events.keys import hash64
from tailorbird.features.declare.fields import INTEGER_FIELDS
from tailorbird.features.declare.limits import WORDS
from tailorbird.features.expr.expression import Expression, ExpressionError
from tailorbird.features.expr.series import exp_scalar, log1p_scalar, log_scalar
from tailorbird.features.expr.syntax import comparison, constant, dotted
from tailorbird.features.request import ReadRequest

Get = Callable[[str, str], Any]


def text_of(value: object) -> str | None:
    """Return a profile's value as a category; a list's first element; else None."""
    if isinstance(value, list):
        return text_of(value[0]) if value else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return value if isinstance(value, str) else None


def number_of(value: object) -> float:
    """Return a profile's value as a number; the first element of a list; 1 or 0 for a truth.

    Other values, including a text of digits, are NaN.
    """
    if isinstance(value, list):
        return number_of(value[0]) if value else math.nan
    return float(value) if isinstance(value, int | float) and abs(value) <= 1.7e308 else math.nan


def element_of(value: object, element: int) -> object:
    """Return the element of a list, counted from 1; a scalar is its own first element."""
    if not isinstance(value, list):
        return value if element == 1 else None
    return value[element - 1] if len(value) >= element else None


def words_of(value: object) -> list[str]:
    """Return the first distinct words of a text, or of a list of texts: case-folded letters and
    digits.
    """
    texts = [
        text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)
    ]
    words = _WORD.findall(unicodedata.normalize("NFKC", " ".join(texts)).casefold())
    return list(dict.fromkeys(words))[:WORDS]


def time_of(value: object) -> float:
    """Return a profile's value as a time in microseconds; NaN if it is none.

    A text is ISO 8601, UTC unless it says otherwise. A number is in seconds below 1e11, in
    milliseconds below 1e14, else in microseconds.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            return float(
                ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH)
                // timedelta(microseconds=1)
            )
        except (ValueError, OverflowError):
            return math.nan
    number = math.nan if isinstance(value, bool) else number_of(value)
    scale = 1e6 if abs(number) < 1e11 else 1e3 if abs(number) < 1e14 else 1.0
    return number * scale if abs(number) < 1e17 else math.nan


_WORD = re.compile(r"[^\W_]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def query_text(text: str | None) -> str | None:
    """Return a query normalised for entities: NFKC, case folded, single spaces; None if empty."""
    return (
        None
        if text is None
        else " ".join(unicodedata.normalize("NFKC", text).casefold().split()) or None
    )


def weekday(ts: int, local_hour: int | None) -> int:
    """Return 0 (Monday) to 6 where it is `local_hour`, at most 12 hours behind UTC or 11 ahead.

    The weekday is that of UTC where the hour is unknown.
    """
    hours = ts // HOUR  # Hour 0 is on a Thursday.
    utc_offset = 0 if local_hour is None else (local_hour - hours + 12) % 24 - 12
    return ((hours + utc_offset) // 24 + 3) % 7


def request_text(request: ReadRequest, name: str, t: int) -> str | None:
    """Return a request's value, read at t, of an entity's field, except items and profiles."""
    if name == "query":
        return query_text(request.query)
    if name in INTEGER_FIELDS:
        number = weekday(t, request.local_hour) if name == "weekday" else getattr(request, name)
        return None if number is None else str(number)
    return getattr(request, {"user": "person", "session": "session_id"}.get(name, name))


def float32(number: Any) -> float:
    """Round to the nearest float32; a number that is too large is infinite."""
    try:
        return struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)


def category(text: str | None) -> int:
    return 0 if text is None else hash64(text)


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
    return _walk(expression.tree, lambda name: get(name, kinds[name]))


def check_computable(expression: Expression) -> None:
    """Raise if a part is missing whatever the event has: `1 / 0`, `price / 0`, `sqrt(-1)`.

    Raises:
        ExpressionError: names the part.
    """
    for node in ast.walk(expression.tree):
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Div)
            and _is_constant(node.right)
            and _constant_of(node.right) == 0
        ):
            raise ExpressionError(f"{ast.unparse(node)} divides by 0, which is always missing")
        if (
            isinstance(node, ast.BinOp | ast.Call)
            and _is_constant(node)
            and not math.isfinite(_constant_of(node))
        ):
            raise ExpressionError(
                f"{ast.unparse(node)} cannot be computed, so it is always missing"
            )


def _is_constant(node: ast.expr) -> bool:
    parts = list(ast.walk(node))
    calls = {id(part.func) for part in parts if isinstance(part, ast.Call)}
    return not any(
        (isinstance(part, ast.Name) and id(part) not in calls)
        or (isinstance(part, ast.Constant) and isinstance(part.value, str | None))
        for part in parts
    )


def _constant_of(node: ast.expr) -> float:
    return float(_walk(node, lambda name: math.nan))


def _truth(value: Any) -> bool:
    return value == value and bool(value)


def _walk(node: ast.expr, get: Callable[[str], Any]) -> Any:
    name = dotted(node)
    if name is not None:
        return get(name)
    if isinstance(node, ast.Constant):
        return constant(node)
    if isinstance(node, ast.UnaryOp):
        value = _walk(node.operand, get)
        return (
            not _truth(value)
            if isinstance(node.op, ast.Not)
            else -float(value)
            if isinstance(node.op, ast.USub)
            else value
        )
    if isinstance(node, ast.BinOp):
        return _arithmetic(node.op, float(_walk(node.left, get)), float(_walk(node.right, get)))
    if isinstance(node, ast.BoolOp):
        holds = [_truth(_walk(value, get)) for value in node.values]
        return all(holds) if isinstance(node.op, ast.And) else any(holds)
    if isinstance(node, ast.IfExp):
        return float(_walk(node.body if _truth(_walk(node.test, get)) else node.orelse, get))
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _call(node.func.id, [_walk(argument, get) for argument in node.args])
    assert isinstance(node, ast.Compare)
    left = _walk(node.left, get)
    for operator, side in zip(node.ops, node.comparators, strict=True):
        right = (
            [constant(e) for e in side.elts]
            if isinstance(side, ast.Tuple | ast.List)
            else _walk(side, get)
        )
        if not _compare(left, comparison(operator), right):
            return False
        left = right
    return True


def _arithmetic(operator: ast.operator, a: float, b: float) -> float:
    if isinstance(operator, ast.Add):
        return a + b
    if isinstance(operator, ast.Sub):
        return a - b
    if isinstance(operator, ast.Mult):
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
