"""Rows to learn from, in blocks, and the batches of an epoch: a pure function of seed and epoch,
whatever the rows lie in.

    Rows         arrays in memory
    PartRows     Arrow files of a folder, memory-mapped: of a set larger than memory only the blocks being mixed are held

    an epoch     order of blocks drawn → `BLOCKS_MIXED` at a time, their rows shuffled together → batches, the rest going to the next

With `negative_share` each epoch draws its own negatives: a row without a positive of some head
counts for that head only if it was drawn.
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

BLOCK = 32_768  # rows
BLOCKS_MIXED = 8
_MATRIX, _WEIGHT, _LABEL = "matrix", "weight", "label:"


@dataclass(frozen=True)
class Block:
    """`matrix` (n, columns), `labels` (n, heads) with NaN where unknown, `weight` (n,), each
    float32.
    """

    matrix: Matrix
    labels: Matrix
    weight: Matrix

    def take(self, rows: npt.NDArray[np.intp]) -> "Block":
        return Block(self.matrix[rows], self.labels[rows], self.weight[rows])

    def copied(self) -> "Block":
        """In memory of its own, so that what it was cut from can go."""
        return Block(self.matrix.copy(), self.labels.copy(), self.weight.copy())


class Blocks(Protocol):
    """Rows of a training set, in order of time."""

    @property
    def heads(self) -> tuple[str, ...]: ...
    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each block."""
        ...

    def block(self, place: int) -> Block: ...


@dataclass(frozen=True)
class Rows:
    """Rows in memory.

    Attributes:
        matrix: shape (n, columns), float32.
        labels: head → shape (n,): 0 or 1, NaN where it is not known (yet).
        weight: shape (n,), or None for 1 everywhere.
        lengths: rows of each request, in order; only a `lambdarank` booster needs them.
        block_rows: of a block.
    """

    matrix: Matrix
    labels: Mapping[str, npt.NDArray]
    weight: npt.NDArray | None = None
    lengths: npt.NDArray[np.int64] | None = None
    block_rows: int = BLOCK

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

    def block(self, place: int) -> Block:
        return _rows(self, slice(place * self.block_rows, (place + 1) * self.block_rows))

    def only(self, heads: Sequence[str]) -> "Rows":
        """The same rows with some of the labels."""
        return Rows(
            self.matrix,
            {head: self.labels[head] for head in heads},
            self.weight,
            self.lengths,
            self.block_rows,
        )

    def cut(self, share: float) -> tuple["Rows", "Rows"]:
        """The older rows, and the newest `share` of them; rows lie in order of time, and requests
        stay whole where they are told.
        """
        at = round(len(self) * (1 - share))
        split = 0
        if self.lengths is not None:
            ends = np.cumsum(self.lengths)
            split = int(np.searchsorted(ends, at, side="right"))
            at = int(ends[split - 1]) if split else 0
        if not 0 < at < len(self):
            raise UsageError(
                f"{len(self)} rows cannot be cut into two parts",
                fix="give validation rows, or more rows",
            )
        return self._slice(slice(None, at), slice(None, split)), self._slice(
            slice(at, None), slice(split, None)
        )

    def _slice(self, rows: slice, requests: slice) -> "Rows":
        labels = {head: label[rows] for head, label in self.labels.items()}
        weight = None if self.weight is None else self.weight[rows]
        return Rows(
            self.matrix[rows],
            labels,
            weight,
            None if self.lengths is None else self.lengths[requests],
            self.block_rows,
        )


