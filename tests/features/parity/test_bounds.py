"""Comparisons with a large lake load what they depend on and no more: lists by the items in them,
columns by turns, or over a folder.
"""

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events import SECOND, SimulatedClock
from tailorbird.features import FeatureSet, count, entity, sequence
from tailorbird.features.offline.backfill import Requests, backfill, event_columns
from tailorbird.features.parity.bounds import (
    affordable_columns,
    backfill_on_disk,
    read_required_events,
)
from tailorbird.features.parity.sampled import required_events
from tailorbird.lake import Lake, LakeRole

ITEM, EVERYONE = entity("item"), entity()
FEATURES = FeatureSet.from_declarations(
    [
        count("shown", ITEM, "impression", window="1d"),
        count("clicked", ITEM, "click", window="1d"),
        sequence("recent", entity("user"), "click", length=3),
        count("all", EVERYONE, "click", window="1d"),
        count("views", entity("country"), "view", window="1d"),
    ]
)
SEEN = 300


@pytest.fixture
def lake(kit, tmp_path):
    seen = [
        kit.event(
            "impression",
            kit.T0 + n * SECOND,
            items=[f"i{n}", f"i{n + 1}", f"i{n + 2}"],
            user_id=f"u{n % 9}",
            event_id=f"s{n}",
        )
        for n in range(SEEN)
    ]
    done = [
        kit.event(
            kind,
            kit.T0 + n * SECOND,
            item_id=f"i{n}",
            user_id=f"u{n % 9}",
            country="NO",
            event_id=f"{kind}{n}",
        )
        for n in range(40)
        for kind in ("click", "view")
    ]
    log = kit.Log(tmp_path)
    raw = {"raw_partition": "d1", "raw_offset": 0}
    rows = enumerate(kit.routed(seen + done))
    log.append([[one | raw | {"raw_row": row, "received_at": one["ts"]} for row, one in rows]])
    log.close()
    with LakeRole(tmp_path, tmp_path / "lake", clock=SimulatedClock(kit.T0 + 999 * SECOND)) as role:
        role.drain()
    return Lake(tmp_path / "lake")


@pytest.fixture
def requests(kit):
    one = ["NO"] * 4
    return Requests(
        t=np.full(4, kit.T0 + 900 * SECOND),
        log_position=np.full(4, 10_000),
        person=["u1", "u2", "u3", "u4"],
        session_id=[None] * 4,
        device=[None] * 4,
        country=one,
        local_hour=[None] * 4,
        query=[None] * 4,
        row_request=np.arange(4),
        row_item=["i7", "i8", "i200", "unheard"],
    )


def of(*names: str) -> FeatureSet:
    return FeatureSet.from_declarations(
        [feature for feature in FEATURES.features if feature.name in names]
    )


def test_an_event_that_shows_several_items_is_loaded_for_the_requested_ones(lake, requests):
    features = of("clicked", "shown")
    expected = lake.table("events", event_columns(features), required_events(features, requests))
    events = read_required_events(lake, features, requests, rows_max=10)
    assert expected.num_rows > SEEN
    assert events is not None
    assert sorted(
        {item for shown in events["items"].to_pylist() for item in shown or []}
        & {"i7", "i8", "i200"}
    ) == ["i200", "i7", "i8"]
    assert events.num_rows == 4 + 3 + 2, "i7 or i8, i200, and a click on i7 and i8"
    assert (
        backfill(features, events, requests).numeric.tobytes()
        == backfill(features, expected, requests).numeric.tobytes()
    )


def test_no_more_is_loaded_than_the_bound(lake, requests):
    assert read_required_events(lake, FEATURES, requests, rows_max=20) is None
    assert read_required_events(lake, FEATURES, requests, bytes_max=1_000) is None


def test_which_groups_are_compared_changes_from_time_to_time(lake, requests):
    column_sets = {
        tuple(affordable_columns(lake, FEATURES, requests, 75, np.random.default_rng(seed)))
        for seed in range(16)
    }
    narrow = ("shown", "clicked", "recent")
    assert column_sets == {(*narrow, "all"), (*narrow, "views")}


def test_what_exceeds_memory_is_computed_on_disk_and_is_equal(lake, requests, tmp_path):
    expected = backfill(FEATURES, lake.table("events", event_columns(FEATURES)), requests)
    parts = list(backfill_on_disk(lake, FEATURES, requests, tmp_path / "spill", 1_000))
    assert (
        np.concatenate([part.rows.numeric for part in parts]).tobytes()
        == expected.numeric.tobytes()
    )
    assert (
        parts[0].rows.sequences["recent"].of(0).to_lists()
        == expected.sequences["recent"].of(0).to_lists()
    )
    assert (tmp_path / "spill").exists()
    assert isinstance(read_required_events(lake, FEATURES, requests), pa.Table)
