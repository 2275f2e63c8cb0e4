"""Sets of logs: files in a folder (`FileLogSet`) or topics of a cluster
(`stream.kafka.KafkaLogSet`).

    log_set(project.stream).raw("serve-1")  →  address  →  open_writer(address, partition="serve-1")

Callers ask a set for an address and never which kind of set it is. `kafka_logs` is the one way to
what only a cluster has: snapshots, shuffled logs and the marker of an erasure.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import apsw

from tailorbird.stream import embedded, reading
from tailorbird.stream.embedded import EmbeddedWriter
from tailorbird.stream.partitions import (
    Address,
    RawAddress,
    damaged_tail_files,
    raw_logs,
    raw_path,
    response_log_path,
    response_logs,
    routed_path,
    scores_path,
)
from tailorbird.stream.protocol import BacklogReader, LogReader, LogWriter, RawWriter
from tailorbird.stream.reading import EmbeddedReader

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog
    from tailorbird.stream.kafka.logs import KafkaLogSet, KafkaPartition
    from tailorbird.stream.kafka.topic_backlog import BacklogClient

S = TypeVar("S", bound="LogSet | LogShare")
A = TypeVar("A", bound="RawLogAddress")


class RawLogAddress(Protocol):
    """The address of a collector's log, in one partition or in several."""

    def open_writer(
        self,
        *,
        partition: str,
        first_position: int,
        on_damaged_tail: str,
        expected_ends: Mapping[str, int],
    ) -> RawWriter:
        """Open or create the log as its only writer, see `stream.opening.open_writer`."""
        ...

    def damaged_tail_files(self) -> list[Path]:
        """Return the files with damaged ends that were set aside; a topic has none."""
        ...


class LogAddress(RawLogAddress, Protocol):
    """The address of a log of one order, which it can open."""

    @property
    def stem(self) -> str:
        """The name of the log as a file, without suffix."""
        ...

    @property
    def is_derived(self) -> bool:
        """Whether a role derives the log from another one, as the shuffle does.

        Such a log may end before the positions of its readers.
        """
        ...

    def open_reader(self) -> LogReader:
        """Open the log for reading. Raises NotReadyError if there is none yet."""
        ...

    def open_writer(
        self,
        *,
        partition: str,
        first_position: int,
        on_damaged_tail: str,
        expected_ends: Mapping[str, int],
    ) -> LogWriter: ...

    def open_backlog(self, client: "BacklogClient | None") -> BacklogReader:
        """Open what shows how much waits; topics share the client. Raises NotReadyError."""
        ...

    def pruned_summary(
        self, start: int
    ) -> AbstractContextManager[tuple[apsw.Connection | None, int]]:
        """Open the tables that summarise the pruned rows, and the position that continues them.

        Args:
            start: the first position of the log, by its reader.
        """
        ...


class LogShare(Protocol):
    """The logs of one router: partition `partition_number` of `partition_count`."""

    @property
    def partition_number(self) -> int: ...
    @property
    def partition_count(self) -> int: ...
    @property
    def folder(self) -> Path: ...

    @property
    def kafka_logs(self) -> "KafkaPartition | None":
        """The partition with its topics; None if the logs are files."""
        ...

    def raw_logs(self) -> "Mapping[str, Path | KafkaLog]":
        """Return the existing raw logs of this router, in order of name."""
        ...

    def single_share(self) -> "LogShare":
        """Return this share, so that a router takes a share or a whole set."""
        ...


