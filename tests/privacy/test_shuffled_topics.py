"""Erasing people where several workers read topics that a shuffle writes, those of another number
of workers among them.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.support.network.brokers import broker, needs_kafka
from tests.support.people import (
    CANARY,
    CLOCK,
    Site,
    find_ids,
    find_in_files,
    make_collected_events,
    make_site,
    read_all_topics,
)
from tests.support.privacy.topics import topic_settings

from tailorbird.config import Project
from tailorbird.config.schemas import required_offsets, shuffled_logs, worker_log
from tailorbird.errors import LockedError
from tailorbird.features.migration.erase import rebuild_state
from tailorbird.features.online.shuffle import Shuffle
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.key_partition import ALL_KEYS, all_parts
from tailorbird.features.state.state import Records, open_state
from tailorbird.lake import verify
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase
from tailorbird.router import open_router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import Address, Block, open_reader, open_writer

pytestmark = needs_kafka
WORKERS = 2


def shuffle(project: Project, count: int) -> None:
    """Write for so many workers all that was routed so far."""
    features = project.features
    with Shuffle(
        project.routed, project.stream.shuffled(features.schema_hash, count), features
    ) as role:
        while role.step().rows:
            pass


def records(project: Project, state: Path, count: int) -> dict[tuple[str, int], bytes]:
    """By entity and key, the states that so many workers keep there."""
    found: dict[tuple[str, int], bytes] = {}
    for part in all_parts(count):
        store = open_state(part.folder(state), project.features)
        with store.snapshot() as snapshot:
            for layout in project.features.layout.entities:
                prefix = b"s" + layout.index.to_bytes(2, "big")
                keys = np.array(
                    [int.from_bytes(key[3:], "big") for key, _ in snapshot.scan(prefix)], np.uint64
                )
                for key, row in zip(
                    keys.tolist(), Records(layout).states(snapshot, keys), strict=True
                ):
                    assert (layout.entity.name, key) not in found, "two workers keep it"
                    found[layout.entity.name, key] = row.tobytes()
        store.close()
    return found


def rows_of(log: Address) -> tuple[int, int, int]:
    """Where a log begins and ends, and how many bytes its blocks have."""
    with open_reader(log) as reader:
        position, size = reader.start(), 0
        while stored := reader.read(position):
            size, position = size + sum(len(one.block.payload) for one in stored), stored[-1].end
        return reader.start(), reader.end(), size


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with broker(tmp_path) as servers:
        settings = topic_settings(servers, tmp_path, 1) + f"\n[features]\nworkers = {WORKERS}\n"
        yield make_site(tmp_path, canaries=2, others=12, settings=settings)


@pytest.mark.slow
def test_what_was_shuffled_is_erased_and_workers_go_on_in_it(site: Site, tmp_path: Path) -> None:
    project, features = site.project, site.project.features
    for count in (WORKERS, 3):  # of another number that was set once
        shuffle(project, count)
    assert {
        name.partition("@")[0].rpartition(".")[2]
        for name, data in read_all_topics(project)
        if CANARY in data
    } >= {f"{features.schema_hash}-{count}" for count in (WORKERS, 3)}
    logs = shuffled_logs(project, features)
    ends = [rows_of(log)[1] for log in logs]
    (tmp_path / "other-machine").mkdir()
    elsewhere = type(project.stream)(project.stream.cluster, tmp_path / "other-machine").shuffled(
        features.schema_hash, WORKERS
    )[0]
    zombie = open_writer(
        elsewhere, partition="part-0", first_position=1
    )  # a shuffle that says nothing meanwhile

    done = erase(project, site.users, CLOCK)

    assert done.is_clean, done.searched.matches
    needles = [CANARY, *site.hashes, *(one.encode() for one in site.requests)]
    assert [
        name for name, data in read_all_topics(project) if any(one in data for one in needles)
    ] == []
    assert find_in_files(site.root, *needles) == []
    assert [rows_of(log) for log in logs] == [(end, end, 0) for end in ends], "positions go on"
    assert rows_of(project.stream.shuffled(features.schema_hash, 3)[2])[2] == 0
    with pytest.raises(LockedError):
        zombie.append([Block("events", 1, b"{}")])
    zombie.close()

    # What comes now is shuffled, and the workers, who were built anew from the lake, go on with it
    # alone.
    with EventCollector(
        project.stream, "serve-1", project.plan, CLOCK, suppression_list=project.suppression_list()
    ) as collector:
        again = [
            {**event, "event_id": f"{event['event_id']}-new"}
            for event in make_collected_events("other-user-007")
        ]
        assert all(told.accepted for told in collector.submit(json.dumps(again).encode()))
    routed_only(project)
    for part in all_parts(WORKERS):
        with FeatureWorker(
            worker_log(project, features, part),
            project.paths.state,
            features,
            clock=CLOCK,
            part=part,
        ) as worker:
            assert (worker.needs_history(), worker.step().rows) == (False, 0), (
                "it waits for the shuffle, and nothing was lost"
            )
    with Shuffle(project.routed, logs, features, first_row=1) as role:
        while role.step().rows:
            pass
        taken = []
        for part in all_parts(WORKERS):
            log = worker_log(project, features, part)
            with FeatureWorker(
                log, project.paths.state, features, clock=CLOCK, part=part
            ) as worker:
                assert not worker.needs_history()
                while report := worker.step().rows:
                    taken.append(report)
        assert sum(taken) >= len(again)
        role.prune(required_offsets(project, features))
    with InProcessRoles(project, CLOCK) as roles:
        roles.lake.drain()
    whole = tmp_path / "whole"
    rebuild_state(
        whole,
        features,
        project.paths.lake,
        project.routed,
        clock=CLOCK,
        entities_max=1_000_000,
        part=ALL_KEYS,
    )
    assert records(project, project.paths.state, WORKERS) == records(project, whole, 1)
    assert verify(project.paths.lake).is_clean
    assert find_ids(project, site.users).matches == []


def routed_only(project: Project) -> None:
    with open_router(
        project.stream, project.plan, clock=CLOCK, suppression_list=project.suppression_list()
    ) as router:
        while router.step().rows:
            pass
