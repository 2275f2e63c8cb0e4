"""KuaiRand nets are chosen without the test part."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.quality import kuairand


def test_choosing_reads_nothing_of_the_test_part(tmp_path, monkeypatch):
    rng, rows = np.random.default_rng(1), 500
    columns = {"ts": np.arange(rows) * 60_000_000, "user_id": rng.integers(0, 20, rows), "video_id": rng.integers(0, 30, rows)}
    columns |= {"duration_ms": rng.integers(1, 9, rows)} | {column: rng.integers(0, 2, rows) for column in kuairand.COLUMN_BY_TASK.values()}
    pq.write_table(pa.table(columns), tmp_path / "interactions.parquet")
    seen = []

    def fit(architecture, parameters, layout, train, validation, *, seed):
        seen.append((parameters["unknown_share"], len(train), len(validation)))
        return SimpleNamespace(score=lambda matrix: {task: np.full(len(matrix), 0.5 / len(matrix)) for task in kuairand.COLUMN_BY_TASK})

    monkeypatch.setattr(kuairand, "fit", fit)
    choice = kuairand.choose_unknown_shares(tmp_path, seeds=1)
    assert set(seen) == {(share, 300, 50) for share in kuairand.UNKNOWN_SHARES}, "the next 50 judge, and 100 are left for the test"
    assert {name: set(shares) for name, shares in choice.items()} == {
        name: {f"{share:g}" for share in kuairand.UNKNOWN_SHARES} for name in kuairand.UNKNOWN_SHARE_BY_NET
    }
    label = columns["is_click"]
    altered = {name: column.copy() for name, column in columns.items()}
    for column in kuairand.COLUMN_BY_TASK.values():
        altered[column][400:] = 1 - altered[column][400:]
    pq.write_table(pa.table(altered), tmp_path / "interactions.parquet")
    assert label[400:].any()
    assert kuairand.choose_unknown_shares(tmp_path, seeds=1) == choice
