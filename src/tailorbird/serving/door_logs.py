"""The two logs that a door writes: raw-<producer>, and answers-<producer>; opened, opened anew
after a failure, closed together.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.places import Place
from tailorbird.stream import Stream, answers_address, open_writer, raw_address, set_aside_files
from tailorbird.stream.held import held

if TYPE_CHECKING:
    from tailorbird.stream import EmbeddedWriter
    from tailorbird.stream.kafka import KafkaWriter, KeyedWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DoorLogs:
    """Both writers.

    Attributes:
        lake: whose positions in these logs count, beside the router's.
        set_aside: how many files there are of damaged ends of these logs, and of logs that were
            lost.
    """

    stream: Stream
    lake: Place | None
    producer: str
    raw: "EmbeddedWriter | KafkaWriter | KeyedWriter"
    answers: "EmbeddedWriter | KafkaWriter"
    set_aside: int

    @classmethod
    def open(cls, stream: Stream, producer: str, lake: Place | None = None) -> "DoorLogs":
        """Open both, behind what router and `lake` hold of them.

        Raises:
            LockedError: another process is this producer.
            DamageError: a topic ends before what they hold.
        """
        raw_path, answers_path = raw_address(stream, producer), answers_address(stream, producer)
        known = held(stream, producer, lake)
        raw = open_writer(raw_path, partition=producer, held=known)
        try:
            answers = open_writer(answers_path, partition=producer, held=known)
        except BaseException:
            raw.close()
            raise
        aside = sum(
            len(set_aside_files(path))
            for path in (raw_path, answers_path)
            if isinstance(path, Path)
        )
        return cls(stream, lake, producer, raw, answers, aside)

    def reopened(self) -> "DoorLogs":
        """The same logs, which were closed after a failed commit.

        What that left may be in the kernel's memory only. Closing an opened log checkpoints and
        syncs it, so nothing is ever appended behind frames that a power cut could take away.
        """
        paths = (
            raw_address(self.stream, self.producer),
            answers_address(self.stream, self.producer),
        )
        for path in paths if isinstance(self.stream, Path) else ():
            open_writer(path, partition=self.producer).close()
        return self.open(self.stream, self.producer, self.lake)

    def close(self) -> None:
        """Give up both files and their locks, whatever state they are in."""
        for writer in (self.raw, self.answers):
            try:
                writer.close()
            except (
                Exception
            ) as error:  # a broken file may refuse even this; the lock goes with the process
                if isinstance(self.stream, Path):
                    log.critical(
                        "%s; it was being closed, and the newest events in it may be lost", error
                    )
