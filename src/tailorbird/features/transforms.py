"""What a model sees of a column, declared beside the features: learned on the training window and
kept in the bundle.

    transform("price", log(), clip(), impute("median"), indicator=True)
    transform("category")
    transform("category", target("click", smoothing=50))

A column that no transform names is taken as the model's preset takes it. One that is named is taken
as its transforms say, and not otherwise: each gives a column of the matrix. Transforms are no part
of the schema: they decide nothing about records, and a bundle carries its own. They are learned in
`training.transforms` and applied, in training and at a request alike, by `ranking.transforms`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, get_args

from tailorbird.errors import DeclarationError
from tailorbird.events.clock import SECOND
from tailorbird.features.checks import check_name, declaration_error
from tailorbird.features.declare import RESERVED

NUMBER, KEY, CODE = "a number", "a category", "a code"
CODES_MAX = (1 << 24) - 2  # float32 holds every whole number up to here
HASHED_MIN = 5  # training rows of a bucket for it to have a code
TABLE_MAX = 1_000_000
BINS_MAX = 10_000
LARGEST = 3.4028234663852886e38  # of float32
_GIVEN = {"numeric": NUMBER, "categorical": KEY}
How = Literal["mean", "median", "mode", "constant"]
HOW = get_args(How)

_collector: ContextVar["list[Transform] | None"] = ContextVar("transforms", default=None)


@dataclass(frozen=True)
class Step:
    """One step of a transform: what it `takes` and `gives`."""

    takes = NUMBER
    gives = NUMBER
    called = ""  # where its call is not called as it is


@dataclass(frozen=True)
class LogStep(Step):
    pass


@dataclass(frozen=True)
class ClipStep(Step):
    """To constants where given, else to the quantiles of the training rows."""

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
    called = "ranks"


@dataclass(frozen=True)
class ImputeStep(Step):
    """Of numbers, or of categories (`mode` and a constant text)."""

    how: str
    value: float | str | None


@dataclass(frozen=True)
class Table(Step):
    """A step that learns something for each value that is frequent enough; the others are unknown."""

    count_min: int
    size_max: int
    takes = KEY


@dataclass(frozen=True)
class VocabularyStep(Table):
    gives = CODE


@dataclass(frozen=True)
class FrequencyStep(Table):
    pass


@dataclass(frozen=True)
class TargetStep(Table):
    head: str
    smoothing: float


@dataclass(frozen=True)
class HashingStep(Step):
    buckets: int
    takes = KEY
    gives = CODE


@dataclass(frozen=True)
class VectorsStep(Step):
    """A vector for each text, from elsewhere, that was learned until `trained_until`
    (microseconds).
    """

    texts: tuple[str, ...] = field(repr=False)
    rows: tuple[tuple[float, ...], ...] = field(repr=False)
    trained_until: int
    takes = KEY


@dataclass(frozen=True)
class Transform:
    """A column of the feature set, the steps in order, and what the columns of the matrix are
    called.

    Attributes:
        column: of the feature set.
        name: of the matrix's column; of vectors, what stands before `_0`, `_1` …
        indicator: whether `{name}_missing` is added: 1 where the feature is missing, else 0.
        place: file and line.
    """

    column: str
    steps: tuple[Step, ...] = ()
    indicator: bool = False
    name: str = ""
    place: str = field(default="", compare=False)

    @property
    def heads(self) -> tuple[str, ...]:
        """The targets that it learns from."""
        return tuple(step.head for step in self.steps if isinstance(step, TargetStep))

    @property
    def output(self) -> str:
        """What its column is called: the feature's name, with what was made of it where that is no
        longer the feature itself.
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
        vectors = next((step for step in self.steps if isinstance(step, VectorsStep)), None)
        own = (
            tuple(f"{self.output}_{place}" for place in range(len(vectors.rows[0])))
            if vectors
            else (self.output,)
        )
        return (*own, f"{self.output}_missing") if self.indicator else own


def transform(column: str, *steps: Step, indicator: bool = False, name: str = "") -> Transform:
    """How a model sees a column. Several transforms of a column give several columns of the matrix;
    one without steps takes it as it is.

    Args:
        column: a feature, numeric or categorical.
        steps: applied in this order.
        indicator: adds a column that is 1 where the feature is missing, else 0.
        name: of the column of the matrix; by default the feature's, or `category_target_click`,
            `category_frequency`, `category_hash`.
    """
    _, place = check_name(column)
    if name:
        check_name(name)
    if strange := [step for step in steps if not isinstance(step, Step)]:
        raise declaration_error(f"{column}: {strange[0]!r} is no step", fix="call it: log(), not log")
    made = Transform(column, tuple(steps), bool(indicator), name, place)
    declared = _collector.get()
    if declared is not None:
        declared.append(made)
    return made


def log() -> LogStep:
    """sign(x) · ln(1 + |x|): draws in what is spread over many sizes, such as counts and prices; 0
    stays 0.
    """
    return LogStep()


