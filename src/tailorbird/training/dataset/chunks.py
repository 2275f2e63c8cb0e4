"""Rows with their features in chunks: in memory, or in files where they do not fit.

    in memory   `FeatureChunks.of(iterate_features(…))`
    in files    `FeatureChunks.spill_to_files(iterate_features(…), folder, rows)`; arrays are mapped, and
                `write_matrix_files` writes the matrix to files too

Both hold the same numbers in the same order, and a net learns the same weights from either, bit for
bit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.features.offline.bulk import BackfilledRows, RaggedSequence
from tailorbird.models.deep.rows import Blocks, PartRows, Rows, write_parts
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.matrix import FeatureChunk, encode_rows

Matrix = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]

CHUNK_ROWS = 250_000  # rows of a chunk in files
SAMPLE_ROWS_MAX = 500_000  # rows of a matrix in files that column checks sample


@dataclass(frozen=True)
class FeatureChunks:
    """Chunks in order, and their categorical columns stacked, shape (rows, columns)."""

    chunks: Sequence[FeatureChunk]
    categorical: Keys

    @classmethod
    def of(cls, chunks: Sequence[FeatureChunk]) -> "FeatureChunks":
        return cls(chunks, np.concatenate([chunk.rows.categorical for chunk in chunks]))

    @classmethod
    def spill_to_files(
        cls, feature_chunks: Iterable[FeatureChunk], folder: Path, rows: int
    ) -> "FeatureChunks":
        """Write the features of each chunk as it arrives.

        Args:
            folder: is created; the caller deletes it.
            rows: rows of all chunks.
        """
        folder.mkdir(parents=True)
        chunks: list[FeatureChunk] = []
        categorical, start = np.zeros((rows, 0), np.uint64), 0
        for number, chunk in enumerate(feature_chunks):
            width = chunk.rows.categorical.shape[1]
            if not start and width and rows:
                categorical = np.lib.format.open_memmap(
                    folder / "categorical.npy", "w+", np.uint64, (rows, width)
                )
            row_range = slice(start, start := start + chunk.part.rows)
            categorical[row_range] = chunk.rows.categorical
            chunks.append(
                replace(
                    chunk,
                    rows=_map_rows(chunk.rows, categorical[row_range], folder / f"{number:06}"),
                )
            )
        return cls(chunks, categorical)

    def numeric_column(self, index: int) -> npt.NDArray[np.float32]:
        """Return a numeric column of all rows."""
        return np.concatenate([chunk.rows.numeric[:, index] for chunk in self.chunks])


def encode_chunks(
    chunks: Iterable[FeatureChunk],
    encoder: Encoder,
    index_series: IndexSeries,
    *,
    position: bool,
    live_columns: LiveColumns,
    target_encodings: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> Iterator[tuple[slice, Matrix]]:
    """Yield the range of rows of each chunk, and their matrix; see `matrix.encode_rows`."""
    start = 0
    for chunk in chunks:
        row_range = slice(start, start := start + chunk.part.rows)
        encodings = {name: column[row_range] for name, column in (target_encodings or {}).items()}
        yield (
            row_range,
            encode_rows(
                chunk,
                encoder,
                index_series,
                position=position,
                target_encodings=encodings,
                live_columns=live_columns,
            ),
        )


def write_matrix_files(
    chunks: FeatureChunks,
    encoder: Encoder,
    index_series: IndexSeries,
    folder: Path,
    labels: Mapping[str, npt.NDArray],
    weight: npt.NDArray,
    *,
    position: bool,
    target_encodings: Mapping[str, npt.NDArray[np.float64]],
    live_columns: LiveColumns,
) -> PartRows:
    """Write the rows that a net learns from to files; one chunk is in memory at a time."""

    matrices = encode_chunks(
        chunks.chunks,
        encoder,
        index_series,
        position=position,
        live_columns=live_columns,
        target_encodings=target_encodings,
    )
    blocks = (
        Rows(matrix, {head: label[row_range] for head, label in labels.items()}, weight[row_range])
        for row_range, matrix in matrices
    )
    return write_parts(folder, blocks)


def sample_blocks(rows: Blocks, rows_max: int = SAMPLE_ROWS_MAX) -> Rows:
    """Return blocks spread evenly over all rows: at most `rows_max` rows, at least one block."""
    count = max(1, min(len(rows.sizes), rows_max // max(max(rows.sizes, default=1), 1)))
    blocks = [
        rows.block(block_index)
        for block_index in dict.fromkeys(
            np.linspace(0, len(rows.sizes) - 1, count).astype(int).tolist()
        )
    ]
    label = np.concatenate([block.labels for block in blocks])
    labels = {head: label[:, column] for column, head in enumerate(rows.heads)}
    return Rows(
        np.concatenate([block.matrix for block in blocks]),
        labels,
        np.concatenate([block.weight for block in blocks]),
    )


def _map_rows(rows: BackfilledRows, categorical: Keys, folder: Path) -> BackfilledRows:
    folder.mkdir()
    sequences = {
        name: RaggedSequence(
            sequence.offsets,
            _map_array(sequence.item, folder / f"{sequence_index}-item.npy"),
            _map_array(sequence.type, folder / f"{sequence_index}-type.npy"),
            _map_array(sequence.ts, folder / f"{sequence_index}-ts.npy"),
            {
                key: _map_array(value, folder / f"{sequence_index}-{value_index}.npy")
                for value_index, (key, value) in enumerate(sequence.values.items())
            },
        )
        for sequence_index, (name, sequence) in enumerate(rows.sequences.items())
    }
    return replace(
        rows,
        numeric=_map_array(rows.numeric, folder / "numeric.npy"),
        categorical=categorical,
        sequences=sequences,
    )


def _map_array(array: npt.NDArray, path: Path) -> npt.NDArray:
    if not array.size:  # an empty file cannot be mapped
        return array
    np.save(path, array)
    return np.load(path, mmap_mode="r")
