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
    rows: Blocks, *, seed: int, epoch: int, size: int, negative_share: float = 1.0
) -> Iterator[Batch]:
    """Yield the batches of an epoch, each of `size` rows but the last; see the module."""
    order = np.random.default_rng([seed, epoch]).permutation(len(rows.sizes))
    remainder: Batch | None = None
    for start in range(0, len(order), BLOCKS_MIXED):
        rng = np.random.default_rng([seed, epoch, 1 + start])
        mixed = _mix_blocks(
            [rows.block(int(index)) for index in order[start : start + BLOCKS_MIXED]],
            rng,
            negative_share,
        )
        if remainder is not None:
            mixed = Batch(
                *(
                    np.concatenate([getattr(remainder, name), getattr(mixed, name)])
                    for name in ("matrix", "labels", "weight")
                )
            )
        is_last = start + BLOCKS_MIXED >= len(order)
        full_rows = len(mixed.matrix) if is_last else len(mixed.matrix) // size * size
        for low in range(0, full_rows, size):
            yield _slice_batch(mixed, slice(low, min(low + size, full_rows)))
        remainder = None if is_last else _slice_batch(mixed, slice(full_rows, None))


def _mix_blocks(blocks: list[Block], rng: np.random.Generator, negative_share: float) -> Batch:
    joined_block = join_blocks(blocks)
    order = rng.permutation(len(joined_block.matrix))
    is_counted: npt.NDArray[np.bool_] = np.isfinite(joined_block.labels)
    if negative_share < 1:
        is_counted &= (joined_block.labels > 0) | (
            rng.random(len(joined_block.labels)) < negative_share
        )[:, None]
        order = order[np.any(is_counted, axis=1)[order]]
    weight = np.where(is_counted, joined_block.weight[:, None], np.float32(0))
    return Batch(
        joined_block.matrix[order],
        np.where(joined_block.labels > 0, np.float32(1), np.float32(0))[order],
        weight[order],
    )


def _slice_batch(batch: Batch, part: slice) -> Batch:
    return Batch(batch.matrix[part], batch.labels[part], batch.weight[part])
