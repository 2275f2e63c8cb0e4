"""Tables of sharded backfills, and their comparison."""

from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.features.offline.partition.inputs import definitions
from tailorbird.features.offline.parts import read_parts


def tables(table: Any, size: int = 37) -> Any:
    return lambda columns: (
        table.slice(at, size).select(columns) for at in range(0, len(table), size)
    )


def all_of(folder: Path, features: Any, only: Any = None) -> Any:
    return list(read_parts(folder, definitions(features, only)))


def assert_same(parts: Any, requests_: Any, expected: Any) -> None:
    assert np.array_equal(
        np.concatenate([part.rows.numeric for part in parts]).view(np.uint32),
        expected.numeric.view(np.uint32),
    )
    assert np.array_equal(
        np.concatenate([part.rows.categorical for part in parts]), expected.categorical
    )
    for name, one in expected.sequences.items():
        got = [part.rows.sequences[name] for part in parts]
        assert (
            np.concatenate([np.diff(part.offsets) for part in got]).tolist()
            == np.diff(one.offsets).tolist()
        )
        for column in ("item", "type", "ts"):
            assert np.array_equal(
                np.concatenate([getattr(part, column) for part in got]), getattr(one, column)
            )
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].row_stop == len(requests_.row_request)
