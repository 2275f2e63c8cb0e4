"""A backfill into a folder: equal to one in memory, resumed where it was cut short, and no column
computed twice.
"""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from tests.support.offline.backfill import FEATURES, USER, make_events, make_requests
from tests.support.offline.crowd import make_crowd
from tests.support.offline.shards import assert_same, read_all_parts, slice_table

from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events.clock import SECOND
from tailorbird.features import FeatureSet, count
from tailorbird.features.offline.backfill import Requests, backfill
from tailorbird.features.offline.parts import read_manifest
from tailorbird.features.offline.shards import backfill_to

SMALL = 1 << 15  # cuts 90 rows into several parts


@pytest.mark.parametrize("memory", [SMALL, 1 << 30])
def test_the_parts_of_a_folder_are_the_backfill(tmp_path, memory):
    requests_ = make_requests()
    folder = backfill_to(
        FEATURES, slice_table(make_events()), requests_, tmp_path / "out", memory_bytes=memory
    )
    parts = read_all_parts(folder, FEATURES)
    assert (len(parts) > 1) == (memory == SMALL)
    assert parts[0].rows.numeric_names == FEATURES.numeric
    assert_same(parts, requests_, backfill(FEATURES, make_events(), requests_))


def test_a_dataset_of_files_is_read_like_tables(tmp_path):
    ds.write_dataset(make_events(), tmp_path / "lake", format="parquet")
    folder = backfill_to(FEATURES, ds.dataset(tmp_path / "lake"), make_requests(), tmp_path / "out")
    assert_same(
        read_all_parts(folder, FEATURES),
        make_requests(),
        backfill(FEATURES, make_events(), make_requests()),
    )


class Killed(Exception):
    pass


def test_what_was_finished_before_a_kill_is_not_computed_again(tmp_path):
    requests_, read = make_requests(), []

    def counted(columns):
        read.append(1)
        return slice_table(make_events())(columns)

    def until_the_second(stage, done, of):
        if stage == "parts" and done == 2:
            raise Killed

    with pytest.raises(Killed):
        backfill_to(
            FEATURES, counted, requests_, tmp_path, memory_bytes=SMALL, progress=until_the_second
        )
    with pytest.raises(NotReadyError, match="clicks was not backfilled to the end"):
        read_all_parts(tmp_path, FEATURES)
    finished = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*-0000[01].parquet")}
    assert len(finished) == 4
    (tmp_path / read_manifest(tmp_path).groups.popitem()[0] / "rows-00002.new").write_bytes(
        b"half of a par"
    )
    backfill_to(FEATURES, counted, requests_, tmp_path, memory_bytes=SMALL)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert_same(
        read_all_parts(tmp_path, FEATURES), requests_, backfill(FEATURES, make_events(), requests_)
    )
    read.clear()
    backfill_to(FEATURES, counted, requests_, tmp_path, memory_bytes=SMALL)
    assert read == []


@pytest.mark.slow
def test_what_does_not_fit_into_memory_is_the_same_for_every_kind(kit, tmp_path):
    features, rng = kit.every_kind(), np.random.default_rng(3)
    rows = kit.table(make_crowd(kit, 11))
    m, per = 40, rng.integers(0, 4, 40)
    requests_ = kit.make_requests(
        kit.T0 + rng.integers(0, 700, m) * SECOND, rng.integers(0, len(rows), m), per
    )
    folder = backfill_to(features, slice_table(rows), requests_, tmp_path, memory_bytes=1 << 14)
    assert_same(read_all_parts(folder, features), requests_, backfill(features, rows, requests_))
    assert not list(tmp_path.rglob("spill")), "what was spilled is removed at the end"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["shards by user", "shards by item", "shards by item.category"])
def test_a_run_interrupted_among_shards_resumes(tmp_path, stage):
    requests_, read = make_requests(), []

    def counted(columns):
        read.append(1)
        return slice_table(make_events())(columns)

    def until(now, done, of):
        if now == stage:
            raise Killed

    with pytest.raises(Killed):
        backfill_to(FEATURES, counted, requests_, tmp_path, memory_bytes=SMALL, progress=until)
    finished = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("spill/done/*")}
    assert len(finished) > 1
    stages = []
    backfill_to(
        FEATURES,
        counted,
        requests_,
        tmp_path,
        memory_bytes=SMALL,
        progress=lambda *how: stages.append(how),
    )
    assert len(read) == 1, "the events were cut before"
    assert stages[-1][:2] == ("parts", stages[-1][2])
    assert_same(
        read_all_parts(tmp_path, FEATURES), requests_, backfill(FEATURES, make_events(), requests_)
    )


