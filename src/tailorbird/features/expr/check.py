"""The kinds of an expression's parts: what each user of expressions allows, and refuses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tailorbird.errors import UsageError
from tailorbird.events.clock import parse_duration
from tailorbird.features.expr import nodes
from tailorbird.features.expr.nodes import ExpressionError, Node

# "either" is a number or a text, as what it is compared with; "any" is known at evaluation alone.
ValueKind = Literal["number", "text", "truth", "either", "any"]

NUMBER_MAX = 1e300


@dataclass(frozen=True)
class Function:
    """A function: how many arguments it takes, or a duration, and the kind of its value."""

    arguments: int = 1
    kind: ValueKind = "number"
    argument_kind: Literal["numbers", "anything", "a duration"] = "numbers"


@dataclass(frozen=True)
class Language:
    """What one user of expressions adds to the grammar.

        Attributes:
            kind_of: gives the kind of a column; None if there is no such column.
            functions: the functions by name.
            allows_choices: whether it has `a if test else b`.
    allows_substring_search: whether `'warm' in item.tags` looks for a part of a text.
    substring_columns: the columns, beside constants, that may be looked for in a text.
            texts_are_truths: whether a text counts as a truth, which holds unless it is missing.
            hint: what may be written, for messages.
    """

    kind_of: Callable[[nodes.Name], ValueKind | None]
    functions: Mapping[str, Function]
    allows_choices: bool = False
    allows_substring_search: bool = False
    substring_columns: frozenset[str] = frozenset()
    texts_are_truths: bool = False
    hint: str = ""


class Checker:
    """Determines the kinds of a tree.

    `names` gathers each column with its kind, `called_functions` the functions.
    """

    def __init__(self, language: Language) -> None:
        self._language = language
        self._kinds: dict[int, ValueKind] = {}  # of the parts that were checked, by identity
        self.names: dict[str, ValueKind] = {}
        self.called_functions: set[str] = set()

    def infer_kind(self, node: Node, expected_kind: ValueKind = "number") -> ValueKind:
        """Return the kind of a part; a column of either kind becomes of the expected one.

        Raises:
            ExpressionError: it is not of the language, or mixes numbers and texts.
        """
        if isinstance(node, nodes.Name):
            return self._check_name(node, expected_kind)
        if id(node) not in self._kinds:
            self._kinds[id(node)] = self._check(node)
        return self._kinds[id(node)]

    def _check(self, node: Node) -> ValueKind:
        match node:
            case nodes.Constant():
                return self._check_constant(node)
            case nodes.Unary(operator="not"):
                self._require_truths(node.operand)
                return "truth"
            case nodes.Unary():
                self._require_numbers(node.operand)
                return "number"
            case nodes.Binary():
                self._require_numbers(node.left, node.right)
                return "number"
            case nodes.Logic():
                self._require_truths(*node.parts)
                return "truth"
            case nodes.Choice() if self._language.allows_choices:
                self._require_truths(node.test)
                self._require_numbers(node.body, node.otherwise)
                return "number"
            case nodes.Call():
                return self._check_call(node)
            case nodes.Compare():
                left = node.first
                for operator, right in node.steps:
                    self._check_comparison(left, operator, right)
                    left = right
                return "truth"
        raise self._not_allowed_error(node)

    def _not_allowed_error(self, node: Node) -> ExpressionError:
        return node.error(f"{node.quoted} is not allowed here", self._language.hint)

    def _require_numbers(self, *parts: Node) -> None:
        for node in parts:
            if self.infer_kind(node) == "text":
                raise node.error(f"{node.quoted} is a text, expected a number")

    def _require_truths(self, *parts: Node) -> None:
        for node in parts:
            if self.infer_kind(node) == "text" and not self._language.texts_are_truths:
                raise node.error(f"{node.quoted} is a text, expected a number or a test")

    def _check_name(self, node: nodes.Name, expected_kind: ValueKind) -> ValueKind:
        kind = self._language.kind_of(node)
        if kind is None:
            raise node.error(f"{node.path} is no field", self._language.hint)
        if kind == "either":
            kind = "text" if expected_kind in ("text", "either") else "number"
        if self.names.setdefault(node.path, kind) != kind:
            raise node.error(f"{node.path} is used both as a number and as text")
        return kind

    def _check_constant(self, node: nodes.Constant) -> ValueKind:
        if node.value is None:
            fix = "use missing(…), or not missing(…)"
            raise node.error("None equals nothing, and is never in a list", fix)
        if isinstance(node.value, str):
            return "text"
        if abs(node.value) > NUMBER_MAX:
            raise node.error("the number is too large")
        return "number"

    def _check_call(self, node: nodes.Call) -> ValueKind:
        functions = self._language.functions
        function = functions.get(node.function)
        if function is None or len(node.arguments) != function.arguments:
            names = ", ".join(functions)
            raise node.error(f"{node.quoted}: expected one of {names} with its arguments")
        self.called_functions.add(node.function)
        if function.argument_kind == "a duration":
            for argument in node.arguments:
                self._check_duration(argument)
        elif function.argument_kind == "anything":
            for argument in node.arguments:
                self.infer_kind(argument, "either")
        else:
            self._require_numbers(*node.arguments)
        return function.kind

    def _check_duration(self, argument: Node) -> None:
        text = argument.value if isinstance(argument, nodes.Constant) else argument.text
        try:
            parse_duration(str(text))
        except UsageError:
            message = f"expected a time such as 30d, got {argument.quoted}"
            raise argument.error(message) from None

    def _check_comparison(self, left: Node, operator: nodes.Comparison, right: Node) -> None:
        if operator in ("is", "is not"):
            if not (isinstance(right, nodes.Constant) and right.value is None):
                raise right.error("only None comes after `is` and `is not`", "use ==")
            self.infer_kind(left, "either")
        elif operator in ("in", "not in"):
            self._check_membership(left, operator, right)
        else:
            self._check_comparable(left, operator, right)

    def _check_membership(self, left: Node, operator: nodes.Comparison, right: Node) -> None:
        if isinstance(right, nodes.Constants):
            if not right.elements:
                self.infer_kind(left)
            for element in right.elements:
                self._check_comparable(left, "==", element)
        elif self._language.allows_substring_search:
            self._check_substring_search(left, right)
        else:
            example = f"such as {operator} ('phone', 'tablet')"
            raise right.error(f"{operator} needs constants in brackets", example)

    def _check_substring_search(self, substring: Node, text: Node) -> None:
        """Refuse a search for what is never part of a text, instead of a test that never holds."""
        is_column = (
            isinstance(substring, nodes.Name) and substring.path in self._language.substring_columns
        )
        if self.infer_kind(substring) != "text" or not (
            is_column or isinstance(substring, nodes.Constant)
        ):
            fix = "such as 'warm' in item.tags, or context.country in item.countries"
            raise substring.error(
                f"{substring.quoted} is no text to look for in {text.quoted}", fix
            )
        if self.infer_kind(text) not in ("text", "any"):
            fix = "use == or a list after `in`"
            raise text.error(f"{text.quoted} is no text, and has no parts", fix)

    def _check_comparable(self, left: Node, operator: nodes.Comparison, right: Node) -> None:
        """Refuse a comparison of a number with a text, and of texts by size."""
        if not self._has_known_kind(left) and not self._has_known_kind(right):
            message = f"{left.text} {operator} {right.text}: compare an attribute with a constant"
            raise left.error(message)
        if self._has_known_kind(left):
            kind = self._number_or_text(left, "number")
            kinds = kind, self._number_or_text(right, kind)
        else:
            kind = self._number_or_text(right, "number")
            kinds = self._number_or_text(left, kind), kind
        if "text" not in kinds:
            return
        text = left if kinds[0] == "text" else right
        if "number" in kinds:
            raise text.error(f"{text.quoted} is a text, and is compared with a number")
        if operator not in ("==", "!="):
            message = f"{text.quoted} is a text, which is not more or less than another"
            raise text.error(message, "use == or in")

    def _has_known_kind(self, node: Node) -> bool:
        return (
            not isinstance(node, nodes.Name)
            or node.path in self.names
            or self._language.kind_of(node) != "either"
        )

    def _number_or_text(self, node: Node, expected_kind: ValueKind) -> ValueKind:
        if isinstance(node, nodes.Name) and node.path in self.names:
            kind = self.names[node.path]
        else:
            kind = self.infer_kind(node, expected_kind)
        return "number" if kind == "truth" else kind
