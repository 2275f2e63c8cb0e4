"""Kinds of the values in a rule, as far as its text alone says."""

import ast
from collections.abc import Mapping
from typing import Literal

Kind = Literal["number", "text", "truth", "any"]

CONTEXT_FIELDS: Mapping[str, Kind] = {
    "device": "text",
    "country": "text",
    "page": "text",
    "referrer": "text",
    "user_agent": "text",
    "utc_offset_min": "number",
    "local_hour": "number",
}


def kind_of(node: ast.expr) -> Kind:
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
