"""Expressions of declarations (`where=`, `of=`, `derived`): a whitelist of Python's syntax,
vectorised.

Nothing is ever passed to `eval`. An expression is parsed once, checked against the columns that it
may name, and then evaluated with NumPy over entire columns. `features.reference.reference`
evaluates the same tree value by value.

    numbers: float64, missing = NaN      + - * / -x, min(a, b), max(a, b), abs(x), sqrt(x), log(x),
                                         log1p(x), exp(x), number(x), a if test else b
    texts:   hash64, missing = 0         == != in not in
    truths:  bool                        and or not, < <= > >= == != (chained too), missing(x),
                                         x is None

A missing value equals nothing but None and is never above or below anything: `agent != 'bot'` holds
where agent is missing, `price < 5` does not hold where price is. Division by zero is missing, as is
the root or logarithm of a number without one. A truth used as a number is 1 or 0. Logarithms and
exponentials are those of `features.expr.series`, the same on all machines.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.events.keys import hash64
from tailorbird.features.expr import series
from tailorbird.features.expr.syntax import comparison, constant, dotted

LENGTH_MAX = 500
DEPTH_MAX = 30
QUOTED_MAX = 100  # letters quoted in a message

Array = npt.NDArray
# Says what a name is: "number", "text", "either" (a profile attribute, decided by what it is
# compared with), or None.
KindOf = Callable[[str], str | None]
ColumnOf = Callable[[str, str], Array]

_FUNCTIONS = {
    "abs": 1,
    "sqrt": 1,
    "min": 2,
    "max": 2,
    "missing": 1,
    "number": 1,
    "log": 1,
    "log1p": 1,
    "exp": 1,
}
_SERIES = {"log": series.log, "log1p": series.log1p, "exp": series.exp}
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div)


class ExpressionError(ValueError):
    """An invalid expression; the message says which part. Declarations add the line."""


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        text: as it was written.
        kind: "number", "text" or "truth": what it yields.
        names: each column that it reads, with the kind it is read as, sorted.
        tree: the checked syntax tree.
    """

    text: str
    kind: str
    names: tuple[tuple[str, str], ...]
    tree: ast.expr = field(compare=False, repr=False)

    def columns(self, column: ColumnOf) -> Array:
        """Return the value in each row.

        `column(name, kind)` returns float64 for numbers and uint64 hashes for texts.
        """
        return _Columns(column, dict(self.names)).of(self.tree)

    def numbers(self, column: ColumnOf, rows: int) -> npt.NDArray[np.float64]:
        """Return numbers, shape (rows,): a truth as 1 or 0, and missing where not finite."""
        value = _to_number(self.columns(column))
        finite = np.isfinite(value)
        return np.broadcast_to(value if finite.all() else np.where(finite, value, np.nan), (rows,))

    def truths(self, column: ColumnOf, rows: int) -> npt.NDArray[np.bool_]:
        """Return truths, shape (rows,): a number is true where it is neither 0 nor missing."""
        return np.broadcast_to(_truth(self.columns(column)), (rows,))