@dataclass(frozen=True)
class PartRows:
    """Rows in Arrow files of a folder, in the order of their names; see `write_parts`."""

    heads: tuple[str, ...]
    sizes: tuple[int, ...]
    _readers: tuple[pa.RecordBatchFileReader, ...]
    _where: tuple[tuple[int, int], ...]  # reader and batch of each block

    @classmethod
    def open(cls, folder: Path) -> "PartRows":
        """Map the files of a folder; nothing is read but their footers.

        Raises:
            InputError: there is none, or one is damaged.
        """
        paths = sorted(folder.glob("*.arrow"))
        if not paths:
            raise InputError(
                "there are no parts", where=str(folder), fix="write them with write_parts"
            )
        readers, sizes, where = [], [], []
        for path in paths:
            try:
                reader = pa.ipc.open_file(pa.memory_map(str(path)))
                sizes += [
                    reader.get_batch(batch).num_rows for batch in range(reader.num_record_batches)
                ]
            except (pa.ArrowException, OSError) as error:
                raise InputError(
                    f"cannot be read: {error}", where=str(path), fix="write the parts again"
                ) from error
            where += [(len(readers), batch) for batch in range(reader.num_record_batches)]
            readers.append(reader)
        heads = tuple(
            name.removeprefix(_LABEL) for name in readers[0].schema.names if name.startswith(_LABEL)
        )
        return cls(heads, tuple(sizes), tuple(readers), tuple(where))

    def __len__(self) -> int:
        return sum(self.sizes)

    def only(self, heads: Sequence[str]) -> "PartRows":
        """The same rows with some of the labels."""
        return replace(self, heads=tuple(heads))

    def block(self, place: int) -> Block:
        reader, batch = self._where[place]
        found = self._readers[reader].get_batch(batch)
        matrix = found.column(_MATRIX)
        flat = matrix.flatten().to_numpy().reshape(found.num_rows, matrix.type.list_size)
        labels = np.stack([found.column(_LABEL + head).to_numpy() for head in self.heads], axis=1)
        return Block(flat, labels, found.column(_WEIGHT).to_numpy())


@dataclass(frozen=True)
class SomeRows:
    """Some rows of others; blocks without any are left out."""

    rows: Blocks
    sizes: tuple[int, ...]
    _chosen: tuple[
        tuple[int, npt.NDArray[np.intp]], ...
    ]  # of each block its place in `rows`, and which rows of it

    @classmethod
    def of(cls, rows: Blocks, chosen: npt.NDArray[np.bool_]) -> "SomeRows":
        """Those that are chosen, shape (n,)."""
        ends = np.cumsum(rows.sizes)[:-1]
        found = [
            (place, np.flatnonzero(some))
            for place, some in enumerate(np.split(chosen, ends))
            if some.any()
        ]
        return cls(rows, tuple(len(some) for _, some in found), tuple(found))

    @property
    def heads(self) -> tuple[str, ...]:
        return self.rows.heads

    def block(self, place: int) -> Block:
        at, some = self._chosen[place]
        return self.rows.block(at).take(some)


def write_parts(folder: Path, pieces: Iterable[Rows], *, block_rows: int = BLOCK) -> PartRows:
    """Write rows to a new folder, so that one piece at a time is in memory.

    Blocks, and with them every draw, are those that the same rows have in memory: they go over the
    ends of pieces.
    """
    folder.mkdir(parents=True)
    for number, (heads, blocks) in enumerate(_blocks(pieces, block_rows)):
        _write(folder / f"{number:06}.arrow", heads, blocks[0].matrix.shape[1], blocks)
    return PartRows.open(folder)


def write_blocks(folder: Path, rows: Blocks) -> PartRows:
    """Write rows to a new folder block by block, as they are: whoever maps them draws what the rows
    themselves would give.
    """
    folder.mkdir(parents=True)
    blocks = (rows.block(place) for place in range(len(rows.sizes)))
    _write(folder / "000000.arrow", rows.heads, rows.block(0).matrix.shape[1], blocks)
    return PartRows.open(folder)


def _write(path: Path, heads: Sequence[str], width: int, blocks: Iterable[Block]) -> None:
    fields = [pa.field(_LABEL + head, pa.float32()) for head in heads]
    schema = pa.schema(
        [pa.field(_MATRIX, pa.list_(pa.float32(), width)), *fields, pa.field(_WEIGHT, pa.float32())]
    )
    with (
        pa.OSFile(str(path.with_suffix(".part")), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for block in blocks:
            matrix = pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(block.matrix).ravel()), width
            )
            labels = [pa.array(np.ascontiguousarray(column)) for column in block.labels.T]
            writer.write_batch(
                pa.record_batch([matrix, *labels, pa.array(block.weight)], schema=schema)
            )
    path.with_suffix(".part").rename(path)


def _blocks(
    pieces: Iterable[Rows], block_rows: int
) -> Iterator[tuple[tuple[str, ...], list[Block]]]:
    """Heads, and the blocks that are whole after each piece; in the end what is left."""
    left: Block | None = None
    heads: tuple[str, ...] = ()
    for piece in pieces:
        heads = piece.heads
        start = 0
        whole: list[Block] = []
        if left is not None:
            start = min(block_rows - len(left.matrix), len(piece))
            left = _joined([left, _rows(piece, slice(0, start))])
            if len(left.matrix) == block_rows:
                whole, left = [left], None
        while len(piece) - start >= block_rows:
            whole.append(_rows(piece, slice(start, start + block_rows)))
            start += block_rows
        if start < len(piece):
            left = _rows(piece, slice(start, None)).copied()
        if whole:
            yield heads, whole
    if left is not None:
        yield heads, [left]


