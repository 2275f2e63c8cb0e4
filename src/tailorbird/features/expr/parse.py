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
_SPLIT_FIX = "split it into several"

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
        raise ExpressionError(f"is longer than {CHARACTERS_MAX} characters", fix=_SPLIT_FIX)
    return _Parser(text, depth_max, hint).parse()


class _Parser:
    def __init__(self, text: str, depth_max: int, hint: str) -> None:
        self._text = text
        self._depth_max = depth_max
        self._hint = hint
        self._lines = _LINE_END.split(text)
        self._node_count = 0

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
        return self._to_node(tree, 1)

    def _syntax_error(self, error: SyntaxError, source: str) -> ExpressionError:
        line = error.lineno or 2
        column = (error.offset or 1) - 1
        if error.msg.startswith("unmatched") and len(self._lines) == 1:
            # Our own bracket is unmatched, because the text closed it: this finds where.
            try:
                ast.parse(source.strip(), mode="eval")
            except SyntaxError as unwrapped_error:
                indent = len(source) - len(source.lstrip())
                line = 2
                column = indent + (unwrapped_error.offset or 1) - 1
        return ExpressionError(error.msg, at=self._position(line, column))

    def _position(self, line: int, column: int) -> str:
        """Return a position in the text, from 1.

        `line` counts the added bracket's line too; `column` counts characters from 0.
        """
        if not 2 <= line <= len(self._lines) + 1:
            return "at its end"
        column_text = f"column {column + 1}"
        return f"line {line - 1}, {column_text}" if len(self._lines) > 1 else column_text

    def _text_and_position(self, tree: ast.expr) -> tuple[str, str]:
        """Return the text of a part, and where it starts. Python counts bytes of lines."""
        first_line = tree.lineno - 2
        last_line = (tree.end_lineno or tree.lineno) - 2
        text_before = self._lines[first_line].encode()[: tree.col_offset].decode()
        last_column = len(self._lines[last_line].encode()[: tree.end_col_offset].decode())
        lines = [*self._lines[first_line:last_line], self._lines[last_line][:last_column]]
        text = " ".join([lines[0][len(text_before) :], *(line.strip() for line in lines[1:])])
        return text, self._position(tree.lineno, len(text_before))

    def _to_node(self, tree: ast.expr, depth: int) -> Node:
        text_and_position = self._text_and_position(tree)
        child_depth = depth + 1
        self._node_count += 1
        if depth > self._depth_max or self._node_count > NODES_MAX:
            raise ExpressionError(
                "is too long or nested too deeply", at=text_and_position[1], fix=_SPLIT_FIX
            )
        match tree:
            case ast.Constant(value=bool() | str() | None as value):
                return nodes.Constant(*text_and_position, value)
            case ast.Constant(value=int() | float() as value):
                return nodes.Constant(*text_and_position, _to_float(value))
            case ast.Name(id=name) if _DURATION.fullmatch(text_and_position[0]):
                return nodes.Duration(*text_and_position)
            case ast.Name(id=name):
                return nodes.Name(*text_and_position, name)
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                return nodes.Name(*text_and_position, f"{owner}.{name}")
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return nodes.Unary(
                    *text_and_position, _UNARY[type(op)], self._to_node(operand, child_depth)
                )
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                left_node = self._to_node(left, child_depth)
                right_node = self._to_node(right, child_depth)
                return nodes.Binary(*text_and_position, _BINARY[type(op)], left_node, right_node)
            case ast.BoolOp(op=op, values=values):
                operator = "and" if isinstance(op, ast.And) else "or"
                return nodes.Logic(
                    *text_and_position,
                    operator,
                    tuple(self._to_node(part, child_depth) for part in values),
                )
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                body_node = self._to_node(body, child_depth)
                else_node = self._to_node(otherwise, child_depth)
                return nodes.Choice(
                    *text_and_position, self._to_node(test, child_depth), body_node, else_node
                )
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return nodes.Call(
                    *text_and_position,
                    name,
                    tuple(self._to_node(part, child_depth) for part in arguments),
                )
            case ast.Compare(left=left):
                return nodes.Compare(
                    *text_and_position,
                    self._to_node(left, child_depth),
                    self._to_steps(tree, child_depth),
                )
        raise ExpressionError(
            f"{text_and_position[0][:40]!r} is not allowed in an expression",
            at=text_and_position[1],
            fix=self._hint,
        )

    def _to_steps(self, tree: ast.Compare, depth: int) -> tuple[tuple[nodes.Comparison, Node], ...]:
        steps: list[tuple[nodes.Comparison, Node]] = []
        for operator, operand in zip(tree.ops, tree.comparators, strict=True):
            comparison = _COMPARE[type(operator)]
            if comparison in ("in", "not in") and isinstance(
                operand, ast.Tuple | ast.List | ast.Set
            ):
                steps.append((comparison, self._to_constants(operand)))
            else:
                steps.append((comparison, self._to_node(operand, depth)))
        return tuple(steps)

    def _to_constants(self, tree: ast.Tuple | ast.List | ast.Set) -> nodes.Constants:
        text_and_position = self._text_and_position(tree)
        self._node_count += len(tree.elts)
        if self._node_count > NODES_MAX:
            message = f"expected a list of at most {NODES_MAX} constants after `in`"
            raise ExpressionError(message, at=text_and_position[1], fix=_SPLIT_FIX)
        return nodes.Constants(
            *text_and_position, tuple(self._to_constant(element) for element in tree.elts)
        )

    def _to_constant(self, tree: ast.expr) -> nodes.Constant:
        text_and_position = self._text_and_position(tree)
        match tree:
            case ast.Constant(value=bool() | str() | None as value):
                return nodes.Constant(*text_and_position, value)
            case ast.Constant(value=int() | float() as value):
                return nodes.Constant(*text_and_position, _to_float(value))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return nodes.Constant(*text_and_position, -_to_float(value))
        message = (
            f"{text_and_position[0][:40]!r} is no constant, and a list after `in` has nothing else"
        )
        raise ExpressionError(message, at=text_and_position[1])


def _to_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
