"""Failures of a broker: outages, lost rows, two writers; and its address and secrets."""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.support.network.brokers import needs_kafka, open_new_log

from tailorbird.errors import ConfigError, DamageError, LockedError, NotReadyError, StorageError
from tailorbird.stream import Block, open_reader, open_writer
from tailorbird.stream.kafka.client import KafkaError, KafkaException
from tailorbird.stream.kafka.cluster import list_topic_suffixes

pytestmark = [pytest.mark.slow, needs_kafka]


def body(number, rows=1):
    return Block("body", rows, f"payload {number}".encode(), f"receipt {number}".encode())


def written(address):
    with open_reader(address) as reader:
        return [one.block.payload for one in reader.read(0, bytes_max=1 << 30)]


def test_of_two_machines_the_newer_writer_goes_on_and_the_older_is_told_who_it_is(
    kafka_servers, tmp_path
):
    address = open_new_log(kafka_servers)  # no folder: as on two machines, no lock is shared
    with open_writer(address, partition="collector") as old:
        old.append([body(0, 2)])
        with open_writer(address, partition="collector") as new:
            for _ in range(2):  # it stays stopped
                with pytest.raises(
                    LockedError,
                    match=r"process \d+ of \S+ writes this log now; it can have one writer",
                ):
                    old.append([body(1)])
            assert new.append([body(2)]) == 2
    assert written(address) == [b"payload 0", b"payload 2"]


def test_what_a_zombie_wrote_is_nobodys_even_where_it_came_between(kafka_servers):
    from tailorbird.stream.kafka.frames import split_run

    address = open_new_log(kafka_servers)
    writers = []
    for number in range(5):
        writers.append(open_writer(address, partition="collector"))
        assert writers[-1].append([body(number), body(number)]) == 2 * number
        for zombie in writers[:-1]:
            with pytest.raises(LockedError):
                zombie.append([Block("body", 7, b"zombie")])
    writers[0]._send(
        split_run(
            [Block("body", 7, b"late")],
            expected_offset=writers[0]._next_offset,
            run_start=2,
            writer=writers[0]._name,
            bytes_max=1000,
        )
    )
    assert (
        writers[-1].append([body(5), body(5)]) == 10
    )  # what came in between does not count, so it goes on
    with open_reader(address) as reader:
        assert [one.block.payload for one in reader.read(0)] == [
            f"payload {number}".encode() for number in range(6) for _ in range(2)
        ]
        assert reader.end() == 12
        for start in range(12):
            assert reader.read(start)[0].offset == start
    for writer in writers:
        writer.close()


def test_a_run_that_was_cut_short_counts_for_nothing_and_its_rows_are_given_again(kafka_servers):
    from tailorbird.stream.kafka.frames import split_run

    address = open_new_log(kafka_servers)
    with open_writer(address, partition="collector") as writer:
        writer.append([body(0, 3)])
        run = split_run(
            [body(number, 50) for number in range(4)],
            expected_offset=writer._next_offset,
            run_start=3,
            writer=writer._name,
            bytes_max=1000,
        )
        writer._send(run[:3])
        with open_reader(address) as reader:
            assert (reader.end(), len(reader.read(0))) == (3, 1)
            with open_writer(address, partition="collector") as after:
                assert after.end() == 3
                assert after.append([body(9, 2)]) == 3
                assert [one.offset for one in reader.read(0)] == [0, 3]
            for start in range(6):
                with open_reader(address) as fresh:
                    assert [one.offset for one in fresh.read(start)] == [
                        at for at, end in ((0, 3), (3, 5)) if end > start
                    ]


def test_a_block_larger_than_a_message_is_split_and_comes_back_whole(kafka_servers):
    address = open_new_log(kafka_servers)
    blocks = [body(0), Block("big", 3, bytes(range(256)) * 12_000, b"receipt"), body(1)]
    with open_writer(address, partition="collector") as writer, open_reader(address) as reader:
        assert writer.append(blocks) == 0
        assert [one.block for one in reader.read(0, bytes_max=1 << 30)] == blocks
        assert [one.block for one in reader.read(1)] == blocks[1:]
        assert reader.end() == writer.end() == 5


