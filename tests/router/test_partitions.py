"""Several partitions: the same decisions as with one, each row one number, whoever routes a
partition, and zombies are told.
"""

from uuid import uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.router.partitions import (
    PARTITION_COUNT,
    PartitionedTopics,
    make_profile_events,
    make_visitor_events,
    post_round,
)
from tests.support.router.stream import NOW, PLAN

from tailorbird.errors import LockedError
from tailorbird.events import Receipt, SimulatedClock, check_body
from tailorbird.events.contract.checked_batch import EventColumns
from tailorbird.events.parts import partition_of, select_partition_rows, split_by_partition
from tailorbird.lake import Lake, LakeRole, verify
from tailorbird.router import to_table
from tailorbird.stream import Block, open_reader, open_writer, raw_path


@pytest.fixture
def parted(servers, tmp_path):
    made = PartitionedTopics(tmp_path / "parted", servers, f"test-{uuid4().hex[:12]}")
    yield made
    made.close()


def fill(site):
    with site.router() as router:
        site.post(*make_profile_events())
        route(router, 50)
        for number in range(3):
            post_round(site, number)
            route(router, 29)


def route(router, rows_max):
    while router.step(rows_max).has_more:
        pass


def decided(site):
    rows = [
        {
            name: value
            for name, value in row.items()
            if name not in ("p", "raw_offset", "raw_row", "raw_partition")
        }
        for row in site.events()
    ]
    return sorted(rows, key=lambda row: row["event_id"])


def test_what_is_decided_is_what_one_router_decides(parted, stream):
    for site in (parted, stream):
        fill(site)
    assert decided(parted) == decided(stream)
    assert {row["raw_partition"] for row in parted.events()} == {
        f"collector.{number}" for number in range(PARTITION_COUNT)
    }
    assert any(
        row["person"] == "u3" and row["user_id"] in ("u0", "u1", "u2") for row in decided(parted)
    )
    assert any(row["person"] == "u3" and row["user_id"] is None for row in decided(parted))
    assert any(
        row["user_profile"] and row["item_profile"] and row["slot"] for row in decided(parted)
    )
    refused = [
        [(row["code"], row["path"], row["body"]) for row in site.rows("quarantine")]
        for site in (parted, stream)
    ]
    assert sorted(refused[0]) == sorted(refused[1])
    repeats = [
        sorted(row["event_id"] for row in site.rows("duplicates")) for site in (parted, stream)
    ]
    assert repeats[0] == repeats[1] != []