def clip(
    low: float | None = None,
    high: float | None = None,
    *,
    quantiles: tuple[float, float] = (0.01, 0.99),
) -> ClipStep:
    """Bring what lies outside to the border.

    Args:
        low, high: constant borders; one that is not given is the quantile of the training rows.
        quantiles: which ones.
    """
    for border in (low, high):
        if border is not None and not _finite(border):
            raise declaration_error(f"clip: expected a number, got {border!r}")
    if low is not None and high is not None and low > high:
        raise declaration_error(f"clip: expected low <= high, got {low:g} and {high:g}")
    ends = tuple(quantiles)
    if len(ends) != 2 or not all(_finite(end) for end in ends) or not 0 <= ends[0] < ends[1] <= 1:
        raise declaration_error(f"clip: expected quantiles 0 <= low < high <= 1, got {quantiles!r}")
    return ClipStep(
        None if low is None else float(low),
        None if high is None else float(high),
        (float(ends[0]), float(ends[1])),
    )


def standardise() -> StandardiseStep:
    """(x − mean) / standard deviation of the training rows; a column that never changes becomes 0."""
    return StandardiseStep()


def ranks(bins: int = 100, *, normal: bool = False) -> QuantileStep:
    """The rank among the training rows, in [0, 1]: between cut points at every 1/`bins` of the rows
    it is linear.

    Args:
        bins: how many; a cut point more is kept.
        normal: the normal score of the rank instead, as if the column were N(0, 1), cut off at the
            rank of half a bin.
    """
    if not _whole(bins, 2, BINS_MAX):
        raise declaration_error(f"ranks: expected 2 to {BINS_MAX} bins, got {bins!r}")
    return QuantileStep(bins, bool(normal))


def impute(how: How, value: float | str | None = None) -> ImputeStep:
    """Fill in what is missing, by the mean, median or mode of the training rows, or a constant.

    Args:
        how: `mean`, `median` or `mode` (of equally frequent values the smallest) or `constant`. Of
            a category: `mode` or `constant`.
        value: the constant: a number, or the text of a category.
    """
    if how not in HOW:
        raise declaration_error(f"impute: expected one of {', '.join(HOW)}, got {how!r}")
    if how != "constant" and value is not None:
        raise declaration_error(f"impute: {how} takes no value", fix='impute("constant", 0)')
    if how == "constant" and not (_finite(value) or (isinstance(value, str) and value)):
        raise declaration_error(
            f"impute: a constant needs a number or a text, got {value!r}",
            fix='impute("constant", 0)',
        )
    return ImputeStep(how, float(value) if isinstance(value, int) else value)


def vocabulary(*, count_min: int = 5, size_max: int = 100_000) -> VocabularyStep:
    """Codes of the values that were seen: 0 missing, 1 unknown, 2, 3, … by frequency. What an
    embedding is looked up by.

    Args:
        count_min: a value seen less often is unknown, so that the model learns what unknown means.
        size_max: the most values, the most frequent ones.
    """
    return VocabularyStep(*_sized("vocabulary", count_min, size_max, CODES_MAX))


def hashing(buckets: int = 1_024) -> HashingStep:
    """Codes for values without end: 0 missing, 2 + key mod `buckets`, where the key is the 64-bit
    BLAKE2 hash of the text.

    Values that fall into one bucket are one. A bucket that fewer than 5 training rows fell into is
    unknown, 1: a model would say of it what it learned from next to nothing.
    """
    if not _whole(buckets, 2, CODES_MAX - 2):
        raise declaration_error(f"hashing: expected 2 to {CODES_MAX - 2:,} buckets, got {buckets!r}")
    return HashingStep(buckets)


def frequency(*, count_min: int = 1, size_max: int = 100_000) -> FrequencyStep:
    """The value's share of the training rows; 0 for one that is unknown, missing for what is
    missing.
    """
    return FrequencyStep(*_sized("frequency", count_min, size_max, TABLE_MAX))


def target(
    head: str, *, smoothing: float = 20.0, count_min: int = 1, size_max: int = 100_000
) -> TargetStep:
    """How often rows with this value led to `head`, drawn towards the mean of all: (hits + s ·
    mean) / (rows + s).

    A training row at t is given what the rows say whose label was known before t, so never its own
    and never a later one; missing until there is any. Serving, validation and test get the table at
    the end of the training window. Missing is a value of its own.

    Args:
        head: a target of a slot, such as `click`.
        smoothing: s: as many rows as the mean weighs. count_min, size_max: a value seen less often,
        or beyond the most frequent ones, is unknown and gets the mean.
    """
    if not isinstance(head, str) or not head:
        raise declaration_error(f"target: expected the name of a head such as 'click', got {head!r}")
    if not _finite(smoothing) or smoothing < 0:
        raise declaration_error(f"target: expected smoothing >= 0, got {smoothing!r}")
    return TargetStep(*_sized("target", count_min, size_max, TABLE_MAX), head, float(smoothing))


