"""Annotations of a field besides its type, and how the checkers read them.

The table is the annotated structs of `events.contract.envelope`. JSON schemas ignore what stands in
these annotations.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from tailorbird.events.contract.codes import ContractViolation
from tailorbird.events.contract.rules import format_value

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Description:
    """The description of a field in the reference page.

    A field without it is described together with the one before.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """Inclusive bounds of a number, or of the length of a text, list or object.

    Attributes:
        code: refuses what lies outside.
        unit: of a length, "characters", "items" or "bytes"; "" for a number.
    """

    high: int
    low: int = 0
    code: str = "number_out_of_range"
    unit: str = ""

    @property
    def text(self) -> str:
        """The bounds in words."""
        if not self.unit:
            return f"{self.low:g} to {self.high:g}"
        return f"{f'{self.low} to' if self.low else 'at most'} {self.high} {self.unit}"

    def holds(self, value: Any) -> bool:
        """Return whether a value lies within; NaN does not, and integers of any length compare."""
        return self.low <= (len(value) if self.unit else value) <= self.high

    def violation(self, value: Any, path: str) -> ContractViolation:
        """Return the violation by a value outside."""
        size = len(value) if self.unit else value
        return ContractViolation(self.code, path, f"expected {self.text}, got {format_value(size)}")

    def meta(self) -> msgspec.Meta | None:
        """Return the same bounds for a decoder, or None if it cannot hold them."""
        if not self.unit:
            return msgspec.Meta(ge=self.low, le=self.high)
        if self.unit == "bytes":
            return None
        return msgspec.Meta(min_length=self.low or None, max_length=self.high)


@dataclass(frozen=True, slots=True)
class Pattern:
    """The form of a text."""

    regex: re.Pattern[str]
    code: str
    text: str

    def holds(self, value: str) -> bool:
        """Return whether a text has the form."""
        return self.regex.match(value) is not None

    def violation(self, value: str, path: str) -> ContractViolation:
        """Return the violation by a text of another form."""
        return ContractViolation(
            self.code, path, f"expected {self.text}, got {format_value(value)}"
        )


@dataclass(frozen=True, slots=True)
class ServerOwned:
    """Marks a field that only the server and an operator's import may set."""

    text: str


def annotations_of(struct_type: type, annotation_type: type[T]) -> dict[str, T]:
    """Return field → its annotation of a type, of those fields that have one."""
    hints = get_type_hints(struct_type, include_extras=True)
    return {
        name: annotation
        for name, hint in hints.items()
        for annotation in _iterate_annotations(hint)
        if isinstance(annotation, annotation_type)
    }


def bounded_type(hint: Any) -> Any:
    """Return a type that a decoder holds to the bounds of its annotations."""
    if get_origin(hint) is Annotated:
        metas = [bounds.meta() for bounds in hint.__metadata__ if isinstance(bounds, Bounds)]
        inner_type = bounded_type(hint.__origin__)
        return Annotated[(inner_type, *filter(None, metas))] if any(metas) else inner_type
    if get_origin(hint) in (Union, UnionType):
        options = tuple(map(bounded_type, get_args(hint)))
        return Union[options]  # noqa: UP007  # pyrefly: ignore
    if get_origin(hint) is list:
        return list[bounded_type(get_args(hint)[0])]  # pyrefly: ignore
    return hint


def bounded_fields(struct_type: type) -> list[tuple[str, Any, Any]]:
    """Return name, bounded type and default of each field, for `msgspec.defstruct`."""
    hints = get_type_hints(struct_type, include_extras=True)
    return [
        (field.name, bounded_type(hints[field.name]), field.default)
        for field in msgspec.structs.fields(struct_type)
    ]


def _iterate_annotations(hint: Any) -> Iterator[Any]:
    """Yield the annotations of a value, or of the options of a union, but not of its elements."""
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
        hint = hint.__origin__
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            yield from _iterate_annotations(option)
