"""Rows with their features in chunks: in memory, or in files where they do not fit.

    in memory   `FeatureChunks.of(iterate_features(…))`
    in files    `FeatureChunks.spill_to_files(iterate_features(…), folder, row_count)`; arrays are
                mapped, and `write_matrix_files` writes the matrix to files too

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
        cls, feature_chunks: Iterable[FeatureChunk], folder: Path, row_count: int
    ) -> "FeatureChunks":
        """Write the features of each chunk as it arrives.

        Args:
            folder: is created; the caller deletes it.
            row_count: rows of all chunks.
        """
        folder.mkdir(parents=True)
        chunks: list[FeatureChunk] = []
        categorical = np.zeros((row_count, 0), np.uint64)
        start_row = 0
        for chunk_number, chunk in enumerate(feature_chunks):
            column_count = chunk.rows.categorical.shape[1]
            if not start_row and column_count and row_count:
                categorical = np.lib.format.open_memmap(
                    folder / "categorical.npy", "w+", np.uint64, (row_count, column_count)
                )
            row_range = slice(start_row, start_row := start_row + chunk.data.row_count)
            categorical[row_range] = chunk.rows.categorical
            chunks.append(
                replace(
                    chunk,
                    rows=_memory_map_rows(
                        chunk.rows, categorical[row_range], folder / f"{chunk_number:06}"
                    ),
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
    with_positions: bool,
    live_columns: LiveColumns,
    target_encodings: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> Iterator[tuple[slice, Matrix]]:
    """Yield the range of rows of each chunk, and their matrix; see `matrix.encode_rows`.

    Args:
        live_columns: columns read from the candidate sources at the request.
    """
    start = 0
    for chunk in chunks:
        row_range = slice(start, start := start + chunk.data.row_count)
        encodings = {name: column[row_range] for name, column in (target_encodings or {}).items()}
        yield (
            row_range,
            encode_rows(
                chunk,
                encoder,
                index_series,
                with_positions=with_positions,
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
    with_positions: bool,
    target_encodings: Mapping[str, npt.NDArray[np.float64]],
    live_columns: LiveColumns,
) -> PartRows:
    """Write the rows that a net learns from to files; one chunk is in memory at a time."""

    matrices = encode_chunks(
        chunks.chunks,
        encoder,
        index_series,
        with_positions=with_positions,
        live_columns=live_columns,
        target_encodings=target_encodings,
    )
    row_blocks = (
        Rows(matrix, {head: label[row_range] for head, label in labels.items()}, weight[row_range])
        for row_range, matrix in matrices
    )
    return write_parts(folder, row_blocks)


def sample_blocks(all_blocks: Blocks, rows_max: int = SAMPLE_ROWS_MAX) -> Rows:
    """Return blocks spread evenly over all rows: at most `rows_max` rows, at least one block."""
    block_count = max(
        1, min(len(all_blocks.sizes), rows_max // max(max(all_blocks.sizes, default=1), 1))
    )
    sampled_blocks = [
        all_blocks.block(block_index)
        for block_index in dict.fromkeys(
            np.linspace(0, len(all_blocks.sizes) - 1, block_count).astype(int).tolist()
        )
    ]
    label_matrix = np.concatenate([block.labels for block in sampled_blocks])
    labels = {head: label_matrix[:, column] for column, head in enumerate(all_blocks.heads)}
    return Rows(
        np.concatenate([block.matrix for block in sampled_blocks]),
        labels,
        np.concatenate([block.weight for block in sampled_blocks]),
    )


def _memory_map_rows(rows: BackfilledRows, categorical: Keys, folder: Path) -> BackfilledRows:
    folder.mkdir()
    sequences = {
        name: RaggedSequence(
            sequence.offsets,
            _memory_map_array(sequence.item, folder / f"{sequence_index}-item.npy"),
            _memory_map_array(sequence.type, folder / f"{sequence_index}-type.npy"),
            _memory_map_array(sequence.ts, folder / f"{sequence_index}-ts.npy"),
            {
                key: _memory_map_array(value, folder / f"{sequence_index}-{value_index}.npy")
                for value_index, (key, value) in enumerate(sequence.values.items())
            },
        )
        for sequence_index, (name, sequence) in enumerate(rows.sequences.items())
    }
    return replace(
        rows,
        numeric=_memory_map_array(rows.numeric, folder / "numeric.npy"),
        categorical=categorical,
        sequences=sequences,
    )


def _memory_map_array(array: npt.NDArray, path: Path) -> npt.NDArray:
    if not array.size:  # an empty file cannot be mapped
        return array
    np.save(path, array)
    return np.load(path, mmap_mode="r")
