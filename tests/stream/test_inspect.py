"""Inspection of a cluster and the problems of its topics."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from tests.support.commands import tailorbird
from tests.support.network.brokers import needs_kafka, open_new_log

from tailorbird.cli.init import init
from tailorbird.errors import StorageError
from tailorbird.stream import open_writer

pytestmark = needs_kafka


def topic(**settings):
    from tailorbird.stream.kafka.inspect import TopicState

    safe = {
        "min.insync.replicas": "2",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "cleanup.policy": "delete",
    }
    return TopicState("shop.routed", 1, 3, 3, {**safe, **settings})


@pytest.mark.parametrize(
    ("changes", "settings", "told"),
    [
        ({}, {}, []),
        ({"partitions": 4}, {}, ["4 partitions, 1 configured"]),
        ({"replication": 2, "in_sync": 2}, {}, ["2 copies, 3 configured"]),
        ({"in_sync": 2}, {}, ["2 of 3 copies are in sync"]),
        ({}, {"min.insync.replicas": "1"}, ["min.insync.replicas is 1"]),
        (
            {},
            {"min.insync.replicas": "4"},
            ["min.insync.replicas is 4, with 3 copies: nothing can be written"],
        ),
        ({}, {"unclean.leader.election.enable": "true"}, ["unclean leaders may be elected"]),
        ({}, {"cleanup.policy": "compact"}, ["the topic is compacted"]),
        ({}, {"retention.ms": "604800000"}, ["retention.ms is 604800000"]),
        ({"replication": 3}, {"min.insync.replicas": "0"}, []),  # a broker that does not say
    ],
)
def test_what_is_wrong_with_a_topic_is_told(changes, settings, told):
    from tailorbird.stream.kafka import Cluster
    from tailorbird.stream.kafka.inspect import find_problems

    problems = list(
        find_problems(
            replace(topic(**settings), **changes), Cluster("a:1", "shop", replication=3), 1
        )
    )
    assert [
        text.startswith(start) for (text, fix), start in zip(problems, told, strict=True) if fix
    ] == [True] * len(told)


def test_a_cluster_tells_its_brokers_and_our_topics_only(kafka_servers):
    from tailorbird.stream.kafka.inspect import inspect_cluster

    address, other = open_new_log(kafka_servers), open_new_log(kafka_servers)
    for each in (address, other):
        open_writer(each, partition="collector").close()
    state = inspect_cluster(address.cluster)
    assert kafka_servers in state.brokers
    assert [(each.name, each.partitions, each.replication) for each in state.topics] == [
        (address.name, 1, 1)
    ]


def test_a_cluster_that_is_not_there_is_an_error():
    from tailorbird.stream.kafka.inspect import inspect_cluster

    with pytest.raises(StorageError, match="is the broker running"):
        inspect_cluster(open_new_log("127.0.0.1:1", timeout_s=1).cluster)


@pytest.mark.slow
def test_doctor_holds_the_topics_against_the_settings(kafka_servers, tmp_path):
    address = open_new_log(kafka_servers)
    open_writer(address, partition="collector").close()
    init(tmp_path / "shop", json=True)
    for servers, state, message in (
        (kafka_servers, "ok", "1 brokers"),
        ("127.0.0.1:1", "error", "is the broker running"),
    ):
        section = (
            f'\n[stream]\nurl = "kafka://{servers}/{address.cluster.prefix}"\nreplication = '
            '3\ntimeout = "2s"\n'
        )
        file = tmp_path / "shop" / "tailorbird.toml"
        file.write_text(file.read_text().partition("\n[stream]")[0] + section)
        command = [
            sys.executable,
            "-m",
            "tailorbird",
            "-C",
            str(tmp_path / "shop"),
            "doctor",
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        rows = {row["what"]: row for row in json.loads(done.stdout)["findings"]}
        assert rows["kafka"]["state"] == state
        assert message in rows["kafka"]["found"] + rows["kafka"]["fix"]
        if state == "ok":
            assert rows["kafka raw.collector"]["found"] == "1 copies, 3 configured"
            assert rows["topic raw.collector"]["found"].startswith("0 rows")


def test_doctor_says_that_a_topic_lost_what_the_lake_has(kafka_servers, tmp_path):
    address = open_new_log(kafka_servers)
    open_writer(address, partition="collector").close()
    init(tmp_path / "shop", json=True)
    with (tmp_path / "shop" / "tailorbird.toml").open("a") as file:
        file.write(
            f'\n[stream]\nurl = "kafka://{kafka_servers}/{address.cluster.prefix}"\ntimeout '
            '= "5s"\n'
        )
    lake = tmp_path / "shop" / "data" / "lake"
    lake.mkdir(parents=True)
    (lake / "positions.json").write_text(
        json.dumps({"safe": {"raw-collector": 7}, "archive": {"raw-collector": 7}})
    )
    done = tailorbird("-C", tmp_path / "shop", "doctor", "--json", timeout=60)
    rows = {row["what"]: row for row in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert (rows["topic raw.collector"]["state"], rows["behind: lake, raw-collector"]["state"]) == (
        "error",
        "error",
    )
    assert "7 rows before what the lake has" in rows["topic raw.collector"]["found"]
