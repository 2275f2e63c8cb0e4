"""Rules: expressions over items, user and context that an item must satisfy to be shown.

    item.price < 50 and item.stock > 0          item.category in ('coats', 'hats')
    context.country == 'NO'                     item.price < 2 * user.avg_price and not seen(30d)

A rule is parsed by Python's own grammar, checked against a whitelist, and compiled to operations on
whole columns; nothing of it is ever evaluated as Python. Allowed: `and or not`, comparisons
(chained too), `in` a list of constants, `'x' in item.tags` for texts with `|` between their parts,
`+ - * /`, `missing(x)`, and `seen` or `seen(30d)`: whether the person's recent sequence has the
item. Besides its attributes an item has `id`, `age_days` and `popularity`. A rule may stand on
several lines.

A missing value equals nothing and compares as false, so that `!=` and `not in` hold for it;
`missing(x)` and `x is None` test for it. The kind (number or text) is known of context, user fields
and constants, and of items where an index is given. Comparing a number with a text is refused when
the rule is compiled.

Rules that read nothing but attributes of items are the same for all users. They are computed once
per index, and sources then return only items that satisfy them. All others are computed for the
candidates of a request.
"""

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tailorbird.errors import DeclarationError, suggest_name
from tailorbird.events.clock import DAY, HOUR, MINUTE
from tailorbird.ranking.policy.rule_columns import (
    ARITHMETIC,
    COMPARE,
    Compiled,
    Mask,
    Request,
    Value,
    all_of,
    any_of,
    arithmetic,
    compare,
    contains,
    equal,
    is_missing,
    item_field,
    negate,
    scalar,
    seen_mask,
    to_booleans,
    to_numbers,
)
from tailorbird.ranking.slot import Slot

