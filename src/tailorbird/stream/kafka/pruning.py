"""Deletion of records of a topic that nobody needs, outside its writer, so that no append waits.

Any process may delete, since the limit was decided elsewhere. A failed deletion is retried with the
next one. A broker that cannot delete records is logged once.
"""

import logging
import threading

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.stream.kafka.client import KafkaException, TopicPartition
from tailorbird.stream.kafka.cluster import KafkaTopic
from tailorbird.stream.kafka.tail import MessageReader

_JOIN_TIMEOUT_S = 0.5  # wait for the thread in close()
log = logging.getLogger(__name__)


class RecordDeleter:
    """A deleter of the oldest records of one log. One thread at a time.

    Attributes:
        problem: reason of the last failure; "" if the last deletion succeeded.
    """

    def __init__(self, address: KafkaTopic) -> None:
        self.address = address
        self.problem = ""
        self._message_reader: MessageReader | None = None

    def delete(self, prune_before: int) -> int:
        """Delete the messages before the run that holds row `prune_before`, and return how many.

        The last run stays, since it tells where the log ends. Returns 0 if there is nothing to
        delete, there is no such topic, or the broker refuses, which is logged.

        Raises:
            StorageError, DamageError: the topic cannot be read.
        """
        if self._message_reader is None:
            try:
                self._message_reader = MessageReader(self.address)
            except NotReadyError:
                return 0
        low, high = self._message_reader.watermarks()
        if high == 0 or low == high:
            return 0
        start = self._message_reader.start()
        offset = self._message_reader.find_offset(max(prune_before, start))
        if offset >= high:
            offset = self._message_reader.last_run_offset()
        return self._delete_records(low, offset) if offset > low else 0

    def _delete_records(self, low: int, offset: int) -> int:
        cluster = self.address.cluster
        partition = TopicPartition(self.address.name, self.address.partition_number, offset)
        try:
            cluster.admin().delete_records([partition], request_timeout=cluster.timeout_s)[
                partition
            ].result(cluster.timeout_s + 1)
        except (KafkaException, TimeoutError) as error:
            if not self.problem:
                log.warning(
                    "%s: the broker did not delete records, it is asked again later; does it "
                    "at all? Else set retention.ms (%s)",
                    self.address,
                    error,
                )
            self.problem = str(error) or type(error).__name__
            return 0
        if self.problem:
            log.info("%s: the broker deletes records again", self.address)
        self.problem = ""
        return offset - low

    def close(self) -> None:
        if self._message_reader is not None:
            self._message_reader.close()
            self._message_reader = None


class RecordDeletionThread:
    """A deleter in a thread, which starts with the first request."""

    def __init__(self, address: KafkaTopic) -> None:
        self._deleter = RecordDeleter(address)
        self._prune_before = 0
        self._change_condition = threading.Condition()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def request_deletion(self, prune_before: int) -> None:
        """Request the deletion of everything before row `prune_before`."""
        with self._change_condition:
            self._prune_before = max(prune_before, self._prune_before)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deleting", daemon=True)
                self._thread.start()
            self._change_condition.notify_all()

    def _run(self) -> None:
        try:
            while (prune_before := self._next_deletion()) is not None:
                try:
                    self._deleter.delete(prune_before)
                except TailorbirdError as error:
                    log.warning("nothing is deleted: %s", error)
                except Exception:  # the topic stays as it is
                    log.exception("nothing is deleted of %s", self._deleter.address)
        finally:
            self._deleter.close()

    def _next_deletion(self) -> int | None:
        with self._change_condition:
            self._change_condition.wait_for(lambda: self._prune_before or self._is_closing)
            prune_before = self._prune_before
            self._prune_before = 0
            return None if self._is_closing else prune_before

    def close(self) -> None:
        """Stop without waiting for a running deletion."""
        with self._change_condition:
            self._is_closing = True
            self._change_condition.notify_all()
        if self._thread is not None:
            self._thread.join(_JOIN_TIMEOUT_S)
