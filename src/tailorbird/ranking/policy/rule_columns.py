"""Column operations of rules: values of a request's items, compared and combined.

The language is `ranking.policy.rules`. A missing value (NaN, code -1, None) equals nothing and
compares as false.
"""

import ast
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import DAY
from tailorbird.events.keys import hash64
from tailorbird.retrieval import Index, TextColumn

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
# The value of an expression: a number, text or boolean for all items, or one per item.
Value = float | str | bool | None | npt.NDArray[np.float64] | Mask | TextColumn
Compiled = Callable[["Request"], Value]


class RecentLike(Protocol):
    """The user's recent sequence, oldest first: `features.Sequence`."""

    @property
    def item(self) -> Keys: ...
    @property
    def type(self) -> Keys: ...
    @property
    def ts(self) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True)
class Request:
    """The inputs of rules.

    Attributes:
        index, rows: the items, as rows (n,) of the index.
        now: the time of the request.
        user, context: the fields by name; absent ones are missing values.
        recent: the person's recent sequence, for `seen`.
        popularity: gives how popular items are by their keys, from 0 to 1; None: nothing is known
            of it.
    """

    index: Index
    rows: Rows
    now: int = 0
    user: Mapping[str, str | float | bool | None] | None = None
    context: Mapping[str, str | float | bool | None] | None = None
    recent: RecentLike | None = None
    popularity: Callable[[Keys], npt.NDArray[np.float64]] | None = None


def seen_mask(
    index: Index,
    rows: Rows,
    recent: RecentLike | None,
    *,
    types: Collection[str] | None = None,
    since: int | None = None,
) -> Mask:
    """Return a mask (n,) of items in the recent sequence, by event types and minimum time."""
    if recent is None or not recent.item.size:
        return np.zeros(rows.size, bool)
    matches = np.ones(recent.item.size, bool)
    if types is not None:
        matches &= np.isin(recent.type, np.array([hash64(name) for name in types], np.uint64))
    if since is not None:
        matches &= recent.ts >= since
    return np.isin(index.keys[rows], recent.item[matches])


ARITHMETIC: dict[type, Callable[..., npt.NDArray[np.float64]]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
COMPARE: dict[type, Callable[..., Mask]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def all_of(parts: Sequence[Compiled]) -> Compiled:
    """Combine parts with a logical and."""

    def run(request: Request) -> Mask:
        mask = np.ones(request.rows.size, bool)
        for part in parts:
            mask &= to_booleans(part(request), request.rows.size)
        return mask

    return run


def any_of(parts: Sequence[Compiled]) -> Compiled:
    """Combine parts with a logical or."""

    def run(request: Request) -> Mask:
        mask = np.zeros(request.rows.size, bool)
        for part in parts:
            mask |= to_booleans(part(request), request.rows.size)
        return mask

    return run


def negate(part: Compiled) -> Compiled:
    """Negate a part."""
    return lambda request: ~to_booleans(part(request), request.rows.size)


def is_missing(part: Compiled) -> Compiled:
    """Test whether a part has no value; a boolean always has one."""

    def run(request: Request) -> Mask:
        value, n = part(request), request.rows.size
        if isinstance(value, TextColumn):
            return value.codes < 0
        if isinstance(value, str):
            return np.full(n, value == "")
        return np.broadcast_to(np.isnan(to_numbers(value)), n)

    return run


def arithmetic(op: type, left: Compiled, right: Compiled) -> Compiled:
    """Compute the sum, difference, product or quotient of two expressions.

    A division by zero is missing or infinite.
    """

    def run(request: Request) -> Value:
        with np.errstate(all="ignore"):
            return ARITHMETIC[op](to_numbers(left(request)), to_numbers(right(request)))

    return run


def compare(op: type, left: Compiled, right: Compiled) -> Compiled:
    """Compare two expressions by the operator `op`."""
    if op is ast.Eq:
        return lambda request: equal(left(request), right(request), request.rows.size)
    if op is ast.NotEq:
        return lambda request: ~equal(left(request), right(request), request.rows.size)

    def run(request: Request) -> Mask:
        with np.errstate(invalid="ignore"):
            return np.broadcast_to(
                COMPARE[op](to_numbers(left(request)), to_numbers(right(request))),
                request.rows.size,
            )

    return run


def item_field(request: Request, name: str) -> Value:
    """Return an attribute of the request's items, or `id`, `age_days`, `popularity`."""
    index, rows = request.index, request.rows
    if name in index.attributes:
        column = index.attributes[name]
        return column.take(rows) if isinstance(column, TextColumn) else column[rows]
    if name == "id":
        return TextColumn(
            np.arange(rows.size, dtype=np.int32), tuple(index.ids[row] for row in rows.tolist())
        )
    if name == "age_days":
        first_seen = index.first_seen[rows]
        return np.where(first_seen > 0, (request.now - first_seen) / DAY, np.nan)
    if name == "popularity":
        return (
            np.zeros(rows.size)
            if request.popularity is None
            else request.popularity(index.keys[rows])
        )
    return None


def scalar(value: str | float | bool | None) -> Value:
    """Convert a constant or a request field to a value of expressions."""
    return (
        float(value)
        if isinstance(value, (int, np.number)) and not isinstance(value, bool)
        else value
    )


def to_numbers(value: Value) -> npt.NDArray[np.float64]:
    """Convert a value to numbers; text becomes NaN."""
    if isinstance(value, TextColumn):
        return np.full(value.codes.size, np.nan)
    if value is None or isinstance(value, str):
        return np.array(np.nan)
    return np.asarray(value, np.float64)


def to_booleans(value: Value, n: int) -> Mask:
    """Convert a value to booleans (n,): true for nonzero numbers and nonempty texts."""
    if isinstance(value, TextColumn):
        return value.codes >= 0
    if isinstance(value, str):
        return np.full(n, value != "")
    if isinstance(value, np.ndarray) and value.dtype == bool:
        return np.broadcast_to(value.astype(bool), n)
    numbers = to_numbers(value)
    return np.broadcast_to(~np.isnan(numbers) & (numbers != 0), n)


def equal(left: Value, right: Value, n: int) -> Mask:
    """Compare two values item by item; a missing value or another kind equals nothing."""
    if isinstance(right, TextColumn) and not isinstance(left, TextColumn):
        left, right = right, left
    if isinstance(left, TextColumn):
        if isinstance(right, str):
            return left.codes == left.code(right)
        if isinstance(right, TextColumn):
            translated = np.array([*(left.code(value) for value in right.values), -2], np.int32)[
                right.codes
            ]
            return left.codes == translated
        return np.zeros(n, bool)
    if isinstance(left, str) or isinstance(right, str):
        return np.full(n, isinstance(left, str) and left == right and left != "")
    return np.broadcast_to(np.equal(to_numbers(left), to_numbers(right)), n)


def contains(text: Value, part: Value, n: int) -> Mask:
    """Return whether each text, a list separated by `|`, contains a part."""
    if not isinstance(part, str) or part == "":
        return np.zeros(n, bool)
    if isinstance(text, str):
        return np.full(n, part in text.split("|"))
    if not isinstance(text, TextColumn):
        return np.zeros(n, bool)
    codes, position = np.unique(
        text.codes, return_inverse=True
    )  # only the values that these items have
    has = np.array(
        [code >= 0 and part in text.values[code].split("|") for code in codes.tolist()], bool
    )
    return has[position]
