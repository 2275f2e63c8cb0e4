"""The two logs that a collector writes, raw-<producer> and answers-<producer>, opened and closed
together.
"""

import logging
from dataclasses import dataclass

from tailorbird.errors import LockedError
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import (
    LogSet,
    LogWriter,
    RawWriter,
    Stream,
    log_address,
    log_set,
    open_writer,
)
from tailorbird.stream.locked import read_expected_ends

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectorLogs:
    """Writers of both logs.

    Attributes:
        lake: whose positions in these logs count, as well as the router's.
        set_aside: number of files with damaged ends of these logs, and with lost logs.
    """

    logs: LogSet
    lake: StoragePath | None
    producer: str
    raw: RawWriter
    response_log: LogWriter
    set_aside: int

    @classmethod
    def open(
        cls, stream: Stream, producer: str, lake: StoragePath | None = None
    ) -> "CollectorLogs":
        """Open both logs, provided that they reach what router and `lake` hold of them.

        Raises:
            LockedError: another process is this producer.
            DamageError: a topic ends before what they hold.
        """
        logs = log_set(stream)
        raw_log = logs.raw(producer)
        response_log = logs.response_log(producer)
        required_offsets = read_expected_ends(logs, producer, lake)
        raw_writer = open_writer(raw_log, partition=producer, expected_ends=required_offsets)
        try:
            response_writer = open_writer(
                response_log, partition=producer, expected_ends=required_offsets
            )
        except BaseException:
            raw_writer.close()
            raise
        set_aside_count = sum(
            len(log_address(address).damaged_tail_files()) for address in (raw_log, response_log)
        )
        return cls(logs, lake, producer, raw_writer, response_writer, set_aside_count)

    def reopen(self) -> "CollectorLogs":
        """Reopen the same logs after a failed commit closed them.

        The last writes may be in the kernel's memory only. Closing an opened log checkpoints and
        syncs it, so that nothing is appended behind frames that a power cut could take away.
        """
        if not self.logs.is_remote:
            for address in (self.logs.raw(self.producer), self.logs.response_log(self.producer)):
                open_writer(address, partition=self.producer).close()
        return self.open(self.logs, self.producer, self.lake)

    def is_superseded(self, error: Exception) -> bool:
        """Return whether a process on another machine writes to these logs now."""
        return self.logs.is_remote and isinstance(error, LockedError)

    def close(self) -> None:
        """Close both files and release their locks, whatever state they are in."""
        for writer in (self.raw, self.response_log):
            try:
                writer.close()
            except (
                Exception
            ) as error:  # a broken file may fail even here; the lock ends with the process
                if not self.logs.is_remote:
                    log.critical(
                        "%s; it was being closed, and the newest events in it may be lost", error
                    )
