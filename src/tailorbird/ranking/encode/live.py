"""Columns read live from candidate sources: ranks, scores and declared similarities.

A server reads them from published tables at the request, training from a replay of the log at each
row's time: by the same function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.query import CandidateColumns, RequestLists, reads_neighbours
from tailorbird.ranking.encode.similarities import Similarity

Keys = npt.NDArray[np.uint64]
Matrix = npt.NDArray[np.float32]


class ItemSequence(Protocol):
    """A user's sequence, oldest first."""

    @property
    def item(self) -> Keys: ...


@dataclass(frozen=True)
class LiveColumns:
    """The columns that are read live.

    Attributes:
        candidates: of the sources.
        similarities: as declared.
    """

    candidates: CandidateColumns = field(default_factory=CandidateColumns)
    similarities: Sequence[Similarity] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        return (*self.candidates.names, *(similarity.name for similarity in self.similarities))

    @property
    def sources(self) -> tuple[str, ...]:
        """The candidate sources whose tables are read."""
        similarity_sources = (
            ("item_knn",)
            if self.similarities
            and not any(reads_neighbours(name) for name in self.candidates.sources)
            else ()
        )
        return (*self.candidates.sources, *similarity_sources)

    def describe_columns(self) -> dict[str, str]:
        """Describe each column."""
        return self.candidates.describe_columns() | {
            similarity.name: similarity.describe() for similarity in self.similarities
        }

    def matrix(
        self, lists: RequestLists, sequences: Mapping[str, ItemSequence], keys: Keys
    ) -> Matrix:
        """Return the columns of one request's candidates, (n, columns).

        Args:
            lists: what each source listed for the request.
            sequences: name of a sequence feature → the person's newest items.
        """
        column_blocks = [self.candidates.matrix(lists, keys)]
        for similarity in self.similarities:
            sequence = (
                sequences[similarity.of].item
                if similarity.of in sequences
                else np.zeros(0, np.uint64)
            )
            column_blocks.append(
                similarity.column(lists, sequence, keys).astype(np.float32)[:, None]
            )
        return np.concatenate(column_blocks, axis=1)

    def by_name(self, matrix: Matrix) -> dict[str, Matrix]:
        """Return the columns of such a matrix by name."""
        return {name: matrix[:, index] for index, name in enumerate(self.names)}


NO_LIVE_COLUMNS = LiveColumns()
