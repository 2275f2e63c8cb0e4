"""`features republish`: a new or emptied Valkey is filled from the state, and a lost state from the lake."""

import json
import shutil

import pytest
from tests.cli.kit import must, must_json, refused, tailorbird
from tests.faults.roles import make_project
from tests.faults.test_evolution import item_events, some_events
from tests.store.servers import needs_valkey, running

from tailorbird.cli.roles import Roles
from tailorbird.events import SystemClock
from tailorbird.features.state import COMMITS, open_state
from tailorbird.features.worker import FeatureWorker
from tailorbird.serving.door import Door
from tailorbird.store.published import OURS
from tailorbird.store.valkey import CopiedStore, open_copies

pytestmark = needs_valkey


@pytest.fixture
def project(tmp_path):
    """A project with some events in lake and state."""
    made = make_project(tmp_path / "shop")
    clock = SystemClock()
    with Door(made.paths.stream, "serve-1", made.plan, clock) as door, Roles(made, clock) as roles:
        door.submit(json.dumps(item_events()).encode())
        for number in range(20):
            door.submit(json.dumps(some_events(number)).encode())
        roles.step()
        roles.drain()
    return made


def records(store):
    with store.snapshot() as snapshot:
        return {key: value for key, value in snapshot.scan(b"") if not key.startswith((OURS, COMMITS))}


def copied(project, server):
    return records(CopiedStore(open_copies(server.url, project.features.schema_hash, timeout_s=5)))


def test_a_server_is_filled_anew_and_a_lost_state_is_built_first(project, tmp_path):
    with running(tmp_path / "server") as server:
        env = {"TAILORBIRD_STORE__URL": server.url}
        found = must_json("-C", project.root, "features", "republish", env=env)["schemas"][project.features.schema_hash]
        store = open_state(project.paths.state, project.features)
        before = records(store)
        store.close()
        assert copied(project, server) == before
        assert found["records"] == len(before) > 20

        server.ask("FLUSHALL")
        folder = project.paths.state / project.features.schema_hash
        shutil.rmtree(folder)
        assert "records, as of position" in must("-C", project.root, "features", "republish", env=env)
        again = copied(project, server)
        assert len(again) == len(before)
        assert again.keys() == before.keys()


def test_without_an_address_and_beside_a_worker_it_says_what_to_do(project, tmp_path):
    refused(tailorbird("-C", project.root, "features", "republish"), "store.url", "valkey://host:6379")
    with running(tmp_path / "server") as server, FeatureWorker(project.routed, project.paths.state, project.features, clock=SystemClock()):
        done = tailorbird("-C", project.root, "features", "republish", env={"TAILORBIRD_STORE__URL": server.url})
        refused(done, "is running", "stop it")
