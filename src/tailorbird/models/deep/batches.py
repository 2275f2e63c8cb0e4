"""The batches of an epoch.

    shuffle blocks → take `BLOCKS_MIXED` at a time and shuffle their rows together
                   → batches; the rest goes into the next batch

Batches are a pure function of seed and epoch, wherever the rows are stored. With `negative_share`
each epoch draws its own negatives: a row without a positive of some head counts for that head only
if it was drawn.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.models.deep.rows import Block, Blocks, Matrix, join_blocks

BLOCKS_MIXED = 8


@dataclass(frozen=True)
class Batch:
    """Float32 arrays of b rows.

    `matrix` is (b, columns), `labels` and `weight` are (b, heads). A weight is 0 where a label is
    unknown or was not drawn.
    """

    matrix: Matrix
    labels: Matrix
    weight: Matrix


def epoch_batches(
    rows: Blocks, *, seed: int, epoch: int, batch_rows: int, negative_share: float = 1.0
) -> Iterator[Batch]:
    """Yield the batches of an epoch, each of `batch_rows` rows but the last; see the module."""
    block_order = np.random.default_rng([seed, epoch]).permutation(len(rows.sizes))
    remainder: Batch | None = None
    for start in range(0, len(block_order), BLOCKS_MIXED):
        rng = np.random.default_rng([seed, epoch, 1 + start])
        mixed_batch = _mix_blocks(
            [rows.block(int(index)) for index in block_order[start : start + BLOCKS_MIXED]],
            rng,
            negative_share,
        )
        if remainder is not None:
            mixed_batch = Batch(
                *(
                    np.concatenate([getattr(remainder, name), getattr(mixed_batch, name)])
                    for name in ("matrix", "labels", "weight")
                )
            )
        is_last = start + BLOCKS_MIXED >= len(block_order)
        full_rows = (
            len(mixed_batch.matrix)
            if is_last
            else len(mixed_batch.matrix) // batch_rows * batch_rows
        )
        for first_row in range(0, full_rows, batch_rows):
            yield _slice_batch(
                mixed_batch, slice(first_row, min(first_row + batch_rows, full_rows))
            )
        remainder = None if is_last else _slice_batch(mixed_batch, slice(full_rows, None))


def _mix_blocks(blocks: list[Block], rng: np.random.Generator, negative_share: float) -> Batch:
    joined_block = join_blocks(blocks)
    row_order = rng.permutation(len(joined_block.matrix))
    is_counted: npt.NDArray[np.bool_] = np.isfinite(joined_block.labels)
    if negative_share < 1:
        is_counted &= (joined_block.labels > 0) | (
            rng.random(len(joined_block.labels)) < negative_share
        )[:, None]
        row_order = row_order[np.any(is_counted, axis=1)[row_order]]
    weight = np.where(is_counted, joined_block.weight[:, None], np.float32(0))
    return Batch(
        joined_block.matrix[row_order],
        np.where(joined_block.labels > 0, np.float32(1), np.float32(0))[row_order],
        weight[row_order],
    )


def _slice_batch(batch: Batch, row_slice: slice) -> Batch:
    return Batch(batch.matrix[row_slice], batch.labels[row_slice], batch.weight[row_slice])
