"""Routers that share the partitions: each process takes some, and gives them up when others come,
go or are dead.

A consumer group of the cluster deals the partitions out (nobody reads by it: positions are in each
router's own tables). What it says is when to begin and when to stop, and it may be late: a process
that stood still wakes up and does not know yet that it was replaced. That such a one writes nothing
that counts is the matter of the log itself, see `stream.kafka.frames`: its next write stands at
another place than it says, and it is told who writes there now. Why so: decision 10.

    routers/1/    what this process locks, and the index of each partition that it ever had: routed-index.3.db
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
from tailorbird.events.erased import StopList
from tailorbird.lock import FileLock
from tailorbird.router.order import SequencerThread
from tailorbird.router.route import MEMORY_BYTES
from tailorbird.router.router import Router
from tailorbird.stream.kafka.client import OFFSET_END, Consumer
from tailorbird.stream.kafka.cluster import ensure_topic
from tailorbird.stream.kafka.logs import KafkaStream

POLL_S = 0.005
ROWS_MAX = 20_000
SESSION_S = 10.0
UNASSIGNED_WARNING_S = 60.0  # how often a process without a partition says so
# after which a partition is begun anew that somebody else wrote, if it is still dealt to us
RETRY_S = 3.0
_POLL_MAX_S = (
    600.0  # a step, or making an index anew, may take so long before others get the partition
)
log = logging.getLogger(__name__)


class GroupMember:
    """One process of the group.

    Attributes:
        routers: by partition, those at work here.
    """

    def __init__(
        self,
        stream: KafkaStream,
        folder: Path,
        plan: RoutePlan,
        clock: Clock,
        *,
        session_s: float = SESSION_S,
        suppression_list: StopList | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._suppression_list, self._memory_bytes = suppression_list, memory_bytes // stream.count
        self._stream, self._folder, self._plan, self._clock = stream, folder, plan, clock
        self.routers: dict[int, Router] = {}
        self._sequencer: SequencerThread | None = None
        self._assigned: set[int] = set()
        self._warned_at = time.monotonic()
        self._retry_at: dict[int, float] = {}
        self._backlogged: set[int] = set()
        cluster, topic = stream.cluster, stream.share(0, folder).routed
        ensure_topic(topic)
        conf = cluster.conf(
            group_id=f"{cluster.prefix}.router",
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=int(session_s * 1000),
            heartbeat_interval_ms=int(min(session_s / 3, 3) * 1000),
            max_poll_interval_ms=int(max(_POLL_MAX_S, 2 * session_s) * 1000),
            enable_auto_commit=False,
            auto_offset_reset="latest",
        )
        self._consumer: Any = cluster.client(Consumer, conf)
        self._consumer.subscribe(
            [topic.name],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        for each in partitions:
            each.offset = OFFSET_END
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)
        self._assigned |= {each.partition for each in partitions}
        log.info("got partitions %s", sorted(each.partition for each in partitions))

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        for each in partitions:
            self._assigned.discard(each.partition)
            self._stop_router(each.partition)
        consumer.incremental_unassign(partitions)
        log.info("gave up partitions %s", sorted(each.partition for each in partitions))

    def step(self) -> bool:
        """See what is dealt to us, and route what there is; whether there was anything."""
        self._consumer.poll(0)
        if not self._assigned:
            self._warn_unassigned()
        for number in sorted(self._assigned - self.routers.keys()):
            self._start_router(number)
        if self._sequencer is not None and self._sequencer.error is not None:
            self._give_up(0, self._sequencer.error)
        has_backlog = False
        for number, router in list(self.routers.items()):
            try:
                if number in self._backlogged or router.changed():
                    router_has_more = router.step(ROWS_MAX).more
                    (self._backlogged.add if router_has_more else self._backlogged.discard)(number)
                    has_backlog |= router_has_more
            except LockedError as error:
                self._give_up(number, error)
        return has_backlog

    def _warn_unassigned(self) -> None:
        """Where others have all partitions this is as it should be; where nobody has, nothing is
        routed, and nobody else says so.
        """
        if time.monotonic() - self._warned_at < UNASSIGNED_WARNING_S:
            return
        self._warned_at = time.monotonic()
        log.warning(
            "no partition was dealt to this process: others of the group %s.router have all "
            "%d, or the broker still counts on "
            "one that is gone; see what `tailorbird doctor` says of the router",
            self._stream.cluster.prefix,
            self._stream.count,
        )

    def _start_router(self, number: int) -> None:
        if time.monotonic() < self._retry_at.get(number, 0.0):
            return
        try:
            share, memory = self._stream.share(number, self._folder), self._memory_bytes
            self.routers[number] = Router(
                share,
                self._plan,
                clock=self._clock,
                suppression_list=self._suppression_list,
                memory_bytes=memory,
            )
            self._backlogged.add(number)
            if number == 0:
                self._sequencer = SequencerThread(self._stream, self._folder, clock=self._clock)
        except LockedError as error:
            self._give_up(number, error)

    def _give_up(self, number: int, error: TailorbirdError) -> None:
        """Stop a router whose partition somebody else writes; only the group can say who is right,
        so look again later.
        """
        if not isinstance(error, LockedError):
            raise error
        log.warning("partition %d: %s", number, error)
        self._stop_router(number)
        self._retry_at[number] = time.monotonic() + RETRY_S

    def _stop_router(self, number: int) -> None:
        if number == 0 and self._sequencer is not None:
            self._sequencer.close()
            self._sequencer = None
        router = self.routers.pop(number, None)
        if router is not None:
            router.close()
        self._backlogged.discard(number)

    def close(self) -> None:
        """Leave the group; others get what was ours at once."""
        for number in list(self.routers):
            self._stop_router(number)
        self._consumer.close()

    def __enter__(self) -> "GroupMember":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def run_member(
    stream: KafkaStream,
    plan: RoutePlan,
    clock: Clock,
    stop: threading.Event,
    *,
    session_s: float = SESSION_S,
    stopped: StopList | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Route what is dealt to this process until `stop` is set; the step under way is finished
    first.

    Args:
        session_s: after how long without a sign of life others get what was dealt to us.
        stopped: see `Router`; as `memory_bytes`, which all partitions share evenly.
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
            suppression_list=stopped,
            memory_bytes=memory_bytes,
        ) as member,
    ):
        while not stop.is_set():
            if not member.step():
                stop.wait(POLL_S)


@contextmanager
def lock_member_folder(stream: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """The first folder below `routers/` that no process of this machine has; with `alone`, none may
    have any. Raises LockedError.
    """
    locks: list[FileLock] = []
    try:
        for number in range(1, 1_000):
            folder = stream / "routers" / str(number)
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
