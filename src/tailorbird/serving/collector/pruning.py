"""Pruning of this process's logs up to where the lake no longer needs them.

The lake publishes those offsets in a file (`stream.released`), after it has synced its commits and
read them back. Raw rows are deleted once they are archived and their routed rows are in the tables,
answers once they are in theirs. Without a readable file, nothing is deleted.
"""

import logging

from tailorbird.errors import TailorbirdError
from tailorbird.periodic import PeriodicTask
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import read_prunable_positions

EVERY_S = 30.0
log = logging.getLogger(__name__)


class Pruner:
    """Prunes a collector's logs every half minute, in a thread."""

    def __init__(
        self, collector: EventCollector, lake: StoragePath, *, every_s: float = EVERY_S
    ) -> None:
        self._collector = collector
        self._lake = lake
        self.periodic_task = PeriodicTask(
            "pruner", self.tick, interval_s=every_s, run_at_start=False
        )

    def start(self) -> None:
        self.periodic_task.start()

    def stop(self) -> None:
        self.periodic_task.stop()

    def tick(self) -> None:
        """Prune once, by the offsets that are released now."""
        try:
            prunable_positions = read_prunable_positions(self._lake)
        except TailorbirdError as error:
            log.warning("nothing is pruned: %s", error)
            return
        raw_offsets = [prunable_positions.raw_position(name) for name in self._collector.raw_names]
        responses_offset = prunable_positions.responses_position(self._collector.producer)
        if any(raw_offsets) or responses_offset:
            self._collector.prune(raw_offsets, responses_offset)
