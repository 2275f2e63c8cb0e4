"""Dimensions of a search space: what `tune` may try for each setting of a model."""

import msgspec

Value = str | int | float | bool


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers from `low` to `high`, inclusive; with `log` drawn uniformly on a log scale."""

    low: float
    high: float
    log: bool = False


class Choices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several values."""

    choices: tuple[str | int | float | bool, ...]
