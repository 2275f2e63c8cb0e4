"""Loops of the backfill over marks: a bit for each source that counts an event.

They follow the rules of `features.offline.kernels.windows`.

    row      0     1     2        a timeline's marks are gathered once for all its sources
    marks    001   110   000      the values of a source are looked up only where its bit is set
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tailorbird.features.offline.kernels.windows import (
    THREADS,
    Bools,
    Int64s,
    Intps,
    Keys,
    compiled,
    run_parallel,
)

Marks = npt.NDArray[np.uint16]
Registers = npt.NDArray[np.uint8]


@compiled
def mark_rows(rows: Intps, bit: np.uint16, marks: Marks) -> None:
    for row in rows:
        marks[row] |= bit


@compiled
def gather_marks(low: int, high: int, marks: Marks, order: Intps, out: Marks) -> None:
    for position in range(low, high):
        out[position] = marks[order[position]]


@compiled
def marked_positions(marks: Marks, bit: np.uint16) -> Intps:
    count = 0
    for event_marks in marks:
        count += (event_marks & bit) != 0
    positions = np.empty(count, np.intp)
    count = 0
    for position in range(len(marks)):
        if marks[position] & bit:
            positions[count] = position
            count += 1
    return positions


@compiled
def prefix_counts(marks: Marks, bit: np.uint16, sums: Int64s) -> None:
    """Write how many marked events lie before each position."""
    count = 0
    sums[0] = 0
    for position in range(len(marks)):
        count += (marks[position] & bit) != 0
        sums[position + 1] = count


def prefix_sums(marks: Marks, bit: np.uint16, values: Int64s, order: Intps, sums: Int64s) -> None:
    """Write the sum of the values of the marked events before each position; other values are not
    read.
    """
    sums[0] = 0
    bounds_of_shares = [len(marks) * share // THREADS for share in range(THREADS + 1)]
    run_parallel(_prefix_sums, len(marks), marks, bit, values, order, sums, bounds=bounds_of_shares)
    for low, high in pairwise(bounds_of_shares[1:]):
        sums[low + 1 : high + 1] += sums[low]


@compiled
def _prefix_sums(
    low: int, high: int, marks: Marks, bit: np.uint16, values: Int64s, order: Intps, sums: Int64s
) -> None:
    total = np.int64(0)
    for position in range(low, high):
        if marks[position] & bit:
            total += values[order[position]]
        sums[position + 1] = total


@compiled
def write_registers(
    low: int,
    high: int,
    order: Intps,
    is_selected: Bools,
    hashes: Keys,
    precision: int,
    rank_max: int,
    register: Registers,
    rank: Registers,
) -> None:
    """Write `sketch.registers_and_ranks` of the selected events, in timeline order; rank 0 for
    others.
    """
    for position in range(low, high):
        row = order[position]
        if not is_selected[row]:
            register[position] = rank[position] = 0
            continue
        register[position] = hashes[row] >> np.uint64(64 - precision)
        # A sketch uses 53 of the remaining bits.
        remaining_bits = (hashes[row] << np.uint64(precision)) >> np.uint64(11)
        rank_ = 1
        bit = np.uint64(1) << np.uint64(52)
        while rank_ < rank_max and remaining_bits & bit == 0:
            rank_ += 1
            bit >>= np.uint64(1)
        rank[position] = rank_
