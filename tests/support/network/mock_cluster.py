"""librdkafka's mock cluster, which fails as it is told. It lives in this process, in the library
that the client carries.

It knows no idempotence and keeps little, but it answers with any error, late, or not at all.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import confluent_kafka

PRODUCE = 0  # of Kafka's protocol
TRANSPORT = -195  # of librdkafka: the connection is closed without an answer
NOT_LEADER, TIMED_OUT, NOT_ENOUGH_REPLICAS = 6, 7, 19


class MockCluster:
    """Three brokers."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library, self._cluster = (
            library,
            ctypes.c_void_p(library.rd_kafka_mock_cluster_new(ctypes.c_void_p(handle), 3)),
        )
        self.servers: str = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def make_topic(self, name: str, partitions: int = 1) -> None:
        assert (
            self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
            == 0
        )

    def fail_next(self, request: int, *errors: int) -> None:
        """The next requests of the kind are answered with these errors, one each."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(errors)), array
        )

    def answer_after(self, delay_s: float) -> None:
        """From now on, every answer takes so long."""
        for broker in (1, 2, 3):
            self._library.rd_kafka_mock_broker_set_rtt(
                self._cluster, ctypes.c_int32(broker), ctypes.c_int(int(delay_s * 1000))
            )

    def set_down(self, down: bool) -> None:
        set_state = (
            self._library.rd_kafka_mock_broker_set_down
            if down
            else self._library.rd_kafka_mock_broker_set_up
        )
        for broker in (1, 2, 3):
            set_state(self._cluster, ctypes.c_int32(broker))

    def close(self) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)


@contextmanager
def mock_cluster() -> Iterator[MockCluster]:
    folder = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs")
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    library.rd_kafka_new.restype = library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    conf, error = ctypes.c_void_p(library.rd_kafka_conf_new()), ctypes.create_string_buffer(256)
    handle = library.rd_kafka_new(0, conf, error, ctypes.c_size_t(256))
    assert handle, error.value
    cluster = MockCluster(library, handle)
    try:
        yield cluster
    finally:
        cluster.close()
        library.rd_kafka_destroy(ctypes.c_void_p(handle))
