"""Each promise of `stream.log_set.LogSet`, for files and for topics, in one partition and
several.
"""

from uuid import uuid4

import pytest
from tests.support.network.brokers import CLIENT_OPTIONS, MISSING_REASON

from tailorbird.errors import NotReadyError, UsageError
from tailorbird.stream import Block, FileLogSet, log_address, log_set, open_reader, open_writer

KINDS = ("files", "topics", "topics in 3 partitions")


@pytest.fixture(
    params=[KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
)
def logs(request, tmp_path):
    if request.param == "files":
        return FileLogSet(tmp_path / "stream")
    if MISSING_REASON:
        pytest.skip(MISSING_REASON)
    from tailorbird.stream.kafka import Cluster
    from tailorbird.stream.kafka.logs import KafkaLogSet

    cluster = Cluster(
        request.getfixturevalue("kafka_servers"),
        f"set-{uuid4().hex[:12]}",
        options=CLIENT_OPTIONS,
        partitions=3 if "3" in request.param else 1,
    )
    return KafkaLogSet(cluster, tmp_path / "stream")


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    (tmp_path / "stream").mkdir()


def body(text: bytes) -> Block:
    return Block(
        "body", 1, text, b'{"received_at": 1000, "source": "collector", "encoding": "json"}'
    )


def test_a_set_is_itself_and_a_path_its_files(logs, tmp_path):
    assert log_set(logs) is logs
    assert log_set(tmp_path) == FileLogSet(tmp_path)
    assert logs.folder == tmp_path / "stream"
    assert (logs.kafka_logs is not None) == logs.is_remote
    logs.check_settings()


def test_a_set_without_logs_is_empty(logs):
    assert dict(logs.raw_logs()) == dict(logs.response_logs()) == {}
    with pytest.raises(NotReadyError):
        open_reader(logs.routed)


def test_a_raw_log_is_written_by_its_producer_and_listed(logs):
    with open_writer(logs.raw("serve-1"), partition="serve-1") as writer, writer.transaction():
        writer.append([body(b'[{"event_id": "e", "anonymous_id": "a", "type": "view"}]')])
    listed = logs.raw_logs()
    names = logs.raw_names_by_stem("serve-1")
    assert len(names) == logs.partition_count
    assert sorted(listed) == sorted(names.values())
    assert sorted(log_address(each).stem for each in listed.values()) == sorted(names)
    rows = 0
    for address in listed.values():
        with open_reader(address) as reader:
            rows += reader.end()
    assert rows == 1


def test_a_response_log_is_written_and_its_backlog_measured(logs):
    address = logs.response_log("serve-1")
    with open_writer(address, partition="serve-1") as writer:
        assert writer.append([body(b"one"), body(b"two")]) == 0
        assert writer.prune_partitions([0]) == 0
    assert logs.response_logs() == {"serve-1": address}
    client = logs.backlog_client()
    backlog = log_address(address).open_backlog(client)
    assert backlog.backlog_after(1).rows == 1
    backlog.close()
    if client is not None:
        client.close()
    assert log_address(address).damaged_tail_files() == []
    assert not log_address(address).is_derived


def test_only_lost_files_count_as_lost(logs):
    assert logs.lost_raw_logs(["serve-9"]) == ({} if logs.is_remote else {"serve-9": "raw-serve-9"})


def test_a_producer_of_an_invalid_name_has_no_log(logs):
    for address_of in (logs.raw, logs.response_log):
        with pytest.raises(UsageError):
            address_of("../other")


def test_one_router_has_all_logs_and_of_several_partitions_each_has_its_own(logs):
    if logs.partition_count > 1:
        with pytest.raises(ValueError, match="router of its own"):
            logs.single_share()
        share = logs.share(2, logs.folder)
    else:
        share = logs.single_share()
    assert share.single_share() is share
    assert (share.partition_number, share.partition_count) == (
        logs.partition_count - 1,
        logs.partition_count,
    )
    assert (share.kafka_logs is not None) == logs.is_remote


def test_workers_share_a_cache_or_a_shuffled_log(logs):
    shuffled = logs.shuffled("abc", 2)
    assert len(shuffled) == (2 if logs.is_remote else 0)
    assert all(log_address(each).is_derived for each in shuffled)
