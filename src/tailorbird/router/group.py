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
from tailorbird.events.suppression import SuppressionList
from tailorbird.lock import FileLock
from tailorbird.router.order import SequencerThread
from tailorbird.router.route import MEMORY_BYTES
from tailorbird.router.router import Router
from tailorbird.stream.kafka.client import OFFSET_END, Consumer
from tailorbird.stream.kafka.cluster import ensure
from tailorbird.stream.kafka.logs import KafkaStream

POLL_S = 0.005
ROWS_MAX = 20_000
SESSION_S = 10.0
WAITING_TOLD_S = 60.0  # how often a process without a partition says so
# after which a partition is begun anew that somebody else wrote, if it is still dealt to us
AGAIN_S = 3.0
_POLL_MAX_S = (
    600.0  # a step, or making an index anew, may take so long before others get the partition
)
log = logging.getLogger(__name__)


class Member:
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
        stopped: SuppressionList | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._stopped, self._memory_bytes = stopped, memory_bytes // stream.count
        self._stream, self._folder, self._plan, self._clock = stream, folder, plan, clock
        self.routers: dict[int, Router] = {}
        self._sequencer: SequencerThread | None = None
        self._dealt: set[int] = set()
        self._told_at = time.monotonic()
        self._not_before: dict[int, float] = {}
        self._more: set[int] = set()
        cluster, topic = stream.cluster, stream.share(0, folder).routed
        ensure(topic)
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
        self._dealt |= {each.partition for each in partitions}
        log.info("got partitions %s", sorted(each.partition for each in partitions))

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        for each in partitions:
            self._dealt.discard(each.partition)
            self._end(each.partition)
        consumer.incremental_unassign(partitions)
        log.info("gave up partitions %s", sorted(each.partition for each in partitions))

    def step(self) -> bool:
        """See what is dealt to us, and route what there is; whether there was anything."""
        self._consumer.poll(0)
        if not self._dealt:
            self._tell_waiting()
        for number in sorted(self._dealt - self.routers.keys()):
            self._begin(number)
        if self._sequencer is not None and self._sequencer.error is not None:
            self._give_way(0, self._sequencer.error)
        worked = False
        for number, router in list(self.routers.items()):
            try:
                if number in self._more or router.changed():
                    more = router.step(ROWS_MAX).more
                    (self._more.add if more else self._more.discard)(number)
                    worked |= more
            except LockedError as error:
                self._give_way(number, error)
        return worked

    def _tell_waiting(self) -> None:
        """Where others have all partitions this is as it should be; where nobody has, nothing is
        routed, and nobody else says so.
        """
        if time.monotonic() - self._told_at < WAITING_TOLD_S:
            return
        self._told_at = time.monotonic()
        log.warning(
            "no partition was dealt to this process: others of the group %s.router have all "
            "%d, or the broker still counts on "
            "one that is gone; see what `tailorbird doctor` says of the router",
            self._stream.cluster.prefix,
            self._stream.count,
        )

    def _begin(self, number: int) -> None:
        if time.monotonic() < self._not_before.get(number, 0.0):
            return
        try:
            share, memory = self._stream.share(number, self._folder), self._memory_bytes
            self.routers[number] = Router(
                share, self._plan, clock=self._clock, stopped=self._stopped, memory_bytes=memory
            )
            self._more.add(number)
            if number == 0:
                self._sequencer = SequencerThread(self._stream, self._folder, clock=self._clock)
        except LockedError as error:
            self._give_way(number, error)

    def _give_way(self, number: int, error: TailorbirdError) -> None:
        """Stop a router whose partition somebody else writes; only the group can say who is right,
        so look again later.
        """
        if not isinstance(error, LockedError):
            raise error
        log.warning("partition %d: %s", number, error)
        self._end(number)
        self._not_before[number] = time.monotonic() + AGAIN_S

    def _end(self, number: int) -> None:
        if number == 0 and self._sequencer is not None:
            self._sequencer.close()
            self._sequencer = None
        router = self.routers.pop(number, None)
        if router is not None:
            router.close()
        self._more.discard(number)

    def close(self) -> None:
        """Leave the group; others get what was ours at once."""
        for number in list(self.routers):
            self._end(number)
        self._consumer.close()

    def __enter__(self) -> "Member":
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
    stopped: SuppressionList | None = None,
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
        member_folder(stream.folder) as folder,
        Member(
            stream,
            folder,
            plan,
            clock,
            session_s=session_s,
            stopped=stopped,
            memory_bytes=memory_bytes,
        ) as member,
    ):
        while not stop.is_set():
            if not member.step():
                stop.wait(POLL_S)


@contextmanager
def member_folder(stream: Path, *, alone: bool = False) -> Iterator[Path]:
    """The first folder below `routers/` that no process of this machine has; with `alone`, none may
    have any. Raises LockedError.
    """
    held: list[FileLock] = []
    try:
        for number in range(1, 1_000):
            folder = stream / "routers" / str(number)
            if alone and not folder.exists() and held:
                break
            try:
                held.append(FileLock(folder / "member"))
            except LockedError:
                if alone:
                    raise
                continue
            if not alone:
                break
        yield held[0].path.parent
    finally:
        for lock in held:
            lock.release()
