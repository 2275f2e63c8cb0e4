"""The value formula: an item's value to a slot as a weighted sum of predicted outcomes.

    value = 1.0*click + 8.0*purchase + 0.002*dwell_s    Σ weight * calibrated prediction

A slot may change its weights without a new model: the formula that is in force is the one that was
last set in the registry (`registry.formulas`), else the slot's own, else the bundle's.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError, DeclarationError, suggest_name
from tailorbird.features.expr import nodes
from tailorbird.features.expr.nodes import ExpressionError, Node
from tailorbird.features.expr.parse import parse_tree
from tailorbird.ranking.policy.targets import item_heads

Floats = npt.NDArray[np.float64]

HEADS_MAX = 50
WEIGHT_MAX = 1e100  # so that no sum of heads is infinite
_EXAMPLE = "such as 1.0*click + 8.0*purchase"


def parse_formula(text: str, *, where: str = "") -> dict[str, float]:
    """Parse a formula such as `1.0*click + 8.0*purchase - 2*hide` into head → weight.

    Raises:
        DeclarationError: it is not of this form; names the column.

    >>> parse_formula("click + 8.0*purchase - 0.5*hide")
    {'click': 1.0, 'purchase': 8.0, 'hide': -0.5}
    """
    where = f"{where}, formula {text[:80]!r}" if where else f"formula {text[:80]!r}"
    try:
        weights = _collect_weights(parse_tree(text, depth_max=2 * HEADS_MAX, hint=_EXAMPLE))
    except ExpressionError as error:
        raise DeclarationError(str(error), where=where, fix=error.fix or _EXAMPLE) from None
    return validate_weights(weights, where=where)


def validate_weights(weights: Mapping[str, float], *, where: str = "") -> dict[str, float]:
    """Validate weights and return them as floats.

    Raises DeclarationError if there are none, too many, or one is not a number up to `WEIGHT_MAX`.
    """
    if not weights or len(weights) > HEADS_MAX:
        raise DeclarationError(
            f"expected 1 to {HEADS_MAX} heads, got {len(weights)}", where=where, fix=_EXAMPLE
        )
    for head, weight in weights.items():
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int | float)
            or not abs(weight) <= WEIGHT_MAX
        ):
            fix = f"use a number from -{WEIGHT_MAX:g} to {WEIGHT_MAX:g}"
            raise DeclarationError(f"the weight of {head!r} is {weight!r}", where=where, fix=fix)
    return {head: float(weight) for head, weight in weights.items()}


def format_formula(weights: Mapping[str, float]) -> str:
    """Format a formula as text that `parse_formula` reads back."""
    terms = [
        f"{'-' if weight < 0 else '+'} {abs(weight)!r}*{head}" for head, weight in weights.items()
    ]
    return " ".join(terms).removeprefix("+ ")


def missing_heads(objective: Mapping[str, float], heads: Iterable[str]) -> tuple[str, ...]:
    """Return the heads that an objective needs and the bundle lacks."""
    available = set(heads)
    return tuple(head for head in objective if head not in available)


def require_heads(
    objective: Mapping[str, float], heads: Iterable[str], *, model: str, where: str = ""
) -> None:
    """Raise DeclarationError if the objective asks for a head that the model does not have."""
    available = sorted(heads)
    if missing := missing_heads(objective, available):
        fix = suggest_name(
            missing[0], available, "let the slot in slots.py ask for it, and run tailorbird train"
        )
        raise DeclarationError(
            f"{model} predicts no {missing[0]!r}; it predicts {', '.join(available) or 'nothing'}",
            where=where,
            fix=fix,
        )


def require_items(objective: Mapping[str, float], *, where: str = "") -> None:
    """Raise DeclarationError unless a head with nonzero weight distinguishes items.

    Otherwise their order would mean nothing.
    """
    if not item_heads(head for head, weight in objective.items() if weight):
        fix = "name what people do with items too, such as 1.0*click + 0.5*return_7d"
        raise DeclarationError("no head of the objective tells items apart", where=where, fix=fix)


def parse_usable_formula(
    text: str, heads: Iterable[str] | None, *, model: str = "", where: str
) -> Mapping[str, float]:
    """Parse a formula that a model can order items by.

    Args:
        heads: of the model; None without one.

    Raises:
        DeclarationError: it is no formula, does not distinguish items, or needs another head.
    """
    weights = parse_formula(text, where=where)
    require_items(weights, where=where)
    if heads is not None:
        require_heads(weights, heads, model=model, where=where)
    return weights


def compute_value(heads: Mapping[str, Floats], objective: Mapping[str, float]) -> Floats:
    """Compute the value (n,) of n items.

    Heads that the bundle lacks are left out: ranking by clicks alone is better than nothing.
    Callers that change an objective check it with `require_heads`.

    Raises:
        BundleError: the bundle has none of the heads.
    """
    available_heads = [
        head for head in objective if head in heads
    ]  # in the objective's order, so that the sum is the same each time
    if not available_heads:
        raise BundleError(
            f"predicts {', '.join(heads) or 'nothing'}, while the objective asks for "
            f"{', '.join(objective) or 'nothing'}"
        )
    total = np.zeros_like(heads[available_heads[0]])
    for head in available_heads:
        total += float(objective[head]) * heads[head]
    return total


def _collect_weights(tree: Node) -> dict[str, float]:
    weights: dict[str, float] = {}
    for sign, term in _terms(tree, 1.0):
        head, weight = _parse_term(term)
        if head in weights:
            raise term.error(f"{head!r} stands there twice", "add its weights up")
        weights[head] = sign * weight
    return weights


def _terms(node: Node, sign: float) -> Iterable[tuple[float, Node]]:
    """Yield the terms of a sum with their signs, from left to right."""
    match node:
        case nodes.Unary(operator="-" | "+"):
            yield from _terms(node.operand, -sign if node.operator == "-" else sign)
        case nodes.Binary(operator="+" | "-"):
            yield from _terms(node.left, sign)
            yield from _terms(node.right, -sign if node.operator == "-" else sign)
        case _:
            yield sign, node


def _parse_term(node: Node) -> tuple[str, float]:
    match node:
        case nodes.Name(path=head) if "." not in head:
            return head, 1.0
        case nodes.Binary(left=left, operator="*", right=nodes.Name(path=head)) if "." not in head:
            if (weight := _parse_number(left)) is not None:
                return head, weight
        case nodes.Binary(left=nodes.Name(path=head), operator="*", right=right) if "." not in head:
            if (weight := _parse_number(right)) is not None:
                return head, weight
    raise node.error(f"expected a number times a head, got {node.quoted}")


def _parse_number(node: Node) -> float | None:
    match node:
        case nodes.Unary(operator="-"):
            inner = _parse_number(node.operand)
            return None if inner is None else -inner
        case nodes.Constant(value=float(value)):
            return value
    return None
