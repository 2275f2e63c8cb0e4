"""Reading from copies in a Valkey: what a reader gets is what one gets from the worker's own state,
and it says so when it is not there.
"""

import json
import time

import numpy as np
import pytest
from tests.support.network.stores import needs_valkey, start_server

from tailorbird.errors import NotReadyError
from tailorbird.events import SECOND, SimulatedClock
from tailorbird.features import FeatureSet, ReadRequest, attribute, count, entity, ratio, sequence
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.key_partition import all_parts
from tailorbird.features.state.progress import read_all_progress
from tailorbird.serving.metrics import Metrics
from tailorbird.serving.models.schemas import LiveFeatureProvider
from tailorbird.serving.models.state import StateReader
from tailorbird.store import CopyTarget
from tailorbird.store.breaker import FAILURES_MAX

pytestmark = needs_valkey

user, item, category = entity("user"), entity("item"), entity("item.category")
PEOPLE, ITEMS = [f"u{n}" for n in range(4)], [f"i{n}" for n in range(6)]


@pytest.fixture
def features() -> FeatureSet:
    return FeatureSet.from_declarations(
        [
            count("user_clicks", user, "click", window="1m"),
            ratio("ctr", item, "click", "view", window="1h", prior=category),
            count("user_category", entity("user", "item.category"), "click", window="1h"),
            attribute("category", item, "category", kind="categorical"),
            sequence("recent", user, "click", length=3),
        ]
    )


def patient(url, name="shop"):
    """Copies that are read without a server's deadline, which a busy machine exceeds."""
    return CopyTarget(url, name, read_timeout_s=20)


def events(kit, rng, count, at):
    made = []
    for n in range(count):
        if rng.random() < 0.2:
            profile = json.dumps({"category": str(rng.choice(["a", "b"]))})
            made.append(kit.event("item", at + n, item_id=rng.choice(ITEMS), properties=profile))
        elif rng.random() < 0.05:
            made.append(
                kit.event("identify", at + n, user_id=rng.choice(PEOPLE), anonymous_id="a1")
            )
        elif rng.random() < 0.03:
            made.append(
                kit.event(
                    "merge",
                    at + n,
                    user_id=rng.choice(PEOPLE),
                    properties=f'{{"merged_into":"{rng.choice(PEOPLE)}"}}',
                )
            )
        else:
            made.append(
                kit.event(
                    str(rng.choice(["click", "view"])),
                    at + n,
                    user_id=rng.choice(PEOPLE),
                    item_id=rng.choice(ITEMS),
                )
            )
    return made


def requests(now):
    exact = [ReadRequest(person=person, now=now) for person in PEOPLE]
    return (
        exact
        + [ReadRequest(user_id=person, now=now) for person in PEOPLE]
        + [ReadRequest(anonymous_id="a1", now=now)]
    )


def assert_equal(one, other):
    assert (one.t, one.commit, one.log_position, one.log_positions, one.person) == (
        other.t,
        other.commit,
        other.log_position,
        other.log_positions,
        other.person,
    )
    assert np.array_equal(one.numeric.view(np.uint32), other.numeric.view(np.uint32))
    assert np.array_equal(one.categorical, other.categorical)
    assert one.sequences["recent"].item.tolist() == other.sequences["recent"].item.tolist()


@pytest.mark.parametrize("count", [1, 3], ids=["one worker", "three workers"])
def test_copies_read_like_the_state_and_a_loss_is_reported_and_repaired(
    kit, tmp_path, features, count
):
    rng, clock = np.random.default_rng(7), SimulatedClock(kit.T0)
    with start_server(tmp_path / "server") as server:
        log, at = kit.Log(tmp_path), patient(server.url)
        workers = [
            FeatureWorker(log.path, tmp_path / "state", features, clock=clock, copies=at, part=part)
            for part in all_parts(count)
        ]
        local = Reader(tmp_path / "state", features, workers=count)
        remote = StateReader(tmp_path / "nowhere", features, copies=at, workers=count, retry_s=0)
        for step in range(12):
            log.append([kit.routed(events(kit, rng, 20, kit.T0 + step * 20 * SECOND))])
            for number, worker in enumerate(workers):
                if (
                    count == 1 or (step + number) % count
                ):  # several are never all as far as each other
                    worker.step()
            if step == 6:
                server.kill()
                with pytest.raises(NotReadyError, match="features cannot be read"):
                    remote.read(requests(kit.T0)[0], ITEMS)
                server.start()
            for worker in workers:
                assert worker._store.wait_until_copied(30), worker._store.problem
            for request in requests(kit.T0 + (step + 1) * 20 * SECOND):
                assert_equal(remote.read(request, ITEMS), local.read(request, ITEMS))
        local.close(), remote.close(), [worker.close() for worker in workers], log.close()


