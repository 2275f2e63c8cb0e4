"""Transform steps as a bundle stores them: plain tables and numbers, and their application.

    numeric steps      number → number    log, clip, standardise, quantile, fill
    first of a category   key → code      vocabulary, hashing
                          key → number    frequency, target, vectors
    missing            number or key → 0 or 1

Steps look at each value alone and use + − × ÷, comparisons and tables, so a row comes out bit for
bit the same however many are transformed at once, and on any CPU; the logarithm is a series for
that reason. How steps make a column: `ranking.encode.transforms`.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.features.expr.series import log1p

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

MISSING = 0
UNKNOWN = 1
FLOAT32_MAX = float(np.finfo(np.float32).max)


class NumericStep(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", dict=True
):
    """A step from numbers to numbers of the same shape."""

    def apply(self, x: Floats) -> Floats:
        """Apply the step; NaN stays NaN unless a step says otherwise."""
        raise NotImplementedError

    def describe(self) -> str:
        """Describe the step, for cards and reports."""
        raise NotImplementedError


class KeyStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", dict=True):
    """A step from keys (n,) to numbers (n,), or (n, width) for vectors."""

    @property
    def returns_codes(self) -> bool:
        """True if the numbers are codes."""
        return False

    def apply(self, keys: Keys) -> Floats:
        raise NotImplementedError

    def describe(self) -> str:
        """Describe the step, for cards and reports."""
        raise NotImplementedError


class Log(NumericStep, frozen=True, tag="log"):
    """Signed logarithm: sign(x) · ln(1 + |x|)."""

    def apply(self, x: Floats) -> Floats:
        return np.copysign(log1p(np.abs(x)), x)

    def describe(self) -> str:
        return "log"


class Clip(NumericStep, frozen=True, tag="clip"):
    low: float
    high: float

    def __post_init__(self) -> None:
        require_valid(self.low <= self.high, "a clip whose borders do not ascend")

    def apply(self, x: Floats) -> Floats:
        return np.minimum(np.maximum(x, self.low), self.high)

    def describe(self) -> str:
        return f"clip to [{self.low:g}, {self.high:g}]"


class Standardise(NumericStep, frozen=True, tag="standardise"):
    mean: float
    std: float

    def __post_init__(self) -> None:
        require_valid(
            math.isfinite(self.mean) and 0 < self.std < math.inf,
            "a standard deviation that is not above 0",
        )

    def apply(self, x: Floats) -> Floats:
        return (x - self.mean) / self.std

    def describe(self) -> str:
        return f"standardise (mean {self.mean:.4g}, deviation {self.std:.4g})"


class Quantile(NumericStep, frozen=True, tag="quantile"):
    """A quantile transform: `cuts` ascending, and the value at each.

    Linear between cuts. On equal cuts: the mean of the first's and the last's value. With
    `normal`, the values are normal scores instead of ranks from 0 to 1.
    """

    cuts: list[float]
    values: list[float]
    normal: bool = False

    def __post_init__(self) -> None:
        is_ascending = bool(np.all(np.diff(self.cuts) >= 0) and np.all(np.diff(self.values) >= 0))
        require_valid(
            len(self.cuts) == len(self.values) >= 2 and is_ascending,
            "cut points that do not ascend",
        )

    @cached_property
    def tables(self) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Cuts, and per number of cuts below x: segment start, value, slope, value at the cut."""
        cuts = np.array(self.cuts)
        values = np.array(self.values)
        segment_start = np.concatenate((cuts[:1], cuts))
        value = np.concatenate((values[:1], values))
        width = np.diff(cuts)
        slope = np.divide(np.diff(values), width, out=np.zeros(width.shape), where=width > 0)
        last_equal_cut = np.searchsorted(cuts, cuts, side="right") - 1
        value_at_cut = np.where(cuts == cuts[-1], values[-1], (values + values[last_equal_cut]) / 2)
        value_at_cut = np.where(cuts == cuts[0], values[0], value_at_cut)
        return (
            cuts,
            segment_start,
            value,
            np.concatenate(([0.0], slope, [0.0])),
            np.append(value_at_cut, values[-1]),
        )

    def apply(self, x: Floats) -> Floats:
        cuts, segment_start, value, slope, value_at_cut = self.tables
        cuts_below = np.searchsorted(cuts, x)
        interpolated = value[cuts_below] + (x - segment_start[cuts_below]) * slope[cuts_below]
        return np.where(
            x == cuts[np.minimum(cuts_below, len(cuts) - 1)], value_at_cut[cuts_below], interpolated
        )

    def describe(self) -> str:
        return f"{'normal score of the ' if self.normal else ''}rank in {len(self.cuts) - 1} bins"