def parse(text: str, kind_of: KindOf, *, expect: str) -> Expression:
    """Check `text` and determine the columns that it reads.

    Args:
        expect: "number" or "truth" (each also accepts the other), or "text" or "either" (a bare
            column).
    Raises:
        ExpressionError: the syntax is invalid or outside the whitelist, or numbers and texts are
            mixed.
    """
    if not isinstance(text, str):
        raise ExpressionError(
            f"expected an expression in quotes, such as 'price < 5', got {text!r}"
        )
    if len(text) > LENGTH_MAX:
        raise ExpressionError(f"expected at most {LENGTH_MAX} characters, got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ExpressionError(f"{_quote(text)} is not an expression") from None
    if _depth(tree) > DEPTH_MAX:
        raise ExpressionError(f"nested more than {DEPTH_MAX} levels deep")
    checker = _Checker(kind_of)
    kind = checker.kind(tree, expect)
    if (kind == "text") != (expect == "text") and expect != "either":
        raise ExpressionError(f"expected a {expect}, {_quote(text)} is a {kind}")
    return Expression(text.strip(), kind, tuple(sorted(checker.names.items())), tree)


def _quote(text: str) -> str:
    return repr(text) if len(text) <= QUOTED_MAX else f"{text[:QUOTED_MAX]!r}…"


def _depth(tree: ast.AST) -> int:
    deepest, stack = 0, [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        stack.extend((child, depth + 1) for child in ast.iter_child_nodes(node))
    return deepest


class _Checker:
    def __init__(self, kind_of: KindOf) -> None:
        self._kind_of = kind_of
        self.names: dict[str, str] = {}

    def kind(self, node: ast.expr, expect: str) -> str:
        """Return the kind of a node; an attribute of undetermined kind becomes the expected one."""
        name = dotted(node)
        if name is not None:
            return self._name(name, expect)
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd | ast.Not):
            self._numbers(node.operand)
            return "truth" if isinstance(node.op, ast.Not) else "number"
        if isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS):
            self._numbers(node.left, node.right)
            return "number"
        if isinstance(node, ast.BoolOp):
            self._numbers(*node.values)
            return "truth"
        if isinstance(node, ast.IfExp):
            self._numbers(node.test, node.body, node.orelse)
            return "number"
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Compare):
            return self._compare(node)
        raise ExpressionError(f"{ast.unparse(node)} cannot be used in an expression")

    def _numbers(self, *nodes: ast.expr) -> None:
        for node in nodes:
            if self.kind(node, "number") == "text":
                raise ExpressionError(f"{ast.unparse(node)} is text, expected a number")

    def _name(self, name: str, expect: str) -> str:
        kind = self._kind_of(name)
        if kind is None:
            raise ExpressionError(f"{name} is no field")
        if kind == "either":
            kind = "text" if expect in ("text", "either") else "number"
        if self.names.setdefault(name, kind) != kind:
            raise ExpressionError(f"{name} is used both as a number and as text")
        return kind

    def _constant(self, node: ast.Constant) -> str:
        if isinstance(node.value, str):
            return "text"
        if isinstance(node.value, bool | int | float) and abs(node.value) <= 1e300:
            return "number"
        raise ExpressionError(f"{ast.unparse(node)} cannot be used here")

    def _call(self, node: ast.Call) -> str:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _FUNCTIONS or node.keywords or len(node.args) != _FUNCTIONS[name]:
            raise ExpressionError(
                f"{ast.unparse(node)}: expected one of {', '.join(_FUNCTIONS)} with its arguments"
            )
        if name == "missing":
            self.kind(node.args[0], "either")
            return "truth"
        self._numbers(*node.args)
        return "number"

    def _compare(self, node: ast.Compare) -> str:
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            self._pair(left, comparison(operator), right)
            left = right
        return "truth"

    def _pair(self, left: ast.expr, operator: str, right: ast.expr) -> None:
        if operator in ("is", "is not"):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise ExpressionError(f"{operator} is for None only")
            self.kind(left, "either")
            return
        if operator in ("in", "not in"):
            if not isinstance(right, ast.Tuple | ast.List) or not all(
                isinstance(e, ast.Constant) for e in right.elts
            ):
                raise ExpressionError(
                    f"{operator} needs constants in brackets, "
                    f"such as {operator} ('phone', 'tablet')"
                )
            kinds = {self._constant(e) for e in right.elts if isinstance(e, ast.Constant)}
            if len(kinds) != 1 or kinds != {self._kind_as(left, next(iter(kinds)))}:
                raise ExpressionError(
                    f"{ast.unparse(left)} {operator} …: numbers and texts are mixed"
                )
            return
        typed_sides = [side for side in (left, right) if self._has_kind(side)]
        if not typed_sides:
            raise ExpressionError(
                f"{ast.unparse(left)} {operator} {ast.unparse(right)}: compare a profile "
                "attribute with a constant"
            )
        expect = self._kind_as(typed_sides[0], "number")
        if self._kind_as(left, expect) != self._kind_as(right, expect):
            raise ExpressionError(
                f"{ast.unparse(left)} {operator} {ast.unparse(right)}: numbers and texts are mixed"
            )
        if expect == "text" and operator not in ("==", "!="):
            raise ExpressionError(f"{operator} is not for texts")

    def _has_kind(self, node: ast.expr) -> bool:
        name = dotted(node)
        return name is None or self._kind_of(name) != "either" or name in self.names

    def _kind_as(self, node: ast.expr, expect: str) -> str:
        name = dotted(node)
        if name in self.names:
            return self.names[name]
        return "text" if self.kind(node, expect) == "text" else "number"


