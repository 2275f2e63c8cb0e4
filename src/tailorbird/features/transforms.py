"""Transforms of columns for models, declared beside the features, learned in training.

    transform("price", log(), clip(), impute("median"), indicator=True)
    transform("category")
    transform("category", target("click", smoothing=50))

A column without a transform is handled by the model's preset. A column with transforms is handled
by these alone: each gives a column of the matrix. Transforms are no part of the schema: they do not
affect records, and a bundle carries its own. `training.fit.transforms` learns them, and
`ranking.encode.transforms` applies them, in training and at a request alike.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import get_args

from tailorbird.events.clock import SECOND
from tailorbird.features.declare.checks import check_name, declaration_error
from tailorbird.features.transform_steps import (
    FLOAT32_MAX,
    ClipStep,
    FrequencyStep,
    HashingStep,
    ImputeHow,
    ImputeStep,
    LogStep,
    QuantileStep,
    StandardiseStep,
    Step,
    TargetStep,
    VectorsStep,
    VocabularyStep,
)

CODES_MAX = (1 << 24) - 2  # float32 represents every integer up to here
BUCKET_ROWS_MIN = 5  # training rows that a bucket needs for a code
TABLE_SIZE_MAX = 1_000_000
BINS_MAX = 10_000
IMPUTE_HOWS = get_args(ImputeHow)

_collected_transforms: ContextVar["list[Transform] | None"] = ContextVar("transforms", default=None)


@dataclass(frozen=True)
class Transform:
    """A column of the feature set, the steps in order, and the names of the matrix's columns.

    Attributes:
        column: of the feature set.
        name: of the matrix's column; of vectors, the prefix of `_0`, `_1` …
        indicator: whether `{name}_missing` is added: 1 where the feature is missing, else 0.
        location: file and line.
    """

    column: str
    steps: tuple[Step, ...] = ()
    indicator: bool = False
    name: str = ""
    location: str = field(default="", compare=False)

    @property
    def heads(self) -> tuple[str, ...]:
        """The targets that it learns from."""
        return tuple(step.head for step in self.steps if isinstance(step, TargetStep))

    @property
    def output(self) -> str:
        """The name of its column: the feature's, with a suffix where it is no longer the feature
        itself.
        """
        if self.name:
            return self.name
        for step in self.steps:
            if isinstance(step, TargetStep):
                return f"{self.column}_target_{step.head}"
            if isinstance(step, FrequencyStep):
                return f"{self.column}_frequency"
            if isinstance(step, HashingStep):
                return f"{self.column}_hash"
            if isinstance(step, VectorsStep):
                return f"{self.column}_vector"
        return self.column

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the matrix's columns that it gives."""
        vectors_step = next((step for step in self.steps if isinstance(step, VectorsStep)), None)
        own_outputs = (
            tuple(f"{self.output}_{index}" for index in range(len(vectors_step.rows[0])))
            if vectors_step
            else (self.output,)
        )
        return (*own_outputs, f"{self.output}_missing") if self.indicator else own_outputs


def transform(column: str, *steps: Step, indicator: bool = False, name: str = "") -> Transform:
    """Declare how a model sees a column.

    Several transforms of a column give several columns of the matrix; one without steps passes it
    through.

    Args:
        column: a feature, numeric or categorical.
        steps: applied in this order.
        indicator: adds a column that is 1 where the feature is missing, else 0.
        name: of the column of the matrix; by default the feature's, or `category_target_click`,
            `category_frequency`, `category_hash`.
    """
    _, location = check_name(column)
    if name:
        check_name(name)
    if invalid_steps := [step for step in steps if not isinstance(step, Step)]:
        raise declaration_error(
            f"{column}: {invalid_steps[0]!r} is no step", fix="call it: log(), not log"
        )
    transform_ = Transform(column, tuple(steps), bool(indicator), name, location)
    declared = _collected_transforms.get()
    if declared is not None:
        declared.append(transform_)
    return transform_


def log() -> LogStep:
    """Apply sign(x) · ln(1 + |x|), which compresses heavy tails such as counts and prices; 0 stays
    0.
    """
    return LogStep()


def clip(
    low: float | None = None,
    high: float | None = None,
    *,
    quantiles: tuple[float, float] = (0.01, 0.99),
) -> ClipStep:
    """Clip values to bounds.

    Args:
        low, high: constant bounds; by default quantiles of the training rows.
        quantiles: which ones.
    """
    for bound in (low, high):
        if bound is not None and not _is_finite(bound):
            raise declaration_error(f"clip: expected a number, got {bound!r}")
    if low is not None and high is not None and low > high:
        raise declaration_error(f"clip: expected low <= high, got {low:g} and {high:g}")
    quantile_bounds = tuple(quantiles)
    if (
        len(quantile_bounds) != 2
        or not all(_is_finite(quantile) for quantile in quantile_bounds)
        or not 0 <= quantile_bounds[0] < quantile_bounds[1] <= 1
    ):
        raise declaration_error(f"clip: expected quantiles 0 <= low < high <= 1, got {quantiles!r}")
    return ClipStep(
        None if low is None else float(low),
        None if high is None else float(high),
        (float(quantile_bounds[0]), float(quantile_bounds[1])),
    )


def standardise() -> StandardiseStep:
    """Apply (x − mean) / standard deviation of the training rows; a constant column becomes 0."""
    return StandardiseStep()


