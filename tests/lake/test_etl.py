"""Repeats by imports are dropped once, however rows are batched."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.events import SystemClock
from tailorbird.events.clock import DAY
from tailorbird.events.contract.schema import ROUTED
from tailorbird.lake import Lake, LakeRole, verify
from tailorbird.lake.write import etl
from tailorbird.stream import Block, open_writer, raw_path, routed_path


def events(rows):
    """Events of (id, user, day, partition), in log order."""
    count = len(rows)
    columns = {field.name: pa.nulls(count, field.type) for field in ROUTED}
    given_ = {
        "p": range(1, count + 1),
        "event_id": [row[0] for row in rows],
        "user_id": [row[1] for row in rows],
        "ts": [row[2] * DAY + 5 for row in rows],
        "raw_partition": [row[3] for row in rows],
        "raw_offset": range(count),
        "raw_row": [0] * count,
    }
    columns |= {name: pa.array(values, ROUTED.field(name).type) for name, values in given_.items()}
    return pa.table(columns, schema=ROUTED)


def drop_in_batches(table, cuts):
    """The p that are kept when the table is filled batch by batch."""
    retained = table.slice(0, 0)
    edges = [0, *sorted(cuts), len(table)]
    for start, end in pairwise(edges):
        batch = table.slice(start, end - start)
        if len(batch) == 0:
            continue

        def read_earlier(days, p, retained=retained):
            rows = np.isin(retained.column("ts").cast(pa.int64()).to_numpy() // DAY, days) & (
                retained.column("p").to_numpy() < p
            )
            return retained.filter(pa.array(rows)).select(list(etl.KEY_COLUMNS))

        good, repeats = etl.split_repeats(batch, read_earlier)
        assert len(good) + len(repeats) == len(batch)
        retained = pa.concat_tables([retained, good])
    return retained.column("p").to_pylist()


ROW = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from(["u", "v", None]),
    st.integers(0, 1),
    st.sampled_from(["import", "collector"]),
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=25), data=st.data())
def test_what_is_dropped_does_not_depend_on_the_cuts(rows, data):
    table = events(rows)
    seen, expected = set(), []
    for p, (event_id, user, day, partition) in enumerate(rows, 1):
        if partition == "collector" or (event_id, user, day) not in seen:
            expected.append(p)
        seen.add((event_id, user, day))
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=4))
    assert drop_in_batches(table, cuts) == expected


def test_a_file_imported_again_is_in_the_lake_once(tmp_path, samples):
    stream, lake = tmp_path / "stream", tmp_path / "lake"
    raw = open_writer(raw_path(stream, "import"), partition="import")
    routed = open_writer(routed_path(stream), partition="routed", first_position=1)
    for turn in range(2):  # the router has forgotten the first time
        raw.append([Block(kind="body", rows=100, payload=b"x" * 100, receipt=b"{}")])
        table = samples.events(1 + 100 * turn, 100, partition="import", raw=np.arange(100))
        first = samples.events(1, 100, partition="import", raw=np.arange(100))
        again = pa.array(np.arange(100) + 100 * turn)
        table = table.set_column(ROUTED.get_field_index("ts"), "ts", first.column("ts"))
        table = table.set_column(ROUTED.get_field_index("raw_offset"), "raw_offset", again)
        routed.append([Block(kind="events", rows=100, payload=samples.ipc(table))])
        with LakeRole(stream, lake, clock=SystemClock()) as role:
            role.drain()
    reader = Lake(lake)
    assert (reader.count("events"), reader.count("duplicates"), reader.count("items")) == (
        100,
        100,
        25,
    )
    report = verify(lake)
    assert report.is_clean, str(report)
    assert report.partitions["import"].duplicates == 100
    raw.close()
    routed.close()
