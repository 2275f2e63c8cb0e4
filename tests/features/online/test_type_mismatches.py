"""Values that no declaration is made for: they are capped or missing, counted, told in the log, and
the readings stay one.
"""

import json
import logging
import threading
import time

import pytest
from tests.support.drawn.events import ITEMS, START, Step
from tests.support.drawn.three_readings import find_differences, play_stream

from tailorbird.events.clock import SECOND
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    age,
    attribute,
    count,
    entity,
    last,
    match,
    maximum,
    quantile,
    total,
)
from tailorbird.features.event_columns.columns import Frame
from tailorbird.features.online.type_mismatches import MismatchCounter
from tailorbird.features.state.progress import PROGRESS_FILE, read_all_progress
from tailorbird.serving.metrics import Metrics

ODD = [float("nan"), float("inf"), -float("inf"), -3.5, 1e18, -1e18, 1.75e308, 5e-324, -0.0]
ODD_TEXTS = [
    '"deep"',
    "NaN",
    "1e999",
    "-1e18",
    '{"a":1}',
    "[]",
    '[[1],"x"]',
    "true",
    "null",
    "9" * 400,
    '"\\ud83d\\ude00"',
    '""',
]


def purchases():
    base = dict.fromkeys(ROUTED.names) | {
        "type": "purchase",
        "user_id": "u1",
        "person": "u1",
        "item_id": "i1",
        "counts": True,
    }
    base |= {"timeless": False, "received_at": START}
    rows = [
        base | {"event_id": f"n{place}", "ts": START + place, "price": number}
        for place, number in enumerate(ODD)
    ]
    for place, text in enumerate(ODD_TEXTS):
        row = base | {
            "event_id": f"t{place}",
            "ts": START + 100 + place,
            "properties": f'{{"depth":{text}}}',
        }
        rows.append(row | {"item_profile": f'{{"category":{text}}}'})
        profile = base | {
            "type": "item",
            "user_id": None,
            "person": None,
            "event_id": f"p{place}",
            "ts": START + 200 + place,
        }
        rows.append(
            profile
            | {"properties": f'{{"category":{text},"price":{text},"title":{text},"born":{text}}}'}
        )
    return rows


def features() -> FeatureSet:
    user, item, odd = entity("user"), entity("item"), {"unit": 0.01, "max": 1e6}
    return FeatureSet.from_declarations(
        [
            total("spend", user, "purchase", of="price", window="1d", **odd),
            total("depth", user, "purchase", of="properties.depth", window="1d", **odd),
            maximum("dearest", user, "purchase", of="price * price", window="1d", **odd),
            count("dear", user, "purchase", where="price > 5"),
            count("not_cheap", user, "purchase", where="not price < 5"),
            count("categories", entity("item.category"), "purchase"),
            quantile("median", user, "purchase", of="price", edges=[-1e9, 0, 1e9]),
            last("last_price", user, "purchase", of="price"),
            last("last_depth", user, "purchase", of="properties.depth", kind="categorical"),
            attribute("category", item, "category", kind="categorical"),
            attribute("price", item, "price", kind="numeric"),
            match("title", item, "title"),
            age("age", item, of="born"),
        ]
    )


@pytest.mark.parametrize("events", range(1, len(purchases()) + 1, 3))
def test_the_readings_of_absurd_values_are_one(tmp_path, events):
    script = [
        Step(
            purchases()[:events], False, ReadRequest(person="u1", query="deep", now=START + SECOND)
        )
    ]
    assert find_differences(features(), *play_stream(tmp_path, features(), script)) == []


def test_what_is_cut_off_or_cannot_be_read_is_counted_by_field(kit):
    frame = Frame(kit.table([one | {"p": place} for place, one in enumerate(purchases())]))
    assert frame.number("price")[: len(ODD)].tolist()[3:6] == [-3.5, 1e18, -1e18]
    assert (
        frame.unreadable_counts["price"] == 4
    )  # NaN, both infinities, and what is too large to calculate with
    frame.number("properties.depth")
    unreadable = [text for text in ODD_TEXTS if not _is_number(text)]
    assert (
        frame.unreadable_counts["properties.depth"] == len(unreadable) - 2
    )  # null and an empty list are not there at all


