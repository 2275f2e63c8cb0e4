"""State, served answers and lake held against each other: samples, the loop of the lake role, what
it counts and says.
"""

import msgspec
import numpy as np
import pytest

from tailorbird.events import DAY, SECOND, SimulatedClock
from tailorbird.events.answer_record import ResponseRecord, encode_responses
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    attribute,
    count,
    derived,
    entity,
    sequence,
    time_since,
)
from tailorbird.features.offline.backfill import History, event_columns
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.parity import watch
from tailorbird.features.parity.sampled import (
    compare_reads,
    draw_sample,
    read_sample,
    requests_of,
    required_events,
    unselective_columns,
)
from tailorbird.features.parity.totals import TOTALS_FILE, read_parity_totals
from tailorbird.lake import Lake, LakeRole
from tailorbird.serving.metrics import Metrics
from tailorbird.stream import Block, open_writer, response_log_path

PROFILE = '{"category":"c1"}'
USER, ITEM = entity("user"), entity("item")
FEATURES = FeatureSet.from_declarations(
    [
        count("clicks", ITEM, "click", window="1h"),
        count("mine", USER, ["click", "view"], window="1d"),
        count("all", entity(), "click", window="1d"),
        count("of_category", entity("item.category"), "click", window="1d"),
        time_since("since", USER, "click"),
        attribute("category", ITEM, "category", kind="categorical"),
        sequence("recent", USER, "click", length=3),
        derived("part", "clicks / (all + 1)"),
        derived("twice", "mine * 2"),
    ]
)


class Shop:
    """Three people who click on three things, in state and lake."""

    def __init__(self, kit, folder) -> None:
        self.kit, self.folder, self.now = kit, folder, kit.T0 + 100 * SECOND
        self.log = kit.Log(folder)
        described = [
            kit.event(
                "item",
                kit.T0,
                item_id=f"i{n}",
                properties=f'{{"category":"c{n % 2}"}}',
                event_id=f"d{n}",
            )
            for n in range(3)
        ]
        clicks = [
            kit.event(
                "click",
                kit.T0 + n * SECOND,
                item_id=f"i{n % 3}",
                user_id=f"u{n % 4}",
                event_id=f"e{n}",
                item_profile='{"category":"c1"}',
            )
            for n in range(60)
        ]
        raw = {"raw_partition": "d1", "raw_offset": 0}
        self.log.append(
            [
                [
                    one | raw | {"raw_row": row, "received_at": one["ts"]}
                    for row, one in enumerate(kit.routed(described + clicks))
                ]
            ]
        )
        with FeatureWorker(
            self.log.path, folder / "state", FEATURES, clock=SimulatedClock(self.now)
        ) as worker:
            worker.step()
        self.reader = Reader(folder / "state", FEATURES)
        self.answers = open_writer(response_log_path(folder, "serve-1"), partition="serve-1")

    def answer(self, number: int, *, wrong: bool = False, person: str = "u1") -> None:
        items = ["i0", "i1", "i2"]
        rows = self.reader.read(ReadRequest(person, now=self.now), items)
        numeric = rows.numeric.copy()
        if wrong:
            numeric[1, FEATURES.numeric.index("mine")] += 1
        record = ResponseRecord(
            request_id=f"r{number}",
            ts=rows.t,
            p=rows.log_position,
            commit=rows.commit,
            schema_hash=FEATURES.schema_hash,
            person=rows.person,
            items=items,
            numeric=numeric.ravel().tolist(),
            categorical=rows.categorical.ravel().tolist(),
            sequences=msgspec.msgpack.encode({"recent": rows.sequences["recent"].to_lists()}),
        )
        self.answers.append([Block("answers", 1, encode_responses([record]))])

    def load(self) -> Lake:
        with LakeRole(self.folder, self.folder / "lake", clock=SimulatedClock(self.now)) as role:
            role.drain()
        return Lake(self.folder / "lake")

    def compare(self, events_max: int = watch.EVENTS_MAX) -> watch.ParityTotals:
        folder = self.folder
        return watch.run_comparison(
            FEATURES,
            folder / "lake",
            folder / "state",
            folder / "run",
            self.now + SECOND,
            events_max=events_max,
        )

    def close(self) -> None:
        self.reader.close()
        self.answers.close()
        self.log.close()


@pytest.fixture
def shop(kit, tmp_path):
    shop = Shop(kit, tmp_path)
    yield shop
    shop.close()


def sampled(shop: Shop, lake: Lake, reader: Reader):
    drawn = draw_sample(lake, 20, now=shop.now)
    reads = read_sample(reader, drawn.requests, drawn.items)
    requests = requests_of(reads)
    return compare_reads(
        FEATURES,
        reads,
        History(
            FEATURES,
            lake.table("events", event_columns(FEATURES), required_events(FEATURES, requests)),
        ).rows(requests),
    )


def test_a_sample_of_the_state_equals_the_lake(shop):
    report = sampled(shop, shop.load(), shop.reader)
    assert report.answers == 20
    assert report.compared > 20 * 8
    assert (report.unequal, report.examples) == (0, [])