class LogSet(Protocol):
    """All logs of a project."""

    @property
    def folder(self) -> Path:
        """The local folder for files that belong to the logs."""
        ...

    @property
    def partition_count(self) -> int:
        """The number of partitions, each with a router of its own."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether the logs are on other machines, which share them with this one."""
        ...

    @property
    def kafka_logs(self) -> "KafkaLogSet | None":
        """The set with all that only a cluster has; None if the logs are files."""
        ...

    @property
    def routed(self) -> Address: ...

    @property
    def scores(self) -> "Path | KafkaLog": ...

    def raw(self, producer: str) -> RawAddress:
        """Return the address of the raw log of `producer`, for its writer."""
        ...

    def raw_names_by_stem(self, producer: str) -> dict[str, str]:
        """Return the names in the lake of the raw log of `producer`, by stem of each partition."""
        ...

    def response_log(self, producer: str) -> "Path | KafkaLog": ...

    def raw_logs(self) -> "Mapping[str, Path | KafkaLog]":
        """Return the existing raw logs, each partition by itself, in order of name."""
        ...

    def response_logs(self) -> "Mapping[str, Path | KafkaLog]":
        """Return the existing response logs by producer, in order of name."""
        ...

    def measured_logs(
        self, producer: str
    ) -> "tuple[Mapping[str, Path | KafkaLog], Mapping[str, Path | KafkaLog]]":
        """Return the raw and response logs whose lag the serve process `producer` measures.

        All of them without a producer, or if they are on this machine.
        """
        ...

    def backlog_client(self) -> "BacklogClient | None":
        """Return what the backlogs of several logs share; files share nothing."""
        ...

    def lost_raw_logs(self, names: Iterable[str]) -> dict[str, str]:
        """Return the stems of the named raw logs that are no longer there, by name.

        Topics of a producer may be deleted once they are read, so of topics none counts as lost.
        """
        ...

    def shuffled(self, schema: str, count: int) -> "tuple[KafkaLog, ...]":
        """Return the shuffled log of a schema, a partition per worker; see
        `features.online.shuffle`.

        It is empty for files: all workers are on one machine and share its cache.
        """
        ...

    def index_paths(self) -> list[Path]:
        """Return the files on this machine that may hold a router's tables."""
        ...

    def producer_prefix(self, prefix: str) -> str:
        """Return the prefix of this machine's producers, distinct from that of other machines."""
        ...

    def single_share(self) -> LogShare:
        """Return the logs of the only router. Raises ValueError for several partitions."""
        ...

    def check_settings(self) -> None:
        """Check the settings without connecting. Raises ConfigError."""
        ...


@dataclass(frozen=True)
class FileLog:
    """A log in a SQLite file."""

    path: Path
    is_derived: bool = False

    @property
    def stem(self) -> str:
        return self.path.stem

    def open_reader(self) -> EmbeddedReader:
        return reading.open_reader(self.path)

    def open_writer(
        self,
        *,
        partition: str,
        first_position: int,
        on_damaged_tail: str,
        expected_ends: Mapping[str, int],
    ) -> EmbeddedWriter:
        return embedded.open_writer(
            self.path,
            partition=partition,
            first_position=first_position,
            on_damaged_tail=on_damaged_tail,
            expected_end=expected_ends.get(self.stem, 0),
        )

    def damaged_tail_files(self) -> list[Path]:
        return damaged_tail_files(self.path)

    def open_backlog(self, client: "BacklogClient | None") -> EmbeddedReader:
        return self.open_reader()

    @contextmanager
    def pruned_summary(self, start: int) -> Iterator[tuple[apsw.Connection | None, int]]:
        with self.open_reader() as reader, reader.snapshot() as connection:
            yield connection, reader.start()


@dataclass(frozen=True)
class FileLogSet:
    """The logs of a project as files in a folder. One router reads them all."""

    folder: Path
    partition_number: int = 0
    partition_count: int = 1
    is_remote: bool = False
    kafka_logs: None = None

    @property
    def routed(self) -> Path:
        return routed_path(self.folder)

    @property
    def scores(self) -> Path:
        return scores_path(self.folder)

    def raw(self, producer: str) -> Path:
        return raw_path(self.folder, producer)

    def raw_names_by_stem(self, producer: str) -> dict[str, str]:
        return {self.raw(producer).stem: producer}

    def response_log(self, producer: str) -> Path:
        return response_log_path(self.folder, producer)

    def raw_logs(self) -> Mapping[str, Path]:
        return raw_logs(self.folder)

    def response_logs(self) -> Mapping[str, Path]:
        return response_logs(self.folder)

    def measured_logs(self, producer: str) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        return self.raw_logs(), self.response_logs()

    def backlog_client(self) -> None:
        return None

    def lost_raw_logs(self, names: Iterable[str]) -> dict[str, str]:
        existing = self.raw_logs()
        return {name: self.raw(name).stem for name in names if name not in existing}

    def shuffled(self, schema: str, count: int) -> tuple[()]:
        return ()

    def index_paths(self) -> list[Path]:
        return [self.routed]

    def producer_prefix(self, prefix: str) -> str:
        return prefix

    def single_share(self) -> "FileLogSet":
        return self

    def check_settings(self) -> None:
        """Do nothing: a folder has no settings."""

    def __str__(self) -> str:
        return str(self.folder)


def log_set(stream: Path | S) -> FileLogSet | S:
    """Return the set of logs; a path stands for the files in this folder."""
    return FileLogSet(stream) if isinstance(stream, Path) else stream


def log_address(address: str | Path | A) -> FileLog | A:
    """Return the address of a log; a path stands for the file."""
    return FileLog(Path(address)) if isinstance(address, str | Path) else address
