"""Steps of a transform, as plain values."""

from dataclasses import dataclass, field
from typing import Literal

# Kinds of a step's input and output: a key is a category's hash, a code an index for embeddings.
NUMBER = "a number"
KEY = "a category"
CODE = "a code"

FLOAT32_MAX = 3.4028234663852886e38  # largest float32

ImputeHow = Literal["mean", "median", "mode", "constant"]


@dataclass(frozen=True)
class Step:
    """One step of a transform, with the kinds of its input and output."""

    input_kind = NUMBER
    output_kind = NUMBER
    call_name = ""  # if it differs from the class name


@dataclass(frozen=True)
class LogStep(Step):
    pass


@dataclass(frozen=True)
class ClipStep(Step):
    """Clips to constants where given, else to quantiles of the training rows."""

    low: float | None
    high: float | None
    quantiles: tuple[float, float]


@dataclass(frozen=True)
class StandardiseStep(Step):
    pass


@dataclass(frozen=True)
class QuantileStep(Step):
    bins: int
    normal: bool
    call_name = "ranks"


@dataclass(frozen=True)
class ImputeStep(Step):
    """Fills in numbers, or categories (`mode` and a constant text)."""

    how: str
    value: float | str | None


@dataclass(frozen=True)
class TableStep(Step):
    """A step that learns something for each frequent value; other values are unknown."""

    count_min: int
    size_max: int
    input_kind = KEY


@dataclass(frozen=True)
class VocabularyStep(TableStep):
    output_kind = CODE


@dataclass(frozen=True)
class FrequencyStep(TableStep):
    pass


@dataclass(frozen=True)
class TargetStep(TableStep):
    head: str
    smoothing: float


@dataclass(frozen=True)
class HashingStep(Step):
    buckets: int
    input_kind = KEY
    output_kind = CODE


@dataclass(frozen=True)
class VectorsStep(Step):
    """An external vector for each text, learned from data before `trained_until` (microseconds).

    `rows` are the vectors.
    """

    texts: tuple[str, ...] = field(repr=False)
    rows: tuple[tuple[float, ...], ...] = field(repr=False)
    trained_until: int
    input_kind = KEY
