"""Syntax of expressions: constants, comparisons and dotted names."""

import ast

_COMPARISONS: dict[type[ast.cmpop], str] = {
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


def dotted(node: ast.expr) -> str | None:
    """Return `item.category` for such a node, `price` for a bare name, None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return None


def constant(node: ast.expr) -> float | str | None:
    """Return the value of a constant: numbers and truths as float."""
    assert isinstance(node, ast.Constant)
    value = node.value
    assert value is None or isinstance(value, str | int | float)  # `parse` admits nothing else.
    return value if isinstance(value, str) or value is None else float(value)


def comparison(operator: ast.cmpop) -> str:
    return _COMPARISONS[type(operator)]
