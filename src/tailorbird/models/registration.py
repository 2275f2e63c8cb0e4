"""How a project's `models.py` marks its estimators; a server imports this and no more of models."""

from collections.abc import Callable
from typing import TypeVar

Family = TypeVar("Family", bound=type)
ESTIMATOR_NAME = "estimator_name"  # attribute of a registered class


def register(name: str) -> Callable[[Family], Family]:
    """Mark a class of a project's `models.py` as an estimator with this name.

        @tb.models.register("recency")
        class Recency: ...

    `docs/how-to/own-models.md` lists the methods that it needs.
    """

    def mark(family: Family) -> Family:
        setattr(family, ESTIMATOR_NAME, name)
        return family

    return mark
