"""All partitions in one process, step by step, for imports, the demo and tests.

`router.partitions.group` runs them as roles of their own.
"""

from contextlib import ExitStack

from tailorbird.events import Clock, RoutePlan
from tailorbird.events.suppression import SuppressionList
from tailorbird.router.decide.route import MEMORY_BYTES
from tailorbird.router.partitions.group import lock_member_folder
from tailorbird.router.partitions.order import Sequencer
from tailorbird.router.router import Router, RouteReport
from tailorbird.stream.kafka.logs import KafkaLogSet


class PartitionedRouter:
    """A router of each partition and the order over them, with one `step()`.

    Raises:
        LockedError: routers run on this machine.
    """

    def __init__(
        self,
        stream: KafkaLogSet,
        plan: RoutePlan,
        *,
        clock: Clock,
        suppression_list: SuppressionList | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        memory_bytes //= stream.partition_count
        self._stack = ExitStack()
        try:
            folder = self._stack.enter_context(lock_member_folder(stream.folder, exclusive=True))
            # A share has the logs of one router.
            shares = [stream.share(number, folder) for number in range(stream.partition_count)]
            routers = (
                Router(
                    share,
                    plan,
                    clock=clock,
                    suppression_list=suppression_list,
                    memory_bytes=memory_bytes,
                )
                for share in shares
            )
            self.routers = [self._stack.enter_context(router) for router in routers]
            self._sequencer = self._stack.enter_context(Sequencer(stream, folder, clock=clock))
        except BaseException:
            self._stack.close()
            raise

    def step(self, rows_max: int = 20_000) -> RouteReport:
        """Run a step of each router and return the sums.

        Partition 0 comes first, since the others follow its profiles.
        """
        self._sequencer.step()  # orders rows of a router that died before they were ordered
        reports = []
        for router in self.routers:
            reports.append(router.step(rows_max))
            self._sequencer.step()
        positions: dict[str, int] = {}
        for report in reports:
            for name, position in report.positions.items():
                positions[name] = min(position, positions.get(name, position))
        return RouteReport(
            accepted=sum(report.accepted for report in reports),
            duplicates=sum(report.duplicates for report in reports),
            quarantined=sum(report.quarantined for report in reports),
            positions=positions,
            lag_us=max(report.lag_us for report in reports),
            has_more=any(report.has_more for report in reports),
        )

    def has_changed(self) -> bool:
        """Return whether there may be something to route."""
        return (
            sum(router.has_changed() for router in self.routers) > 0
        )  # no short circuit: each call resets a flag

    def prune_batch(self, before: int) -> int:
        """Return 0: the lake role prunes topics, see `router.routed_log.retention`."""
        return 0

    def end(self) -> int:
        """Return the position after the last ordered row."""
        return self._sequencer.end()

    def close(self) -> None:
        """Close all logs."""
        self._stack.close()

    def __enter__(self) -> "PartitionedRouter":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