class _Columns:
    """Evaluates a checked tree over columns. Truths stay bool until a number is needed."""

    def __init__(self, column: ColumnOf, kinds: dict[str, str]) -> None:
        self._column = column
        self._kinds = kinds

    def of(self, node: ast.expr) -> Array:
        name = dotted(node)
        if name is not None:
            return self._column(name, self._kinds[name])
        if isinstance(node, ast.Constant):
            value = constant(node)
            return (
                np.array(hash64(value), np.uint64)
                if isinstance(value, str)
                else np.array(value, np.float64)
            )
        with np.errstate(all="ignore"):
            return self._operation(node)

    def _operation(self, node: ast.expr) -> Array:
        if isinstance(node, ast.UnaryOp):
            return (
                ~self._truth(node.operand)
                if isinstance(node.op, ast.Not)
                else _signed(node.op, self._number(node.operand))
            )
        if isinstance(node, ast.BinOp):
            return _arithmetic(node.op, self._number(node.left), self._number(node.right))
        if isinstance(node, ast.BoolOp):
            combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            result = self._truth(node.values[0])
            for other in node.values[1:]:
                result = combine(result, self._truth(other))
            return result
        if isinstance(node, ast.IfExp):
            return np.where(
                self._truth(node.test), self._number(node.body), self._number(node.orelse)
            )
        if isinstance(node, ast.Call):
            return self._call(node)
        assert isinstance(node, ast.Compare)
        left, result = node.left, None
        for operator, right in zip(node.ops, node.comparators, strict=True):
            holds = self._pair(left, comparison(operator), right)
            result = holds if result is None else result & holds
            left = right
        assert result is not None
        return result

    def _number(self, node: ast.expr) -> Array:
        return _to_number(self.of(node))

    def _truth(self, node: ast.expr) -> Array:
        return _truth(self.of(node))

    def _call(self, node: ast.Call) -> Array:
        assert isinstance(node.func, ast.Name)
        if node.func.id == "missing":
            return _missing(self.of(node.args[0]))
        arguments = [self._number(argument) for argument in node.args]
        if node.func.id == "abs":
            return np.abs(arguments[0])
        if node.func.id == "number":
            return arguments[0]
        if node.func.id == "sqrt":
            return np.sqrt(arguments[0])
        if node.func.id in _SERIES:
            return _SERIES[node.func.id](arguments[0])
        a, b = arguments
        return np.where(b < a, b, a) if node.func.id == "min" else np.where(b > a, b, a)

    def _pair(self, left: ast.expr, operator: str, right: ast.expr) -> Array:
        if operator in ("is", "is not"):
            absent = _missing(self.of(left))
            return absent if operator == "is" else ~absent
        if operator in ("in", "not in"):
            assert isinstance(right, ast.Tuple | ast.List)
            a = self.of(left)
            is_member = np.zeros(np.shape(a), np.bool_)
            for element in right.elts:
                is_member = is_member | (_to_number(a) == self.of(element))
            return is_member if operator == "in" else ~is_member
        a, b = _to_number(self.of(left)), _to_number(self.of(right))
        compare = {
            "==": np.equal,
            "!=": np.not_equal,
            "<": np.less,
            "<=": np.less_equal,
            ">": np.greater,
            ">=": np.greater_equal,
        }
        return compare[operator](a, b)


def _to_number(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.bool_ else value


def _truth(value: Array) -> Array:
    return value if value.dtype == np.bool_ else (value != 0) & ~np.isnan(value)


def _missing(value: Array) -> Array:
    if value.dtype == np.uint64:
        return value == 0
    return np.isnan(value) if value.dtype == np.float64 else np.zeros(np.shape(value), np.bool_)


def _signed(operator: ast.unaryop, value: Array) -> Array:
    return -value if isinstance(operator, ast.USub) else value


def _arithmetic(operator: ast.operator, a: Array, b: Array) -> Array:
    if isinstance(operator, ast.Add):
        return a + b
    if isinstance(operator, ast.Sub):
        return a - b
    if isinstance(operator, ast.Mult):
        return a * b
    return np.where(b == 0, np.nan, a / b)
