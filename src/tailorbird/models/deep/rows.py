"""Training rows in blocks, from which `models.deep.batches` draws.

Rows        arrays in memory
PartRows    memory-mapped Arrow files; of a set larger than memory, only the blocks being
            mixed are loaded
RowSubset   some of the rows of either
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import InputError, UsageError

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

BLOCK_ROWS = 32_768  # rows
_MATRIX = "matrix"
_WEIGHT = "weight"
_LABEL = "label:"


@dataclass(frozen=True)
class Block:
    """Float32 arrays of n rows.

    `matrix` is (n, columns), `labels` (n, heads) with NaN where unknown, and `weight` (n,).
    """

    matrix: Matrix
    labels: Matrix
    weight: Matrix

    def take(self, rows: npt.NDArray[np.intp]) -> "Block":
        return Block(self.matrix[rows], self.labels[rows], self.weight[rows])

    def copy(self) -> "Block":
        """Return a copy that does not keep the source array alive."""
        return Block(self.matrix.copy(), self.labels.copy(), self.weight.copy())


class Blocks(Protocol):
    """Rows of a training set, in order of time."""

    @property
    def heads(self) -> tuple[str, ...]: ...
    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each block."""
        ...

    def block(self, index: int) -> Block: ...


@dataclass(frozen=True)
class Rows:
    """Rows in memory.

    Attributes:
        matrix: shape (n, columns), float32.
        labels: head → shape (n,): 0 or 1, NaN if not (yet) known.
        weight: shape (n,), or None for 1 everywhere.
        lengths: rows of each request, in order; only a `lambdarank` booster needs them.
        block_rows: rows of a block.
    """

    matrix: Matrix
    labels: Mapping[str, npt.NDArray]
    weight: npt.NDArray | None = None
    lengths: npt.NDArray[np.int64] | None = None
    block_rows: int = BLOCK_ROWS

    def __post_init__(self) -> None:
        if self.matrix.dtype != np.float32:
            raise UsageError(
                f"expected a float32 matrix, got {self.matrix.dtype}",
                fix="cast before training, not after",
            )
        if not self.labels:
            raise UsageError("there is no label to learn from", fix="name at least one head")

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.labels)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(
            min(self.block_rows, len(self) - start)
            for start in range(0, len(self), self.block_rows)
        )

    def block(self, index: int) -> Block:
        return _to_block(self, slice(index * self.block_rows, (index + 1) * self.block_rows))

    def select_heads(self, heads: Sequence[str]) -> "Rows":
        """Return the same rows with some of the labels."""
        return Rows(
            self.matrix,
            {head: self.labels[head] for head in heads},
            self.weight,
            self.lengths,
            self.block_rows,
        )

    def split_newest(self, share: float) -> tuple["Rows", "Rows"]:
        """Split off the newest `share` of the rows; requests stay together if lengths are given."""
        row_boundary = round(len(self) * (1 - share))
        request_boundary = 0
        if self.lengths is not None:
            ends = np.cumsum(self.lengths)
            request_boundary = int(np.searchsorted(ends, row_boundary, side="right"))
            row_boundary = int(ends[request_boundary - 1]) if request_boundary else 0
        if not 0 < row_boundary < len(self):
            raise UsageError(
                f"{len(self)} rows cannot be cut into two parts",
                fix="give validation rows, or more rows",
            )
        return self._slice(slice(None, row_boundary), slice(None, request_boundary)), self._slice(
            slice(row_boundary, None), slice(request_boundary, None)
        )

    def _slice(self, row_slice: slice, request_slice: slice) -> "Rows":
        labels = {head: label[row_slice] for head, label in self.labels.items()}
        weight = None if self.weight is None else self.weight[row_slice]
        return Rows(
            self.matrix[row_slice],
            labels,
            weight,
            None if self.lengths is None else self.lengths[request_slice],
            self.block_rows,
        )