def _is_number(text: str) -> bool:
    value = json.loads(text)
    value = value[0][0] if value and isinstance(value, list) else value
    return isinstance(value, int | float) and abs(value) <= 1.7e308


def test_a_property_that_becomes_text_midway_is_missing_from_then_on_and_logged(
    kit, tmp_path, caplog
):
    depth = FeatureSet.from_declarations(
        [total("depth", entity("user"), "view", of="properties.depth", unit=1, max=10)]
    )
    texts = ['{"depth":3}', '{"depth":"3"}', '{"depth":99}']
    views = [
        kit.event("view", kit.T0 + n, user_id="u1", properties=text) for n, text in enumerate(texts)
    ]
    log = kit.Log(tmp_path)
    log.append([kit.routed(views)])
    with kit.FeatureWorker(
        log.path, tmp_path / "state", depth, clock=kit.SimulatedClock(kit.T0)
    ) as worker:
        report = worker.step()
    log.close()
    assert (report.rows, report.capped, report.unreadable) == (
        3,
        {"properties.depth": 1},
        {"properties.depth": 1},
    )


TYPES_OF_N = ("5", '"5"', '"five"', "[5]", "true", "1e30", "null", "[]")


def test_what_a_property_of_changing_type_counts_as_is_one_rule_and_what_is_converted_is_counted(
    kit, tmp_path
):
    user, item = entity("user"), entity("item")
    features = FeatureSet.from_declarations(
        [
            total("sum", user, "view", of="properties.n", unit=1, max=10, window="1d"),
            count("fives", user, "view", where="properties.n == '5'"),
            count("truths", user, "view", where="properties.n == 'true'"),
            attribute("size", item, "size", kind="numeric"),
        ]
    )
    base = dict.fromkeys(ROUTED.names) | {
        "user_id": "u1",
        "person": "u1",
        "item_id": "i1",
        "counts": True,
        "timeless": False,
    }
    base |= {"type": "view", "received_at": START}
    rows = [
        base | {"event_id": f"n{n}", "ts": START + n, "properties": f'{{"n":{one}}}'}
        for n, one in enumerate(TYPES_OF_N)
    ]
    profile = base | {
        "type": "item",
        "user_id": None,
        "person": None,
        "event_id": "p",
        "ts": START + 50,
    }
    rows.append(profile | {"properties": '{"size":true}'})
    reads = play_stream(
        tmp_path / "one",
        features,
        [Step(rows, False, ReadRequest(person="u1", now=START + SECOND))],
    )
    assert find_differences(features, *reads) == []
    log = kit.Log(tmp_path)
    log.append([[row | {"p": place} for place, row in enumerate(rows)]])
    with kit.FeatureWorker(
        log.path, tmp_path / "state", features, clock=kit.SimulatedClock(START)
    ) as worker:
        report = worker.step()
    log.close()
    assert report.converted == {"properties.n": 2, "item.size": 1}  # [5] and true
    assert report.unreadable == {"properties.n": 2}  # "5" and "five"
    assert report.capped == {"properties.n": 1}
    values = dict(
        zip(features.numeric, reads[1][0].rows.numeric[ITEMS.index("i1")].tolist(), strict=True)
    )
    assert values == {"sum": 5 + 5 + 1 + 10, "fives": 3, "truths": 1, "size": 1}


def test_the_events_of_a_build_are_counted_once_even_if_it_is_repeated(kit, tmp_path):
    depth = FeatureSet.from_declarations(
        [total("depth", entity("user"), "view", of="properties.depth", unit=1, max=10)]
    )
    views = [
        kit.event("view", kit.T0 + n, user_id="u1", properties=f'{{"depth":{n + 8}}}')
        for n in range(6)
    ]
    events = kit.table(kit.routed(views))
    for _ in range(2):
        with kit.FeatureWorker(
            tmp_path / "routed.db", tmp_path / "state", depth, clock=kit.SimulatedClock(kit.T0)
        ) as worker:
            worker.bootstrap(lambda start: [events.filter(events["p"].to_numpy() > start)], 6)
        [figures] = read_all_progress(tmp_path / "state")
        assert (figures.capped, figures.rows) == (
            {"properties.depth": 3},
            6,
        )  # 11, 12 and 13 of at most 10


