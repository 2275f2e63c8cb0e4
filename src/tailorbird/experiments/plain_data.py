"""Reports as plain data, which JSON can hold."""

import math
from typing import Any


def replace_not_finite(value: Any) -> Any:
    """Return plain data with None for what is not finite, and lists for tuples."""
    match value:
        case dict():
            return {name: replace_not_finite(entry) for name, entry in value.items()}
        case list() | tuple():
            return [replace_not_finite(entry) for entry in value]
        case float():
            return float(value) if math.isfinite(value) else None
        case _:
            return value