@dataclass(frozen=True)
class PartRows:
    """Rows in the Arrow files of a folder, in order of their names; see `write_parts`."""

    heads: tuple[str, ...]
    sizes: tuple[int, ...]
    _readers: tuple[pa.RecordBatchFileReader, ...]
    _locations: tuple[tuple[int, int], ...]  # reader and batch of each block

    @classmethod
    def open(cls, folder: Path) -> "PartRows":
        """Map the files of a folder; only their footers are read.

        Raises:
            InputError: there is no file, or one is damaged.
        """
        paths = sorted(folder.glob("*.arrow"))
        if not paths:
            raise InputError(
                "there are no parts", where=str(folder), fix="write them with write_parts"
            )
        readers = []
        sizes = []
        locations = []
        for path in paths:
            try:
                reader = pa.ipc.open_file(pa.memory_map(str(path)))
                sizes += [
                    reader.get_batch(batch_index).num_rows
                    for batch_index in range(reader.num_record_batches)
                ]
            except (pa.ArrowException, OSError) as error:
                raise InputError(
                    f"cannot be read: {error}", where=str(path), fix="write the parts again"
                ) from error
            locations += [
                (len(readers), batch_index) for batch_index in range(reader.num_record_batches)
            ]
            readers.append(reader)
        heads = tuple(
            name.removeprefix(_LABEL) for name in readers[0].schema.names if name.startswith(_LABEL)
        )
        return cls(heads, tuple(sizes), tuple(readers), tuple(locations))

    def __len__(self) -> int:
        return sum(self.sizes)

    def select_heads(self, heads: Sequence[str]) -> "PartRows":
        """Return the same rows with some of the labels."""
        return replace(self, heads=tuple(heads))

    def block(self, index: int) -> Block:
        reader_index, batch_index = self._locations[index]
        record_batch = self._readers[reader_index].get_batch(batch_index)
        matrix_column = record_batch.column(_MATRIX)
        matrix = (
            matrix_column.flatten()
            .to_numpy()
            .reshape(record_batch.num_rows, matrix_column.type.list_size)
        )
        labels = np.stack(
            [record_batch.column(_LABEL + head).to_numpy() for head in self.heads], axis=1
        )
        return Block(matrix, labels, record_batch.column(_WEIGHT).to_numpy())


@dataclass(frozen=True)
class RowSubset:
    """A subset of other rows, without empty blocks."""

    rows: Blocks
    sizes: tuple[int, ...]
    _selections: tuple[
        tuple[int, npt.NDArray[np.intp]], ...
    ]  # per block: its index in `rows`, and row indices

    @classmethod
    def from_mask(cls, rows: Blocks, mask: npt.NDArray[np.bool_]) -> "RowSubset":
        """Return the rows selected by a mask, shape (n,)."""
        ends = np.cumsum(rows.sizes)[:-1]
        selections = [
            (index, np.flatnonzero(block_mask))
            for index, block_mask in enumerate(np.split(mask, ends))
            if block_mask.any()
        ]
        return cls(rows, tuple(len(indices) for _, indices in selections), tuple(selections))

    @property
    def heads(self) -> tuple[str, ...]:
        return self.rows.heads

    def block(self, index: int) -> Block:
        block_index, row_indices = self._selections[index]
        return self.rows.block(block_index).take(row_indices)


def write_parts(folder: Path, pieces: Iterable[Rows], *, block_rows: int = BLOCK_ROWS) -> PartRows:
    """Write rows to a new folder with one piece at a time in memory.

    Blocks, and therefore all draws, equal those of the same rows in memory: they cross the borders
    of pieces.
    """
    folder.mkdir(parents=True)
    for file_number, (heads, blocks) in enumerate(_rechunk(pieces, block_rows)):
        _write_file(folder / f"{file_number:06}.arrow", heads, blocks[0].matrix.shape[1], blocks)
    return PartRows.open(folder)


def write_blocks(folder: Path, rows: Blocks) -> PartRows:
    """Write rows to a new folder block by block.

    A reader of the folder draws the same batches as from the rows themselves.
    """
    folder.mkdir(parents=True)
    blocks = (rows.block(index) for index in range(len(rows.sizes)))
    _write_file(folder / "000000.arrow", rows.heads, rows.block(0).matrix.shape[1], blocks)
    return PartRows.open(folder)


