"""Compilation of a rule: from its syntax tree to a function of the request."""

import ast
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

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
from tailorbird.ranking.policy.rule_kinds import CONTEXT_FIELDS, kind_of
from tailorbird.ranking.policy.rule_source import RuleSource

DEPTH_MAX = 20
NODES_MAX = 200
ITEM_FIELDS = ("id", "age_days", "popularity")
_SPAN_US = {"m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_COUNTRY = re.compile("[A-Z]{2}")  # as the router keeps it, and requests read it


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


class Compiler:
    """A compiler of one rule, from syntax nodes to functions of the request."""

    def __init__(
        self,
        text: str,
        where: str,
        item_fields: Collection[str] | None,
        user_fields: Collection[str] | None,
    ) -> None:
        self.source = RuleSource(text, where)
        self.allowed_item_fields, self.allowed_user_fields = item_fields, user_fields
        self.item_fields: set[str] = set()
        self.is_item_only = True
        self.nodes = 0

    def rule(self) -> Rule:
        compiled = self._compile_tree()
        return Rule(
            self.source.text,
            compiled,
            self.is_item_only and "age_days" not in self.item_fields,
            frozenset(self.item_fields),
        )

    def _compile_tree(self) -> Compiled:
        tree = self.source.parse()
        try:
            return self._compile(tree, 0)
        except RecursionError:  # raised by unparse
            raise DeclarationError(
                "is nested too deeply", where=self.source.where, fix="split it into several rules"
            ) from None

    def _compile(self, node: ast.expr, depth: int) -> Compiled:
        self.nodes += 1
        if depth > DEPTH_MAX or self.nodes > NODES_MAX:
            raise self.source.error(
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
                    if kind_of(side) == "text":
                        raise self.source.error(
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
                return self._seen_within(node, self.source.text_of(name))
            case ast.Call(func=ast.Name(id="missing"), args=[of], keywords=[]):
                return is_missing(self._compile(of, depth + 1))
        raise self.source.error(
            node,
            f"{ast.unparse(node)[:40]!r} is not allowed in a rule",
            "use item.*, user.*, context.*, seen, missing(…) and constants",
        )

    def _none_error(self, node: ast.expr) -> DeclarationError:
        return self.source.error(
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
                raise self.source.error(node, f"items have no attribute {name!r}", fix)
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
                raise self.source.error(node, f"there is no {owner}.{name}", fix)
        if owner == "user":
            return lambda request: scalar((request.user or {}).get(name))
        if owner == "context":
            return lambda request: scalar((request.context or {}).get(name))
        raise self.source.error(
            node, f"expected item, user or context before the dot, got {owner!r}"
        )

    def _seen_within(self, node: ast.expr, span: str) -> Compiled:
        match = re.fullmatch(r"(\d{1,5})([mhdw])", span)
        if not match:
            raise self.source.error(node, f"expected a time such as 30d, got {span!r}")
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
                    raise self.source.error(
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
                raise self.source.error(
                    node, "only < <= > >= == != in, not in and `is None` compare"
                )
            left_node = right_node
        return all_of(steps) if len(steps) > 1 else steps[0]

    def _check_kinds(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> None:
        kinds = kind_of(left), kind_of(right)
        if set(kinds) == {"number", "text"}:
            text = left if kinds[0] == "text" else right
            raise self.source.error(
                text, f"{ast.unparse(text)[:40]!r} is a text, and is compared with a number"
            )
        if "text" in kinds and not isinstance(op, ast.Eq | ast.NotEq):
            text = left if kinds[0] == "text" else right
            raise self.source.error(
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
                        raise self.source.error(
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
            raise self.source.error(
                right, f"expected a list of at most {NODES_MAX} constants after `in`"
            )
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
                raise self.source.error(
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
        if kind_of(part) != "text" or not (of_context or isinstance(part, ast.Constant)):
            fix = "such as 'warm' in item.tags, or context.country in item.countries"
            raise self.source.error(
                part,
                f"{ast.unparse(part)[:40]!r} is no text to look for in {ast.unparse(text)[:40]!r}",
                fix,
            )
        if kind_of(text) in ("number", "truth"):
            raise self.source.error(
                text,
                f"{ast.unparse(text)[:40]!r} is no text, and has no parts",
                "use == or a list after `in`",
            )
