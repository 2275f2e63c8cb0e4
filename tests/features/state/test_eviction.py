"""Idle entities go without a change of any value; a cap drops those idle longest and says so; a
kill leaves all or nothing of it.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tailorbird.events import DAY, MINUTE, SECOND, SimulatedClock
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    attribute,
    count,
    derived,
    entity,
    sequence,
    time_since,
    time_since_first,
)
from tailorbird.features.offline.backfill import History
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.parity.recompute import Exemptions, ParityReport
from tailorbird.features.parity.sampled import SampledRead, compare_reads, read_sample, requests_of
from tailorbird.features.state.eviction import read_all_counts, retention_us
from tailorbird.features.state.progress import read_worker_progress
from tailorbird.features.state.state import all_records, open_state, state_folder

user, item = entity("user"), entity("item")
LATER = 402 * DAY
TYPES = ("click", "view", "purchase", "impression")


def scan_keys(snapshot, layout) -> set[int]:
    """The keys of all entities of a kind that have a state."""
    return {
        int.from_bytes(key[3:], "big")
        for key, _ in snapshot.scan(b"s" + layout.index.to_bytes(2, "big"))
    }


def swept(worker: FeatureWorker) -> tuple[int, int]:
    """Once round all kinds: how many expired, how many were dropped."""
    reports = [worker.sweep() for _ in range(len(worker.features.layout.entities))]
    return sum(report.expired for report in reports), sum(report.dropped for report in reports)


def past(kit) -> list[dict]:
    """A user and two items with something of every kind, idle from T0 on; and one who is heard of
    much later.
    """
    price, profile = {"price": 12.0, "quantity": 1}, '{"category":"c1","stock":3}'
    at = {
        "user_id": "u1",
        "session_id": "s1",
        "device": "phone",
        "item_profile": profile,
        "user_profile": '{"plan":"free"}',
    }
    early = [
        kit.event("item", kit.T0 - MINUTE, item_id="i1", properties=profile),
        kit.event("user", kit.T0 - MINUTE, user_id="u1", properties='{"plan":"free","age":40}'),
        *(
            kit.event(TYPES[n % 4], kit.T0 - n * SECOND, item_id=f"i{1 + n % 2}", **at, **price)
            for n in range(12)
        ),
    ]
    return [
        *early,
        kit.event("click", kit.T0 + LATER, item_id="i3", user_id="u2", event_id="later"),
    ]


def test_an_idle_entity_is_evicted_without_changing_values_even_if_late_events_follow(
    kit, tmp_path
):
    features, log = kit.every_kind(), kit.Log(tmp_path)
    clock = SimulatedClock(kit.T0 + LATER)
    routed = log.append([kit.routed(past(kit))])
    requests = [
        ReadRequest(person="u1", session_id="s1", now=kit.T0 + LATER + n * MINUTE)
        for n in (0, 1, 7)
    ]
    items = ["i1", "i2", "i3"]
    with FeatureWorker(log.path, tmp_path / "state", features, clock=clock) as worker:
        worker.step()
        reader = Reader(tmp_path / "state", features)
        before = [reader.read(request, items) for request in requests]
        expired, dropped = swept(worker)
        assert expired > 0
        assert dropped == 0
        assert swept(worker) == (0, 0)
        after = [reader.read(request, items) for request in requests]
        for request, one, other in zip(requests, before, after, strict=True):
            assert one.t == other.t
            assert one.numeric.tobytes() == other.numeric.tobytes()
            assert one.categorical.tobytes() == other.categorical.tobytes()
            assert kit.differences(features, other, request, items, routed) == []
        late = [
            kit.event(
                type,
                kit.T0 + SECOND,
                item_id="i1",
                user_id="u1",
                price=9.0,
                event_id=f"late-{type}",
            )
            for type in ("click", "purchase")
        ]
        back = kit.event(
            "click", kit.T0 + LATER + MINUTE, item_id="i1", user_id="u1", event_id="back"
        )
        routed += log.append([late, [back]])
        while worker.step().rows:
            pass
        request = ReadRequest(person="u1", session_id="s1", now=kit.T0 + LATER + 2 * MINUTE)
        assert kit.differences(features, reader.read(request, items), request, items, routed) == []
        reader.close()
    log.close()


def test_profiles_and_first_times_stay_when_the_rest_expires(kit, tmp_path):
    features = FeatureSet.from_declarations(
        [
            count("clicks", item, "click", window="1h"),
            time_since("since", item, "click"),
            time_since_first("known_for", item, "click"),
            attribute("stock", item, "stock", kind="numeric"),
            count("of_user", user, "click", window="1h"),
        ]
    )
    assert [retention_us(one) for one in features.layout.entities] == [400 * DAY, 65 * MINUTE]
    log = kit.Log(tmp_path)
    log.append([kit.routed(past(kit))])
    with FeatureWorker(
        log.path, tmp_path / "state", features, clock=SimulatedClock(kit.T0 + LATER)
    ) as worker:
        worker.step()
        assert swept(worker) == (2, 0)
        store = open_state(tmp_path / "state", features)
        with store.snapshot() as snapshot:
            stored_keys = [scan_keys(snapshot, one) for one in features.layout.entities]
            assert stored_keys == [{kit.key("i1"), kit.key("i3")}, {kit.key("u2")}]
        store.close()
        reader = Reader(tmp_path / "state", features)
        rows = reader.read(ReadRequest(person="u1", now=kit.T0 + LATER + 1), ["i1"])
        assert rows.numeric[0].tolist()[:1] == [0]
        assert np.isnan(rows.numeric[0, 1])
        assert rows.numeric[0].tolist()[2:] == [400 * 86_400, 3, 0]
        read_late = reader.read(ReadRequest(person="u1", now=kit.T0 + LATER - 3 * DAY), ["i1"])
        assert (
            read_late.t == kit.T0 + LATER - DAY
        )  # nothing is read as of a time of which something has gone
        reader.close()
    log.close()


def test_past_the_cap_those_idle_longest_are_dropped_and_counted(kit, tmp_path):
    features = FeatureSet.from_declarations([count("clicks", user, "click", window="1d")])
    log = kit.Log(tmp_path)
    clicks = [
        kit.event("click", kit.T0 + n * MINUTE, item_id="i1", user_id=f"u{n}", event_id=f"e{n}")
        for n in range(30)
    ]
    log.append([kit.routed(clicks)])
    clock = SimulatedClock(kit.T0 + 30 * MINUTE)
    with FeatureWorker(
        log.path, tmp_path / "state", features, clock=clock, entities_max=20
    ) as worker:
        worker.step()
        assert swept(worker) == (0, 0)  # the first way round finds out who is idle longest
        assert swept(worker) == (0, 10)
        assert [swept(worker) for _ in range(3)] == [(0, 0)] * 3
        store = open_state(tmp_path / "state", features)
        with store.snapshot() as snapshot:
            counts = read_all_counts(snapshot, features.layout)["user"]
            assert scan_keys(snapshot, features.layout.entities[0]) == {
                kit.key(f"u{n}") for n in range(10, 30)
            }
        store.close()
        assert (counts.entities, counts.dropped, counts.dropped_newest) == (
            20,
            10,
            kit.T0 + 9 * MINUTE,
        )
        reader = Reader(tmp_path / "state", features)
        values = [
            reader.read(ReadRequest(person=f"u{n}", now=clock.now()), ["i1"]).numeric[0, 0]
            for n in (9, 10)
        ]
        assert values == [0, 1]
        reader.close()
    log.close()


def test_what_the_cap_dropped_is_counted_apart_from_what_is_wrong(kit, tmp_path):
    features = FeatureSet.from_declarations(
        [
            count("clicks", user, "click", window="1d"),
            count("shown", item, "click", window="1d"),
            sequence("recent", user, "click", length=3),
            derived("more", "clicks + shown"),
        ]
    )
    log = kit.Log(tmp_path)
    clicks = [
        kit.event("click", kit.T0 + n * MINUTE, item_id="i1", user_id=f"u{n}", event_id=f"e{n}")
        for n in range(30)
    ]
    routed = log.append([kit.routed(clicks)])
    clock = SimulatedClock(kit.T0 + 30 * MINUTE)
    with FeatureWorker(
        log.path, tmp_path / "state", features, clock=clock, entities_max=20
    ) as worker:
        worker.step()
        swept(worker)
        assert swept(worker) == (0, 10)
        routed += log.append(
            [
                [
                    kit.event(
                        "click",
                        clock.now(),
                        item_id="i1",
                        user_id="u9",
                        event_id="back",
                        person="u9",
                    )
                ]
            ]
        )
        worker.step()
    log.close()
    dropped = read_worker_progress(state_folder(tmp_path / "state", features)).dropped
    assert dropped == {"user": kit.T0 + 9 * MINUTE}
    reader = Reader(tmp_path / "state", features)
    requests = [ReadRequest(person=f"u{n}", now=clock.now() + SECOND) for n in range(30)]
    reads = read_sample(reader, requests, [["i1"]] * len(requests))
    reader.close()
    history = History(features, kit.table(routed))

    def compared(reads: list[SampledRead]) -> ParityReport:
        requests = requests_of(reads)
        return compare_reads(
            features,
            reads,
            history.rows(requests),
            exemptions=Exemptions(history, requests, dropped),
        )

    report = compared(reads)
    assert (report.unequal, report.dropped) == (
        0,
        10 + 10 + 10,
    )  # the clicks, the sequence, and what is made of the clicks
    for read in reads:
        read.rows.numeric[0] += 5
    report = compared(reads)
    assert report.by_feature == {"clicks": 20, "shown": 30, "recent": 0, "more": 20}
    assert (
        compare_reads(features, reads, history.rows(requests_of(reads))).by_feature["clicks"] == 30
    )


def test_a_build_with_too_many_entities_is_brought_within_the_cap(kit, tmp_path):
    features, log = (
        FeatureSet.from_declarations([count("clicks", user, "click", window="1d")]),
        kit.Log(tmp_path),
    )
    clicks = [
        kit.event("click", kit.T0 + n * MINUTE, item_id="i1", user_id=f"u{n}", event_id=f"e{n}")
        for n in range(30)
    ]
    log.append([kit.routed(clicks)])
    with FeatureWorker(
        log.path, tmp_path / "state", features, clock=SimulatedClock(kit.T0 + DAY), entities_max=20
    ) as worker:
        worker.step()
        worker.sweep_all()
        store = open_state(tmp_path / "state", features)
        with store.snapshot() as snapshot:
            assert scan_keys(snapshot, features.layout.entities[0]) == {
                kit.key(f"u{n}") for n in range(10, 30)
            }
        store.close()
    log.close()


def sizes(folder: Path, features: FeatureSet) -> dict[str, tuple[int, int]]:
    store = open_state(folder, features)
    with store.snapshot() as snapshot:
        counted = {}
        for one in all_records(features.layout):
            values = [
                value for _, value in snapshot.scan(b"s" + one.layout.index.to_bytes(2, "big"))
            ]
            readings = list(snapshot.scan(b"r" + one.layout.index.to_bytes(2, "big")))
            assert len(readings) == len(values)
            assert all(len(value) == one.layout.reading_bytes for _, value in readings)
            counted[one.layout.entity.name] = len(values), sum(map(len, values))
        tallied = {
            name: (counts.entities, counts.state_bytes)
            for name, counts in read_all_counts(snapshot, features.layout).items()
        }
    store.close()
    assert tallied == counted
    return counted


def test_the_tallies_are_what_there_is(kit, tmp_path):
    features, log = kit.every_kind(), kit.Log(tmp_path)
    routed = kit.routed(past(kit))
    log.append([routed[:5], routed[5:]])
    with FeatureWorker(
        log.path, tmp_path / "state", features, clock=SimulatedClock(kit.T0 + LATER)
    ) as worker:
        while worker.step(rows_max=1).rows:
            full = sizes(tmp_path / "state", features)
        swept(worker)
        rest = sizes(tmp_path / "state", features)
    assert rest["user"][0] <= full["user"][0]
    assert rest["item"][1] < full["item"][1]
    log.close()


@pytest.mark.slow
@pytest.mark.parametrize("site", ["worker.before_swept", "worker.after_swept"])
def test_a_sweep_killed_at_any_point_leaves_every_value_as_it_was(kit, site, tmp_path):
    features, log = kit.every_kind(), kit.Log(tmp_path)
    routed = log.append([kit.routed(past(kit))])
    for hit in (1, 2):
        killed = run_sweep(tmp_path, f"{site}=kill@{hit}")
        assert killed.returncode == -9, killed.stderr
    finished = run_sweep(tmp_path, "")
    assert finished.returncode == 0, finished.stderr
    sizes(tmp_path / "state", features)
    reader = Reader(tmp_path / "state", features)
    request, items = (
        ReadRequest(person="u1", session_id="s1", now=kit.T0 + LATER),
        ["i1", "i2", "i3"],
    )
    assert kit.differences(features, reader.read(request, items), request, items, routed) == []
    reader.close()
    log.close()


def run_sweep(folder: Path, faults: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys, runpy; kit = runpy.run_path(sys.argv[1]); folder = kit['Path'](sys.argv[2])\n"
        f"clock = kit['SimulatedClock'](kit['T0'] + {LATER})\n"
        "features = kit['every_kind']()\n"
        "with kit['FeatureWorker'](folder / 'routed.db', folder / 'state', features, "
        "clock=clock) as worker:\n"
        "    while worker.step().rows: pass\n"
        "    for _ in features.layout.entities: worker.sweep()\n"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(Path(__file__).parents[2] / "support" / "features.py"),
        str(folder),
    ]
    return subprocess.run(
        command,
        env={**os.environ, "TAILORBIRD_FAULTS": faults},
        capture_output=True,
        text=True,
        timeout=60,
    )
