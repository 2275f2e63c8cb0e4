"""Routers that share the partitions through a consumer group of the cluster.

The group only assigns partitions to processes; each router keeps its positions in its own tables.
An assignment may be late: a stalled process wakes up and does not know yet that it was replaced.
The log itself fences such a process, see `stream.kafka.frames`: its next write stands at another
offset than it expects, and it learns who writes there now. Decision 10 gives the reasons.

    routers/1/    locked by this process, with the index of each partition it had: routed-index.3.db
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tailorbird.errors import LockedError, TailorbirdError
from tailorbird.events import Clock, RoutePlan
from tailorbird.events.suppression import SuppressionList
from tailorbird.file_lock import FileLock
from tailorbird.router.decide.route import MEMORY_BYTES
from tailorbird.router.partitions.order import SequencerThread
from tailorbird.router.router import Router
from tailorbird.stream.kafka.client import OFFSET_END, Consumer
from tailorbird.stream.kafka.cluster import ensure_topic
from tailorbird.stream.kafka.logs import KafkaLogSet

POLL_S = 0.005
ROWS_MAX = 20_000
SESSION_TIMEOUT_S = 10.0
UNASSIGNED_WARNING_INTERVAL_S = 60.0  # interval of the warning of a process without partitions
# delay before a partition that another process wrote is tried again, if it is still assigned
RETRY_DELAY_S = 3.0
_POLL_MAX_S = 600.0  # bounds a step or the rebuild of an index before the partition is reassigned
log = logging.getLogger(__name__)


class GroupMember:
    """One process of the consumer group.

    Attributes:
        routers: the running routers, by partition.
    """

    def __init__(
        self,
        stream: KafkaLogSet,
        folder: Path,
        plan: RoutePlan,
        clock: Clock,
        *,
        session_s: float = SESSION_TIMEOUT_S,
        suppression_list: SuppressionList | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._suppression_list = suppression_list
        self._memory_bytes = memory_bytes // stream.partition_count
        self._stream = stream
        self._folder = folder
        self._plan = plan
        self._clock = clock
        self.routers: dict[int, Router] = {}
        self._sequencer: SequencerThread | None = None
        self._assigned_partitions: set[int] = set()
        self._warned_at = time.monotonic()
        self._retry_at: dict[int, float] = {}
        self._backlogged_partitions: set[int] = set()
        cluster = stream.cluster
        topic = stream.share(0, folder).routed
        ensure_topic(topic)
        consumer_settings = cluster.conf(
            group_id=f"{cluster.prefix}.router",
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=int(session_s * 1000),
            heartbeat_interval_ms=int(min(session_s / 3, 3) * 1000),
            max_poll_interval_ms=int(max(_POLL_MAX_S, 2 * session_s) * 1000),
            enable_auto_commit=False,
            auto_offset_reset="latest",
        )
        self._consumer: Any = cluster.client(Consumer, consumer_settings)
        self._consumer.subscribe(
            [topic.name],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        for partition in partitions:
            partition.offset = OFFSET_END
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)
        self._assigned_partitions |= {partition.partition for partition in partitions}
        log.info("got partitions %s", sorted(partition.partition for partition in partitions))

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        for partition in partitions:
            self._assigned_partitions.discard(partition.partition)
            self._stop_router(partition.partition)
        consumer.incremental_unassign(partitions)
        log.info("gave up partitions %s", sorted(partition.partition for partition in partitions))

    def step(self) -> bool:
        """Run a step of each assigned router and return whether any has more."""
        self._consumer.poll(0)
        if not self._assigned_partitions:
            self._warn_unassigned()
        for partition in sorted(self._assigned_partitions - self.routers.keys()):
            self._start_router(partition)
        if self._sequencer is not None and self._sequencer.error is not None:
            self._give_up(0, self._sequencer.error)
        has_backlog = False
        for partition, router in list(self.routers.items()):
            try:
                if partition in self._backlogged_partitions or router.has_changed():
                    router_has_more = router.step(ROWS_MAX).has_more
                    (
                        self._backlogged_partitions.add
                        if router_has_more
                        else self._backlogged_partitions.discard
                    )(partition)
                    has_backlog |= router_has_more
            except LockedError as error:
                self._give_up(partition, error)
        return has_backlog

    def _warn_unassigned(self) -> None:
        """Warn now and then that this process has no partition.

        That is normal where others have all of them. Where nobody has, nothing is routed, and no
        other process would say so.
        """
        if time.monotonic() - self._warned_at < UNASSIGNED_WARNING_INTERVAL_S:
            return
        self._warned_at = time.monotonic()
        log.warning(
            "no partition was dealt to this process: others of the group %s.router have all "
            "%d, or the broker still counts on "
            "one that is gone; see what `tailorbird doctor` says of the router",
            self._stream.cluster.prefix,
            self._stream.partition_count,
        )

    def _start_router(self, partition: int) -> None:
        if time.monotonic() < self._retry_at.get(partition, 0.0):
            return
        try:
            share = self._stream.share(partition, self._folder)
            memory_bytes = self._memory_bytes
            self.routers[partition] = Router(
                share,
                self._plan,
                clock=self._clock,
                suppression_list=self._suppression_list,
                memory_bytes=memory_bytes,
            )
            self._backlogged_partitions.add(partition)
            if partition == 0:
                self._sequencer = SequencerThread(self._stream, self._folder, clock=self._clock)
        except LockedError as error:
            self._give_up(partition, error)

    def _give_up(self, partition: int, error: TailorbirdError) -> None:
        """Stop a router whose partition another process writes, and retry later.

        Only the group can decide which of the two is right.
        """
        if not isinstance(error, LockedError):
            raise error
        log.warning("partition %d: %s", partition, error)
        self._stop_router(partition)
        self._retry_at[partition] = time.monotonic() + RETRY_DELAY_S

    def _stop_router(self, partition: int) -> None:
        if partition == 0 and self._sequencer is not None:
            self._sequencer.close()
            self._sequencer = None
        router = self.routers.pop(partition, None)
        if router is not None:
            router.close()
        self._backlogged_partitions.discard(partition)

    def close(self) -> None:
        """Leave the group, which reassigns the partitions at once."""
        for partition in list(self.routers):
            self._stop_router(partition)
        self._consumer.close()

    def __enter__(self) -> "GroupMember":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def run_member(
    stream: KafkaLogSet,
    plan: RoutePlan,
    clock: Clock,
    stop: threading.Event,
    *,
    session_s: float = SESSION_TIMEOUT_S,
    suppression_list: SuppressionList | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Route the assigned partitions until `stop` is set; a running step is finished first.

    Args:
        session_s: time without a heartbeat after which the partitions are reassigned.
        suppression_list: see `Router`.
        memory_bytes: see `Router`; shared evenly by all partitions.
    Raises:
        DamageError, StorageError, ConfigError: whoever runs the role starts it again or tells the
        operator.
    """
    with (
        lock_member_folder(stream.folder) as folder,
        GroupMember(
            stream,
            folder,
            plan,
            clock,
            session_s=session_s,
            suppression_list=suppression_list,
            memory_bytes=memory_bytes,
        ) as member,
    ):
        while not stop.is_set():
            if not member.step():
                stop.wait(POLL_S)


@contextmanager
def lock_member_folder(stream_folder: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Lock and yield the first free folder below `routers/`.

    With `exclusive`, raise LockedError if any process of this machine has one.
    """
    locks: list[FileLock] = []
    try:
        for folder_number in range(1, 1_000):
            folder = stream_folder / "routers" / str(folder_number)
            if exclusive and not folder.exists() and locks:
                break
            try:
                locks.append(FileLock(folder / "member"))
            except LockedError:
                if exclusive:
                    raise
                continue
            if not exclusive:
                break
        yield locks[0].path.parent
    finally:
        for lock in locks:
            lock.release()