class Fill(NumericStep, frozen=True, tag="fill"):
    """A number that replaces missing values; `how` names the statistic, such as the median."""

    value: float
    how: str

    def apply(self, x: Floats) -> Floats:
        return np.where(np.isnan(x), self.value, x)

    def describe(self) -> str:
        return f"missing is the {self.how} {self.value:.4g}"


class FillKey(KeyStep, frozen=True, tag="fill_key"):
    """A key that replaces missing values; comes before the step that makes numbers."""

    key: int
    how: str

    def __post_init__(self) -> None:
        require_valid(0 <= self.key < 1 << 64, "a key that is none")

    def fill(self, keys: Keys) -> Keys:
        return np.where(keys == 0, np.uint64(self.key), keys)

    def describe(self) -> str:
        return f"missing is the {self.how}"


class LookupTable(KeyStep, frozen=True):
    """A step with a table of keys.

    The key at position i has the number at position i of `numbers`.
    """

    keys: list[int]

    def __post_init__(self) -> None:
        require_valid(
            len(set(self.keys)) == len(self.keys) == len(self.numbers),
            "a table whose keys and numbers do not match",
        )
        require_valid(all(0 <= key < 1 << 64 for key in self.keys), "a key that is none")

    @property
    def numbers(self) -> Sequence[float]:
        raise NotImplementedError

    @cached_property
    def _sorted_table(self) -> tuple[Keys, Floats]:
        keys = np.array(self.keys, np.uint64)
        order = np.argsort(keys)
        return keys[order], np.array(self.numbers, np.float64)[order]

    def lookup(self, keys: Keys, unknown: float) -> Floats:
        sorted_keys, numbers = self._sorted_table
        if not sorted_keys.size:
            return np.full(keys.shape, unknown)
        positions = np.minimum(np.searchsorted(sorted_keys, keys), sorted_keys.size - 1)
        return np.where(sorted_keys[positions] == keys, numbers[positions], unknown)


class Codes(LookupTable, frozen=True, tag="vocabulary"):
    """A vocabulary: the key at position i has the code i + 2."""

    @property
    def returns_codes(self) -> bool:
        return True

    @property
    def numbers(self) -> Sequence[float]:
        return range(2, len(self.keys) + 2)

    @property
    def size(self) -> int:
        """The number of codes, missing and unknown included."""
        return len(self.keys) + 2

    def apply(self, keys: Keys) -> Floats:
        return np.where(keys == 0, float(MISSING), self.lookup(keys, float(UNKNOWN)))

    def describe(self) -> str:
        return f"codes of {len(self.keys):,} values"


