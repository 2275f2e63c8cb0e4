"""The three readings of a feature are one: plain reference = backfill = stream, bit for bit,
whatever comes in whatever order.

Hypothesis draws declarations of every kind (`drawn_features`), events (`drawn_events`: late, tied
in time, profiles late or without a time, an identify in the middle, values at their bounds, some
that do not count), how the log is cut into batches, restarts of the worker, and requests between
commits. Each request is read from the state, then recomputed both from all events that ever came
(`three_readings`).
"""

import os
import tempfile
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from tests.support.drawn.events import ITEMS, START, Post, Step, posts, steps
from tests.support.drawn.features import DRAW_BY_KIND, declarations
from tests.support.drawn.three_readings import SampledRead, find_differences, play_stream

from tailorbird import faults
from tailorbird.events import Receipt, RoutePlan
from tailorbird.events.clock import SECOND, SimulatedClock
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    attribute,
    count,
    derived,
    entity,
    last,
    ratio,
    sequence,
    session,
    time_since,
    total,
)
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.router import Router
from tailorbird.stream import Block, open_reader, open_writer, raw_path, routed_path

EXAMPLES = int(os.environ.get("EQUALITY_EXAMPLES", "100"))
settings.register_profile(
    "equality",
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="EQUALITY_EXAMPLES" not in os.environ,
)


@settings(settings.get_profile("equality"), suppress_health_check=list(HealthCheck))
@given(declarations(), steps())
def test_reference_backfill_and_stream_are_equal_to_the_bit(declared, script):
    features = FeatureSet.from_declarations(declared)
    with tempfile.TemporaryDirectory() as folder:
        events, reads = play_stream(Path(folder), features, script)
        assert find_differences(features, events, reads) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAW_BY_KIND)
def test_each_kind_is_equal_to_the_bit_by_itself(kind):
    @settings(
        settings.get_profile("equality"),
        max_examples=EXAMPLES // 10,
        suppress_health_check=list(HealthCheck),
    )
    @given(declarations(kind), steps())
    def run(declared, script):
        features = FeatureSet.from_declarations(declared)
        with tempfile.TemporaryDirectory() as folder:
            events, reads = play_stream(Path(folder), features, script)
            assert find_differences(features, events, reads) == []

    run()


def test_a_window_that_is_short_of_a_tile_is_noticed(tmp_path, monkeypatch):
    features = FeatureSet.from_declarations(
        [count("clicks", entity("item"), "click", window="1m", hop="10s")]
    )
    click = dict.fromkeys(ROUTED.names) | {
        "type": "click",
        "user_id": "u1",
        "person": "u1",
        "item_id": "i1",
    }
    click |= {"counts": True, "timeless": False, "received_at": START}
    clicks = [
        click | {"event_id": "a", "ts": START},
        click | {"event_id": "b", "ts": START + 60 * SECOND},
    ]
    script = [Step(clicks, False, ReadRequest(person="u1", now=START + 61 * SECOND))]
    assert find_differences(features, *play_stream(tmp_path / "sound", features, script)) == []
    monkeypatch.setattr(faults, "is_disabled", lambda site: site == "features.tile")
    different = find_differences(features, *play_stream(tmp_path / "short", features, script))
    assert different == [
        "clicks of i1 in request 0: reference, backfill, stream = [2.0, np.float32(2.0), "
        "np.float32(1.0)]"
    ]


SHOP = (
    lambda user, item, category: [
        count("item_clicks", item, "click", window="1h", where="agent != 'bot'"),
        ratio("ctr", item, "click", "impression", window="1d", prior=category, weight=5),
        count("mine", entity("user", "item.category"), ["click", "purchase"], window="1d"),
        total("spend", user, "purchase", of="price * quantity", window="7d"),
        last("last_category", user, "click", of="item.category", kind="categorical"),
        time_since("since", user, "click"),
        sequence("recent", user, ["click", "purchase", "search"], length=4),
        session("in_session", "click"),
        attribute("category", item, "category", kind="categorical"),
        attribute("price", item, "price", kind="numeric"),
        attribute("segment", user, "segment", kind="categorical"),
        derived("price_ratio", "price / (spend + 1)"),
    ]
)(entity("user"), entity("item"), entity("item.category"))


def through_the_router(
    folder: Path, features: FeatureSet, visit: list[Post]
) -> tuple[pa.Table, list[SampledRead]]:
    plan = RoutePlan(
        user_attributes=features.user_attributes, item_attributes=features.item_attributes
    )
    clock = SimulatedClock(START)
    reads = []
    router = Router(folder, plan, clock=clock)
    worker = FeatureWorker(routed_path(folder), folder / "state", features, clock=clock)
    try:
        for post in visit:
            if post.events:
                receipt = msgspec.json.encode(Receipt(post.received_at))
                with open_writer(raw_path(folder, post.collector), partition=post.collector) as log:
                    log.append(
                        [Block("body", len(post.events), msgspec.json.encode(post.events), receipt)]
                    )
            if post.request is None:
                continue  # the router takes several bodies in one step
            router.step()
            worker.step()
            reader = Reader(folder / "state", features)
            reads.append(SampledRead(post.request, ITEMS, reader.read(post.request, list(ITEMS))))
            reader.close()
        router.step()
        with open_reader(routed_path(folder)) as log:
            blocks = [stored.block for stored in log.read(0) if stored.block.kind == "events"]
    finally:
        worker.close()
        router.close()
    tables = [pa.ipc.open_stream(block.payload).read_all() for block in blocks]
    return (pa.concat_tables(tables) if tables else ROUTED.empty_table()), reads


@pytest.mark.slow
@settings(settings.get_profile("equality"), suppress_health_check=list(HealthCheck))
@given(posts())
def test_they_are_equal_for_what_two_doors_and_the_router_make_of_a_visit(visit):
    features = FeatureSet.from_declarations(SHOP)
    with tempfile.TemporaryDirectory() as folder:
        events, reads = through_the_router(Path(folder), features, visit)
        assert find_differences(features, events, reads) == []
