"""Rows of features, and their sequences, as an encoder takes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.features.declare.declarations import POSITION_COLUMN
from tailorbird.ranking.encode.computed import Keys, Times
from tailorbird.ranking.encode.transforms import Column
from tailorbird.registry import ColumnNames

Matrix = npt.NDArray[np.float32]


class SequenceLike(Protocol):
    """One user's sequence, oldest first: `features.Sequence`."""

    @property
    def item(self) -> Keys: ...
    @property
    def ts(self) -> Times: ...


class RowsLike(Protocol):
    """The features of one request's items: `features.Rows`."""

    @property
    def numeric(self) -> Matrix: ...
    @property
    def categorical(self) -> Keys: ...
    @property
    def sequences(self) -> Mapping[str, SequenceLike]: ...
    @property
    def t(self) -> int: ...


@dataclass(frozen=True)
class RaggedArrays:
    """A plain implementation of `RaggedLike`."""

    offsets: Times
    item: Keys
    ts: Times = field(
        default_factory=lambda: np.zeros(0, np.int64)
    )  # read only by columns for nets


def source_column(
    columns: ColumnNames,
    name: str,
    numeric: Matrix,
    categorical: Keys,
    computed: Mapping[str, npt.NDArray[np.generic]],
    position: npt.NDArray[np.generic],
) -> Column:
    """Return a column of the features, a computed one or the position, by its name."""
    if name in columns.categorical:
        return categorical[:, columns.categorical.index(name)]
    if name in columns.numeric:
        return numeric[:, columns.numeric.index(name)]
    return (position if name == POSITION_COLUMN else computed[name]).astype(np.float32)
