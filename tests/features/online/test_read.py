"""Reading and the worker's duties around it: who someone is, what has run out, building anew, one
worker a state.
"""

import json
import shutil
import threading

import numpy as np
import pytest

from tailorbird.errors import DamageError, InputError, LockedError, NotReadyError
from tailorbird.events import MINUTE, SECOND, SimulatedClock
from tailorbird.features import FeatureSet, ReadRequest, attribute, count, entity, sequence
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.state import open_state, read_commits

user, item = entity("user"), entity("item")


@pytest.fixture
def features() -> FeatureSet:
    return FeatureSet.from_declarations(
        [
            count("user_clicks", user, "click", window="1h"),
            count("item_clicks", item, "click", window="1m"),
            count("clicks_of_category", entity("item.category"), "click", window="1h"),
            attribute("category", item, "category", kind="categorical"),
            sequence("recent", user, "click", length=3),
        ]
    )


class Running:
    """A log, its worker and a reader."""

    def __init__(self, kit, folder, features) -> None:
        self.kit, self.folder, self.features = kit, folder, features
        self.clock = SimulatedClock(kit.T0)
        self.log = kit.Log(folder)
        self.worker = FeatureWorker(self.log.path, folder / "state", features, clock=self.clock)
        self.reader = Reader(folder / "state", features)

    def take(self, *events: dict) -> None:
        self.log.append([self.kit.routed(events)])
        assert self.worker.step().rows == len(events)

    def read(self, items=("i1",), **request):
        return self.reader.read(
            ReadRequest(**{"person": "u1", "now": self.kit.T0 + SECOND} | request), list(items)
        )

    def value(self, name: str, **request) -> float:
        return float(self.read(**request).numeric[0, self.features.numeric.index(name)])


@pytest.fixture
def running(kit, tmp_path, features):
    made = Running(kit, tmp_path, features)
    yield made
    made.reader.close()
    made.worker.close()
    made.log.close()


def click(kit, ts: int, **columns) -> dict:
    return kit.event("click", ts, **{"user_id": "u1", "item_id": "i1"} | columns)


def test_an_empty_state_reads_zeros_and_missing(running):
    rows = running.read(items=["i1", "i2"])
    assert rows.numeric[:, :2].tolist() == [[0, 0], [0, 0]]
    assert np.isnan(rows.numeric[:, 2]).all()  # there is no category whose clicks could be counted
    assert rows.categorical.tolist() == [[0], [0]]
    assert len(rows.sequences["recent"].ts) == 0
    assert (rows.commit, rows.log_position, rows.t) == (0, 0, running.kit.T0 + SECOND)


def test_a_request_without_a_person_has_no_value_of_a_person(running):
    running.take(click(running.kit, running.kit.T0))
    rows = running.read(person=None)
    assert rows.person is None
    assert np.isnan(rows.numeric[0, 0])
    assert rows.numeric[0, 1] == 1
    assert len(rows.sequences["recent"].ts) == 0


def test_no_items_is_no_rows_but_the_persons_sequence(running):
    running.take(click(running.kit, running.kit.T0))
    rows = running.read(items=[])
    assert rows.numeric.shape == (0, 3)
    assert rows.sequences["recent"].ts.tolist() == [running.kit.T0]


def test_a_person_alone_is_read_as_with_items_and_item_columns_are_missing(running):
    running.take(
        click(running.kit, running.kit.T0),
        click(running.kit, running.kit.T0 + 1, event_id="e2", user_id="u2"),
    )
    with_items = running.read()
    alone = running.reader.read_person(ReadRequest(person="u1", now=running.kit.T0 + SECOND))
    assert alone.numeric[0, 0] == with_items.numeric[0, 0] == 1
    assert np.isnan(alone.numeric[0, 1:]).all()
    assert alone.categorical.tolist() == [[0]]
    assert alone.sequences["recent"].to_lists() == with_items.sequences["recent"].to_lists()
    assert (alone.t, alone.commit, alone.person) == (
        with_items.t,
        with_items.commit,
        with_items.person,
    )


def test_time_never_reads_before_what_was_read(running):
    ahead = running.kit.T0 + 5 * MINUTE  # another client's clock
    running.take(click(running.kit, ahead, user_id="u2", item_id="i2"))
    assert running.read(items=["i1"]).t == running.kit.T0 + SECOND
    assert running.read(items=["i1", "i2"]).t == ahead + 1


