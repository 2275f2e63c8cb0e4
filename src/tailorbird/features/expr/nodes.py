"""The nodes of an expression's tree: what `parse_tree` makes of a text, and the evaluators read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Sign = Literal["-", "+", "not"]
Arithmetic = Literal["+", "-", "*", "/"]
Comparison = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in", "is", "is not"]


class ExpressionError(ValueError):
    """An invalid expression.

    Attributes:
        message: what is wrong.
        at: where in the text, such as `column 14`; "" if all of it.
        fix: what to write instead; "" if unknown.
    """

    def __init__(self, message: str, *, at: str = "", fix: str = "") -> None:
        self.message = message
        self.at = at
        self.fix = fix
        super().__init__(f"{at}: {message}" if at else message)


@dataclass(frozen=True)
class Node:
    """A part of an expression.

    Attributes:
        text: as it was written.
        at: where it starts, such as `column 14`.
    """

    text: str
    at: str

    @property
    def quoted(self) -> str:
        """The start of its text in quotes, for messages."""
        return repr(self.text[:40])

    def error(self, message: str, fix: str = "") -> ExpressionError:
        """Return an error at this part."""
        return ExpressionError(message, at=self.at, fix=fix)


@dataclass(frozen=True)
class Constant(Node):
    """A number, a text, a truth or None."""

    value: float | str | bool | None


@dataclass(frozen=True)
class Duration(Node):
    """A time such as `30d`."""


@dataclass(frozen=True)
class Name(Node):
    """A column: `price`, or `item.category`."""

    path: str


@dataclass(frozen=True)
class Unary(Node):
    operator: Sign
    operand: Node


@dataclass(frozen=True)
class Binary(Node):
    operator: Arithmetic
    left: Node
    right: Node


@dataclass(frozen=True)
class Logic(Node):
    operator: Literal["and", "or"]
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choice(Node):
    """`body if test else otherwise`."""

    test: Node
    body: Node
    otherwise: Node


@dataclass(frozen=True)
class Call(Node):
    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Constants(Node):
    """The list after `in`."""

    elements: tuple[Constant, ...]


@dataclass(frozen=True)
class Compare(Node):
    """A chain of comparisons: in `0 < a <= b`, 0 comes first, and the steps are `< a`, `<= b`."""

    first: Node
    steps: tuple[tuple[Comparison, Node], ...]


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all its parts."""
    yield node
    values = list(vars(node).values())
    for value in values:
        if isinstance(value, Node):
            yield from walk(value)
        elif isinstance(value, tuple):
            values += value