def test_each_row_has_one_number_for_all_who_read_in_whatever_pieces(parted):
    fill(parted)
    blocks = parted.blocks()
    assert blocks[0].offset == 1
    assert [one.end for one in blocks[:-1]] == [one.offset for one in blocks[1:]]
    with open_reader(parted.stream.routed) as reader:
        end = reader.end()
        assert end == blocks[-1].end
        for start in (2, end // 3, end // 2, end - 1):
            with open_reader(parted.stream.routed) as fresh:
                stored_blocks = fresh.read(start, bytes_max=1)
            assert stored_blocks == [one for one in blocks if one.offset <= start < one.end]
        position, pieces = 1, []
        while more := reader.read(position, bytes_max=5_000):
            pieces += more
            position = more[-1].end
        assert pieces == blocks


def test_a_profile_stands_before_the_events_that_carry_it(parted):
    """Routers stepped in any order: none applies a profile before the order has it."""
    parted.post(*make_profile_events())
    routers = [parted.share(number) for number in range(PARTITION_COUNT)]
    from tailorbird.router.partitions.order import Sequencer

    sequencer = Sequencer(parted.stream, parted.folder / "order", clock=SimulatedClock(NOW))
    clicks = [
        event for event, source in make_visitor_events(0) if event["event_id"].startswith("c")
    ]
    routers[0].step()
    for router in routers[1:]:
        assert router._memory.items.timeline.value_at("i1", NOW) is None
    sequencer.step()
    parted.post(*clicks)
    for router in reversed(routers):
        router.step()
    sequencer.step()
    seen = set()
    for stored in parted.blocks():
        if stored.block.kind == "events":
            for row in to_table(stored.block).to_pylist():
                assert row["type"] != "click" or row["item_version"] in seen
                seen |= {row["event_id"]} if row["type"] == "item" else set()
    assert len([row for row in parted.events() if row["type"] == "click"]) == len(clicks) // 2
    for each in (*routers, sequencer):
        each.close()


@pytest.mark.slow
def test_a_partition_goes_to_another_machine_and_the_one_before_is_told(parted, stream):
    fill(stream)
    parted.post(*make_profile_events())
    parted.route()
    routers = [parted.share(number) for number in range(PARTITION_COUNT)]
    post_round(parted, 0)
    for router in routers:
        router.step(5)
    post_round(parted, 1)
    followers = [parted.share(number) for number in range(PARTITION_COUNT)]
    for zombie in routers:
        for _ in range(2):
            with pytest.raises(LockedError, match="writes this log now"):
                zombie.step(5)
        zombie.close()
    post_round(parted, 2)
    for router in followers:
        route(router, 29)
        router.close()
    parted.route()
    assert decided(parted) == decided(stream)


@pytest.mark.slow
def test_an_order_that_was_cut_short_goes_on_with_the_next_writer_and_an_older_one_is_told(parted):
    from tailorbird.router.partitions.order import Sequencer

    fill(parted)
    clock = SimulatedClock(NOW)
    first = Sequencer(parted.stream, parted.folder / "a", clock=clock)
    router = parted.share(1)
    parted.post(*[event for event, source in make_visitor_events(9) if source == "collector"])
    assert router.step().has_more
    with Sequencer(parted.stream, parted.folder / "b", clock=clock) as second:
        assert second.step() > 0
        with pytest.raises(LockedError):
            first.step()
        assert second.step() == 0
    blocks = parted.blocks()
    assert [one.end for one in blocks[:-1]] == [one.offset for one in blocks[1:]]
    names = [row["event_id"] for row in parted.events()]
    assert len(names) == len(set(names))
    first.close()
    router.close()


@pytest.mark.slow
def test_imports_are_shared_out_and_the_lake_accounts_for_every_row(parted, tmp_path):
    history = [event for event, source in make_visitor_events(0) if source == "collector"]
    body = msgspec.json.encode([*make_profile_events(), *history])
    receipt = msgspec.json.encode(Receipt(NOW, "import"))
    with open_writer(raw_path(parted.folder, "import"), partition="import") as writer:
        writer.append([Block("body", len(make_profile_events()) + len(history), body, receipt)])
    later = [event for event, source in make_visitor_events(1) if source == "collector"]
    parted.post(*later)
    parted.route()
    with LakeRole(parted.stream, tmp_path / "lake", clock=SimulatedClock(NOW)) as lake:
        lake.drain()
    report = verify(tmp_path / "lake")
    assert report.is_clean, str(report)
    assert {
        name for name, each in report.partitions.items() if each.archived and not each.pending
    } == set(report.partitions)
    assert set(report.partitions) == {
        "import",
        *(f"collector.{number}" for number in range(PARTITION_COUNT)),
    }
    rows = Lake(tmp_path / "lake").events().sort_by("p").to_pylist()
    assert len({row["p"] for row in rows}) == len(rows)
    sent = [
        event["event_id"]
        for event in [*make_profile_events(), *history, *later]
        if event["event_id"] != "bad"
    ]
    assert sorted(row["event_id"] for row in rows) == sorted(set(sent))
    assert {row["raw_partition"] for row in rows} > {"import"}


EVENTS = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {
                "event_id": st.text(max_size=3),
                "type": st.sampled_from(["click", "item", "user", "identify", "nonsense"]),
            },
            optional={
                "anonymous_id": st.text(max_size=3),
                "user_id": st.one_of(st.text(max_size=3), st.integers()),
                "item_id": st.just("i"),
            },
        ),
        st.sampled_from([1, None, "x", [], [[]]]),
    ),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(events=EVENTS, encoding=st.sampled_from(["json", "ndjson"]), count=st.integers(2, 5))
def test_the_parts_of_a_body_are_decided_on_as_the_whole(events, encoding, count):
    body = (
        b"\n".join(map(msgspec.json.encode, events))
        if encoding == "ndjson"
        else msgspec.json.encode(events)
    )
    receipt = Receipt(NOW, encoding=encoding)
    accepted, refused = check_body(body, receipt, PLAN)
    parts = split_by_partition(body, receipt, count)
    part_accepted, part_refused = [], []
    for number, (part, rows) in parts.items():
        taken, left = check_body(part, receipt, PLAN)
        assert len(taken) + len(left) == rows
        fields = EventColumns.from_rows([msgspec.structs.astuple(one.event) for one in taken])
        assert select_partition_rows(fields, number, count) == list(range(len(taken)))
        part_accepted += [one.event for one in taken]
        part_refused += [(one.code, one.path, one.message, one.body) for one in left]
    key = repr
    assert sorted(part_accepted, key=key) == sorted((one.event for one in accepted), key=key)
    assert sorted(part_refused, key=key) == sorted(
        ((one.code, one.path, one.message, one.body) for one in refused), key=key
    )


def test_visitors_spread_over_the_partitions_and_a_body_of_one_visitor_stays_as_it_is():
    places = [partition_of("click", None, f"v{number}", 4) for number in range(400)]
    assert all(70 < places.count(number) < 130 for number in range(4))
    body = (
        b' [ {"event_id":"e1","type":"click","anonymous_id":"v1"} ,\n'
        b' {"event_id":"e2","type":"view","anonymous_id":"v1"}]'
    )
    assert list(split_by_partition(body, Receipt(NOW), 4).values()) == [(body, 2)]