def test_another_memory_setting_drops_what_was_spilled(tmp_path):
    def until(now, done, of):
        if now == "shards by item":
            raise Killed

    with pytest.raises(Killed):
        backfill_to(
            FEATURES,
            slice_table(make_events()),
            make_requests(),
            tmp_path,
            memory_bytes=SMALL,
            progress=until,
        )
    backfill_to(
        FEATURES, slice_table(make_events()), make_requests(), tmp_path, memory_bytes=2 * SMALL
    )
    assert_same(
        read_all_parts(tmp_path, FEATURES),
        make_requests(),
        backfill(FEATURES, make_events(), make_requests()),
    )


def many(rows):
    rng, few = np.random.default_rng(5), make_requests()
    place = rng.integers(0, len(few.t), rows)
    return Requests(
        few.t[place],
        few.log_position[place],
        pa.array(few.person).take(pa.array(place)),
        np.arange(rows),
        ["i1", "i2", "i3"] * (rows // 3),
    )


def test_many_requests_about_events_that_fit_are_answered_part_by_part_without_a_spill(tmp_path):
    requests_, stages = many(3_000), []
    memory = 16 * make_events().nbytes
    folder = backfill_to(
        FEATURES,
        slice_table(make_events()),
        requests_,
        tmp_path,
        memory_bytes=memory,
        progress=lambda *stage: stages.append(stage),
    )
    assert {stage for stage, _, _ in stages} == {"parts"}
    assert len(stages) > 2
    assert_same(
        read_all_parts(folder, FEATURES), requests_, backfill(FEATURES, make_events(), requests_)
    )


@pytest.mark.slow
def test_a_piece_is_written_once_however_many_lanes_it_has(tmp_path):
    requests_, rows, written = many(600), 600, []

    def inspect(stage, done, of):
        if (stage, done) == ("parts", 1):
            for kind in ("requests", "rows", "done"):
                written.append(
                    {file.name: file.stat().st_size for file in tmp_path.rglob(f"spill/{kind}/*")}
                )

    memory = 2 * make_events().nbytes
    folder = backfill_to(
        FEATURES,
        slice_table(make_events()),
        requests_,
        tmp_path,
        memory_bytes=memory,
        progress=inspect,
    )
    of_requests, of_rows, pieces = written
    assert 0 < len(of_requests) + len(of_rows) <= 2 * len(pieces), (
        "a file of a piece for its requests, and one for its rows"
    )
    entities, lanes = (
        FEATURES.layout.entities,
        sum(entity.reading_lanes for entity in FEATURES.layout.entities),
    )
    size = sum(of_requests.values()) + sum(of_rows.values())
    assert size < 8 * rows * (lanes + len(FEATURES.layout.steps) + len(entities)) + 40_000 * len(
        pieces
    ), "each number once"
    assert_same(
        read_all_parts(folder, FEATURES), requests_, backfill(FEATURES, make_events(), requests_)
    )


LARGE = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import FeatureSet, count, decayed, distinct, entity, last, ratio
from tailorbird.features.offline.backfill import Requests
from tailorbird.features.offline.shards import backfill_to

user, item = entity("user"), entity("item")
many = [
    count("clicks", user, "click", window="1d"),
    ratio("ctr", item, "click", "view", window="1d"),
]
of_all = [
    count("all", entity(), "click", window="1d"),
    decayed("fading", entity(), "click", half_life="1h"),
    distinct("people", entity(), "click", of="user", window="1d"),
    last("last", entity(), "click", of="item"),
]
millions, memory, items = float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
features = FeatureSet.from_declarations(many if items > 1 else [*of_all, *many])
size, pieces = 50_000, round(20 * millions)
start = 1_790_000_000_000_000

def pieces_of(columns):
    for piece in range(pieces):
        rng = np.random.default_rng(piece)
        who = pa.array([f"u{one}" for one in rng.integers(0, 20_000, size)])
        ts = pa.array(start + np.sort(rng.integers(0, 10**11, size)))
        values = {
            "p": np.arange(piece * size, (piece + 1) * size),
            "event_id": pa.array([f"e{piece}-{row}" for row in range(size)]),
            "type": pa.array(["click", "view"]).take(pa.array(rng.integers(0, 2, size))),
            "user_id": who,
            "person": who,
            "ts": ts.cast(ROUTED.field("ts").type),
            "item_id": pa.array([f"i{number}" for number in rng.integers(0, items, size)]),
            "counts": pa.array(np.ones(size, bool)),
        }
        nulls = {name: pa.nulls(size, ROUTED.field(name).type) for name in columns}
        yield pa.table({name: values.get(name, nulls[name]) for name in columns})

m = 20_000
rng = np.random.default_rng(7)
asked = Requests(
    start + rng.integers(0, 10**11, m),
    np.full(m, 1 << 40),
    pa.array([f"u{number}" for number in rng.integers(0, 20_000, m)]),
    np.arange(m),
    pa.array([f"i{number}" for number in rng.integers(0, items, m)]),
)
def most():
    # In kB. ru_maxrss would include the memory of the parent process.
    status = open("/proc/self/status")
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

few = lambda columns: (piece.slice(0, 10) for piece in pieces_of(columns))
backfill_to(features, few, asked.slice_requests(0, 9, slice(0, 9)), Path(sys.argv[1]) / "0")
before = most()
backfill_to(features, pieces_of, asked, Path(sys.argv[1]) / "1", memory_bytes=memory)
print((most() - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("items", [pytest.param(500, marks=pytest.mark.nightly), 1])
def test_memory_is_bounded_by_the_setting(tmp_path, items):
    """A million events are 90 MB as they are read; at once they would take several times that, all
    about one item and everyone too.
    """

    def taken(memory: int) -> int:
        command = [
            sys.executable,
            "-c",
            LARGE,
            str(tmp_path / str(memory)),
            "1",
            str(memory),
            str(items),
        ]
        return int(
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
        )

    bounded, at_once = taken(48 << 20), taken(4 << 30)
    assert bounded <= 48, f"{bounded} MB of the 48 MiB that it may take"
    assert bounded < 0.6 * at_once, f"{bounded} MB, at once {at_once} MB"


def test_one_feature_more_computes_that_one_alone(tmp_path):
    requests_ = make_requests()
    backfill_to(FEATURES, slice_table(make_events()), requests_, tmp_path)
    more = FeatureSet.from_declarations(
        [*FEATURES.features, count("carts", USER, "cart", window="1d")]
    )
    column_lists = []

    def seen(columns):
        column_lists.append(columns)
        return slice_table(make_events())(columns)

    backfill_to(more, seen, requests_, tmp_path)
    assert all("item_profile" not in columns for columns in column_lists)
    groups = read_manifest(tmp_path).groups.values()
    assert sorted(len(group.columns) for group in groups) == [1, len(FEATURES.features)]
    assert_same(read_all_parts(tmp_path, more), requests_, backfill(more, make_events(), requests_))


def test_a_changed_column_or_other_events_are_recomputed(tmp_path):
    requests_ = make_requests()
    backfill_to(
        FEATURES,
        slice_table(make_events()),
        requests_,
        tmp_path,
        only_columns=["clicks"],
        version="1",
    )
    changed = FeatureSet.from_declarations([count("clicks", USER, "click", window="2d")])
    with pytest.raises(NotReadyError):
        read_all_parts(tmp_path, changed)
    backfill_to(changed, slice_table(make_events()), requests_, tmp_path, version="1")
    assert_same(
        read_all_parts(tmp_path, changed), requests_, backfill(changed, make_events(), requests_)
    )
    backfill_to(changed, slice_table(make_events(seed=5)), requests_, tmp_path, version="2")
    assert len(read_manifest(tmp_path).groups) == 1
    assert_same(
        read_all_parts(tmp_path, changed),
        requests_,
        backfill(changed, make_events(seed=5), requests_),
    )


def test_requests_out_of_order_are_refused(tmp_path):
    requests_ = make_requests()
    turned = Requests(
        requests_.t,
        requests_.log_position,
        requests_.person,
        requests_.row_request[::-1],
        requests_.row_item,
    )
    with pytest.raises(UsageError, match="rows are not in order of their requests"):
        backfill_to(FEATURES, slice_table(make_events()), turned, tmp_path)


def test_without_requests_there_is_an_empty_folder(tmp_path):
    none = Requests(
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        pa.array([], pa.string()),
        np.zeros(0, np.intp),
        [],
    )
    backfill_to(FEATURES, slice_table(make_events()), none, tmp_path)
    assert sum(part.rows.numeric.shape[0] for part in read_all_parts(tmp_path, FEATURES)) == 0
