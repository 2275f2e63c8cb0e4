"""Rows with their features, piece by piece: in memory, or in files where there are more of them
than fit.

    in memory   `Pieces.of(featured(…))`                       everything that follows makes a matrix of it
    in files    `Pieces.in_files(featured(…), folder, rows)`   arrays are mapped; the matrix goes into files too (`streamed`)

Both hold the same numbers in the same order, and a net that learns from either ends in the same
bits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.features.bulk import BackfilledRows, RaggedSequence
from tailorbird.models.deep.batches import Blocks, PartRows, Rows, write_parts
from tailorbird.ranking.encoders import Encoder
from tailorbird.ranking.live import LiveColumns
from tailorbird.training.indexes import IndexSeries
from tailorbird.training.matrix import Featured, encoded

Matrix = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]

ROWS_AT_ONCE = 250_000  # of a piece in files
ROWS_LOOKED_AT = 500_000  # of a matrix in files, by what looks at columns


@dataclass(frozen=True)
class Pieces:
    """Pieces in order, and their categorical columns together, shape (rows, columns)."""

    each: Sequence[Featured]
    categorical: Keys

    @classmethod
    def of(cls, pieces: Sequence[Featured]) -> "Pieces":
        return cls(pieces, np.concatenate([piece.rows.categorical for piece in pieces]))

    @classmethod
    def in_files(cls, pieces: Iterable[Featured], folder: Path, rows: int) -> "Pieces":
        """Write the features of each piece as it comes.

        Args:
            folder: is made; whoever asks deletes it.
            rows: of all pieces.
        """
        folder.mkdir(parents=True)
        each: list[Featured] = []
        categorical, at = np.zeros((rows, 0), np.uint64), 0
        for number, piece in enumerate(pieces):
            width = piece.rows.categorical.shape[1]
            if not at and width and rows:
                categorical = np.lib.format.open_memmap(
                    folder / "categorical.npy", "w+", np.uint64, (rows, width)
                )
            here = slice(at, at := at + piece.part.rows)
            categorical[here] = piece.rows.categorical
            each.append(
                replace(piece, rows=_mapped(piece.rows, categorical[here], folder / f"{number:06}"))
            )
        return cls(each, categorical)

    def number(self, place: int) -> npt.NDArray[np.float32]:
        """A numeric column of all rows."""
        return np.concatenate([piece.rows.numeric[:, place] for piece in self.each])


def streamed(
    pieces: Pieces,
    encoder: Encoder,
    series: IndexSeries,
    folder: Path,
    labels: Mapping[str, npt.NDArray],
    weight: npt.NDArray,
    *,
    position: bool,
    learned: Mapping[str, npt.NDArray[np.float64]],
    live: LiveColumns,
) -> PartRows:
    """The rows that a net learns from, in files: of the matrix one piece is in memory at a time."""

    def each() -> Iterator[Rows]:
        at = 0
        for piece in pieces.each:
            here = slice(at, at := at + piece.part.rows)
            mine = {name: column[here] for name, column in learned.items()}
            matrix = encoded(piece, encoder, series, position=position, learned=mine, live=live)
            yield Rows(matrix, {head: label[here] for head, label in labels.items()}, weight[here])

    return write_parts(folder, each())


def looked_at(rows: Blocks, rows_max: int = ROWS_LOOKED_AT) -> Rows:
    """Some blocks, evenly over all, in memory: as many as `rows_max` rows hold, one at least."""
    count = max(1, min(len(rows.sizes), rows_max // max(max(rows.sizes, default=1), 1)))
    blocks = [
        rows.block(place)
        for place in dict.fromkeys(np.linspace(0, len(rows.sizes) - 1, count).astype(int).tolist())
    ]
    label = np.concatenate([block.labels for block in blocks])
    labels = {head: label[:, place] for place, head in enumerate(rows.heads)}
    return Rows(
        np.concatenate([block.matrix for block in blocks]),
        labels,
        np.concatenate([block.weight for block in blocks]),
    )


def _mapped(rows: BackfilledRows, categorical: Keys, folder: Path) -> BackfilledRows:
    folder.mkdir()
    sequences = {
        name: RaggedSequence(
            each.offsets,
            _in_file(each.item, folder / f"{place}-item.npy"),
            _in_file(each.type, folder / f"{place}-type.npy"),
            _in_file(each.ts, folder / f"{place}-ts.npy"),
            {
                key: _in_file(value, folder / f"{place}-{nth}.npy")
                for nth, (key, value) in enumerate(each.values.items())
            },
        )
        for place, (name, each) in enumerate(rows.sequences.items())
    }
    return replace(
        rows,
        numeric=_in_file(rows.numeric, folder / "numeric.npy"),
        categorical=categorical,
        sequences=sequences,
    )


def _in_file(array: npt.NDArray, path: Path) -> npt.NDArray:
    if not array.size:  # an empty file cannot be mapped
        return array
    np.save(path, array)
    return np.load(path, mmap_mode="r")
