"""Bad events end to end, from a collector to features: each ends in the quarantine with its reason, or
is cut off and counted.

What is accepted is read from the state, recomputed by the backfill and held against the plain
reference, to the bit.
"""

import msgspec
import pyarrow as pa
import pytest
from tests.features.fuzzing.world import BASE, World

from tailorbird.events import DAY, SECOND, Receipt
from tailorbird.features import ReadRequest
from tailorbird.stream import Block, open_reader, open_writer, raw_path, routed_path

LINES = (
    'count("clicks", entity("item"), "click", window="1d")',
    'total("spend", entity("user"), "purchase", of="price * quantity", max=1000, window="1d")',
    'variance("spread", entity("item"), "purchase", of="price", unit=0.01, max=1e6, window="1d")',
    'total("depth", entity("user"), ("click", "view"), of="properties.depth", unit=0.5, '
    'max=100, window="7d")',
    'maximum("deepest", entity("item"), "click", of="properties.depth", unit=1e-3, max=1e6, '
    'window="1d")',
    'last("tag", entity("user"), "click", of="properties.tag", kind="categorical")',
    'decayed("fading", entity("item"), "click", half_life="1h")',
    'sequence("recent", entity("user"), ("click", "purchase"), length=3)',
    'attribute("price", entity("item"), "price", kind="numeric")',
)
CLICK = '{"event_id": "%s", "type": "click", "user_id": "u1", "item_id": "i1", "ts": %s}'
BUY = (
    '{"event_id": "%s", "type": "purchase", "user_id": "u1", "item_id": "i1", "properties": '
    '{"price": %s, "quantity": 1}}'
)
BAD = {
    "a time far ahead": (CLICK % ("b", '"9998-01-01T00:00:00Z"'), "ts_in_future"),
    "a year that there is not": (CLICK % ("b", '"12026-01-01T00:00:00Z"'), "bad_time"),
    "before all time": (CLICK % ("b", "-5"), "bad_time"),
    "in seconds": (CLICK % ("b", "1726000000"), "bad_time"),
    "an enormous time": (CLICK % ("b", "9" * 30), "bad_time"),
    "a time of no zone": (CLICK % ("b", '"2024-10-01T00:00:00"'), "bad_time"),
    "no number": (BUY % ("b", "NaN"), "malformed_json"),
    "endless": (BUY % ("b", "1e999"), "wrong_type"),
    "negative": (BUY % ("b", "-0.01"), "number_out_of_range"),
    "enormous": (BUY % ("b", "1e300"), "number_out_of_range"),
    "longer than any number": (BUY % ("b", "9" * 400), "number_out_of_range"),
    "of another type": (BUY % ("b", '"12"'), "wrong_type"),
    "an id of a megabyte": (CLICK % ("i" * (1 << 20), BASE), "bad_id"),
    "an item of a megabyte": (
        (CLICK % ("b", BASE)).replace('"i1"', '"' + "i" * (1 << 20) + '"'),
        "bad_id",
    ),
    "a number for an id": ((CLICK % ("b", BASE)).replace('"u1"', "17"), "wrong_type"),
    "properties of a megabyte": (BUY % ("b", '1, "note": "' + "n" * (1 << 20) + '"'), "too_large"),
}


@pytest.fixture
def site(tmp_path):
    world = World(tmp_path / "site", LINES, collectors=True)
    world.post(
        "north",
        BASE,
        [
            {
                "event_id": "g1",
                "type": "click",
                "user_id": "u1",
                "item_id": "i1",
                "ts": BASE - SECOND,
            }
        ],
        "collector",
    )
    world.settle()
    yield world
    world.close()


def sent(site: World, body: str) -> None:
    with open_writer(raw_path(site.stream, "south"), partition="south") as log:
        log.append([Block("body", 1, body.encode(), msgspec.json.encode(Receipt(BASE)))])
    site.settle()


def quarantined(site: World) -> list[dict]:
    with open_reader(routed_path(site.stream)) as log:
        blocks = [stored.block for stored in log.read(0) if stored.block.kind == "quarantine"]
    return [
        row for block in blocks for row in pa.ipc.open_stream(block.payload).read_all().to_pylist()
    ]


def equal_readings(site: World) -> list[str]:
    return site.differences(
        [ReadRequest("u1", now=BASE + SECOND), ReadRequest("u1", now=BASE + 2 * DAY)]
    )


@pytest.mark.parametrize("what", sorted(BAD))
def test_a_bad_event_is_refused_with_its_reason_and_counts_nowhere(site, what):
    body, code = BAD[what]
    sent(site, body)
    [row] = quarantined(site)
    assert row["code"] == code
    assert 0 < len(row["message"]) < 500
    assert site.events().num_rows == 1
    assert equal_readings(site) == []


def test_a_property_of_changing_type_is_never_a_wrong_number(site):
    values = [
        3,
        2.5,
        "4",
        "deep",
        None,
        True,
        [7, 8],
        [],
        {"a": 1},
        1e300,
        -1e300,
        10**30,
        5e-324,
        2**53 + 1,
    ]
    clicks = [
        {
            "event_id": f"p{n}",
            "type": "click",
            "user_id": "u1",
            "item_id": "i1",
            "ts": BASE - n,
            "properties": {"depth": one, "tag": one},
        }
        for n, one in enumerate(values)
    ]
    site.post("north", BASE, clicks, "collector")
    site.route()
    assert sum(site.worker.step().unreadable.values()) > 0
    assert quarantined(site) == []
    assert site.events().num_rows == 1 + len(values)
    assert equal_readings(site) == []


def test_a_value_beyond_what_is_declared_is_cut_off_and_counted(site):
    bought = {
        "event_id": "p",
        "type": "purchase",
        "user_id": "u1",
        "item_id": "i1",
        "properties": {"price": 1e9, "quantity": 1e6},
    }
    site.post("north", BASE, [bought], "collector")
    site.route()
    assert sum(site.worker.step().capped.values()) >= 2
    assert equal_readings(site) == []
    spent = {
        value
        for _, one in site.reads
        for value in one.rows.numeric[:, site.features.numeric.index("spend")].tolist()
    }
    assert spent == {1000.0, 0.0}, "of the day, and two days later"


def test_very_many_ids_of_one_client_are_people_of_their_own(site):
    for start in range(0, 20_000, 1_000):
        body = [
            {
                "event_id": f"m{n}",
                "type": "click",
                "anonymous_id": f"robot-{n}",
                "item_id": f"thing-{n}",
                "ts": BASE - n,
            }
            for n in range(start, start + 1_000)
        ]
        site.post("north", BASE, body, "collector")
    site.settle()
    assert quarantined(site) == []
    site.read(ReadRequest(anonymous_id="robot-19999", now=BASE + SECOND))
    assert [one.rows.sequences["recent"].ts.tolist() for _, one in site.reads] == [[BASE - 19_999]]
    site.read(ReadRequest("u1", now=BASE + SECOND))
    clicks = site.reads[1][1].rows.numeric[:, site.features.numeric.index("clicks")]
    assert clicks.tolist() == [1.0, 0.0, 0.0]
