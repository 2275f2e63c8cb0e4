"""Several workers share a schema's entities: each value is that of the reference at the p of its
entity's part, by all three readings, whether workers read the routed log or what the shuffle wrote
for them; and the states of all parts together are that of one worker.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from tests.support.drawn.events import steps
from tests.support.drawn.features import declarations
from tests.support.drawn.three_readings import find_differences, play_stream
from tests.support.offline.crowd import make_crowd
from tests.support.offline.parts import read_records
from tests.support.offline.shards import assert_same, read_all_parts, slice_table

from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events.clock import SECOND, SimulatedClock
from tailorbird.events.keys import hash64
from tailorbird.features import FeatureSet, ReadRequest
from tailorbird.features.offline.backfill import backfill
from tailorbird.features.offline.positions import (
    newest_positions,
    positions_of,
    stack_positions,
    to_position_columns,
)
from tailorbird.features.offline.shards import backfill_to
from tailorbird.features.online.read import Reader
from tailorbird.features.online.shuffle import Shuffle
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.schemas import prune_states
from tailorbird.features.state.key_partition import KeyPart, all_parts
from tailorbird.features.state.progress import (
    read_schema_progress,
    read_schemas_progress,
    routed_log_offsets,
)
from tailorbird.features.state.state import read_local_position
from tailorbird.lake.tables import RESPONSES_SCHEMA


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True], ids=["routed", "shuffled"])
def test_reference_backfill_and_three_workers_are_equal_to_the_bit(shuffled: bool) -> None:
    apart = 0

    @settings(
        max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(declarations(), steps())
    def run(declared, script) -> None:
        nonlocal apart
        features = FeatureSet.from_declarations(declared)
        with tempfile.TemporaryDirectory() as folder:
            events, reads = play_stream(Path(folder), features, script, 3, shuffled=shuffled)
            assert find_differences(features, events, reads) == []
        apart += sum(len(set(read.rows.log_positions)) > 1 for read in reads)

    run()
    assert apart > 20, "the parts were as far as each other in nearly all requests"


@pytest.fixture
def site(kit, tmp_path):
    """A log of a crowd's events, with identifies among them."""
    features, rows = kit.every_kind(), make_crowd(kit, 11)
    rows[7] |= {"type": "identify", "user_id": "u1", "anonymous_id": "a1", "item_id": None}
    rows[90] |= {"type": "identify", "user_id": "u2", "anonymous_id": "a2", "item_id": None}
    for row, user, into in ((91, "u2", "u3"), (120, "u3", "u1")):
        merged = {"person": into, "properties": f'{{"merged_into":"{into}"}}'}
        rows[row] |= {
            "type": "merge",
            "user_id": user,
            "anonymous_id": None,
            "item_id": None,
            **merged,
        }
    log = kit.Log(tmp_path)
    log.append([rows[start : start + 40] for start in range(0, len(rows), 40)])
    log.close()
    return features, tmp_path


def test_the_states_of_all_parts_are_that_of_one_worker(site) -> None:
    features, folder = site
    clock = SimulatedClock(2_000_000_000 * SECOND)
    logs = [folder / f"part-{number}.db" for number in range(3)]
    with Shuffle(folder / "routed.db", logs, features) as shuffle:
        taken = shuffle.step()
    assert taken.rows == 262
    assert all(0 < some < 262 for some in taken.events)
    for part, log in [(KeyPart(), folder / "routed.db"), *zip(all_parts(3), logs, strict=True)]:
        with FeatureWorker(log, folder / "state", features, clock=clock, part=part) as worker:
            assert worker.step().log_position == 262
            worker.publish_progress()
    single, parts = (
        read_records(folder / "state", features, KeyPart()),
        [read_records(folder / "state", features, part) for part in all_parts(3)],
    )
    assert all(parts)
    assert sum(map(len, parts)) == len(single)
    assert {key: value for part in parts for key, value in part.items()} == single
    by_worker = read_schemas_progress(folder / "state", 3)[0]
    assert by_worker.kinds == read_schemas_progress(folder / "state")[0].kinds
    assert by_worker == read_schema_progress(folder / "state", features.schema_hash, 3)
    assert sorted(routed_log_offsets(folder / "state", 3)) == [
        f"worker {features.schema_hash[:8]} part-{number}-of-3" for number in range(3)
    ]
    assert {
        read_local_position(folder / "state", features, part).offset
        for part in (KeyPart(), *all_parts(3))
    } == {263}
    request = ReadRequest(user_id="u2", now=clock.now())
    with_one, with_three = (
        Reader(folder / "state", features),
        Reader(folder / "state", features, workers=3),
    )
    one, three = (
        with_one.read(request, ["i1", "i2", "i3"]),
        with_three.read(request, ["i1", "i2", "i3"]),
    )
    with_one.close()
    with_three.close()
    assert (one.log_positions, three.log_positions) == ((), (one.log_position,) * 3)
    assert three.log_position == one.log_position
    assert three.person == one.person == "u1"
    assert np.array_equal(one.numeric.view(np.uint32), three.numeric.view(np.uint32))