def vectors(table: dict[str, Sequence[float]], *, trained_until: int) -> VectorsStep:
    """The vector of each value, one column of the matrix for each of its numbers; missing where
    there is none.

    Args:
        table: text → vector, all of one length.
        trained_until: seconds since 1970: what the vectors were learned from lies before. Training
            rows must not be older.
    """
    try:
        rows = tuple(tuple(float(number) for number in row) for row in table.values())
    except (TypeError, ValueError, AttributeError):
        raise declaration_error("vectors: expected text → a list of numbers") from None
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise declaration_error("vectors: expected at least one vector, and all of one length")
    if not all(_finite(number) for row in rows for number in row):
        raise declaration_error("vectors: expected finite numbers")
    if len(rows) * len(rows[0]) > TABLE_MAX:
        raise declaration_error(
            f"vectors: {len(rows):,} of {len(rows[0])} numbers are more than {TABLE_MAX:,}",
            fix="keep the frequent values",
        )
    if not isinstance(trained_until, int) or not 0 <= trained_until < 1 << 40:
        raise declaration_error(f"vectors: expected trained_until in seconds since 1970, got {trained_until!r}")
    return VectorsStep(tuple(map(str, table)), rows, trained_until * SECOND)


@contextmanager
def collecting_transforms() -> Iterator[list[Transform]]:
    """Collect, in order, every transform declared within the block."""
    declared: list[Transform] = []
    token = _collector.set(declared)
    try:
        yield declared
    finally:
        _collector.reset(token)


def check_transforms(transforms: Sequence[Transform], kinds: dict[str, str]) -> None:
    """That each names a column, takes what the step before gives, and that no two columns of the
    matrix are called alike.

    Args:
        kinds: column → numeric, categorical or sequence.
    Raises:
        DeclarationError: names the line.
    """
    transformed = {one.column for one in transforms}
    taken = dict.fromkeys(RESERVED, "") | {name: "" for name in kinds if name not in transformed}
    for one in transforms:
        kind = kinds.get(one.column)
        if kind is None:
            near = ", ".join(sorted(name for name, kind in kinds.items() if kind in _GIVEN))
            raise DeclarationError(
                f"transform: there is no column {one.column!r}",
                where=one.place,
                fix=f"columns: {near}",
            )
        if kind not in _GIVEN:
            raise DeclarationError(
                f"transform: {one.column} is a {kind}, which no step takes", where=one.place
            )
        _check_chain(one, _GIVEN[kind])
        for name in one.outputs:
            if name in taken:
                told = f", as at {taken[name]}" if taken[name] else ", as a feature is"
                told = ", as one of every model is" if name in RESERVED else told
                raise DeclarationError(
                    f"transform: a column of the matrix is called {name}{told}",
                    where=one.place,
                    fix="give it a name=",
                )
            taken[name] = one.place


def check_heads(transforms: Iterable[Transform], heads: Iterable[str]) -> None:
    """That what transforms learn from are targets.

    Raises:
        DeclarationError: names the line.
    """
    known = sorted(set(heads))
    for one in transforms:
        for head in one.heads:
            if head not in known:
                message = f"transform: {head!r} is no head of any slot's objective"
                raise DeclarationError(
                    message, where=one.place, fix=f"use one of {', '.join(known)}"
                )


def _check_chain(one: Transform, given: str) -> None:
    for step in one.steps:
        called = step.called or type(step).__name__.removesuffix("Step").lower()
        takes = given if isinstance(step, ImputeStep) and given != CODE else step.takes
        if takes != given:
            if given == KEY:
                fix = "put frequency() or target(HEAD) before it"
            else:
                fix = (
                    "declare it with kind='categorical'"
                    if takes == KEY
                    else "leave it out, or put it before"
                )
            raise DeclarationError(
                f"transform: {called} takes {takes}, and {one.column} is {given} there",
                where=one.place,
                fix=fix,
            )
        if isinstance(step, ImputeStep):
            _check_impute(one, step, given)
        else:
            given = step.gives


def _check_impute(one: Transform, step: ImputeStep, given: str) -> None:
    if given == KEY and step.how not in ("mode", "constant"):
        raise DeclarationError(
            f"transform: a category has no {step.how}",
            where=one.place,
            fix='impute("mode") or impute("constant", TEXT)',
        )
    if step.how == "constant" and isinstance(step.value, str) != (given == KEY):
        wanted = "a text" if given == KEY else "a number"
        raise DeclarationError(
            f"transform: expected {wanted} for {one.column}, got {step.value!r}", where=one.place
        )


def _sized(called: str, count_min: int, size_max: int, most: int) -> tuple[int, int]:
    if not _whole(count_min, 1, 1 << 40):
        raise declaration_error(f"{called}: expected count_min of at least 1, got {count_min!r}")
    if not _whole(size_max, 1, most):
        raise declaration_error(f"{called}: expected size_max of 1 to {most:,}, got {size_max!r}")
    return count_min, size_max


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
