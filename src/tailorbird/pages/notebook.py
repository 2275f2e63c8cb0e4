"""Objects in notebooks: a short repr, and the same as HTML.

@notebook_repr
@dataclass(frozen=True)
class Slot: ...         Slot(name='home', size=6), or a table of these fields
"""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field
from typing import Any, TypeVar

from tailorbird.pages import render

T = TypeVar("T")
TEXT_MAX = 300  # characters of a value in a table


def notebook_html(
    lines: Iterable[str] = (),
    columns: Sequence[str] = (),
    rows: Iterable[Sequence[str]] = (),
    footer: str = "",
) -> str:
    """Return paragraphs, a table and a last paragraph."""
    return render("notebook", lines=list(lines), columns=columns, rows=list(rows), footer=footer)


def text_html(value: object) -> str:
    """Return the lines of a repr as paragraphs."""
    return notebook_html(repr(value).splitlines())


def notebook_repr(cls: type[T]) -> type[T]:
    """Let a dataclass show the fields that differ from their defaults, as text and as a table."""
    for name, method in (("__repr__", fields_repr), ("_repr_html_", fields_html)):
        setattr(cls, name, method)
    return cls


def fields_repr(value: Any) -> str:
    """Return the call that makes a dataclass, with the fields that differ from their defaults."""
    arguments = ", ".join(f"{name}={field!r}" for name, field in _changed_fields(value))
    return f"{type(value).__name__}({arguments})"


def fields_html(value: Any) -> str:
    """Return the fields of a dataclass that differ from their defaults, as a table."""
    rows = [(name, _shorten(repr(field))) for name, field in _changed_fields(value)]
    return notebook_html([type(value).__name__], rows=rows)


def _changed_fields(value: Any) -> list[tuple[str, Any]]:
    fields: Iterable[Field] = value.__dataclass_fields__.values()
    return [
        (field.name, getattr(value, field.name))
        for field in fields
        if field.repr and getattr(value, field.name) != _default_value(field)
    ]


def _default_value(field: Field) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _shorten(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}…"