def test_an_anonymous_visitor_resolves_to_the_newest_identify(running):
    kit = running.kit
    anonymous = {"person": None, "anonymous_id": "a1"}
    assert running.read(**anonymous).person == "anon:a1"
    identify = {"anonymous_id": "a1", "event_id": "x"}
    running.take(kit.event("identify", kit.T0, user_id="u2", **identify), click(kit, kit.T0))
    running.take(
        kit.event("identify", kit.T0 - MINUTE, user_id="u1", **identify)
    )  # late: u2 came after it
    assert running.read(**anonymous).person == "u2"
    running.take(
        kit.event("identify", kit.T0, user_id="u1", **identify)
    )  # at the same time: the later routed
    assert running.read(**anonymous).person == "u1"
    assert running.value("user_clicks", **anonymous) == 1
    assert running.read(person=None, anonymous_id="a1", now=1).t >= kit.T0 + 1


def test_a_user_who_was_merged_is_read_as_the_survivor(running):
    kit = running.kit

    def merge(ts: int, user: str, into: str) -> dict:
        return kit.event("merge", ts, user_id=user, properties=json.dumps({"merged_into": into}))

    running.take(
        click(kit, kit.T0, user_id="41"),
        click(kit, kit.T0, user_id="42"),
        click(kit, kit.T0 + 1, user_id="42"),
        kit.event("identify", kit.T0, user_id="41", anonymous_id="a1"),
    )
    assert running.value("user_clicks", person=None, user_id="41") == 1
    running.take(merge(kit.T0 + 5, "41", "42"))
    for who in ({"user_id": "41"}, {"user_id": "42"}, {"anonymous_id": "a1"}):
        assert running.read(person=None, **who).person == "42"
        assert running.value("user_clicks", person=None, **who) == 2
    assert running.read(person=None, user_id="41", now=1).t == kit.T0 + 6
    assert running.value("user_clicks", person="41") == 1  # as the router called them
    running.take(merge(kit.T0 + 5, "42", "43"))
    assert running.read(person=None, anonymous_id="a1").person == "43"
    running.take(merge(kit.T0 + 4, "42", "44"))  # late: 43 came after it
    assert running.read(person=None, user_id="41").person == "43"


def test_clicks_of_an_unidentified_visitor_stay_with_the_visitor(running):
    kit = running.kit
    running.take(
        click(kit, kit.T0, user_id=None, anonymous_id="a1"),
        kit.event("identify", kit.T0 + 1, user_id="u1", anonymous_id="a1"),
        click(kit, kit.T0 + 2, user_id=None, anonymous_id="a1"),
    )
    assert running.value("user_clicks", person="u1") == 1
    assert running.value("user_clicks", person="anon:a1") == 1


def test_a_reading_record_that_has_run_out_is_finished_from_the_state(running):
    kit = running.kit
    running.take(click(kit, kit.T0), click(kit, kit.T0 + 30 * SECOND))
    edge = kit.T0 + 65 * SECOND  # the tile of T0 is thirteen tiles back
    before, after = running.read(now=edge - 1), running.read(now=edge)
    assert (before.numeric[0, 1], before.stale_rows) == (2, 0)
    assert (after.numeric[0, 1], after.stale_rows) == (1, 1)
    running.clock.advance_to(edge)
    assert running.worker.refresh() == 1
    renewed = running.read(now=edge)
    assert (renewed.numeric[0, 1], renewed.stale_rows) == (1, 0)
    read_earlier = running.read(now=edge - 1)  # a reader whose clock is behind the worker's
    assert (read_earlier.numeric[0, 1], read_earlier.stale_rows) == (2, 1)


def test_the_category_that_counts_is_the_items_own_at_that_time(running):
    kit = running.kit
    profile = {"item_id": "i1", "user_id": None}
    running.take(
        kit.event("item", kit.T0, properties='{"category": "c1"}', **profile),
        click(kit, kit.T0 + 1, item_profile='{"category": "c1"}'),
        click(kit, kit.T0 + 2, item_id="i9", item_profile='{"category": "c2"}'),
        click(kit, kit.T0 + 3, item_id="i9", item_profile='{"category": "c2"}'),
    )
    assert running.value("clicks_of_category") == 1
    running.take(kit.event("item", kit.T0 + 4, properties='{"category": "c2"}', **profile))
    assert running.value("clicks_of_category") == 2
    assert running.read().categorical.tolist() == [[kit.key("c2")]]
    running.take(
        kit.event("item", 0, properties='{"category": "c3"}', timeless=True, **profile)
    )  # valid only before
    assert running.read().categorical.tolist() == [[kit.key("c2")]]


