"""Expressions of declarations (`where=`, `of=`, `derived`).

An expression is parsed once, checked against the columns that it may name, and then evaluated with
NumPy over entire columns. `features.expr.scalar` evaluates the same tree value by value.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.events.keys import hash64
from tailorbird.features.expr import series
from tailorbird.features.expr.check import Checker, Function, Language, ValueKind
from tailorbird.features.expr.columns import evaluate_columns
from tailorbird.features.expr.nodes import ExpressionError, Node
from tailorbird.features.expr.parse import parse_tree

QUOTED_MAX = 100  # letters quoted in a message

Array = npt.NDArray
# Says what a name is: "number", "text", "either" (a profile attribute, decided by what it is
# compared with), or None.
KindOf = Callable[[str], ValueKind | None]
ColumnOf = Callable[[str, str], Array]

_FUNCTIONS = {
    "abs": Function(),
    "sqrt": Function(),
    "min": Function(arguments=2),
    "max": Function(arguments=2),
    "missing": Function(kind="truth", argument_kind="anything"),
    "number": Function(),
    "log": Function(),
    "log1p": Function(),
    "exp": Function(),
}


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
    kind: ValueKind
    names: tuple[tuple[str, ValueKind], ...]
    tree: Node = field(compare=False, repr=False)

    def columns(self, column: ColumnOf) -> Array:
        """Return the value in each row.

        `column(name, kind)` returns float64 for numbers and uint64 hashes for texts.
        """
        return evaluate_columns(self.tree, _ColumnValues(column, dict(self.names)))

    def numbers(self, column: ColumnOf, rows: int) -> npt.NDArray[np.float64]:
        """Return numbers, shape (rows,): a truth as 1 or 0, and missing where not finite."""
        value = _to_number(self.columns(column))
        is_finite = np.isfinite(value)
        return np.broadcast_to(
            value if is_finite.all() else np.where(is_finite, value, np.nan), (rows,)
        )

    def truths(self, column: ColumnOf, rows: int) -> npt.NDArray[np.bool_]:
        """Return truths, shape (rows,): a number is true where it is neither 0 nor missing."""
        return np.broadcast_to(_to_truth(self.columns(column)), (rows,))


def parse(text: str, kind_of: KindOf, *, expected_kind: ValueKind) -> Expression:
    """Check `text` and determine the columns that it reads.

    Args:
        expected_kind: "number" or "truth" (each also accepts the other), or "text" or "either"
            (a bare column).
    Raises:
        ExpressionError: the syntax is invalid or outside the grammar, or numbers and texts are
            mixed.
    """
    if not isinstance(text, str):
        raise ExpressionError(
            f"expected an expression in quotes, such as 'price < 5', got {text!r}"
        )
    tree = parse_tree(text)
    checker = Checker(Language(lambda name: kind_of(name.path), _FUNCTIONS, allows_choices=True))
    kind = checker.infer_kind(tree, expected_kind)
    if (kind == "text") != (expected_kind == "text") and expected_kind != "either":
        raise ExpressionError(f"expected a {expected_kind}, {_quote(text)} is a {kind}")
    return Expression(text.strip(), kind, tuple(sorted(checker.names.items())), tree)


def _quote(text: str) -> str:
    return repr(text) if len(text) <= QUOTED_MAX else f"{text[:QUOTED_MAX]!r}…"


class _ColumnValues:
    """Numbers are float64, texts uint64 hashes. Truths stay bool until a number is needed."""

    def __init__(self, column: ColumnOf, kinds: dict[str, str]) -> None:
        self._column = column
        self._kinds = kinds

    def column(self, path: str) -> Array:
        return self._column(path, self._kinds[path])

    def constant(self, value: float | str | bool | None) -> Array:
        if isinstance(value, str):
            return np.array(hash64(value), np.uint64)
        return np.array(value, np.float64)

    def call(self, function: str, arguments: Sequence[Array]) -> Array:
        if function == "missing":
            return self.missing(arguments[0])
        a = _to_number(arguments[0])
        b = _to_number(arguments[-1])
        match function:
            case "number":
                return a
            case "abs":
                return np.abs(a)
            case "sqrt":
                return np.sqrt(a)
            case "log":
                return series.log(a)
            case "log1p":
                return series.log1p(a)
            case "exp":
                return series.exp(a)
            case "min":
                return np.where(b < a, b, a)
        return np.where(b > a, b, a)

    def number(self, value: Array) -> Array:
        return _to_number(value)

    def truth(self, value: Array) -> Array:
        return _to_truth(value)

    def missing(self, value: Array) -> Array:
        if value.dtype == np.uint64:
            return value == 0
        return np.isnan(value) if value.dtype == np.float64 else np.zeros(np.shape(value), np.bool_)

    def equal(self, left: Array, right: Array) -> Array:
        return np.equal(_to_number(left), _to_number(right))

    def divide(self, left: Array, right: Array) -> Array:
        return np.where(right == 0, np.nan, left / right)


def _to_number(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.bool_ else value


def _to_truth(value: Array) -> Array:
    return value if value.dtype == np.bool_ else (value != 0) & ~np.isnan(value)