def test_before_anything_was_published_there_are_no_features(tmp_path, features):
    with start_server(tmp_path / "server") as server:
        remote = StateReader(tmp_path / "nowhere", features, copies=patient(server.url), retry_s=0)
        with pytest.raises(NotReadyError, match="no records have been published"):
            remote.read(ReadRequest(person="u1", now=1), ITEMS)
        assert not remote.ready()
        remote.close()


def test_two_projects_with_the_same_features_share_a_server_and_each_reads_its_own(
    kit, tmp_path, features
):
    with start_server(tmp_path / "server") as server:
        log = kit.Log(tmp_path)
        log.append([kit.routed([kit.event("click", kit.T0, user_id="u0", item_id="i0")])])
        read = {}
        for name, logged in (("one", True), ("other", False)):
            at, clock = patient(server.url, name), SimulatedClock(kit.T0)
            with FeatureWorker(
                log.path, tmp_path / name, features, clock=clock, copies=at
            ) as worker:
                if logged:
                    worker.step()
                assert worker._store.wait_until_copied(30), worker._store.problem
        for name in ("one", "other"):
            reader = StateReader(
                tmp_path / "nowhere", features, copies=patient(server.url, name), retry_s=0
            )
            read[name] = reader.read(ReadRequest(person="u0", now=kit.T0 + SECOND), ["i0"]).numeric[
                0, 0
            ]
            reader.close()
        assert read == {"one": 1, "other": 0}
        log.close()


def test_failures_add_up_over_schemas_and_reopened_readers(tmp_path, features):
    other = FeatureSet.from_declarations([count("clicks", item, "click", window="1h")])
    with start_server(tmp_path / "server") as server:
        schemas = LiveFeatureProvider(
            tmp_path / "nowhere", features, copies=patient(server.url), retry_s=0
        )
        readers = [schemas._acquire(each).reader for each in (features, other)]
        server.kill()
        errors = []
        for n in range(FAILURES_MAX + 2):
            with pytest.raises(NotReadyError) as error:
                readers[n % 2].read(ReadRequest(person="u1", now=1), ITEMS)
            errors.append("did not answer lately" in str(error.value))
        assert errors == [False] * FAILURES_MAX + [True] * 2
        schemas.close()


def test_metrics_say_how_old_the_copies_are_and_that_they_cannot_be_renewed(
    kit, tmp_path, features
):
    metrics = Metrics()
    metrics.watch_workers(lambda: read_all_progress(tmp_path / "state"))
    with start_server(tmp_path / "server") as server:
        log, at = kit.Log(tmp_path), patient(server.url)
        with FeatureWorker(
            log.path, tmp_path / "state", features, clock=SimulatedClock(kit.T0), copies=at
        ) as worker:
            assert worker._store.wait_until_copied(30), worker._store.problem
            worker.publish_progress()
            assert figure(metrics, "failing") == figure(metrics, "behind_rows") == 0
            assert figure(metrics, "age_seconds") < 30
            server.kill()
            log.append([kit.routed([kit.event("click", kit.T0, user_id="u0", item_id="i0")])])
            worker.step()
            until = time.monotonic() + 20
            while not worker._store.problem:
                assert time.monotonic() < until
                time.sleep(0.02)
            worker.publish_progress()
            assert figure(metrics, "failing") == figure(metrics, "behind_commits") == 1
            assert figure(metrics, "behind_rows") > 1
        log.close()


def figure(metrics, name):
    return next(
        float(line.split()[-1])
        for line in metrics.text().decode().splitlines()
        if line.startswith(f"tailorbird_copies_{name}{{")
    )
