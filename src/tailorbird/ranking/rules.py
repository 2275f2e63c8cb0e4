"""Rules: expressions over items, user and context that an item must satisfy to be shown.

    item.price < 50 and item.stock > 0          item.category in ('coats', 'hats')
    context.country == 'NO'                     item.price < 2 * user.avg_price and not seen(30d)

A rule is parsed by Python's own grammar, checked against a whitelist, and compiled to operations on whole columns;
nothing of it is ever evaluated as Python. Allowed: `and or not`, comparisons (chained too), `in` a list of constants,
`'x' in item.tags` for texts with `|` between their parts, `+ - * /`, and `seen` or `seen(30d)`: whether the person's
recent sequence has the item. Besides its attributes an item has `id`, `age_days` and `popularity`.

A missing value equals nothing and compares as false, so that `!=` and `not in` hold for it.
"""

import ast
import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DeclarationError
from tailorbird.events.clock import DAY, HOUR, MINUTE
from tailorbird.events.keys import hash64
from tailorbird.retrieval import Index, TextColumn

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]

CHARACTERS_MAX = 1_000
DEPTH_MAX = 20
NODES_MAX = 200
ITEM_FIELDS = ("id", "age_days", "popularity")
_SPAN_US = {"m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_SPAN = re.compile(r"\bseen\(\s*(\d{1,5})([mhdw])\s*\)")

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
        now: the time of the request.
        user, context: the fields by name; what is not there is missing.
        recent: the person's recent sequence, for `seen`.
    """

    index: Index
    rows: Rows
    now: int = 0
    user: Mapping[str, str | float | bool | None] | None = None
    context: Mapping[str, str | float | bool | None] | None = None
    recent: RecentLike | None = None


@dataclass(frozen=True)
class Rules:
    """Compiled rules, in the order declared."""

    texts: tuple[str, ...]
    compiled: tuple[Compiled, ...]
    item_fields: frozenset[str]

    def mask(self, request: Request) -> Mask:
        """Which items satisfy all rules, (n,)."""
        kept = np.ones(request.rows.size, bool)
        for each in self.compiled:
            kept &= _truth(each(request), request.rows.size)
        return kept

    def removed(self, request: Request) -> dict[str, int]:
        """How many items each rule alone would leave out: what a rule costs in choice."""
        return {
            text: int(np.count_nonzero(~_truth(each(request), request.rows.size)))
            for text, each in zip(self.texts, self.compiled, strict=True)
        }


def compile_rules(rules: Sequence[str], *, item_fields: Collection[str] | None = None, where: str = "") -> Rules:
    """Compile rules.

    Args:
        rules: their texts.
        item_fields: the attributes that items have, such as `index.attributes`; an unknown one is then an error.
        where: stands before each message, such as `slot home`.
    Raises:
        DeclarationError: a rule is not of the language; names rule and column.
    """
    parsers = [_Parser(text, where, item_fields) for text in rules]
    compiled = tuple(parser.compile() for parser in parsers)
    return Rules(tuple(rules), compiled, frozenset(name for parser in parsers for name in parser.item_fields))


def seen_mask(
    index: Index, rows: Rows, recent: RecentLike | None, *, types: Collection[str] | None = None, since: int | None = None
) -> Mask:
    """Which items (n,) the recent sequence has: with one of these event types, and not before `since`, where told."""
    if recent is None or not recent.item.size:
        return np.zeros(rows.size, bool)
    kept = np.ones(recent.item.size, bool)
    if types is not None:
        kept &= np.isin(recent.type, np.array([hash64(each) for each in types], np.uint64))
    if since is not None:
        kept &= recent.ts >= since
    return np.isin(index.keys[rows], recent.item[kept])


class _Parser:
    """One rule. Each `_on_…` turns a node of the syntax tree into a function of the request."""

    def __init__(self, text: str, where: str, known: Collection[str] | None) -> None:
        self.text = text
        self.where = f"{where}, rule {text[:80]!r}" if where else f"rule {text[:80]!r}"
        self.known = known
        self.item_fields: set[str] = set()
        self.nodes = 0

    def compile(self) -> Compiled:
        if len(self.text) > CHARACTERS_MAX:
            raise DeclarationError(f"is longer than {CHARACTERS_MAX} characters", where=self.where, fix="split it into several rules")
        # `30d` is no Python: it becomes a text. Columns behind it are told two too high, which is near enough.
        source = _SPAN.sub(lambda match: match[0].replace(match[1] + match[2], f"'{match[1]}{match[2]}'"), self.text)
        try:
            tree = ast.parse(source.strip(), mode="eval")
        except SyntaxError as error:
            raise DeclarationError(f"column {error.offset or 1}: {error.msg}", where=self.where) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise DeclarationError("cannot be read as an expression", where=self.where) from error
        return self._compile(tree.body, 0)

    def _refuse(self, node: ast.AST, message: str, fix: str = "") -> DeclarationError:
        return DeclarationError(f"column {getattr(node, 'col_offset', 0) + 1}: {message}", where=self.where, fix=fix)

    def _compile(self, node: ast.expr, depth: int) -> Compiled:
        self.nodes += 1
        if depth > DEPTH_MAX or self.nodes > NODES_MAX:
            raise self._refuse(node, "the expression is too long or too deep", "split it into several rules")
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = [self._compile(value, depth + 1) for value in values]
                return _both(parts) if isinstance(op, ast.And) else _either(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._compile(operand, depth + 1)
                return lambda request: ~_truth(inner(request), request.rows.size)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._compile(operand, depth + 1)
                return lambda request: -_number(inner(request))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _arithmetic(type(op), self._compile(left, depth + 1), self._compile(right, depth + 1))
            case ast.Compare():
                return self._comparison(node, depth)
            case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
                constant = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
                return lambda request: constant
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                return self._field(node, owner, name)
            case ast.Name(id="seen"):
                return lambda request: seen_mask(request.index, request.rows, request.recent)
            case ast.Call(func=ast.Name(id="seen"), args=[ast.Constant(value=str(span))], keywords=[]):
                return self._seen_within(node, span)
        raise self._refuse(
            node, f"{ast.unparse(node)[:40]!r} is not allowed in a rule", "use item.*, user.*, context.*, seen and constants"
        )

    def _field(self, node: ast.expr, owner: str, name: str) -> Compiled:
        if owner == "item":
            if self.known is not None and name not in self.known and name not in ITEM_FIELDS:
                near = difflib.get_close_matches(name, [*self.known, *ITEM_FIELDS], 1)
                raise self._refuse(node, f"items have no attribute {name!r}", f"did you mean item.{near[0]}?" if near else "")
            self.item_fields.add(name)
            return lambda request: _item_field(request, name)
        if owner == "user":
            return lambda request: _scalar((request.user or {}).get(name))
        if owner == "context":
            return lambda request: _scalar((request.context or {}).get(name))
        raise self._refuse(node, f"expected item, user or context before the dot, got {owner!r}")

    def _seen_within(self, node: ast.expr, span: str) -> Compiled:
        found = re.fullmatch(r"(\d{1,5})([mhdw])", span)
        if not found:
            raise self._refuse(node, f"expected a time such as 30d, got {span!r}")
        within = int(found[1]) * _SPAN_US[found[2]]
        return lambda request: seen_mask(request.index, request.rows, request.recent, since=request.now - within)

    def _comparison(self, node: ast.Compare, depth: int) -> Compiled:
        steps: list[Compiled] = []
        left_node = node.left
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            left = self._compile(left_node, depth + 1)
            if isinstance(op, (ast.In, ast.NotIn)):
                step = self._membership(left, right_node, depth)
                steps.append(_negated(step) if isinstance(op, ast.NotIn) else step)
            elif type(op) in _COMPARE:
                steps.append(_compared(type(op), left, self._compile(right_node, depth + 1)))
            else:
                raise self._refuse(node, "only < <= > >= == != in and not in compare")
            left_node = right_node
        return _both(steps) if len(steps) > 1 else steps[0]

    def _membership(self, left: Compiled, right: ast.expr, depth: int) -> Compiled:
        if not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
            whole = self._compile(right, depth + 1)
            return lambda request: _contains(whole(request), left(request), request.rows.size)
        members = [element.value for element in right.elts if isinstance(element, ast.Constant)]
        self.nodes += len(right.elts)
        if len(members) != len(right.elts) or self.nodes > NODES_MAX:
            raise self._refuse(right, f"expected a list of at most {NODES_MAX} constants after `in`")
        values = [_scalar(value) for value in members if value is None or isinstance(value, (bool, int, float, str))]

        def any_of(request: Request) -> Mask:
            value = left(request)
            kept = np.zeros(request.rows.size, bool)
            for each in values:
                kept |= _equal(value, each, request.rows.size)
            return kept

        return any_of


_ARITHMETIC: dict[type, Callable[..., npt.NDArray[np.float64]]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_COMPARE: dict[type, Callable[..., Mask]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def _both(parts: Sequence[Compiled]) -> Compiled:
    def run(request: Request) -> Mask:
        kept = np.ones(request.rows.size, bool)
        for part in parts:
            kept &= _truth(part(request), request.rows.size)
        return kept

    return run


def _either(parts: Sequence[Compiled]) -> Compiled:
    def run(request: Request) -> Mask:
        kept = np.zeros(request.rows.size, bool)
        for part in parts:
            kept |= _truth(part(request), request.rows.size)
        return kept

    return run


def _negated(part: Compiled) -> Compiled:
    return lambda request: ~_truth(part(request), request.rows.size)


def _arithmetic(op: type, left: Compiled, right: Compiled) -> Compiled:
    def run(request: Request) -> Value:
        with np.errstate(all="ignore"):
            return _ARITHMETIC[op](_number(left(request)), _number(right(request)))

    return run


def _compared(op: type, left: Compiled, right: Compiled) -> Compiled:
    if op is ast.Eq:
        return lambda request: _equal(left(request), right(request), request.rows.size)
    if op is ast.NotEq:
        return lambda request: ~_equal(left(request), right(request), request.rows.size)

    def run(request: Request) -> Mask:
        with np.errstate(invalid="ignore"):
            return np.broadcast_to(_COMPARE[op](_number(left(request)), _number(right(request))), request.rows.size)

    return run


def _item_field(request: Request, name: str) -> Value:
    index, rows = request.index, request.rows
    if name in index.attributes:
        column = index.attributes[name]
        return column.take(rows) if isinstance(column, TextColumn) else column[rows]
    if name == "id":
        return TextColumn(np.arange(rows.size, dtype=np.int32), tuple(index.ids[row] for row in rows.tolist()))
    if name == "age_days":
        first_seen = index.first_seen[rows]
        return np.where(first_seen > 0, (request.now - first_seen) / DAY, np.nan)
    if name == "popularity":
        return index.popularity[rows].astype(np.float64)
    return None


def _scalar(value: str | float | bool | None) -> Value:
    return float(value) if isinstance(value, (int, np.number)) and not isinstance(value, bool) else value


def _number(value: Value) -> npt.NDArray[np.float64]:
    """As numbers; a text is none, hence NaN."""
    if isinstance(value, TextColumn):
        return np.full(value.codes.size, np.nan)
    if value is None or isinstance(value, str):
        return np.array(np.nan)
    return np.asarray(value, np.float64)


def _truth(value: Value, n: int) -> Mask:
    """As truths (n,): a number that is not 0 and not NaN, a text that is not empty."""
    if isinstance(value, TextColumn):
        return value.codes >= 0
    if isinstance(value, str):
        return np.full(n, value != "")
    if isinstance(value, np.ndarray) and value.dtype == bool:
        return np.broadcast_to(value.astype(bool), n)
    number = _number(value)
    return np.broadcast_to(~np.isnan(number) & (number != 0), n)


def _equal(left: Value, right: Value, n: int) -> Mask:
    """Equality item by item; a missing value or another kind equals nothing."""
    if isinstance(right, TextColumn) and not isinstance(left, TextColumn):
        left, right = right, left
    if isinstance(left, TextColumn):
        if isinstance(right, str):
            return left.codes == left.code(right)
        if isinstance(right, TextColumn):
            translated = np.array([*(left.code(value) for value in right.values), -2], np.int32)[right.codes]
            return left.codes == translated
        return np.zeros(n, bool)
    if isinstance(left, str) or isinstance(right, str):
        return np.full(n, isinstance(left, str) and left == right and left != "")
    return np.broadcast_to(np.equal(_number(left), _number(right)), n)


def _contains(whole: Value, part: Value, n: int) -> Mask:
    """Whether a text with `|` between its parts has the part, item by item."""
    if not isinstance(part, str) or part == "":
        return np.zeros(n, bool)
    if isinstance(whole, str):
        return np.full(n, part in whole.split("|"))
    if not isinstance(whole, TextColumn):
        return np.zeros(n, bool)
    codes, position = np.unique(whole.codes, return_inverse=True)  # only the values that these items have
    has = np.array([code >= 0 and part in whole.values[code].split("|") for code in codes.tolist()], bool)
    return has[position]