def test_misfits_are_logged_once_a_minute(kit, caplog):
    unfit = MismatchCounter()
    frame = Frame(kit.table([]))
    frame.capped_counts["price * quantity"] = 2
    frame.unreadable_counts["item.price"] = 7
    with caplog.at_level(logging.WARNING):
        for now in (0.0, 30.0, 61.0):
            unfit.add(frame)
            unfit.log_counts(now)
    assert [record.args for record in caplog.records] == [
        (2, "price * quantity (2)"),
        (7, "item.price (7)"),
        (4, "price * quantity (4)"),
        (14, "item.price (14)"),
    ]


def test_a_workers_counters_are_exposed_and_survive_a_restart(kit, tmp_path):
    depth = FeatureSet.from_declarations(
        [total("depth", entity("user"), "view", of="properties.depth", unit=1, max=10)]
    )
    metrics = Metrics()
    metrics.watch_workers(lambda: read_all_progress(tmp_path / "state"))
    assert b"tailorbird_worker" not in metrics.text()
    log, schema, exposed = kit.Log(tmp_path), depth.schema_hash, ""
    for start in (0, 10):
        texts = ['{"depth":3}', '{"depth":"3"}', '{"depth":99}', '{"depth":[3]}']
        views = [
            kit.event("view", kit.T0 + start + n, user_id=f"u{n}", person=f"u{n}", properties=text)
            for n, text in enumerate(texts)
        ]
        log.append([[view] for view in views])
        with kit.FeatureWorker(
            log.path, tmp_path / "state", depth, clock=kit.SimulatedClock(kit.T0)
        ) as worker:
            worker.step(rows_max=1)
            worker.publish_progress()
            assert (
                f'tailorbird_worker_behind_rows{{schema="{schema}"}} 3.0' in metrics.text().decode()
            )
            while worker.step().rows:
                pass
            worker.publish_progress()
        exposed = metrics.text().decode()
    log.close()
    for line in (
        f'tailorbird_worker_behind_rows{{schema="{schema}"}} 0.0',
        f'tailorbird_worker_rows_total{{schema="{schema}"}} 8.0',
        f'tailorbird_features_capped_total{{field="properties.depth",schema="{schema}"}} 2.0',
        f'tailorbird_features_unreadable_total{{field="properties.depth",schema="{schema}"}} 2.0',
        f'tailorbird_features_converted_total{{field="properties.depth",schema="{schema}"}} 2.0',
        f'tailorbird_state_entities{{entity="user",schema="{schema}"}} 3.0',
        f'tailorbird_state_dropped_total{{entity="user",schema="{schema}"}} 0.0',
    ):
        assert line in exposed
    assert f'tailorbird_state_bytes{{entity="user",schema="{schema}"}} 0.0' not in exposed
    (tmp_path / "state" / schema / PROGRESS_FILE).write_text('{"rows": "many"')
    assert read_all_progress(tmp_path / "state") == []


def test_a_running_worker_publishes_its_figures(kit, tmp_path):
    depth = FeatureSet.from_declarations([count("views", entity("user"), "view", window="1d")])
    log, stop, figures = kit.Log(tmp_path), threading.Event(), None
    log.append([[kit.event("view", kit.T0, user_id="u1", person="u1")]])
    with kit.FeatureWorker(
        log.path, tmp_path / "state", depth, clock=kit.SimulatedClock(kit.T0)
    ) as worker:
        thread = threading.Thread(target=worker.run, args=(stop,))
        thread.start()
        deadline = time.monotonic() + 30
        while figures is None and time.monotonic() < deadline:
            figures = next(iter(read_all_progress(tmp_path / "state")), None)
            stop.wait(0.005)
        stop.set()
        thread.join()
    log.close()
    assert (figures.schema_hash, figures.at, figures.behind) == (depth.schema_hash, kit.T0, 0)
