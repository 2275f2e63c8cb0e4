"""Reading from copies in a Valkey: what a reader gets is what one gets from the worker's own state, and it says so when it is not there."""

import json

import numpy as np
import pytest
from tests.store.servers import needs_valkey, running

from tailorbird.errors import NotReadyError
from tailorbird.events import SECOND, SimulatedClock
from tailorbird.features import FeatureSet, ReadRequest, attribute, count, entity, ratio, sequence
from tailorbird.features.read import Reader
from tailorbird.features.worker import FeatureWorker
from tailorbird.serving.state import StateReader

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


def events(kit, rng, count, at):
    made = []
    for n in range(count):
        if rng.random() < 0.2:
            profile = json.dumps({"category": str(rng.choice(["a", "b"]))})
            made.append(kit.event("item", at + n, item_id=rng.choice(ITEMS), properties=profile))
        elif rng.random() < 0.05:
            made.append(kit.event("identify", at + n, user_id=rng.choice(PEOPLE), anonymous_id="a1"))
        else:
            made.append(kit.event(str(rng.choice(["click", "view"])), at + n, user_id=rng.choice(PEOPLE), item_id=rng.choice(ITEMS)))
    return made


def requests(now):
    return [ReadRequest(person=person, now=now) for person in PEOPLE] + [ReadRequest(anonymous_id="a1", now=now)]


def assert_equal(one, other):
    assert (one.t, one.commit, one.p, one.person) == (other.t, other.commit, other.p, other.person)
    assert np.array_equal(one.numeric.view(np.uint32), other.numeric.view(np.uint32))
    assert np.array_equal(one.categorical, other.categorical)
    assert one.sequences["recent"].item.tolist() == other.sequences["recent"].item.tolist()


def test_copies_read_as_the_state_does_and_losing_them_is_told_and_mended(kit, tmp_path, features):
    rng = np.random.default_rng(7)
    with running(tmp_path / "server") as server:
        log = kit.Log(tmp_path)
        worker = FeatureWorker(log.path, tmp_path / "state", features, clock=SimulatedClock(kit.T0), copies=server.url)
        local, remote = Reader(tmp_path / "state", features), StateReader(tmp_path / "nowhere", features, copies=server.url, retry_s=0)
        for step in range(12):
            log.append([kit.routed(events(kit, rng, 20, kit.T0 + step * 20 * SECOND))])
            worker.step()
            if step == 6:
                server.kill()
                with pytest.raises(NotReadyError, match="features cannot be read"):
                    remote.read(requests(kit.T0)[0], ITEMS)
                server.start()
            assert worker._store.settle(30), worker._store.problem
            for request in requests(kit.T0 + (step + 1) * 20 * SECOND):
                assert_equal(remote.read(request, ITEMS), local.read(request, ITEMS))
        local.close(), remote.close(), worker.close(), log.close()


def test_before_anything_was_published_there_are_no_features(tmp_path, features):
    with running(tmp_path / "server") as server:
        remote = StateReader(tmp_path / "nowhere", features, copies=server.url, retry_s=0)
        with pytest.raises(NotReadyError, match="no records have been published"):
            remote.read(ReadRequest(person="u1", now=1), ITEMS)
        assert not remote.ready()
        remote.close()
