"""What rules are computed with: columns of a request's items, compared, combined and looked up. The
language is `ranking.rules`.

A missing value (NaN, code -1, None) equals nothing and compares as false.
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
# What an expression can be: a number, a text or a truth for all items, or one for each.
Value = float | str | bool | None | npt.NDArray[np.float64] | Mask | TextColumn
Compiled = Callable[["Request"], Value]


class RecentLike(Protocol):
    """The person's recent sequence, oldest first: `features.Sequence`."""

    @property
    def item(self) -> Keys: ...
    @property
    def type(self) -> Keys: ...
    @property
    def ts(self) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True)
class Request:
    """What rules may look at.

    Attributes:
        index, rows: the items, as rows (n,) of the index.
        now: the time of the request. user, context: the fields by name; what is not there is
        missing.
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
    """Which items (n,) the recent sequence has: with one of these event types, and not before
    `since`, where told.
    """
    if recent is None or not recent.item.size:
        return np.zeros(rows.size, bool)
    matches = np.ones(recent.item.size, bool)
    if types is not None:
        matches &= np.isin(recent.type, np.array([hash64(each) for each in types], np.uint64))
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


def both(parts: Sequence[Compiled]) -> Compiled:
    """Where all parts hold."""

    def run(request: Request) -> Mask:
        mask = np.ones(request.rows.size, bool)
        for part in parts:
            mask &= truth(part(request), request.rows.size)
        return mask

    return run


def either(parts: Sequence[Compiled]) -> Compiled:
    """Where any part holds."""

    def run(request: Request) -> Mask:
        mask = np.zeros(request.rows.size, bool)
        for part in parts:
            mask |= truth(part(request), request.rows.size)
        return mask

    return run


def negated(part: Compiled) -> Compiled:
    """Where a part does not hold."""
    return lambda request: ~truth(part(request), request.rows.size)


def missing(part: Compiled) -> Compiled:
    """Where a part has no value; a truth always has one."""

    def run(request: Request) -> Mask:
        value, n = part(request), request.rows.size
        if isinstance(value, TextColumn):
            return value.codes < 0
        if isinstance(value, str):
            return np.full(n, value == "")
        return np.broadcast_to(np.isnan(number(value)), n)

    return run


def arithmetic(op: type, left: Compiled, right: Compiled) -> Compiled:
    """The sum, difference, product or quotient of two expressions; a division by nothing is missing
    or infinite.
    """

    def run(request: Request) -> Value:
        with np.errstate(all="ignore"):
            return ARITHMETIC[op](number(left(request)), number(right(request)))

    return run


def compared(op: type, left: Compiled, right: Compiled) -> Compiled:
    """Where one expression compares with another as `op` says."""
    if op is ast.Eq:
        return lambda request: equal(left(request), right(request), request.rows.size)
    if op is ast.NotEq:
        return lambda request: ~equal(left(request), right(request), request.rows.size)

    def run(request: Request) -> Mask:
        with np.errstate(invalid="ignore"):
            return np.broadcast_to(
                COMPARE[op](number(left(request)), number(right(request))), request.rows.size
            )

    return run


def item_field(request: Request, name: str) -> Value:
    """An attribute of the request's items, or `id`, `age_days`, `popularity`."""
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
    """A constant or a field of the request, as expressions have it."""
    return (
        float(value)
        if isinstance(value, (int, np.number)) and not isinstance(value, bool)
        else value
    )


def number(value: Value) -> npt.NDArray[np.float64]:
    """As numbers; a text is none, hence NaN."""
    if isinstance(value, TextColumn):
        return np.full(value.codes.size, np.nan)
    if value is None or isinstance(value, str):
        return np.array(np.nan)
    return np.asarray(value, np.float64)


def truth(value: Value, n: int) -> Mask:
    """As truths (n,): a number that is not 0 and not NaN, a text that is not empty."""
    if isinstance(value, TextColumn):
        return value.codes >= 0
    if isinstance(value, str):
        return np.full(n, value != "")
    if isinstance(value, np.ndarray) and value.dtype == bool:
        return np.broadcast_to(value.astype(bool), n)
    numbers = number(value)
    return np.broadcast_to(~np.isnan(numbers) & (numbers != 0), n)


def equal(left: Value, right: Value, n: int) -> Mask:
    """Equality item by item; a missing value or another kind equals nothing."""
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
    return np.broadcast_to(np.equal(number(left), number(right)), n)


def contains(text: Value, part: Value, n: int) -> Mask:
    """Whether a text with `|` between its parts has the part, item by item."""
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