def test_each_commit_keeps_the_p_that_it_stands_for(running):
    kit = running.kit
    running.take(click(kit, kit.T0), click(kit, kit.T0 + 1))
    running.log.append([[]])
    running.worker.step()
    running.take(click(kit, kit.T0 + 2))
    assert (running.read().commit, running.read().log_position) == (3, 4)
    store = open_state(running.folder / "state", running.features)
    with store.snapshot() as snapshot:
        assert [(commit, p) for commit, p, _ in read_commits(snapshot)] == [(1, 2), (2, 3), (3, 4)]
    store.close()


def test_a_state_has_one_worker(running):
    with pytest.raises(LockedError):
        FeatureWorker(
            running.log.path, running.folder / "state", running.features, clock=running.clock
        )


def test_a_reader_without_a_state_of_its_schema_raises(running, tmp_path):
    other = FeatureSet.from_declarations([count("n", user, "click")])
    with pytest.raises(NotReadyError, match="no records yet"):
        Reader(tmp_path / "state", other)


def test_a_state_built_from_history_continues_in_the_log(running, kit, tmp_path):
    clicks = kit.routed([click(kit, kit.T0 + n, event_id=f"e{n}") for n in range(6)])
    running.take(*clicks[:4])
    with FeatureWorker(
        running.log.path, tmp_path / "anew", running.features, clock=running.clock
    ) as worker:
        worker.bootstrap(
            lambda after: [kit.table(clicks[:2]), kit.table(clicks[2:4])], log_position=4
        )
        running.take(*clicks[4:])
        assert worker.step().rows == 2
        reader = Reader(tmp_path / "anew", running.features)
        request = ReadRequest(person="u1", now=kit.T0 + SECOND)
        built, streamed = reader.read(request, ["i1"]), running.reader.read(request, ["i1"])
        reader.close()
    assert built.numeric.tobytes() == streamed.numeric.tobytes()
    assert built.sequences["recent"].ts.tolist() == streamed.sequences["recent"].ts.tolist()
    assert (built.log_position, streamed.log_position) == (6, 6)


def test_an_interrupted_build_is_not_read_and_resumes(running, kit, tmp_path):
    clicks, reads = kit.routed([click(kit, kit.T0 + n, event_id=f"e{n}") for n in range(4)]), []

    def history(after, breaks):
        reads.append(after)
        yield kit.table(clicks[after : after + 2])
        if breaks:
            raise ZeroDivisionError

    worker = FeatureWorker(
        running.log.path, tmp_path / "anew", running.features, clock=running.clock
    )
    with worker, pytest.raises(ZeroDivisionError):
        worker.bootstrap(lambda after: history(after, True), log_position=4)
    with FeatureWorker(
        running.log.path, tmp_path / "anew", running.features, clock=running.clock
    ) as worker:
        reader = Reader(tmp_path / "anew", running.features)
        with pytest.raises(NotReadyError, match="still being built"):
            reader.read(ReadRequest(person="u1"), ["i1"])
        with pytest.raises(NotReadyError, match="cut short"):
            worker.step()
        worker.bootstrap(lambda after: history(after, False), log_position=4)
        assert reads == [0, 2], "the second time goes on behind what was committed"
        assert reader.read(ReadRequest(person="u1", now=kit.T0 + SECOND), ["i1"]).numeric[0, 0] == 4
        reader.close()


def test_a_folder_under_the_name_of_another_schema_is_refused(running, tmp_path):
    other = FeatureSet.from_declarations([count("n", user, "click")])
    shutil.copytree(
        tmp_path / "state" / running.features.schema_hash, tmp_path / "state" / other.schema_hash
    )
    with pytest.raises(
        DamageError, match=f"holds the state of schema {running.features.schema_hash}"
    ):
        Reader(tmp_path / "state", other)


def test_a_block_that_is_no_table_stops_the_worker_before_anything_is_written(running):
    with running.log._writer.transaction():
        running.log._writer.append([running.kit.Block("events", 1, b"nonsense")])
    with pytest.raises(InputError, match="the block at 0 is no table"):
        running.worker.step()
    assert running.reader.position().commit == 0


def test_a_running_worker_applies_new_events_and_stops_on_request(running):
    stop = threading.Event()
    thread = threading.Thread(target=running.worker.run, args=(stop,))
    thread.start()
    running.log.append([running.kit.routed([click(running.kit, running.kit.T0)])])
    patience = threading.Event()
    for _ in range(1000):
        if running.reader.position().log_position == 1:
            break
        patience.wait(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert running.value("user_clicks") == 1
