"""Tables of sharded backfills, and their comparison."""

from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.features.offline.partition.inputs import definitions
from tailorbird.features.offline.parts import read_parts


def slice_table(table: Any, size: int = 37) -> Any:
    """Return a function that reads some columns of a table, `size` rows at a time."""
    return lambda columns: (
        table.slice(start, size).select(columns) for start in range(0, len(table), size)
    )


def read_all_parts(folder: Path, features: Any, only: Any = None) -> Any:
    return list(read_parts(folder, definitions(features, only)))


def assert_same(parts: Any, requests_: Any, expected: Any) -> None:
    assert np.array_equal(
        np.concatenate([part.rows.numeric for part in parts]).view(np.uint32),
        expected.numeric.view(np.uint32),
    )
    assert np.array_equal(
        np.concatenate([part.rows.categorical for part in parts]), expected.categorical
    )
    for name, expected_sequence in expected.sequences.items():
        sequence_parts = [part.rows.sequences[name] for part in parts]
        assert (
            np.concatenate([np.diff(part.offsets) for part in sequence_parts]).tolist()
            == np.diff(expected_sequence.offsets).tolist()
        )
        for column in ("item", "type", "ts"):
            assert np.array_equal(
                np.concatenate([getattr(part, column) for part in sequence_parts]),
                getattr(expected_sequence, column),
            )
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].row_stop == len(requests_.row_request)
