"""The protocol of models: an `Estimator` fits a `Model`, which scores rows and exports itself.

    model = GBDT(leaves=31).fit(train, valid)      train, valid: EncodedRows
    model.score(matrix)                            head → scores
    files, head_files = model.export()             ONNX, which serving loads

Training, tuning and backtests fit by this protocol alone. `models.architectures` has the built-in
estimators. A project adds its own in `models.py`, marked with `register`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.rows import Blocks, Rows
from tailorbird.models.space import Choices, Range
from tailorbird.pages.notebook import notebook_html

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Dimensions = Mapping[str, Range | Choices]
HeadKind = Literal["item", "return", "amount"]


@dataclass(frozen=True)
class HeadFile:
    """Location of a head in a bundle: a file, and a column of its last output."""

    file: str
    column: int = -1


@dataclass(frozen=True, repr=False)
class EncodedRows:
    """Encoded rows of one part, in order of time, with the roles of their columns.

    Attributes:
        blocks: the rows, in memory or in files.
        layout: which columns are numbers and which are codes.
        kinds: head → `item` for a class of each item, the default; `return` for a class of the
            whole request; `amount` for a number.
    """

    blocks: Blocks
    layout: Layout
    kinds: Mapping[str, HeadKind] = field(default_factory=dict)

    @property
    def rows(self) -> Rows:
        """The rows in memory; raises UsageError if they lie in files."""
        if not isinstance(self.blocks, Rows):
            raise UsageError(
                "these rows lie in files, and only a net reads them from there",
                fix="take a sample of them, or a net",
            )
        return self.blocks

    @property
    def matrix(self) -> Matrix:
        """The rows, shape (n, columns), float32; NaN is missing, codes are whole numbers."""
        return self.rows.matrix

    @property
    def labels(self) -> Mapping[str, npt.NDArray]:
        """Head → shape (n,): 0 or 1 or an amount, NaN if not known."""
        return self.rows.labels

    @property
    def weight(self) -> npt.NDArray | None:
        """Shape (n,), or None for 1 everywhere."""
        return self.rows.weight

    @property
    def lengths(self) -> npt.NDArray[np.int64] | None:
        """Rows of each request, in order."""
        return self.rows.lengths

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the targets."""
        return self.blocks.heads

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the matrix's columns."""
        return self.layout.columns

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the columns that hold codes."""
        return tuple(
            self.layout.columns[column_index] for column_index in self.layout.code_cardinalities
        )

    def __len__(self) -> int:
        return sum(self.blocks.sizes)

    def __repr__(self) -> str:
        return f"EncodedRows({len(self):,} rows, {len(self.columns)} columns, heads {self.heads})"

    def _repr_html_(self) -> str:
        heads = ", ".join(self.heads)
        return notebook_html([f"{len(self):,} rows, {len(self.columns)} columns, heads {heads}"])


class Model(Protocol):
    """A fitted model of one or several heads."""

    @property
    def architecture(self) -> str:
        """Name of the estimator that fitted it."""
        ...

    @property
    def heads(self) -> tuple[str, ...]: ...
    @property
    def curve(self) -> Mapping[str, list[float]]:
        """Metrics by epoch: `train`, `validation`, `train_HEAD` and `validation_HEAD`."""
        ...

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        """Return head → scores, shape (n,)."""
        ...

    def export(self) -> tuple[dict[str, bytes], dict[str, HeadFile]]:
        """Return files by name, and the location of each head."""
        ...


def name_head_files(
    onnx_by_head: Mapping[str, bytes],
) -> tuple[dict[str, bytes], dict[str, HeadFile]]:
    """Return what `Model.export` does for one ONNX file a head."""
    file_by_head = {head: f"model/{head}.onnx" for head in onnx_by_head}
    return (
        {file_by_head[head]: data for head, data in onnx_by_head.items()},
        {head: HeadFile(file) for head, file in file_by_head.items()},
    )


class Estimator(Protocol):
    """A model family with its settings, not fitted yet."""

    @property
    def name(self) -> str: ...

    def fit(self, train: EncodedRows, valid: EncodedRows) -> Model:
        """Fit all heads of the rows.

        Args:
            train: in order of time.
            valid: later rows, for early stopping.
        """
        ...

    def search_space(self) -> Dimensions:
        """Return setting → what `tune` may try for it; empty if nothing is tuned."""
        ...


def describe_settings(name: str, settings: Mapping[str, Any]) -> str:
    """Return a constructor call as text, for the repr of an estimator."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"


def describe_model(model: Model) -> str:
    """Return the architecture and the heads of a model, for its repr."""
    return f"{model.architecture} for {', '.join(model.heads)}"
