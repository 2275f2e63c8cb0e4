"""The routed positions up to which the features of requests were known.

    p (m,)           all entities of a request as of one position
    p (m, count)     an entity of part k as of p[:, k]; see `features.state.key_partition`

A partition into 2 parts is also one into 4, 6, …: a key's part in the finer partition determines
its part in the coarser one. Requests from times with different numbers of workers therefore fit
into one array, as wide as the least common multiple.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.features.state.key_partition import part_numbers

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]


def positions_of(responses: pa.Table) -> Int64s:
    """Return the p of logged responses, rows of the lake's `answers`: (m,) or (m, count)."""
    log_position = responses["p"].to_numpy().astype(np.int64)
    if "positions" not in responses.column_names:  # The table was written before there were parts.
        return log_position
    column = responses["positions"]
    part_counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    if not part_counts.any():
        return log_position
    positions_by_response = column.to_pylist()
    return stack_positions(
        [
            part_positions if part_positions else int(position)
            for position, part_positions in zip(log_position, positions_by_response, strict=True)
        ]
    )


def stack_positions(positions: Sequence[int | Sequence[int]]) -> Int64s:
    """Stack the positions of each request into one array.

    >>> stack_positions([7, [4, 5]]).tolist() [[7, 7], [4, 5]]
    """
    rows = [(position,) if isinstance(position, int) else tuple(position) for position in positions]
    part_count = math.lcm(*(len(row) for row in rows)) if rows else 1
    if part_count == 1:
        return np.array([row[0] for row in rows], np.int64)
    return np.array([row * (part_count // len(row)) for row in rows], np.int64)


def to_position_columns(log_position: Int64s, width: int) -> Int64s:
    """Repeat positions to `width` parts, a multiple of the number of parts that they have."""
    columns = log_position if log_position.ndim == 2 else log_position[:, None]
    return columns if columns.shape[1] == width else np.tile(columns, width // columns.shape[1])


def positions_of_keys(log_position: Int64s, requests: Intps, keys: Keys) -> Int64s:
    """Return the positions as of which these requests know the entities with these keys."""
    return (
        log_position[requests]
        if log_position.ndim == 1
        else log_position[requests, part_numbers(keys, log_position.shape[1])]
    )


def newest_positions(log_position: Int64s) -> Int64s:
    """Return each request's newest position of any part, which the lake must have reached."""
    return log_position if log_position.ndim == 1 else log_position.max(axis=1)
