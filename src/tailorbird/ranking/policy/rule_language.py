"""The language of rules: the names and functions that it adds to `features.expr`."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tailorbird.errors import DeclarationError, suggest_name
from tailorbird.features.expr import nodes
from tailorbird.features.expr.check import Checker, Function, Language, ValueKind
from tailorbird.features.expr.columns import evaluate_columns
from tailorbird.features.expr.nodes import ExpressionError, Node, walk
from tailorbird.features.expr.parse import parse_tree
from tailorbird.ranking.policy.rule_columns import Mask, RuleRequest, RuleValues, to_booleans

ITEM_FIELDS: Mapping[str, ValueKind] = {"id": "text", "age_days": "number", "popularity": "number"}
CONTEXT_FIELDS: Mapping[str, ValueKind] = {
    "device": "text",
    "country": "text",
    "page": "text",
    "referrer": "text",
    "user_agent": "text",
    "utc_offset_min": "number",
    "local_hour": "number",
}
_FUNCTIONS = {
    "missing": Function(kind="truth", argument_kind="anything"),
    "seen": Function(kind="truth", argument_kind="a duration"),
}
_HINT = "use item.*, user.*, context.*, seen, missing(…) and constants"
_COUNTRY = re.compile("[A-Z]{2}")  # as the router keeps it, and requests read it


@dataclass(frozen=True)
class Rule:
    """A checked rule.

    Attributes:
        text: as it was written.
        tree: the checked tree.
        names: all that it reads, such as `item.price` and `seen`.
    """

    text: str
    tree: Node
    names: frozenset[str]

    @property
    def item_fields(self) -> frozenset[str]:
        """The attributes of items that it reads."""
        return frozenset(
            name.removeprefix("item.") for name in self.names if name.startswith("item.")
        )

    @property
    def is_item_only(self) -> bool:
        """Whether it reads nothing but attributes of items, which are the same at any time."""
        return "item.age_days" not in self.names and len(self.item_fields) == len(self.names)

    def mask(self, request: RuleRequest) -> Mask:
        """Return a mask of the items that satisfy it, (n,)."""
        holds = to_booleans(evaluate_columns(self.tree, RuleValues(request)))
        return np.broadcast_to(holds, request.rows.size)


def compile_rule(
    text: str,
    *,
    item_fields: Collection[str] | None = None,
    user_fields: Collection[str] | None = None,
    where: str = "",
) -> Rule:
    """Check a rule.

    Args:
        item_fields, user_fields: the columns that there are; None: any.
        where: stands before each message.

    Raises:
        DeclarationError: it is not of the language; names rule and column.
    """

    def kind_of(name: nodes.Name) -> ValueKind | None:
        return _require_kind(name, item_fields, user_fields)

    # What a rule may look for in a text, beside constants: `context.device in item.tags`.
    substring_columns = frozenset(f"context.{name}" for name in CONTEXT_FIELDS)
    language = Language(
        kind_of,
        _FUNCTIONS,
        allows_substring_search=True,
        substring_columns=substring_columns,
        texts_are_truths=True,
        hint=_HINT,
    )
    checker = Checker(language)
    try:
        tree = parse_tree(text, hint=_HINT)
        checker.infer_kind(tree)
        _check_countries(tree)
    except ExpressionError as error:
        raise DeclarationError(
            str(error), where=rule_location(text, where), fix=error.fix
        ) from None
    return Rule(text, tree, frozenset(checker.names) | ({"seen"} & checker.called_functions))


def rule_location(text: str, where: str) -> str:
    """Return where a rule is declared, with its text."""
    return f"{where}, rule {text[:80]!r}" if where else f"rule {text[:80]!r}"


def _require_kind(
    name: nodes.Name, item_fields: Collection[str] | None, user_fields: Collection[str] | None
) -> ValueKind:
    owner, _, field = name.path.partition(".")
    match owner:
        case "seen" if not field:
            return "truth"
        case "item" if field:
            if item_fields is not None and field not in {*item_fields, *ITEM_FIELDS}:
                fix = suggest_name(field, (*item_fields, *ITEM_FIELDS), "", owner="item.")
                raise name.error(f"items have no attribute {field!r}", fix)
            return ITEM_FIELDS.get(field, "any")
        case "user" if field:
            _require_field(name, user_fields)
            return "number"
        case "context" if field:
            _require_field(name, CONTEXT_FIELDS)
            return CONTEXT_FIELDS[field]
    if field:
        raise name.error(f"expected item, user or context before the dot, got {owner!r}")
    raise name.error(f"{name.quoted} is not allowed in a rule", _HINT)


def _require_field(name: nodes.Name, fields: Collection[str] | None) -> None:
    owner, _, field = name.path.partition(".")
    if fields is not None and field not in fields:
        default = f"use one of {', '.join(sorted(fields)) or 'no column'}"
        fix = suggest_name(field, fields, default, owner=f"{owner}.")
        raise name.error(f"there is no {name.path}", fix)


def _check_countries(tree: Node) -> None:
    """Refuse an impossible country code, instead of a rule that never holds."""
    for column, value in _comparisons(tree):
        is_country = isinstance(column, nodes.Name) and column.path == "context.country"
        code = value.value if is_country and isinstance(value, nodes.Constant) else None
        if isinstance(code, str) and not _COUNTRY.fullmatch(code):
            is_lower_case = _COUNTRY.fullmatch(code.upper())
            fix = f"write {code.upper()!r}" if is_lower_case else "write its code, such as 'NO'"
            raise value.error(
                f"a country is a code of two capital letters, and never {code[:40]!r}", fix
            )


def _comparisons(tree: Node) -> Iterator[tuple[Node, Node]]:
    """Yield both sides of each comparison in both orders, and each element of a list."""
    for node in walk(tree):
        left = node.first if isinstance(node, nodes.Compare) else node
        for _, right in node.steps if isinstance(node, nodes.Compare) else ():
            if isinstance(right, nodes.Constants):
                yield from ((left, element) for element in right.elements)
            else:
                yield from ((left, right), (right, left))
            left = right
