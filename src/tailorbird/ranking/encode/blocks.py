"""Block transforms: outputs with the same kinds of steps go through them as one block.

A model that scales and imputes every number has dozens of such outputs, and at a request each step
on each of them costs more than its arithmetic. The result is bit-identical to `TransformOutput.apply`: the
same operations on the same numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.encode.steps import (
    FLOAT32_MAX,
    Clip,
    Fill,
    Floats,
    Log,
    NumericStep,
    Quantile,
    Standardise,
)
from tailorbird.ranking.encode.transforms import Column, TransformOutput

CHUNK_ROWS = 4_096  # rows per block in training, so that intermediate results stay in cache

BlockStep = Callable[[Floats], Floats]


@dataclass(frozen=True)
class TransformBlock:
    """A block of outputs with the same kinds of steps, each applied to an array (k, n).

    `output_indices` are the positions among all outputs, `columns` their input columns.
    """

    output_indices: tuple[int, ...]
    columns: tuple[str, ...]
    steps: tuple[BlockStep, ...]

    def apply(self, columns: Sequence[Column]) -> npt.NDArray[np.float32]:
        """Return the values, (k, n), for k columns of shape (n,)."""
        values = np.empty((len(columns), len(columns[0])), np.float32)
        for start in range(0, values.shape[1], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            x = np.minimum(
                np.maximum(
                    np.array([column[rows] for column in columns], np.float64), -FLOAT32_MAX
                ),
                FLOAT32_MAX,
            )
            for step in self.steps:
                x = step(x)
            values[:, rows] = np.minimum(np.maximum(x, -FLOAT32_MAX), FLOAT32_MAX)
        return values


def group_transforms(outputs: Sequence[TransformOutput]) -> tuple[TransformBlock, ...]:
    """Group outputs into blocks of two or more; the rest are applied singly."""
    indices_by_step_types: dict[tuple[type, ...], list[int]] = {}
    for index, output in enumerate(outputs):
        if output.steps and all(isinstance(step, NumericStep) for step in output.steps):
            indices_by_step_types.setdefault(tuple(map(type, output.steps)), []).append(index)
    return tuple(
        _make_block([outputs[index] for index in indices], indices)
        for indices in indices_by_step_types.values()
        if len(indices) > 1
    )


def split_transforms(
    outputs: Sequence[TransformOutput],
) -> tuple[list[tuple[int, TransformOutput]], list[tuple[TransformBlock, npt.NDArray[np.intp]]]]:
    """Return the outputs to apply singly, and those in blocks, with their column offsets."""
    blocks = group_transforms(outputs)
    starts = np.concatenate(([0], np.cumsum([output.width for output in outputs]))).astype(np.intp)
    blocked_indices = {index for block in blocks for index in block.output_indices}
    single_outputs = [
        (int(starts[index]), output)
        for index, output in enumerate(outputs)
        if index not in blocked_indices
    ]
    return single_outputs, [(block, starts[list(block.output_indices)]) for block in blocks]


def _make_block(outputs: list[TransformOutput], indices: list[int]) -> TransformBlock:
    steps = [
        _block_step(list(steps_of_outputs))
        for steps_of_outputs in zip(*(output.steps for output in outputs), strict=True)
    ]
    return TransformBlock(tuple(indices), tuple(output.column for output in outputs), tuple(steps))


def _block_step(steps: list) -> BlockStep:
    """Combine one step of each output into one step of the block."""
    match steps[0]:
        case Log():
            return steps[0].apply
        case Clip():
            low = _stack_parameter(steps, "low")
            high = _stack_parameter(steps, "high")
            return lambda x: np.minimum(np.maximum(x, low), high)
        case Standardise():
            mean = _stack_parameter(steps, "mean")
            std = _stack_parameter(steps, "std")
            return lambda x: (x - mean) / std
        case Fill():
            value = _stack_parameter(steps, "value")
            return lambda x: np.where(np.isnan(x), value, x)
        case Quantile():
            return _quantile_step(cast(list[Quantile], steps))
    raise AssertionError(steps[0])


def _stack_parameter(steps: list[NumericStep], name: str) -> Floats:
    return np.array([getattr(step, name) for step in steps], np.float64)[:, None]


def _quantile_step(steps: list[Quantile]) -> BlockStep:
    """Combine quantile steps by concatenating their tables; see `Quantile.apply`.

    The search halves all tables in lockstep, without a branch that a processor could mispredict:
    four times as fast as one by one.
    """
    tables = [step.tables for step in steps]
    segment_starts, segment_values, slopes, values_at_cuts = (
        np.concatenate([table[table_index] for table in tables]) for table_index in (1, 2, 3, 4)
    )
    sizes = [len(table[0]) for table in tables]
    halvings = max(sizes).bit_length()
    padded_cuts = np.full((len(steps), 1 << halvings), np.inf)
    for padded_row, (cuts, *_) in zip(padded_cuts, tables, strict=True):
        padded_row[: len(cuts)] = cuts
    flat_cuts = padded_cuts.ravel()
    row_starts = (np.arange(len(steps)) << halvings)[:, None]
    table_starts = np.cumsum([0, *(size + 1 for size in sizes[:-1])])[:, None]

    def apply(x: Floats) -> Floats:
        cut_positions = np.broadcast_to(
            row_starts, x.shape
        ).copy()  # how many cuts lie below x, counted from where the row begins
        for halving in range(halvings - 1, -1, -1):
            cut_positions += (flat_cuts[cut_positions + ((1 << halving) - 1)] < x).astype(
                np.intp
            ) << halving
        table_positions = cut_positions + (table_starts - row_starts)
        return np.where(
            x == flat_cuts[cut_positions],
            values_at_cuts[table_positions],
            segment_values[table_positions]
            + (x - segment_starts[table_positions]) * slopes[table_positions],
        )

    return apply