def test_all_parts_have_to_be_there(site) -> None:
    features, folder = site
    with FeatureWorker(
        folder / "routed.db",
        folder / "state",
        features,
        clock=SimulatedClock(0),
        part=KeyPart(1, 2),
    ) as worker:
        worker.step()
    with pytest.raises(NotReadyError):
        Reader(folder / "state", features, workers=2)
    with pytest.raises(NotReadyError):
        read_local_position(folder / "state", features, KeyPart(0, 2))
    with pytest.raises(UsageError, match="there is no part 2 of 2"):
        KeyPart(2, 2)


def test_states_of_another_number_of_workers_are_pruned(site) -> None:
    features, folder = site
    for part in (KeyPart(), *all_parts(2)):
        with FeatureWorker(
            folder / "routed.db", folder / "state", features, clock=SimulatedClock(0), part=part
        ) as worker:
            worker.step()
    assert (
        prune_states(folder / "state", [features.schema_hash], workers=2)[features.schema_hash] > 0
    )
    assert prune_states(folder / "state", [features.schema_hash], workers=2) == {}
    assert not (folder / "state" / features.schema_hash / "data.mdb").exists()
    Reader(folder / "state", features, workers=2).close()
    assert prune_states(folder / "state", [features.schema_hash])[features.schema_hash] > 0
    assert not list((folder / "state").glob("part-*"))


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["all", "shards", "stretches"])
def test_a_backfill_by_parts_does_not_depend_on_the_memory_setting(kit, tmp_path, memory) -> None:
    features, rng, m = kit.every_kind(), np.random.default_rng(3), 40
    rows = kit.table(make_crowd(kit, 11))
    per = rng.integers(0, 4, m)
    requests = kit.make_requests(
        kit.T0 + rng.integers(0, 700, m) * SECOND, rng.integers(0, len(rows), (m, 3)), per
    )
    size = {"all": 1 << 30, "shards": 1 << 14, "stretches": rows.nbytes // 2}[memory]
    folder = backfill_to(features, slice_table(rows), requests, tmp_path, memory_bytes=size)
    assert_same(read_all_parts(folder, features), requests, backfill(features, rows, requests))


def test_positions_of_different_numbers_of_workers_stand_in_one_array() -> None:
    answers = pa.Table.from_pylist(
        [
            dict.fromkeys(RESPONSES_SCHEMA.names) | {"p": p, "positions": some}
            for p, some in [(9, None), (8, [7, 8]), (6, [4, 6, 5])]
        ],
        schema=RESPONSES_SCHEMA,
    )
    p = positions_of(answers)
    assert p.shape == (3, 6)
    assert newest_positions(p).tolist() == [9, 8, 6]
    for text in ("u1", "i7", "x"):
        assert p[:, hash64(text) % 6].tolist() == [
            9,
            [7, 8][hash64(text) % 2],
            [4, 6, 5][hash64(text) % 3],
        ]
    assert positions_of(answers.slice(0, 1)).tolist() == [9]
    assert positions_of(answers.drop_columns(["positions"])).tolist() == [9, 8, 6]
    assert to_position_columns(stack_positions([3, 4]), 2).tolist() == [[3, 3], [4, 4]]
