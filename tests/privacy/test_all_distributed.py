"""People are told all that is held, and erased, where nothing is on the asking machine: Kafka, a
bucket, a Valkey.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.commands import must_json
from tests.support.network.brokers import broker, needs_kafka
from tests.support.network.bucket import BUCKET, s3_server
from tests.support.network.stores import ValkeyServer, needs_valkey, start_server
from tests.support.people import (
    CANARY,
    CLOCK,
    Site,
    find_ids,
    find_in_files,
    make_site,
    read_all_topics,
)
from tests.support.privacy.topics import topic_settings
from tests.support.shops.bucket_shop import copy_bucket

from tailorbird.features.online.worker import FeatureWorker
from tailorbird.lake import Lake, verify
from tailorbird.privacy import erase
from tailorbird.storage_paths import open_storage

pytestmark = [needs_kafka, needs_valkey, pytest.mark.slow]
HELD = {"event": 6 + 1 + 7 + 2, "profile": 2, "answer": 1, "refused": 1, "repeat": 7}


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with start_server(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, valkey: ValkeyServer) -> Iterator[Site]:
    with broker(tmp_path) as servers, s3_server():
        more = (
            f'\n[lake]\nurl = "s3://{BUCKET}/shop/lake"\n\n[store]\nurl = '
            f'"{valkey.url}"\nprefix = "shop"\n'
        )
        yield make_site(
            tmp_path, canaries=2, others=12, settings=topic_settings(servers, tmp_path, 2) + more
        )


def publish(site: Site) -> None:
    """What the worker does beside its state."""
    project = site.project
    with FeatureWorker(
        project.routed,
        project.paths.state,
        project.features,
        clock=CLOCK,
        copies=project.copy_target(),
    ) as worker:
        while worker.step().rows:
            pass
        assert worker.republish() > 0


def dump(valkey: ValkeyServer, folder: Path) -> bytes:
    """All that the Valkey holds, as it would save it."""
    valkey.ask("CONFIG SET rdbcompression no")
    valkey.ask("SAVE")
    return (folder / "valkey" / "dump.rdb").read_bytes()


def told(root: Path, user: str) -> Counter:
    out = root.parent / f"{user}.jsonl"
    counts = must_json("-C", root, "lake", "export-user", user, "--out", out)["records"]
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert Counter(record["source"] for record in records) == Counter(counts)
    assert "other-user" not in out.read_text()
    return Counter(counts)


def test_a_person_is_told_and_erased_with_every_part_elsewhere(
    site: Site, valkey: ValkeyServer, tmp_path: Path
) -> None:
    project, (user, other) = site.project, site.users
    publish(site)
    bucket = open_storage(f"s3://{BUCKET}/shop/lake", Path())
    assert not (project.paths.data / "lake").exists()
    asking = (
        tmp_path / "asking" / "shop"
    )  # a machine with the project's declarations, and nothing of its data
    shutil.copytree(
        site.root, asking, ignore=shutil.ignore_patterns("stream", "state", "run", "*.lock")
    )

    for root in (site.root, asking):
        counts = told(root, user)
        assert {source: counts[source] for source in HELD} == HELD
        assert counts["feature"] > 3, "from the state, or from the Valkey where that is elsewhere"
    assert any(one in dump(valkey, tmp_path) for one in site.hashes)
    assert any(CANARY in data for _, data in read_all_topics(project))
    assert find_in_files(copy_bucket(bucket, tmp_path / "before"), CANARY)
    for path in tmp_path.rglob(f"{user}.jsonl"):
        path.unlink()

    rows = Lake(bucket).count("events")
    done = erase(project, site.users, CLOCK)

    assert done.is_clean, done.searched.matches
    needles = [CANARY, *site.hashes, *(one.encode() for one in site.requests)]
    assert find_in_files(copy_bucket(bucket, tmp_path / "after"), *needles) == []
    assert [
        name for name, data in read_all_topics(project) if any(one in data for one in needles)
    ] == []
    assert not any(one in dump(valkey, tmp_path) for one in needles)
    assert find_in_files(site.root, *needles) == []
    assert Lake(bucket).count("events") == rows
    assert verify(bucket, deep=True).is_clean
    publish(site)
    assert not any(one in dump(valkey, tmp_path) for one in needles)
    assert set(told(site.root, user)) == {"person", "erased"}
    assert set(told(asking, other)) <= {"person", "erased"}
    (site.root.parent / f"{user}.jsonl").unlink()
    assert find_ids(project, site.users).matches == []
