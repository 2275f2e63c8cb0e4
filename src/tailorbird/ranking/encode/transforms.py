"""Transforms as a bundle stores them: matrix columns made from feature columns by steps.

What they are learned from is in `training.fit.transforms`, what a project may ask for in
`features.transforms`, the steps themselves in `ranking.encode.steps`. A column goes through its
steps in float64 and is rounded to float32 once.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.ranking.encode.steps import (
    FLOAT32_MAX,
    Codes,
    FillKey,
    Floats,
    Hashed,
    Keys,
    KeyStep,
    KeySteps,
    Missing,
    NumberSteps,
    NumericStep,
    TargetEncoding,
    Vectors,
    require_valid,
)

Column = npt.NDArray[np.float32] | Keys


class TransformOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """An output: a matrix column (several for vectors) made from a feature column.

    Attributes:
        name: of the matrix's column.
        column: which feature it is made from.
        steps: in order.
    """

    name: str
    column: str
    steps: tuple[NumberSteps | KeySteps | Missing, ...]

    def __post_init__(self) -> None:
        for previous_step, step in zip((None, *self.steps), self.steps, strict=False):
            is_first_step = previous_step is None or isinstance(previous_step, FillKey)
            require_valid(
                is_first_step or isinstance(step, NumericStep),
                f"{self.name}: a {type(step).__name__} that does not come first",
            )
            require_valid(
                not (isinstance(previous_step, KeyStep) and previous_step.returns_codes),
                f"{self.name}: a step after codes",
            )
            require_valid(
                not isinstance(previous_step, FillKey) or isinstance(step, KeyStep),
                f"{self.name}: numbers of keys",
            )
        require_valid(
            not self.steps or not isinstance(self.steps[-1], FillKey),
            f"{self.name}: keys as numbers",
        )
        require_valid(
            self.is_missing_indicator or not any(isinstance(step, Missing) for step in self.steps),
            f"{self.name}: an indicator among steps",
        )

    @property
    def width(self) -> int:
        """The number of matrix columns."""
        return next((step.width for step in self.steps if isinstance(step, Vectors)), 1)

    @property
    def names(self) -> tuple[str, ...]:
        has_vectors = any(isinstance(step, Vectors) for step in self.steps)
        return (
            tuple(f"{self.name}_{index}" for index in range(self.width))
            if has_vectors
            else (self.name,)
        )

    @property
    def code_count(self) -> int:
        """The number of codes, missing and unknown included; 0 without codes."""
        return (
            self.steps[-1].size if self.steps and isinstance(self.steps[-1], Codes | Hashed) else 0
        )

    @property
    def is_categorical(self) -> bool:
        """True if it is made from a category; `missing` accepts either."""
        return (
            any(isinstance(step, KeyStep) for step in self.steps) and not self.is_missing_indicator
        )

    @property
    def is_missing_indicator(self) -> bool:
        return len(self.steps) == 1 and isinstance(self.steps[0], Missing)

    def apply(
        self, column: Column, target_encoding: Floats | None = None
    ) -> npt.NDArray[np.float32]:
        """Transform values (n,) to shape (n,) or (n, width).

        Args:
            target_encoding: what its `TargetEncoding` gave each of these rows in training, as of the row's time;
                None takes the final table.
        """
        if self.is_missing_indicator:
            return (np.isnan(column) if column.dtype == np.float32 else column == 0).astype(
                np.float32
            )
        if column.dtype == np.float32:
            x = np.minimum(
                np.maximum(column.astype(np.float64), -FLOAT32_MAX), FLOAT32_MAX
            )  # an infinite value counts as the largest
        else:
            x = column
        for step in self.steps:
            if isinstance(step, FillKey):
                x = step.fill(x)  # type: ignore[arg-type]
            elif isinstance(step, TargetEncoding) and target_encoding is not None:
                x = target_encoding
            else:
                x = step.apply(x)  # type: ignore[arg-type]
        return np.minimum(np.maximum(x, -FLOAT32_MAX), FLOAT32_MAX).astype(np.float32)

    def describe(self) -> str:
        return ", ".join(step.describe() for step in self.steps) or "as read"