CHARACTERS_MAX = 1_000
DEPTH_MAX = 20
NUMBER_MAX = 1e300
NODES_MAX = 200
ITEM_FIELDS = ("id", "age_days", "popularity")
CONTEXT_FIELDS: Mapping[str, "Kind"] = {
    "device": "text",
    "country": "text",
    "page": "text",
    "referrer": "text",
    "user_agent": "text",
    "utc_offset_min": "number",
    "local_hour": "number",
}
_SPAN_US = {"m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
# Strings and comments, which stay unchanged, or the time in `seen(30d)`.
_SPAN = re.compile(
    r"""('(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|\#[^\n]*)"""
    r"""|(?<=\bseen\()(\s*)(\d{1,5})([mhdw])(?=\s*\))"""
)
_COUNTRY = re.compile("[A-Z]{2}")  # as the router keeps it, and requests read it
_LINE_END = re.compile(r"\r\n|\r|\n")  # as Python counts lines

Kind = Literal["number", "text", "truth", "any"]


@dataclass(frozen=True)
class Rule:
    """A compiled rule.

    `is_item_only` is whether it reads nothing but attributes of items.
    """

    text: str
    compiled: Compiled
    is_item_only: bool
    item_fields: frozenset[str]

    def mask(self, request: Request) -> Mask:
        """Return a mask of the items that satisfy it, (n,)."""
        return to_booleans(self.compiled(request), request.rows.size)


@dataclass(frozen=True)
class Rules:
    """Compiled rules, in the order declared."""

    rules: tuple[Rule, ...]

    @property
    def item_fields(self) -> frozenset[str]:
        """The item fields that the rules read."""
        return frozenset().union(*(rule.item_fields for rule in self.rules))

    @property
    def item_only(self) -> "Rules":
        """The rules that read nothing but attributes of items."""
        return Rules(tuple(rule for rule in self.rules if rule.is_item_only))

    def without(self, index: int) -> "Rules":
        """Return the rules without the one at a position."""
        return Rules((*self.rules[:index], *self.rules[index + 1 :]))

    def mask(self, request: Request) -> Mask:
        """Return a mask of the items that satisfy all rules, (n,)."""
        satisfied = np.ones(request.rows.size, bool)
        for rule in self.rules:
            satisfied &= rule.mask(request)
        return satisfied


def compile_rules(
    rules: Sequence[str],
    *,
    item_fields: Collection[str] | None = None,
    user_fields: Collection[str] | None = None,
    where: str = "",
) -> Rules:
    """Compile rules.

    Args:
        rules: their texts.
        item_fields: the attributes that items have, such as `index.attributes`; an unknown one is
            then an error.
        user_fields: the columns about the person; likewise.
        where: stands before each message, such as `slot home`.
    Raises:
        DeclarationError: a rule is not of the language, or compares a number with a text; names
            rule and column.
    """
    return Rules(tuple(_Parser(text, where, item_fields, user_fields).rule() for text in rules))


class _Parser:
    """A parser of one rule, which compiles syntax nodes to functions of the request."""

    def __init__(
        self,
        text: str,
        where: str,
        item_fields: Collection[str] | None,
        user_fields: Collection[str] | None,
    ) -> None:
        self.text = text
        self.where = f"{where}, rule {text[:80]!r}" if where else f"rule {text[:80]!r}"
        self.allowed_item_fields, self.allowed_user_fields = item_fields, user_fields
        self.item_fields: set[str] = set()
        self.is_item_only = True
        self.nodes = 0

    def rule(self) -> Rule:
        compiled = self._parse()
        return Rule(
            self.text,
            compiled,
            self.is_item_only and "age_days" not in self.item_fields,
            frozenset(self.item_fields),
        )

    def _parse(self) -> Compiled:
        if len(self.text) > CHARACTERS_MAX:
            raise DeclarationError(
                f"is longer than {CHARACTERS_MAX} characters",
                where=self.where,
                fix="split it into several rules",
            )
        # `30d` is not valid Python, so it is parsed as the name `d30`, which has the same length
        # and keeps columns. Brackets allow line breaks.
        source = _SPAN.sub(lambda match: match[1] or match[2] + match[4] + match[3], self.text)
        try:
            tree = ast.parse(f"(\n{source}\n)", mode="eval").body
        except SyntaxError as error:
            at = self._position_text(error.lineno or 2, (error.offset or 1) - 1)
            raise DeclarationError(f"{at}: {error.msg}", where=self.where) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise DeclarationError("cannot be read as an expression", where=self.where) from error
        if (
            tree.lineno == 1
        ):  # our own bracket: there is nothing in it, or a comma, or one that closes too early
            raise DeclarationError(
                "expected one expression, with all its brackets closed", where=self.where
            )
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, int)
                and abs(node.value) > NUMBER_MAX
            ):
                raise self._error(node, "the number is too large")
        try:
            return self._compile(tree, 0)
        except RecursionError:  # raised by unparse
            raise DeclarationError(
                "is nested too deeply", where=self.where, fix="split it into several rules"
            ) from None

    def _position_text(self, line: int, column: int) -> str:
        """Return a position in the text, from 1.

        `line` counts the added bracket's line too; `column` counts characters from 0.
        """
        lines = len(_LINE_END.split(self.text))
        if not 2 <= line <= lines + 1:
            return "at its end"
        return f"line {line - 1}, column {column + 1}" if lines > 1 else f"column {column + 1}"

    def _error(self, node: ast.expr, message: str, fix: str = "") -> DeclarationError:
        before = self._line(node.lineno).encode()[: node.col_offset]  # Python counts bytes
        return DeclarationError(
            f"{self._position_text(node.lineno, len(before.decode()))}: {message}",
            where=self.where,
            fix=fix,
        )

    def _line(self, line: int) -> str:
        return _LINE_END.split(self.text)[line - 2]

    def _source_text(self, node: ast.expr) -> str:
        """Return the source text of a name."""
        start = len(self._line(node.lineno).encode()[: node.col_offset].decode())
        return self._line(node.lineno)[start : start + (node.end_col_offset or 0) - node.col_offset]

    def _compile(self, node: ast.expr, depth: int) -> Compiled:
        self.nodes += 1
        if depth > DEPTH_MAX or self.nodes > NODES_MAX:
            raise self._error(
                node, "the expression is too long or too deep", "split it into several rules"
            )
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = [self._compile(value, depth + 1) for value in values]
                return all_of(parts) if isinstance(op, ast.And) else any_of(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._compile(operand, depth + 1)
                return lambda request: ~to_booleans(inner(request), request.rows.size)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._compile(operand, depth + 1)
                return lambda request: -to_numbers(inner(request))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                for side in (left, right):
                    if self._kind(side) == "text":
                        raise self._error(
                            side,
                            f"{ast.unparse(side)[:40]!r} is a text, which has no sum and no "
                            "product",
                        )
                return arithmetic(
                    type(op), self._compile(left, depth + 1), self._compile(right, depth + 1)
                )
            case ast.Compare():
                return self._comparison(node, depth)
            case ast.Constant(value=None):
                raise self._none_error(node)
            case ast.Constant(value=value) if isinstance(value, (bool, int, float, str)):
                constant = (
                    float(value)
                    if isinstance(value, int) and not isinstance(value, bool)
                    else value
                )
                return lambda request: constant
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                return self._field(node, owner, name)
            case ast.Name(id="seen"):
                self.is_item_only = False
                return lambda request: seen_mask(request.index, request.rows, request.recent)
            case ast.Call(
                func=ast.Name(id="seen"), args=[ast.Constant(value=str(span))], keywords=[]
            ):
                return self._seen_within(node, span)
            case ast.Call(func=ast.Name(id="seen"), args=[ast.Name() as name], keywords=[]):
                return self._seen_within(node, self._source_text(name))
            case ast.Call(func=ast.Name(id="missing"), args=[of], keywords=[]):
                return is_missing(self._compile(of, depth + 1))
        raise self._error(
            node,
            f"{ast.unparse(node)[:40]!r} is not allowed in a rule",
            "use item.*, user.*, context.*, seen, missing(…) and constants",
        )

    def _none_error(self, node: ast.expr) -> DeclarationError:
        return self._error(
            node, "None equals nothing, and is never in a list", "use missing(…), or not missing(…)"
        )

    def _field(self, node: ast.expr, owner: str, name: str) -> Compiled:
        if owner == "item":
            if (
                self.allowed_item_fields is not None
                and name not in self.allowed_item_fields
                and name not in ITEM_FIELDS
            ):
                fix = suggest_name(
                    name, (*self.allowed_item_fields, *ITEM_FIELDS), "", owner="item."
                )
                raise self._error(node, f"items have no attribute {name!r}", fix)
            self.item_fields.add(name)
            return lambda request: item_field(request, name)
        if owner in ("user", "context"):
            self.is_item_only = False
            fields = CONTEXT_FIELDS if owner == "context" else self.allowed_user_fields
            if fields is not None and name not in fields:
                fix = suggest_name(
                    name,
                    fields,
                    f"use one of {', '.join(sorted(fields)) or 'no column'}",
                    owner=f"{owner}.",
                )
                raise self._error(node, f"there is no {owner}.{name}", fix)
        if owner == "user":
            return lambda request: scalar((request.user or {}).get(name))
        if owner == "context":
            return lambda request: scalar((request.context or {}).get(name))
        raise self._error(node, f"expected item, user or context before the dot, got {owner!r}")

    def _seen_within(self, node: ast.expr, span: str) -> Compiled:
        match = re.fullmatch(r"(\d{1,5})([mhdw])", span)
        if not match:
            raise self._error(node, f"expected a time such as 30d, got {span!r}")
        self.is_item_only = False
        within = int(match[1]) * _SPAN_US[match[2]]
        return lambda request: seen_mask(
            request.index, request.rows, request.recent, since=request.now - within
        )

    def _comparison(self, node: ast.Compare, depth: int) -> Compiled:
        steps: list[Compiled] = []
        left_node = node.left
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            left = self._compile(left_node, depth + 1)
            if isinstance(op, (ast.Is, ast.IsNot)):
                if not (isinstance(right_node, ast.Constant) and right_node.value is None):
                    raise self._error(
                        right_node, "only None comes after `is` and `is not`", "use =="
                    )
                steps.append(
                    negate(is_missing(left)) if isinstance(op, ast.IsNot) else is_missing(left)
                )
            elif isinstance(op, (ast.In, ast.NotIn)):
                self._check_country(left_node, getattr(right_node, "elts", []))
                step = self._membership(left_node, left, right_node, depth)
                steps.append(negate(step) if isinstance(op, ast.NotIn) else step)
            elif type(op) in COMPARE:
                self._check_kinds(op, left_node, right_node)
                self._check_country(left_node, [right_node])
                self._check_country(right_node, [left_node])
                steps.append(compare(type(op), left, self._compile(right_node, depth + 1)))
            else:
                raise self._error(node, "only < <= > >= == != in, not in and `is None` compare")
            left_node = right_node
        return all_of(steps) if len(steps) > 1 else steps[0]

    def _kind(self, node: ast.expr) -> Kind:
        """Return the statically known kind of an expression."""
        match node:
            case ast.Constant(value=bool()):
                return "truth"
            case ast.Constant(value=str()):
                return "text"
            case ast.Constant(value=int() | float()) | ast.BinOp() | ast.UnaryOp(op=ast.USub()):
                return "number"
            case ast.Attribute(value=ast.Name(id="item"), attr="id"):
                return "text"
            case (
                ast.Attribute(value=ast.Name(id="item"), attr="age_days" | "popularity")
                | ast.Attribute(value=ast.Name(id="user"))
            ):
                return "number"
            case ast.Attribute(value=ast.Name(id="context"), attr=name):
                return CONTEXT_FIELDS.get(name, "any")
            case ast.BoolOp() | ast.Compare() | ast.UnaryOp() | ast.Call() | ast.Name():
                return "truth"
        return "any"

    def _check_kinds(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> None:
        kinds = self._kind(left), self._kind(right)
        if set(kinds) == {"number", "text"}:
            text = left if kinds[0] == "text" else right
            raise self._error(
                text, f"{ast.unparse(text)[:40]!r} is a text, and is compared with a number"
            )
        if "text" in kinds and not isinstance(op, ast.Eq | ast.NotEq):
            text = left if kinds[0] == "text" else right
            raise self._error(
                text,
                f"{ast.unparse(text)[:40]!r} is a text, which is not more or less than another",
                "use == or in",
            )

    def _check_country(self, field: ast.expr, values: Sequence[ast.expr]) -> None:
        """Refuse an impossible country code, instead of a rule that never holds."""
        match field:
            case ast.Attribute(value=ast.Name(id="context"), attr="country"):
                for value in values:
                    if (
                        isinstance(value, ast.Constant)
                        and isinstance(value.value, str)
                        and not _COUNTRY.fullmatch(value.value)
                    ):
                        upper = value.value.upper()
                        fix = (
                            f"write {upper!r}"
                            if _COUNTRY.fullmatch(upper)
                            else "write its code, such as 'NO'"
                        )
                        raise self._error(
                            value,
                            "a country is a code of two capital letters, and never "
                            f"{value.value[:40]!r}",
                            fix,
                        )

    def _membership(
        self, left_node: ast.expr, left: Compiled, right: ast.expr, depth: int
    ) -> Compiled:
        if not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
            self._check_part(left_node, right)
            text = self._compile(right, depth + 1)
            return lambda request: contains(text(request), left(request), request.rows.size)
        if nothing := next(
            (
                element
                for element in right.elts
                if isinstance(element, ast.Constant) and element.value is None
            ),
            None,
        ):
            raise self._none_error(nothing)
        self.nodes += len(right.elts)
        if self.nodes > NODES_MAX:
            raise self._error(right, f"expected a list of at most {NODES_MAX} constants after `in`")
        values = [self._member(left_node, element) for element in right.elts]

        def matches_any(request: Request) -> Mask:
            value = left(request)
            mask = np.zeros(request.rows.size, bool)
            for constant in values:
                mask |= equal(value, constant, request.rows.size)
            return mask

        return matches_any

    def _member(self, field: ast.expr, element: ast.expr) -> Value:
        """Return a constant of a list after `in`."""
        match element:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                constant = scalar(value)
            case ast.UnaryOp(
                op=ast.USub(), operand=ast.Constant(value=int() | float() as value)
            ) if not isinstance(value, bool):
                constant = -float(value)
            case _:
                raise self._error(
                    element,
                    f"{ast.unparse(element)[:40]!r} is no constant, and a list after `in` "
                    "has nothing else",
                )
        self._check_kinds(ast.Eq(), field, element)
        return constant

    def _check_part(self, part: ast.expr, text: ast.expr) -> None:
        """Refuse a search for what is never part of a text, instead of a rule that never holds."""
        of_context = (
            isinstance(part, ast.Attribute)
            and isinstance(part.value, ast.Name)
            and part.value.id == "context"
        )
        if self._kind(part) != "text" or not (of_context or isinstance(part, ast.Constant)):
            fix = "such as 'warm' in item.tags, or context.country in item.countries"
            raise self._error(
                part,
                f"{ast.unparse(part)[:40]!r} is no text to look for in {ast.unparse(text)[:40]!r}",
                fix,
            )
        if self._kind(text) in ("number", "truth"):
            raise self._error(
                text,
                f"{ast.unparse(text)[:40]!r} is no text, and has no parts",
                "use == or a list after `in`",
            )


def check_slot(slot: Slot, *, user_fields: Collection[str], sequences: Collection[str]) -> None:
    """Compile all rules of a slot and check it against the declarations.

    Args:
        user_fields: the columns about the person, see `features.FeatureSet.columns`.
        sequences: names of the declared sequences.
    Raises:
        DeclarationError: names slot, rule and column.
    """
    where = f"slot {slot.name}"
    texts = [
        *slot.rules,
        *(entry.when for entry in (*slot.boosts, *slot.promotions, *slot.pins) if entry.when),
    ]
    compile_rules(texts, user_fields=user_fields, where=where)
    for cap in slot.caps:
        if cap.sequence not in sequences:
            declare = (
                f'sequence("{cap.sequence}", user, ["impression"], length=200) in '
                "features.py declares it"
            )
            message = f"a cap looks at a sequence {cap.sequence!r}, which is not declared"
            raise DeclarationError(
                message, where=where, fix=suggest_name(cap.sequence, sequences, declare)
            )
