"""A key whose events do not fit into memory: gone through in order of time, with the values that
all of them at once give.
"""

import numpy as np
import pytest
from tests.support.offline.crowd import make_crowd
from tests.support.offline.shards import assert_same, read_all_parts, slice_table

from tailorbird.events.clock import SECOND
from tailorbird.features.offline.backfill import backfill
from tailorbird.features.offline.compaction import TileSums
from tailorbird.features.offline.shards import backfill_to


@pytest.mark.slow
@pytest.mark.parametrize("arrival", ["all", "as they came"])
def test_events_in_order_of_time_give_the_values_of_all_at_once_for_every_kind(
    kit, tmp_path, arrival
):
    features, rng, m = kit.every_kind(), np.random.default_rng(3), 60
    rows = kit.table(make_crowd(kit, 11))
    t = kit.T0 + rng.integers(0, 700, m) * SECOND
    lag = rng.integers(0, 9, m)
    p = np.full(m, len(rows))
    if arrival == "as they came":  # a few rows behind the newest that had happened
        ts, arrived_p = np.sort(rows["ts"].cast("int64").to_numpy()), np.sort(rows["p"].to_numpy())
        p = arrived_p[np.maximum(np.searchsorted(ts, t) - 1 - lag, 0)]
    per = rng.integers(0, 4, m)
    requests = kit.make_requests(t, p, per)
    stretches = set()

    def progress(stage, done, of):
        if stage.startswith("stretches"):
            stretches.add((stage, of))

    folder = backfill_to(
        features,
        slice_table(rows),
        requests,
        tmp_path,
        memory_bytes=rows.nbytes // 2,
        progress=progress,
    )
    assert {stage for stage, _ in stretches} >= {
        "stretches by everyone",
        "stretches by user",
        "stretches by item",
    }
    assert max(of for _, of in stretches) > 8
    assert_same(read_all_parts(folder, features), requests, backfill(features, rows, requests))


def test_sums_of_tiles_are_those_of_what_was_added():
    rng, tiles = np.random.default_rng(7), TileSums()
    key, tile, value = (
        rng.integers(1, 5, 200).astype(np.uint64),
        rng.integers(-20, 20, 200),
        rng.integers(-9, 9, 200),
    )
    for some in np.split(np.arange(200), [60, 60, 130]):
        tiles.add(key[some], tile[some], value[some], -15)
    assert len(tiles) <= 4 * 35
    keys, since = np.repeat(np.arange(7, dtype=np.uint64), 50), np.tile(np.arange(-15, 35), 7)
    expected = [
        value[(key == one) & (tile >= place)].sum() for one, place in zip(keys, since, strict=True)
    ]
    assert tiles.sum_since(keys, since).tolist() == expected
    assert tiles.sum_at(keys, since).tolist() == [
        value[(key == one) & (tile == at)].sum() for one, at in zip(keys, since, strict=True)
    ]