def ranks(bins: int = 100, *, normal: bool = False) -> QuantileStep:
    """Replace a value by its rank among the training rows, in [0, 1], linear between cut points.

    Args:
        bins: number of bins; there is one more cut point.
        normal: use the normal score of the rank instead, as if the column were N(0, 1), clipped at
            the rank of half a bin.
    """
    if not _is_integer(bins, 2, BINS_MAX):
        raise declaration_error(f"ranks: expected 2 to {BINS_MAX} bins, got {bins!r}")
    return QuantileStep(bins, bool(normal))


def impute(how: ImputeHow, value: float | str | None = None) -> ImputeStep:
    """Fill in missing values by the mean, median or mode of the training rows, or a constant.

    Args:
        how: `mean`, `median` or `mode` (of equally frequent values the smallest) or `constant`. Of
            a category: `mode` or `constant`.
        value: the constant: a number, or the text of a category.
    """
    if how not in IMPUTE_HOWS:
        raise declaration_error(f"impute: expected one of {', '.join(IMPUTE_HOWS)}, got {how!r}")
    if how != "constant" and value is not None:
        raise declaration_error(f"impute: {how} takes no value", fix='impute("constant", 0)')
    if how == "constant" and not (_is_finite(value) or (isinstance(value, str) and value)):
        raise declaration_error(
            f"impute: a constant needs a number or a text, got {value!r}",
            fix='impute("constant", 0)',
        )
    return ImputeStep(how, float(value) if isinstance(value, int) else value)


def vocabulary(*, count_min: int = 5, size_max: int = 100_000) -> VocabularyStep:
    """Encode values as 0 missing, 1 unknown, 2, 3, … by frequency, for an embedding.

    Args:
        count_min: rarer values are unknown, so that the model learns what unknown means.
        size_max: the number of values, the most frequent ones.
    """
    return VocabularyStep(*_check_sizes("vocabulary", count_min, size_max, CODES_MAX))


def hashing(buckets: int = 1_024) -> HashingStep:
    """Encode values as 0 missing, 2 + key mod `buckets`, where the key is the text's 64-bit BLAKE2
    hash.

    Values in one bucket are not distinguished. A bucket with fewer than 5 training rows is unknown,
    1, since a model cannot learn from so few.
    """
    if not _is_integer(buckets, 2, CODES_MAX - 2):
        raise declaration_error(
            f"hashing: expected 2 to {CODES_MAX - 2:,} buckets, got {buckets!r}"
        )
    return HashingStep(buckets)


def frequency(*, count_min: int = 1, size_max: int = 100_000) -> FrequencyStep:
    """Replace a value by its share of the training rows; 0 if unknown, missing if missing."""
    return FrequencyStep(*_check_sizes("frequency", count_min, size_max, TABLE_SIZE_MAX))


def target(
    head: str, *, smoothing: float = 20.0, count_min: int = 1, size_max: int = 100_000
) -> TargetStep:
    """Replace a value by its smoothed rate of `head`: (hits + s · mean) / (rows + s).

    A training row at t uses only rows whose label was known before t, so never its own or a later
    one; it is missing until there are any. Serving, validation and test use the table at the end of
    the training window. Missing is a value of its own.

    Args:
        head: a target of a slot, such as `click`.
        smoothing: s, the weight of the mean in rows.
        count_min, size_max: rarer values, or those beyond the most frequent ones, are unknown and
            get the mean.
    """
    if not isinstance(head, str) or not head:
        raise declaration_error(
            f"target: expected the name of a head such as 'click', got {head!r}"
        )
    if not _is_finite(smoothing) or smoothing < 0:
        raise declaration_error(f"target: expected smoothing >= 0, got {smoothing!r}")
    return TargetStep(
        *_check_sizes("target", count_min, size_max, TABLE_SIZE_MAX), head, float(smoothing)
    )


def vectors(table: dict[str, Sequence[float]], *, trained_until: int) -> VectorsStep:
    """Replace a value by its vector, one column of the matrix per number; missing without a vector.

    Args:
        table: text → vector, all of one length.
        trained_until: seconds since 1970: the vectors were learned from earlier data. Training rows
            must not be older.
    """
    try:
        rows = tuple(tuple(float(number) for number in row) for row in table.values())
    except (TypeError, ValueError, AttributeError):
        raise declaration_error("vectors: expected text → a list of numbers") from None
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise declaration_error("vectors: expected at least one vector, and all of one length")
    if not all(_is_finite(number) for row in rows for number in row):
        raise declaration_error("vectors: expected finite numbers")
    if len(rows) * len(rows[0]) > TABLE_SIZE_MAX:
        raise declaration_error(
            f"vectors: {len(rows):,} of {len(rows[0])} numbers are more than {TABLE_SIZE_MAX:,}",
            fix="keep the frequent values",
        )
    if not isinstance(trained_until, int) or not 0 <= trained_until < 1 << 40:
        raise declaration_error(
            f"vectors: expected trained_until in seconds since 1970, got {trained_until!r}"
        )
    return VectorsStep(tuple(map(str, table)), rows, trained_until * SECOND)


@contextmanager
def collect_transforms() -> Iterator[list[Transform]]:
    """Collect, in order, every transform declared within the block."""
    declared: list[Transform] = []
    token = _collected_transforms.set(declared)
    try:
        yield declared
    finally:
        _collected_transforms.reset(token)


def _check_sizes(call_name: str, count_min: int, size_max: int, limit: int) -> tuple[int, int]:
    if not _is_integer(count_min, 1, 1 << 40):
        raise declaration_error(f"{call_name}: expected count_min of at least 1, got {count_min!r}")
    if not _is_integer(size_max, 1, limit):
        raise declaration_error(
            f"{call_name}: expected size_max of 1 to {limit:,}, got {size_max!r}"
        )
    return count_min, size_max


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_finite(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32_MAX
    )
