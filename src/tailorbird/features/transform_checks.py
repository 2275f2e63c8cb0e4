"""Checks of transforms against the features and models that they belong to."""

from collections.abc import Iterable, Sequence

from tailorbird.errors import DeclarationError
from tailorbird.features.declare.declarations import RESERVED_COLUMNS
from tailorbird.features.transform_steps import CODE, KEY, NUMBER, ImputeStep
from tailorbird.features.transforms import Transform

_KIND_OF_COLUMN = {"numeric": NUMBER, "categorical": KEY}


def check_transforms(transforms: Sequence[Transform], kind_by_column: dict[str, str]) -> None:
    """Check that each transform names a column, its steps fit together, and output names are
    unique.

    Args:
        kind_by_column: column → numeric, categorical or sequence.
    Raises:
        DeclarationError: names the line.
    """
    transformed_columns = {transform.column for transform in transforms}
    location_by_name = dict.fromkeys(RESERVED_COLUMNS, "") | {
        name: "" for name in kind_by_column if name not in transformed_columns
    }
    for transform in transforms:
        kind = kind_by_column.get(transform.column)
        if kind is None:
            suggestions = ", ".join(
                sorted(name for name in kind_by_column if kind_by_column[name] in _KIND_OF_COLUMN)
            )
            raise DeclarationError(
                f"transform: there is no column {transform.column!r}",
                where=transform.location,
                fix=f"columns: {suggestions}",
            )
        if kind not in _KIND_OF_COLUMN:
            raise DeclarationError(
                f"transform: {transform.column} is a {kind}, which no step takes",
                where=transform.location,
            )
        _check_chain(transform, _KIND_OF_COLUMN[kind])
        for name in transform.outputs:
            if name in location_by_name:
                reason = (
                    f", as at {location_by_name[name]}"
                    if location_by_name[name]
                    else ", as a feature is"
                )
                reason = ", as one of every model is" if name in RESERVED_COLUMNS else reason
                raise DeclarationError(
                    f"transform: a column of the matrix is called {name}{reason}",
                    where=transform.location,
                    fix="give it a name=",
                )
            location_by_name[name] = transform.location


def check_heads(transforms: Iterable[Transform], heads: Iterable[str]) -> None:
    """Check that transforms learn from existing targets, the heads of slots' objectives.

    Raises:
        DeclarationError: names the line.
    """
    valid_heads = sorted(set(heads))
    for transform in transforms:
        for head in transform.heads:
            if head not in valid_heads:
                message = f"transform: {head!r} is no head of any slot's objective"
                raise DeclarationError(
                    message, where=transform.location, fix=f"use one of {', '.join(valid_heads)}"
                )


def _check_chain(transform: Transform, kind: str) -> None:
    for step in transform.steps:
        call_name = step.call_name or type(step).__name__.removesuffix("Step").lower()
        input_kind = kind if isinstance(step, ImputeStep) and kind != CODE else step.input_kind
        if input_kind != kind:
            if kind == KEY:
                fix = "put frequency() or target(HEAD) before it"
            else:
                fix = (
                    "declare it with kind='categorical'"
                    if input_kind == KEY
                    else "leave it out, or put it before"
                )
            raise DeclarationError(
                f"transform: {call_name} takes {input_kind}, "
                f"and {transform.column} is {kind} there",
                where=transform.location,
                fix=fix,
            )
        if isinstance(step, ImputeStep):
            _check_impute(transform, step, kind)
        else:
            kind = step.output_kind


def _check_impute(transform: Transform, step: ImputeStep, kind: str) -> None:
    if kind == KEY and step.how not in ("mode", "constant"):
        raise DeclarationError(
            f"transform: a category has no {step.how}",
            where=transform.location,
            fix='impute("mode") or impute("constant", TEXT)',
        )
    if step.how == "constant" and isinstance(step.value, str) != (kind == KEY):
        expected = "a text" if kind == KEY else "a number"
        raise DeclarationError(
            f"transform: expected {expected} for {transform.column}, got {step.value!r}",
            where=transform.location,
        )
