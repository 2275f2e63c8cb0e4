"""The two logs that a collector writes, raw-<producer> and answers-<producer>, opened and closed
together.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.storage_paths import Storage
from tailorbird.stream import (
    Stream,
    open_writer,
    raw_address,
    response_log_address,
    set_aside_files,
)
from tailorbird.stream.locked import read_expected_ends

if TYPE_CHECKING:
    from tailorbird.stream import EmbeddedWriter
    from tailorbird.stream.kafka import KafkaWriter, KeyedWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectorLogs:
    """Writers of both logs.

    Attributes:
        lake: whose positions in these logs count, as well as the router's.
        set_aside: number of files with damaged ends of these logs, and with lost logs.
    """

    stream: Stream
    lake: Storage | None
    producer: str
    raw: "EmbeddedWriter | KafkaWriter | KeyedWriter"
    answers: "EmbeddedWriter | KafkaWriter"
    set_aside: int

    @classmethod
    def open(cls, stream: Stream, producer: str, lake: Storage | None = None) -> "CollectorLogs":
        """Open both logs, provided that they reach what router and `lake` hold of them.

        Raises:
            LockedError: another process is this producer.
            DamageError: a topic ends before what they hold.
        """
        raw_path, answers_path = (
            raw_address(stream, producer),
            response_log_address(stream, producer),
        )
        required_offsets = read_expected_ends(stream, producer, lake)
        raw = open_writer(raw_path, partition=producer, held=required_offsets)
        try:
            answers = open_writer(answers_path, partition=producer, held=required_offsets)
        except BaseException:
            raw.close()
            raise
        set_aside_count = sum(
            len(set_aside_files(path))
            for path in (raw_path, answers_path)
            if isinstance(path, Path)
        )
        return cls(stream, lake, producer, raw, answers, set_aside_count)

    def reopened(self) -> "CollectorLogs":
        """Reopen the same logs after a failed commit closed them.

        The last writes may be in the kernel's memory only. Closing an opened log checkpoints and
        syncs it, so that nothing is appended behind frames that a power cut could take away.
        """
        paths = (
            raw_address(self.stream, self.producer),
            response_log_address(self.stream, self.producer),
        )
        for path in paths if isinstance(self.stream, Path) else ():
            open_writer(path, partition=self.producer).close()
        return self.open(self.stream, self.producer, self.lake)

    def close(self) -> None:
        """Close both files and release their locks, whatever state they are in."""
        for writer in (self.raw, self.answers):
            try:
                writer.close()
            except (
                Exception
            ) as error:  # a broken file may fail even here; the lock ends with the process
                if isinstance(self.stream, Path):
                    log.critical(
                        "%s; it was being closed, and the newest events in it may be lost", error
                    )
