"""Texts of items by field, as the text index and the text encoder read them."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tailorbird.retrieval.columns import Column, TextColumn

ITEM_FIELDS = ("title", "category", "brand")


def build_documents(
    attributes: Mapping[str, Column], rows: npt.NDArray[np.intp]
) -> dict[str, list[str]]:
    """Return the texts of some items by field; all other attributes go into `text`."""
    fields: dict[str, list[str]] = {
        name: _read_texts(attributes.get(name), rows) for name in ITEM_FIELDS
    }
    other_texts = [
        _read_texts(column, rows)
        for name, column in sorted(attributes.items())
        if name not in ITEM_FIELDS and isinstance(column, TextColumn)
    ]
    fields["text"] = (
        [" ".join(filter(None, item_texts)) for item_texts in zip(*other_texts, strict=True)]
        if other_texts
        else [""] * rows.size
    )
    return fields


def _read_texts(column: Column | None, rows: npt.NDArray[np.intp]) -> list[str]:
    if not isinstance(column, TextColumn):
        return [""] * rows.size
    values = (*column.values, "")  # Code -1 selects the last value.
    return [values[code].replace("|", " ") for code in column.codes[rows].tolist()]
