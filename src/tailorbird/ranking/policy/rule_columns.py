"""Values of rules: what `features.expr.columns` compares and combines for a request's items.

A missing value (NaN, code -1, None) equals nothing and compares as false.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import DAY, parse_duration
from tailorbird.events.keys import hash64
from tailorbird.features.expr.columns import SUBSTRING_FUNCTION
from tailorbird.retrieval import Index, TextColumn

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
# A number, text or boolean for all items, or one per item.
Value = float | str | bool | None | npt.NDArray[np.float64] | Mask | TextColumn


class RecentLike(Protocol):
    """The user's recent sequence, oldest first: `features.Sequence`."""

    @property
    def item(self) -> Keys: ...
    @property
    def type(self) -> Keys: ...
    @property
    def ts(self) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True)
class RuleRequest:
    """The inputs of rules.

    Attributes:
        index, rows: the items, as rows (n,) of the index.
        now: the time of the request.
        user, context: the fields by name; absent ones are missing values.
        recent_events: the person's recent sequence, for `seen`.
        popularity: gives how popular items are by their keys, from 0 to 1; None: nothing is known
            of it.
    """

    index: Index
    rows: Rows
    now: int = 0
    user: Mapping[str, str | float | bool | None] | None = None
    context: Mapping[str, str | float | bool | None] | None = None
    recent_events: RecentLike | None = None
    popularity: Callable[[Keys], npt.NDArray[np.float64]] | None = None


def seen_mask(
    index: Index,
    rows: Rows,
    recent_events: RecentLike | None,
    *,
    types: Collection[str] | None = None,
    since: int | None = None,
) -> Mask:
    """Return a mask (n,) of items in the recent sequence, by event types and minimum time."""
    if recent_events is None or not recent_events.item.size:
        return np.zeros(rows.size, bool)
    matches = np.ones(recent_events.item.size, bool)
    if types is not None:
        matches &= np.isin(
            recent_events.type, np.array([hash64(name) for name in types], np.uint64)
        )
    if since is not None:
        matches &= recent_events.ts >= since
    return np.isin(index.keys[rows], recent_events.item[matches])


class RuleValues:
    """The values of rules for one request.

    A division by zero is missing or infinite. A text for all items is missing if empty.
    """

    def __init__(self, request: RuleRequest) -> None:
        self._request = request

    def column(self, path: str) -> Value:
        request = self._request
        if path == "seen":
            return seen_mask(request.index, request.rows, request.recent_events)
        owner, _, name = path.partition(".")
        if owner == "item":
            return item_field(request, name)
        value = ((request.user if owner == "user" else request.context) or {}).get(name)
        is_integer = isinstance(value, int | np.number) and not isinstance(value, bool)
        return float(value) if is_integer else value

    def constant(self, value: float | str | bool | None) -> Value:
        return value

    def call(self, function: str, arguments: Sequence[Value]) -> Value:
        if function == "missing":
            return self.missing(arguments[0])
        if function == SUBSTRING_FUNCTION:  # 'x' in item.tags
            return contains(*arguments)
        request = self._request
        since = self._request.now - parse_duration(str(arguments[0]))
        return seen_mask(request.index, request.rows, request.recent_events, since=since)

    def number(self, value: Value) -> npt.NDArray[np.float64]:
        return to_numbers(value)

    def truth(self, value: Value) -> Mask:
        return to_booleans(value)

    def missing(self, value: Value) -> Mask:
        """Return whether a value is missing; a boolean never is."""
        if isinstance(value, TextColumn):
            return value.codes < 0
        if isinstance(value, str):
            return np.array(value == "")
        return np.isnan(to_numbers(value))

    def equal(self, left: Value, right: Value) -> Mask:
        return equal(left, right)

    def divide(
        self, left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        return left / right


def item_field(request: RuleRequest, name: str) -> Value:
    """Return an attribute of the request's items, or `id`, `age_days`, `popularity`."""
    index = request.index
    rows = request.rows
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


def to_numbers(value: Value) -> npt.NDArray[np.float64]:
    """Convert a value to numbers; text becomes NaN."""
    if isinstance(value, TextColumn):
        return np.full(value.codes.size, np.nan)
    if value is None or isinstance(value, str):
        return np.array(np.nan)
    return np.asarray(value, np.float64)


def to_booleans(value: Value) -> Mask:
    """Convert a value to booleans: true for nonzero numbers and nonempty texts."""
    if isinstance(value, TextColumn):
        return value.codes >= 0
    if isinstance(value, str):
        return np.array(value != "")
    if isinstance(value, np.ndarray) and value.dtype == bool:
        return value.astype(bool, copy=False)
    numbers = to_numbers(value)
    return ~np.isnan(numbers) & (numbers != 0)


def equal(left: Value, right: Value) -> Mask:
    """Compare two values item by item; a missing value or another kind equals nothing."""
    if isinstance(right, TextColumn) and not isinstance(left, TextColumn):
        left, right = right, left
    if isinstance(left, TextColumn):
        if isinstance(right, str):
            return left.codes == left.code(right)
        if isinstance(right, TextColumn):
            translated_codes = np.array(
                [*(left.code(value) for value in right.values), -2], np.int32
            )[right.codes]
            return left.codes == translated_codes
        return np.zeros(left.codes.size, bool)
    if isinstance(left, str) or isinstance(right, str):
        return np.array(isinstance(left, str) and isinstance(right, str) and left == right != "")
    return np.equal(to_numbers(left), to_numbers(right))


def contains(text: Value, part: Value) -> Mask:
    """Return whether each text, a list separated by `|`, contains a part."""
    if not isinstance(part, str) or part == "":
        return np.zeros((), bool)
    if isinstance(text, str):
        return np.array(part in text.split("|"))
    if not isinstance(text, TextColumn):
        return np.zeros((), bool)
    codes, value_index = np.unique(
        text.codes, return_inverse=True
    )  # only the values that these items have
    has_part = np.array(
        [code >= 0 and part in text.values[code].split("|") for code in codes.tolist()], bool
    )
    return has_part[value_index]
