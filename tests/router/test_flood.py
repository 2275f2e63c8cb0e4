"""Very many ids of one client: what they say stands in the router's file, memory has a bound, and
what is decided stays the same.
"""

import ctypes
import gc
import os
from pathlib import Path

import pyarrow as pa
import pytest

from tailorbird.events import SimulatedClock
from tailorbird.router import Router
from tailorbird.stream import routed_path

IDS = 5_000  # a round
ROUNDS = 6
SMALL = 1 << 20


def resident_bytes():
    """Of this process, without what the allocators keep for later, which goes up and down by
    megabytes.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def flood(kind, start):
    for number in range(start, start + IDS):
        event = {"event_id": f"{kind}{number}", "type": kind, "user_id": f"u{number}"}
        if kind == "identify":
            event["anonymous_id"] = f"a{number}"
        elif kind == "item":
            event = {
                "event_id": f"{kind}{number}",
                "type": kind,
                "item_id": f"i{number}",
                "properties": {"category": "c" * 500, "price": number},
            }
        else:
            event["properties"] = {"plan": "p" * 500}
        yield event


def post(stream, kind, round_):
    events = list(flood(kind, round_ * IDS))
    for start in range(0, IDS, 1_000):
        stream.post(*events[start : start + 1_000])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["item", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("identify", "user"))],
)
def test_a_flood_of_ids_takes_disk_by_the_id_and_memory_up_to_its_bound(stream, kind):
    used = []
    with Router(
        stream.folder, stream.plan, clock=SimulatedClock(stream.now), memory_bytes=SMALL
    ) as router:
        for round_ in range(ROUNDS):
            post(stream, kind, round_)
            while router.step(2_000).rows:
                pass
            memory = router._memory
            cached_bytes = (
                memory.identity.cache_bytes + memory.users.cache_bytes + memory.items.cache_bytes
            )
            assert 0 < cached_bytes <= SMALL
            used.append(resident_bytes())
    assert min(used[4:]) - max(used[:2]) < 1.5 * IDS * 600, (
        "three rounds take half of what they say, let alone as objects"
    )
    size = sum(path.stat().st_size for path in routed_path(stream.folder).parent.glob("routed.db*"))
    assert size < ROUNDS * IDS * 2_500
    with Router(
        stream.folder, stream.plan, clock=SimulatedClock(stream.now), memory_bytes=SMALL
    ) as router:
        assert router._memory.users.cache_bytes == 0, "nothing is read at the start"


def test_who_and_what_was_flooded_out_of_memory_is_still_known(stream):
    last = ROUNDS * IDS
    with Router(
        stream.folder, stream.plan, clock=SimulatedClock(stream.now), memory_bytes=0
    ) as router:
        for kind in ("identify", "user", "item"):
            post(stream, kind, 0)
        while router.step(2_000).rows:
            pass
        clicks = [
            {"event_id": f"c{n}", "type": "click", "anonymous_id": f"a{n}", "item_id": f"i{n}"}
            for n in (0, 1, IDS - 1, last)
        ]
        stream.post(*clicks)
        assert router.step().accepted == 4
    persons = [
        row
        for row in stream.events("type", "person", "user_version", "item_version")
        if row[0] == "click"
    ]
    assert [row[1:] for row in persons] == [
        ("u0", "user0", "item0"),
        ("u1", "user1", "item1"),
        (f"u{IDS - 1}", f"user{IDS - 1}", f"item{IDS - 1}"),
        (f"anon:a{last}", None, None),
    ]