def _write_file(
    path: Path, heads: Sequence[str], column_count: int, blocks: Iterable[Block]
) -> None:
    fields = [pa.field(_LABEL + head, pa.float32()) for head in heads]
    schema = pa.schema(
        [
            pa.field(_MATRIX, pa.list_(pa.float32(), column_count)),
            *fields,
            pa.field(_WEIGHT, pa.float32()),
        ]
    )
    with (
        pa.OSFile(str(path.with_suffix(".part")), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for block in blocks:
            matrix = pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(block.matrix).ravel()), column_count
            )
            labels = [pa.array(np.ascontiguousarray(column)) for column in block.labels.T]
            writer.write_batch(
                pa.record_batch([matrix, *labels, pa.array(block.weight)], schema=schema)
            )
    path.with_suffix(".part").rename(path)


def _rechunk(
    pieces: Iterable[Rows], block_rows: int
) -> Iterator[tuple[tuple[str, ...], list[Block]]]:
    """Yield heads and the blocks completed by each piece; the last block may be smaller."""
    remainder: Block | None = None
    heads: tuple[str, ...] = ()
    for piece in pieces:
        heads = piece.heads
        start = 0
        full_blocks: list[Block] = []
        if remainder is not None:
            start = min(block_rows - len(remainder.matrix), len(piece))
            remainder = join_blocks([remainder, _to_block(piece, slice(0, start))])
            if len(remainder.matrix) == block_rows:
                full_blocks = [remainder]
                remainder = None
        while len(piece) - start >= block_rows:
            full_blocks.append(_to_block(piece, slice(start, start + block_rows)))
            start += block_rows
        if start < len(piece):
            remainder = _to_block(piece, slice(start, None)).copy()
        if full_blocks:
            yield heads, full_blocks
    if remainder is not None:
        yield heads, [remainder]


def _to_block(rows: Rows, row_slice: slice) -> Block:
    labels = np.stack(
        [np.asarray(label[row_slice], np.float32) for label in rows.labels.values()], axis=1
    )
    weight = (
        np.ones(len(labels), np.float32)
        if rows.weight is None
        else np.asarray(rows.weight[row_slice], np.float32)
    )
    return Block(rows.matrix[row_slice], labels, weight)


def join_blocks(blocks: Sequence[Block]) -> Block:
    return Block(
        *(
            np.concatenate([getattr(block, name) for block in blocks])
            for name in ("matrix", "labels", "weight")
        )
    )


@dataclass(frozen=True)
class ClassWeights:
    """Weights of positives and negatives by head, shape (heads,), and the number of rows."""

    positive: Floats
    negative: Floats
    rows: int

    @property
    def chance_loss(self) -> Floats:
        """Log loss of always predicting the mean, shape (heads,)."""
        total = np.maximum(self.positive + self.negative, 1e-12)
        rate = np.clip(self.positive / total, 1e-12, 1 - 1e-12)
        return -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


def count_classes(rows: Blocks) -> ClassWeights:
    """Sum class weights in one pass over the blocks."""
    positive = np.zeros(len(rows.heads))
    negative = np.zeros(len(rows.heads))
    for index in range(len(rows.sizes)):
        block = rows.block(index)
        weight = block.weight.astype(np.float64)[:, None]
        positive += (weight * (block.labels > 0)).sum(axis=0)
        negative += (weight * (block.labels == 0)).sum(axis=0)
    return ClassWeights(positive, negative, sum(rows.sizes))


def describe_single_class(rows: Blocks) -> str:
    """Describe a head that has one class only, or return ""."""
    class_weights = count_classes(rows)
    for head, positive, negative in zip(
        rows.heads, class_weights.positive, class_weights.negative, strict=True
    ):
        if not (positive > 0 and negative > 0):
            return f"there were {positive:g} positives and {negative:g} negatives of {head}"
    return ""


@dataclass(frozen=True)
class _BlockSubset:
    """A subset of blocks."""

    rows: Blocks
    indices: tuple[int, ...]

    @property
    def heads(self) -> tuple[str, ...]:
        return self.rows.heads

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.rows.sizes[index] for index in self.indices)

    def block(self, index: int) -> Block:
        return self.rows.block(self.indices[index])


def sample_blocks(rows: Blocks, rows_max: int) -> Blocks:
    """Return evenly spaced blocks that hold about `rows_max` rows."""
    count = max(1, min(len(rows.sizes), rows_max // max(max(rows.sizes, default=1), 1)))
    return _BlockSubset(
        rows, tuple(np.linspace(0, len(rows.sizes) - 1, count).astype(int).tolist())
    )