def test_a_reader_finds_any_position_among_many(kafka_servers):
    address = open_new_log(kafka_servers)
    with open_writer(address, partition="collector") as writer:
        for number in range(40):
            writer.append([body(number, 1 + number % 3) for number in range(number % 4)])
        end = writer.end()
    for start in (0, 1, end // 3, end // 2, end - 1, end):
        with open_reader(address) as reader:
            blocks = reader.read(start)
            assert not blocks if start == end else blocks[0].offset <= start < blocks[0].end
            assert sum(one.block.rows for one in blocks) >= end - start


def test_a_topic_with_other_partitions_is_refused(kafka_servers):
    from confluent_kafka.admin import AdminClient, NewTopic

    address = open_new_log(kafka_servers)
    admin = AdminClient(address.cluster.conf())
    admin.create_topics([NewTopic(address.name, num_partitions=3, replication_factor=1)])[
        address.name
    ].result(10)
    for opening in (
        lambda: open_writer(address, partition="collector"),
        lambda: open_reader(address),
    ):
        with pytest.raises(
            ConfigError, match=r"the topic has 3 partitions, expected 1;(.|\n)*another prefix"
        ):
            opening()


def test_a_topic_that_was_deleted_and_made_again_is_noticed(kafka_servers):
    address = open_new_log(kafka_servers)
    with open_writer(address, partition="collector") as writer:
        writer.append([body(0, 2)])
    with (
        open_reader(address) as reader,
        pytest.raises(
            DamageError, match="the log ends at 2, but was read up to 7 before: rows were lost"
        ),
    ):
        reader.read(7)


def test_a_changed_message_is_not_given_out(kafka_servers):
    from confluent_kafka import Producer

    from tailorbird.stream.kafka.frames import split_run

    address = open_new_log(kafka_servers)
    with open_writer(address, partition="collector") as writer:
        (piece,) = split_run(
            [body(0)], expected_offset=writer._next_offset, run_start=0, writer="x", bytes_max=1000
        )
    producer = Producer(address.cluster.conf(acks="all"))
    producer.produce(address.name, b"payload X", partition=0, headers=piece.headers())
    producer.produce(address.name, b"of somebody else", partition=0)
    assert producer.flush(10) == 0
    with (
        open_reader(address) as reader,
        pytest.raises(DamageError, match=r"@1: the message does not match its checksum"),
    ):
        reader.read(0)


def test_a_broker_that_is_not_there_is_told_in_time(tmp_path):
    address = open_new_log("127.0.0.1:1", timeout_s=1)
    started_at = time.monotonic()
    for opening in (
        lambda: open_writer(address, partition="collector"),
        lambda: open_reader(address),
    ):
        with pytest.raises(StorageError, match=r"kafka://127.0.0.1:1/(.|\n)*is the broker running"):
            opening()
    assert time.monotonic() - started_at < 10


CHILD = """
import sys
from tailorbird.stream import Block, open_writer
from tests.support.network.brokers import CLIENT_OPTIONS
from tailorbird.stream.kafka import Cluster, KafkaLog
cluster = Cluster(sys.argv[1], sys.argv[2], options=CLIENT_OPTIONS)
log = KafkaLog(cluster, "raw.collector", "collector")
writer = open_writer(log, partition="collector")
print("open", flush=True)
for number in range(10_000):
    writer.append([Block("body", 2, b"%d" % number), Block("body", 1, b"x" * 30_000)])
    print(number, flush=True)
"""


def test_after_a_kill_everything_acknowledged_is_there_and_nothing_by_halves(kafka_servers):
    """Five writers, each killed at a random moment of its work, one after the other on the same
    log.
    """
    address = open_new_log(kafka_servers)
    model = 0
    for kill in range(5):
        command = [sys.executable, "-c", CHILD, kafka_servers, address.cluster.prefix]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "open\n"
        for _ in range(3 + 7 * kill):
            child.stdout.readline()
        child.kill()
        last = [int(line) for line in child.stdout.read().split()[-1:]] or [2 + 7 * kill]
        child.wait()
        with open_reader(address) as reader:
            end = reader.end()
            stored = reader.read(model, bytes_max=1 << 30)
        assert [one.offset for one in stored] == [
            at for start in range(model, end, 3) for at in (start, start + 2)
        ]
        numbers = [int(one.block.payload) for one in stored if one.block.rows == 2]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) - (last[-1] + 1) in (
            0,
            1,
        )  # one more may be durable than was acknowledged
        model = end


# Failures of the broker, by librdkafka's mock cluster.


@pytest.fixture
def mock():
    from tests.support.network.mock_cluster import mock_cluster

    with mock_cluster() as cluster:
        yield cluster


def mock_log(mock, timeout_s=10.0):
    address = open_new_log(mock.servers, timeout_s=timeout_s)
    mock.make_topic(address.name)
    return address


def test_errors_that_pass_are_tried_again_and_nothing_is_doubled(mock):
    from tests.support.network.mock_cluster import (
        NOT_ENOUGH_REPLICAS,
        NOT_LEADER,
        PRODUCE,
        TIMED_OUT,
        TRANSPORT,
    )

    address = mock_log(mock)
    with open_writer(address, partition="collector") as writer:
        for number, error in enumerate((NOT_LEADER, NOT_ENOUGH_REPLICAS, TIMED_OUT, TRANSPORT)):
            mock.fail_next(PRODUCE, error)
            assert writer.append([body(number)]) == number
    assert written(address) == [b"payload %d" % number for number in range(4)]