def _rows(rows: Rows, here: slice) -> Block:
    labels = np.stack(
        [np.asarray(label[here], np.float32) for label in rows.labels.values()], axis=1
    )
    weight = (
        np.ones(len(labels), np.float32)
        if rows.weight is None
        else np.asarray(rows.weight[here], np.float32)
    )
    return Block(rows.matrix[here], labels, weight)


def _joined(blocks: Sequence[Block]) -> Block:
    return Block(
        *(
            np.concatenate([getattr(block, name) for block in blocks])
            for name in ("matrix", "labels", "weight")
        )
    )


@dataclass(frozen=True)
class Mass:
    """Weights of positives and negatives by head, shape (heads,), and rows in all."""

    positive: Floats
    negative: Floats
    rows: int

    @property
    def chance_loss(self) -> Floats:
        """Log loss of always saying the mean, shape (heads,)."""
        total = np.maximum(self.positive + self.negative, 1e-12)
        rate = np.clip(self.positive / total, 1e-12, 1 - 1e-12)
        return -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


def mass(rows: Blocks) -> Mass:
    """Counted in one pass over the blocks."""
    positive, negative = np.zeros(len(rows.heads)), np.zeros(len(rows.heads))
    for place in range(len(rows.sizes)):
        block = rows.block(place)
        weight = block.weight.astype(np.float64)[:, None]
        positive += (weight * (block.labels > 0)).sum(axis=0)
        negative += (weight * (block.labels == 0)).sum(axis=0)
    return Mass(positive, negative, sum(rows.sizes))


def nothing_to_tell_apart(rows: Blocks) -> str:
    """What rows have of a head of one class only; "" where every head has both."""
    counted = mass(rows)
    for head, positive, negative in zip(
        rows.heads, counted.positive, counted.negative, strict=True
    ):
        if not (positive > 0 and negative > 0):
            return f"there were {positive:g} positives and {negative:g} negatives of {head}"
    return ""


@dataclass(frozen=True)
class Batch:
    """`matrix` (b, columns), `labels` and `weight` (b, heads), float32; a weight is 0 where a label
    is unknown or was not drawn.
    """

    matrix: Matrix
    labels: Matrix
    weight: Matrix


def batches(
    rows: Blocks, *, seed: int, epoch: int, size: int, negative_share: float = 1.0
) -> Iterator[Batch]:
    """The batches of an epoch, each of `size` rows but the last; see above."""
    order = np.random.default_rng([seed, epoch]).permutation(len(rows.sizes))
    left: Batch | None = None
    for start in range(0, len(order), BLOCKS_MIXED):
        rng = np.random.default_rng([seed, epoch, 1 + start])
        mixed = _mixed(
            [rows.block(int(place)) for place in order[start : start + BLOCKS_MIXED]],
            rng,
            negative_share,
        )
        if left is not None:
            mixed = Batch(
                *(
                    np.concatenate([getattr(left, name), getattr(mixed, name)])
                    for name in ("matrix", "labels", "weight")
                )
            )
        last = start + BLOCKS_MIXED >= len(order)
        whole = len(mixed.matrix) if last else len(mixed.matrix) // size * size
        for at in range(0, whole, size):
            yield _part(mixed, slice(at, min(at + size, whole)))
        left = None if last else _part(mixed, slice(whole, None))


def _mixed(blocks: list[Block], rng: np.random.Generator, negative_share: float) -> Batch:
    joined = _joined(blocks)
    order = rng.permutation(len(joined.matrix))
    counted: npt.NDArray[np.bool_] = np.isfinite(joined.labels)
    if negative_share < 1:
        counted &= (joined.labels > 0) | (rng.random(len(joined.labels)) < negative_share)[:, None]
        order = order[np.any(counted, axis=1)[order]]
    weight = np.where(counted, joined.weight[:, None], np.float32(0))
    return Batch(
        joined.matrix[order],
        np.where(joined.labels > 0, np.float32(1), np.float32(0))[order],
        weight[order],
    )


def _part(batch: Batch, here: slice) -> Batch:
    return Batch(batch.matrix[here], batch.labels[here], batch.weight[here])