class Hashed(KeyStep, frozen=True, tag="hashing"):
    """Feature hashing: 2 + key mod buckets; 0 is missing, 1 is unknown.

    Attributes:
        seen: buckets that training learned something of; what falls into another one is unknown.
            None, as in bundles from before there was a list: all.
    """

    buckets: int
    seen: list[int] | None = None

    def __post_init__(self) -> None:
        require_valid(2 <= self.buckets < 1 << 24, "hashing without buckets")
        require_valid(
            all(0 <= bucket < self.buckets for bucket in self.seen or ()),
            "hashing that has seen a bucket that there is not",
        )

    @cached_property
    def _code_by_bucket(self) -> Floats:
        """The code of each bucket."""
        codes = np.arange(2.0, self.buckets + 2.0)
        if self.seen is not None:
            is_seen = np.zeros(self.buckets, bool)
            is_seen[self.seen] = True
            codes[~is_seen] = UNKNOWN
        return codes

    @property
    def returns_codes(self) -> bool:
        return True

    @property
    def size(self) -> int:
        return self.buckets + 2

    def apply(self, keys: Keys) -> Floats:
        return np.where(
            keys == 0,
            float(MISSING),
            self._code_by_bucket[(keys % np.uint64(self.buckets)).astype(np.intp)],
        )

    def describe(self) -> str:
        seen_note = "" if self.seen is None else f"; {len(self.seen):,} are known"
        return f"codes of {self.buckets:,} hash buckets{seen_note}"


class Frequency(LookupTable, frozen=True, tag="frequency"):
    """The share of training rows by key."""

    shares: list[float]

    @property
    def numbers(self) -> Sequence[float]:
        return self.shares

    def apply(self, keys: Keys) -> Floats:
        return np.where(keys == 0, np.nan, self.lookup(keys, 0.0))

    def describe(self) -> str:
        return f"share of rows, of {len(self.keys):,} values"


class TargetEncoding(LookupTable, frozen=True, tag="target"):
    """A target encoding: the rate of `head` by key.

    Key 0, missing, is a key like any other. Unknown keys get the overall mean.
    """

    rates: list[float]
    mean: float
    head: str
    smoothing: float

    def __post_init__(self) -> None:
        LookupTable.__post_init__(self)
        require_valid(
            all(0 <= rate <= 1 for rate in (self.mean, *self.rates)), "a rate outside 0 to 1"
        )

    @property
    def numbers(self) -> Sequence[float]:
        return self.rates

    def apply(self, keys: Keys) -> Floats:
        return self.lookup(keys, self.mean)

    def describe(self) -> str:
        return (
            f"rate of {self.head} by {len(self.keys):,} values, drawn to the mean "
            f"{self.mean:.4g} by {self.smoothing:g} rows"
        )


class Vectors(LookupTable, frozen=True, tag="vectors"):
    """A vector by key, as concatenated rows; unknown keys have none."""

    width: int
    flat: list[float]
    trained_until: int

    def __post_init__(self) -> None:
        LookupTable.__post_init__(self)
        require_valid(
            self.width >= 1 and len(self.flat) == self.width * len(self.keys),
            "vectors of several lengths",
        )

    @property
    def numbers(self) -> Sequence[float]:
        return range(len(self.keys))

    @cached_property
    def _rows(self) -> Floats:
        unknown_row = np.full((1, self.width), np.nan)  # the last row is for unknown keys
        return np.concatenate(
            [np.array(self.flat, np.float64).reshape(-1, self.width), unknown_row]
        )

    def apply(self, keys: Keys) -> Floats:
        return self._rows[self.lookup(keys, -1.0).astype(np.intp)]

    def describe(self) -> str:
        return f"vectors of {self.width}, of {len(self.keys):,} values"


class Missing(KeyStep, frozen=True, tag="missing"):
    """A missing indicator of a number or a key: 1 where there is no value, else 0."""

    def apply(self, keys: Keys) -> Floats:
        return (keys == 0).astype(np.float64)

    def describe(self) -> str:
        return "1 where it is missing"


NumberSteps = Log | Clip | Standardise | Quantile | Fill
KeySteps = FillKey | Codes | Hashed | Frequency | TargetEncoding | Vectors


def require_valid(condition: bool, problem: str) -> None:
    if not condition:
        raise BundleError(f"the encoder holds {problem}", fix="tailorbird train")