def test_an_answer_that_comes_too_late_leaves_the_message_once(mock):
    """The broker stores the message, its answer is late, the client sends it again: this broker
    stores it twice.
    """
    address = mock_log(mock)
    address = replace(
        address,
        cluster=replace(
            address.cluster, options={"socket.timeout.ms": 1_000, "request.timeout.ms": 1_000}
        ),
    )
    with open_writer(address, partition="collector") as writer:
        writer.append([body(0)])
        mock.answer_after(1.5)
        threading.Timer(2.5, mock.answer_after, [0]).start()
        with suppress(StorageError):
            writer.append([body(1)])
    mock.answer_after(0)
    with open_writer(address, partition="collector") as writer:
        writer.append([body(2)])
    assert written(address) == [b"payload 0", b"payload 1", b"payload 2"]


def test_a_delivery_that_times_out_is_unknown_and_the_writer_stops_until_it_is_opened_again(mock):
    address = mock_log(mock, timeout_s=2)
    with open_writer(address, partition="collector") as writer:
        writer.append([body(0)])
        mock.set_down(True)
        with pytest.raises(StorageError, match="whether the blocks are there is unknown"):
            writer.append([body(1)])
        mock.set_down(False)
        with pytest.raises(
            StorageError, match="an earlier write failed and its outcome is unknown"
        ):
            writer.append([body(2)])
    with open_writer(address, partition="collector") as writer:  # the client sends the event again
        blocks = written(address)
        writer.append([body(1)])
    assert blocks in ([b"payload 0"], [b"payload 0", b"payload 1"])
    assert written(address) == [*blocks, b"payload 1"]


@pytest.mark.parametrize("error", [47, 90], ids=["invalid_producer_epoch", "producer_fenced"])
def test_a_producer_that_the_broker_has_fenced_stops(mock, error):
    from tests.support.network.mock_cluster import PRODUCE

    address = mock_log(mock, timeout_s=2)
    with open_writer(address, partition="collector") as writer:
        writer.append([body(0)])
        mock.fail_next(PRODUCE, *[error] * 20)
        with pytest.raises(StorageError, match="Kafka did not acknowledge"):
            writer.append([body(1)])
        with pytest.raises(StorageError, match="start this process again"):
            writer.append([body(2)])


@pytest.mark.nightly
def test_a_reader_waits_for_a_broker_that_comes_back(mock):
    address = mock_log(mock)
    with open_writer(address, partition="collector") as writer, open_reader(address) as reader:
        writer.append([body(0)])
        assert len(reader.read(0)) == 1
        mock.set_down(True)
        threading.Timer(0.5, mock.set_down, [False]).start()
        assert reader.read(1) == []
        writer.append([body(1)])
        assert [one.block for one in reader.read(1)] == [body(1)]


def test_there_is_no_log_in_an_empty_topic(mock):
    with pytest.raises(NotReadyError, match="this topic holds no log yet"):
        open_reader(mock_log(mock))


class Refusing:
    """An admin client whose deletions fail a number of times and then wait for a signal."""

    def __init__(self, real, failures):
        self.real, self.failures, self.asked = real, failures, 0
        self.let = threading.Event()

    def delete_records(self, places, **settings):
        self.asked += 1
        if self.asked <= self.failures:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        self.let.wait(20)
        return self.real.delete_records(places, **settings)

    def __getattr__(self, name):
        return getattr(self.real, name)


def test_one_failure_does_not_end_pruning_and_no_append_waits_for_it(deleting_servers, caplog):
    address = open_new_log(deleting_servers)
    refusing = address.cluster.__dict__["_admin"] = Refusing(address.cluster.admin(), 1)
    with open_writer(address, partition="collector") as writer, open_reader(address) as reader:
        for number in range(3):
            writer.append([body(number)])
        writer.prune_batch(2)
        poll(lambda: "did not delete records, it is asked again" in caplog.text)
        assert reader.start() == 0
        writer.prune_batch(2)
        poll(lambda: refusing.asked == 2)
        assert writer.append([body(3)]) == 3, "while the broker is at it"
        assert reader.start() == 0
        refusing.let.set()
        poll(lambda: reader.start() == 2)


def poll(there):
    until = time.monotonic() + 20
    while not there():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_looking_for_topics_makes_no_client_each_time(kafka_servers):
    address = open_new_log(kafka_servers)
    open_writer(address, partition="collector").close()
    list_topic_suffixes(address.cluster, "raw")
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(20):
        assert list_topic_suffixes(address.cluster, "raw") == ["collector"]
    assert len(os.listdir("/proc/self/task")) <= threads