def test_a_state_that_is_wrong_is_noticed_and_the_value_named(kit, shop, tmp_path):
    other = tmp_path / "other"
    log = kit.Log(other)
    log.append(
        [
            kit.routed(
                [
                    kit.event(
                        "click", kit.T0 + n * SECOND, item_id="i1", user_id="u1", event_id=f"e{n}"
                    )
                    for n in range(63)
                ]
            )
        ]
    )
    with FeatureWorker(
        log.path, other / "state", FEATURES, clock=SimulatedClock(shop.now)
    ) as worker:
        worker.step()
    log.close()
    reader = Reader(other / "state", FEATURES)
    report = sampled(shop, shop.load(), reader)
    reader.close()
    assert report.by_feature["mine"] > 0
    assert report.by_feature["recent"] > 0
    assert all(
        example.log_position == 63 and example.person.startswith("u") for example in report.examples
    )


def test_only_the_events_that_a_sample_can_depend_on_are_required(shop):
    lake = shop.load()
    alone = FeatureSet.from_declarations(
        [
            count("mine", USER, "click", window="1d"),
            attribute("category", ITEM, "category", kind="categorical"),
        ]
    )
    drawn = draw_sample(lake, 1, now=shop.now)
    requests = requests_of(read_sample(shop.reader, drawn.requests, drawn.items))
    filtered = lake.table("events", where=required_events(alone, requests))
    assert set(filtered["person"].to_pylist()) == {drawn.requests[0].person, None}
    assert set(
        filtered.filter(np.equal(filtered["type"].to_numpy(zero_copy_only=False), "item"))[
            "item_id"
        ].to_pylist()
    ) == set(drawn.items[0])
    assert (
        lake.count_matching("events", required_events(alone, requests))
        == filtered.num_rows
        < lake.count_matching("events", required_events(FEATURES, requests))
    )


def test_the_columns_about_everyone_are_listed():
    assert unselective_columns(FEATURES) == ["all", "of_category", "part"]


def test_a_wrong_value_that_was_served_moves_the_metric(shop):
    metrics = Metrics()
    metrics.watch_features(lambda: read_parity_totals(shop.folder / "run"))
    assert b"tailorbird_features" not in metrics.text()
    for number in range(3):
        shop.answer(number)
    shop.load()
    first = shop.compare()
    assert (first.answers, first.unequal_features, first.error) == (3, {}, "")
    assert b'tailorbird_features_compared_total{feature="mine"} 9.0' in metrics.text()
    assert b'tailorbird_features_unequal_total{feature="mine"} 0.0' in metrics.text()
    shop.answer(3, wrong=True)
    shop.load()
    second = shop.compare()
    assert second.unequal_features == {"mine": 1}
    assert second.answers == 7, "the counters go on"
    assert second.examples[0].startswith("mine of u1 and i1 at t=")
    exposed = metrics.text()
    assert b'tailorbird_features_unequal_total{feature="mine"} 1.0' in exposed
    assert (
        f"tailorbird_features_compared_at_seconds {(shop.now + SECOND) / 1e6}".encode()[:40]
        in exposed
    )


def test_what_a_cap_dropped_moves_no_metric_of_what_is_wrong(shop):
    with FeatureWorker(
        shop.log.path,
        shop.folder / "state",
        FEATURES,
        clock=SimulatedClock(shop.now + 2 * DAY),
        entities_max=3,
    ) as worker:  # all four people were last seen in one minute, and go together
        worker.sweep_all()
    shop.answer(0)
    shop.load()
    totals = shop.compare()
    assert (totals.answers, totals.error, totals.unequal_features) == (1, "", {})
    assert (
        totals.dropped == 3 * 3 + 1
    )  # for three items what is counted of u1, since when, and twice it; and the sequence
    assert totals.examples == []


@pytest.mark.parametrize(
    ("events_max", "left_out"),
    [
        (63, []),
        (62, ["clicks", "of_category", "category", "part"]),
        (20, ["clicks", "all", "of_category", "category", "part"]),
        (3, [*FEATURES.numeric, "category", "recent"]),
    ],
)
def test_a_lake_that_is_too_large_leaves_out_what_does_not_fit(
    shop, monkeypatch, events_max, left_out
):
    """All are 60 clicks and 3 profiles, of one person 15 clicks, of all three items everything; a
    category needs the profiles too.
    """
    loaded, parity = [], watch.compute_parity
    monkeypatch.setattr(
        watch,
        "compute_parity",
        lambda features, events, *rest, **how: [
            loaded.append(len(events)),
            parity(features, events, *rest, **how),
        ][1],
    )
    shop.answer(0)
    shop.load()
    totals = shop.compare(events_max)
    assert set(totals.left_out) == set(left_out)
    assert {name for name, count in totals.compared.items() if not count} == set(left_out)
    assert totals.unequal_features == {}
    assert all(0 < rows <= events_max for rows in loaded)


def test_what_fails_is_written_down_and_does_not_stop_anything(shop, monkeypatch):
    shop.answer(0)
    shop.load()
    assert shop.compare().error == ""

    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(watch, "compute_parity", broken)
    assert shop.compare().error == "the disk is gone"
    assert read_parity_totals(shop.folder / "run").answers == 1
    monkeypatch.undo()
    assert shop.compare().error == ""


def test_a_file_that_cannot_be_read_is_no_file(tmp_path):
    assert read_parity_totals(tmp_path) is None
    (tmp_path / TOTALS_FILE).write_text('{"schema_hash": 3')
    assert read_parity_totals(tmp_path) is None
