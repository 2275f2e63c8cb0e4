"""Expressions as text: a subset of Python's grammar, parsed into a small tree.

    constants    3, 'hats', True, None       names      price, item.category
    arithmetic   + - * / -x                  truths     and or not, < <= > >= == != (chained too)
    lists        in (…), not in (…)          missing    is None, is not None
    calls        log(price), seen(30d)       choices    a if test else b

Features, rules of slots, conditions of experiments and value formulas are written in it. Each says
in a `check.Language` which names and functions it has. Nothing of a text is ever executed.
"""

import ast
import math
import re
from collections.abc import Mapping

from tailorbird.features.expr import nodes
from tailorbird.features.expr.nodes import ExpressionError, Node

CHARACTERS_MAX = 1_000
DEPTH_MAX = 30
NODES_MAX = 300
_DURATION = re.compile(r"(\d{1,5})([mhdw])")
_SPLIT = "split it into several"

# Strings and comments, which stay unchanged, or a duration.
_LITERAL = re.compile(
    r"""('(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|\#[^\n]*)|(?<![\w.])(\d{1,5})([mhdw])(?!\w)"""
)
_LINE_END = re.compile(r"\r\n|\r|\n")  # as Python counts lines
_BINARY: Mapping[type, nodes.Arithmetic] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_UNARY: Mapping[type, nodes.Sign] = {ast.USub: "-", ast.UAdd: "+", ast.Not: "not"}
_COMPARE: Mapping[type, nodes.Comparison] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
}


def parse_tree(text: str, *, depth_max: int = DEPTH_MAX, hint: str = "") -> Node:
    """Parse an expression, which may stand on several lines.

    Args:
        depth_max: how deep its parts may be nested.
        hint: what may be written, for messages.

    Raises:
        ExpressionError: it is too long, too deep, or not of the grammar; names the column.
    """
    if len(text) > CHARACTERS_MAX:
        raise ExpressionError(f"is longer than {CHARACTERS_MAX} characters", fix=_SPLIT)
    return _Parser(text, depth_max, hint).parse()


class _Parser:
    def __init__(self, text: str, depth_max: int, hint: str) -> None:
        self._text, self._depth_max, self._hint = text, depth_max, hint
        self._lines = _LINE_END.split(text)
        self._nodes = 0

    def parse(self) -> Node:
        # `30d` is not valid Python, so it is parsed as the name `d30`, which has the same length
        # and keeps columns. Brackets allow line breaks.
        source = _LITERAL.sub(lambda match: match[1] or match[3] + match[2], self._text)
        try:
            tree = ast.parse(f"(\n{source}\n)", mode="eval").body
        except SyntaxError as error:
            raise self._syntax_error(error, source) from None
        except (ValueError, RecursionError, MemoryError):
            raise ExpressionError("cannot be read as an expression") from None
        # In line 1 is our own bracket: there is nothing in it, or a comma, or one closes too early.
        if tree.lineno == 1:
            raise ExpressionError("expected one expression, with all its brackets closed")
        return self._node(tree, 1)

    def _syntax_error(self, error: SyntaxError, source: str) -> ExpressionError:
        line, column = error.lineno or 2, (error.offset or 1) - 1
        if error.msg.startswith("unmatched") and len(self._lines) == 1:
            # Our own bracket is unmatched, because the text closed it: this finds where.
            try:
                ast.parse(source.strip(), mode="eval")
            except SyntaxError as alone:
                indent = len(source) - len(source.lstrip())
                line, column = 2, indent + (alone.offset or 1) - 1
        return ExpressionError(error.msg, at=self._position(line, column))

    def _position(self, line: int, column: int) -> str:
        """Return a position in the text, from 1.

        `line` counts the added bracket's line too; `column` counts characters from 0.
        """
        if not 2 <= line <= len(self._lines) + 1:
            return "at its end"
        column_text = f"column {column + 1}"
        return f"line {line - 1}, {column_text}" if len(self._lines) > 1 else column_text

    def _where(self, tree: ast.expr) -> tuple[str, str]:
        """Return the text of a part, and where it starts. Python counts bytes of lines."""
        first, last = tree.lineno - 2, (tree.end_lineno or tree.lineno) - 2
        before = self._lines[first].encode()[: tree.col_offset].decode()
        end = len(self._lines[last].encode()[: tree.end_col_offset].decode())
        lines = [*self._lines[first:last], self._lines[last][:end]]
        text = " ".join([lines[0][len(before) :], *(line.strip() for line in lines[1:])])
        return text, self._position(tree.lineno, len(before))

    def _node(self, tree: ast.expr, depth: int) -> Node:
        where, below = self._where(tree), depth + 1
        self._nodes += 1
        if depth > self._depth_max or self._nodes > NODES_MAX:
            raise ExpressionError("is too long or nested too deeply", at=where[1], fix=_SPLIT)
        match tree:
            case ast.Constant(value=bool() | str() | None as value):
                return nodes.Constant(*where, value)
            case ast.Constant(value=int() | float() as value):
                return nodes.Constant(*where, _to_float(value))
            case ast.Name(id=name) if _DURATION.fullmatch(where[0]):
                return nodes.Duration(*where)
            case ast.Name(id=name):
                return nodes.Name(*where, name)
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                return nodes.Name(*where, f"{owner}.{name}")
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return nodes.Unary(*where, _UNARY[type(op)], self._node(operand, below))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                first, second = self._node(left, below), self._node(right, below)
                return nodes.Binary(*where, _BINARY[type(op)], first, second)
            case ast.BoolOp(op=op, values=values):
                operator = "and" if isinstance(op, ast.And) else "or"
                return nodes.Logic(
                    *where, operator, tuple(self._node(part, below) for part in values)
                )
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                a, b = self._node(body, below), self._node(otherwise, below)
                return nodes.Choice(*where, self._node(test, below), a, b)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return nodes.Call(
                    *where, name, tuple(self._node(part, below) for part in arguments)
                )
            case ast.Compare(left=left):
                return nodes.Compare(*where, self._node(left, below), self._steps(tree, below))
        raise ExpressionError(
            f"{where[0][:40]!r} is not allowed in an expression", at=where[1], fix=self._hint
        )

    def _steps(self, tree: ast.Compare, depth: int) -> tuple[tuple[nodes.Comparison, Node], ...]:
        steps: list[tuple[nodes.Comparison, Node]] = []
        for operator, side in zip(tree.ops, tree.comparators, strict=True):
            sign = _COMPARE[type(operator)]
            if sign in ("in", "not in") and isinstance(side, ast.Tuple | ast.List | ast.Set):
                steps.append((sign, self._constants(side)))
            else:
                steps.append((sign, self._node(side, depth)))
        return tuple(steps)

    def _constants(self, tree: ast.Tuple | ast.List | ast.Set) -> nodes.Constants:
        where = self._where(tree)
        self._nodes += len(tree.elts)
        if self._nodes > NODES_MAX:
            message = f"expected a list of at most {NODES_MAX} constants after `in`"
            raise ExpressionError(message, at=where[1], fix=_SPLIT)
        return nodes.Constants(*where, tuple(self._element(element) for element in tree.elts))

    def _element(self, tree: ast.expr) -> nodes.Constant:
        where = self._where(tree)
        match tree:
            case ast.Constant(value=bool() | str() | None as value):
                return nodes.Constant(*where, value)
            case ast.Constant(value=int() | float() as value):
                return nodes.Constant(*where, _to_float(value))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return nodes.Constant(*where, -_to_float(value))
        message = f"{where[0][:40]!r} is no constant, and a list after `in` has nothing else"
        raise ExpressionError(message, at=where[1])


def _to_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
