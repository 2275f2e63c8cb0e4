"""`features republish`: a new or emptied Valkey is filled from the state, and a lost state from the
lake.
"""

import json
import shutil

import pytest
from tests.support.commands import assert_refused, must, must_json, tailorbird
from tests.support.network.stores import needs_valkey, start_server
from tests.support.roles import make_project
from tests.support.shops.evolving_shop import make_item_events, make_visitor_events

from tailorbird.config.copying import copy_target_of
from tailorbird.config.project import SETTINGS_FILE
from tailorbird.config.settings import load_settings
from tailorbird.events import SystemClock
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.state import COMMIT_PREFIX, open_state
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.store import CopiedStore, CopyTarget, open_copies, open_store
from tailorbird.store.published import PublishedStore
from tailorbird.store.recording import OWN_PREFIX

pytestmark = [pytest.mark.slow, needs_valkey]


@pytest.fixture
def project(tmp_path):
    """A project with some events in lake and state."""
    made = make_project(tmp_path / "shop")
    clock = SystemClock()
    with (
        EventCollector(made.paths.stream, "serve-1", made.plan, clock) as collector,
        InProcessRoles(made, clock) as roles,
    ):
        collector.submit(json.dumps(make_item_events()).encode())
        for number in range(20):
            collector.submit(json.dumps(make_visitor_events(number)).encode())
        roles.step()
        roles.drain()
    return made


def records(store):
    with store.snapshot() as snapshot:
        return {
            key: value
            for key, value in snapshot.scan(b"")
            if not key.startswith((OWN_PREFIX, COMMIT_PREFIX))
        }


def copied(project, env):
    settings, _ = load_settings(project.root / SETTINGS_FILE, env)
    at = copy_target_of(settings, project.paths.data)
    assert at is not None
    return records(CopiedStore(at.open(project.features.schema_hash, timeout_s=5)))


def test_a_server_is_refilled_and_a_lost_state_is_rebuilt_first(project, tmp_path):
    with start_server(tmp_path / "server") as server:
        env = {"TAILORBIRD_STORE__URL": server.url}
        counts = must_json("-C", project.root, "features", "republish", env=env)["schemas"][
            project.features.schema_hash
        ]
        store = open_state(project.paths.state, project.features)
        before = records(store)
        store.close()
        assert copied(project, env) == before
        assert counts["records"] == len(before) > 20

        server.ask("FLUSHALL")
        folder = project.paths.state / project.features.schema_hash
        shutil.rmtree(folder)
        assert "records, as of position" in must(
            "-C", project.root, "features", "republish", env=env
        )
        again = copied(project, env)
        assert len(again) == len(before)
        assert again.keys() == before.keys()


def test_without_a_url_and_with_a_running_worker_it_is_refused(project, tmp_path):
    assert_refused(
        tailorbird("-C", project.root, "features", "republish"), "store.url", "valkey://host:6379"
    )
    with (
        start_server(tmp_path / "server") as server,
        FeatureWorker(project.routed, project.paths.state, project.features, clock=SystemClock()),
    ):
        done = tailorbird(
            "-C", project.root, "features", "republish", env={"TAILORBIRD_STORE__URL": server.url}
        )
        assert_refused(done, "is running", "stop it")


def test_a_server_is_shared_by_projects_and_pruned_of_dead_schemas_alone(project, tmp_path):
    with start_server(tmp_path / "server") as server:
        env = {"TAILORBIRD_STORE__URL": server.url}
        must("-C", project.root, "features", "republish", env=env)
        ours, schema = (
            (project.paths.data / "project-id").read_text().strip(),
            project.features.schema_hash,
        )
        schemas = {f"{ours}:{'0' * 12}", f"{ours}:{'1' * 12}", f"other:{'0' * 12}", "0" * 12}
        for name in schemas:
            store = open_store(tmp_path / name.replace(":", "-"), create=True)
            store.write(
                lambda transaction: transaction.put_many([(b"%d" % n, b"x") for n in range(2_100)])
            )
            published = PublishedStore(store, open_copies(server.url, name, timeout_s=5))
            assert published.wait_until_copied(30), published.problem
            if name != f"{ours}:{'1' * 12}":
                published.close()
            else:
                lives = published
        env |= {"TAILORBIRD_STORE__PASSWORD": ""}
        summary = must_json("-C", project.root, "features", "prune", env=env)
        assert summary["copies_removed"] == {"0" * 12: 2_100}
        counts = {name: count(server, name) for name in (*schemas, f"{ours}:{schema}")}
        assert counts.pop(f"{ours}:{schema}") > 20
        assert counts == {
            f"{ours}:{'0' * 12}": 0,
            f"{ours}:{'1' * 12}": 2_100,
            f"other:{'0' * 12}": 2_100,
            "0" * 12: 2_100,
        }

        summary = must_json("-C", project.root, "features", "prune", "--unnamed", env=env)
        assert summary["copies_removed"] == {"tb:" + "0" * 12: 2_100}
        assert count(server, f"other:{'0' * 12}") == 2_100
        lives.close()


def count(server, name):
    copies = open_copies(server.url, name, timeout_s=5)
    count_and_head = len(copies.all_keys(b"")), copies.head() is not None
    copies.close()
    assert count_and_head[1] == bool(count_and_head[0])
    return count_and_head[0]


def test_the_project_id_is_stored_or_set_and_no_password_is_shown(project):
    def id_of(env):
        at = copy_target_of(load_settings(project.root / SETTINGS_FILE, env)[0], project.paths.data)
        assert isinstance(at, CopyTarget)
        return at

    url = {"TAILORBIRD_STORE__URL": "valkey://ann@cache:6379"}
    drawn = id_of(url).project
    assert id_of(url).project == drawn == (project.paths.data / "project-id").read_text().strip()
    assert id_of(url | {"TAILORBIRD_STORE__PREFIX": "shop"}).project == "shop"
    assert id_of(url | {"TAILORBIRD_STREAM__URL": "kafka://b:9092/site"}).project == "site"
    secret = url | {"TAILORBIRD_STORE__PASSWORD": "canary-word"}
    assert id_of(secret).password == "canary-word"
    assert "canary-word" not in repr(id_of(secret))
    assert "canary-word" not in must("-C", project.root, "config", "show", env=secret)
    assert_refused(
        tailorbird(
            "-C", project.root, "features", "prune", env=url | {"TAILORBIRD_STORE__PREFIX": "a:b"}
        ),
        "store.prefix",
        "letters",
    )
