"""The published candidate tables of a server, which follows changes of the contract.

A thread checks five times a second for a new contract and for a new session table, which is decoded
here rather than in the next request. While nothing is published, or the store cannot be read,
requests have no tables and say so.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tailorbird.atomic_write import FileStamp, file_stamp
from tailorbird.candidates.contract import Board, Contract, build_contract
from tailorbird.candidates.folder import CURRENT_FILE, current_contract, folder_of, open_tables
from tailorbird.candidates.protocol import (
    ALL_USERS,
    NO_TABLES,
    BoardTable,
    CandidateTables,
    Epoch,
    ItemFacts,
    Keys,
    Neighbours,
    RankedList,
)
from tailorbird.candidates.session_knn.sessions import Sessions
from tailorbird.candidates.tables import TableReader
from tailorbird.errors import TailorbirdError
from tailorbird.events.clock import Clock
from tailorbird.periodic import PeriodicTask
from tailorbird.store import CopyTarget, read_inode
from tailorbird.store.breaker import CircuitBreaker

POLL_S = 0.2
RETRY_S = 1.0
log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class _OpenTables:
    """Open tables with the number of requests that read them; the last of these closes them."""

    reader: TableReader
    inode: int
    use_count: int = 0
    is_retired: bool = False


class LiveTables:
    """Implements `pipeline.protocols.TableProvider` over `data/candidates`, or over copies.
    Thread-safe.

    Args:
        root: the folder of candidates.
        read_expected_contract: returns the contract to read where only copies are available,
            because `current.json` is on another machine.
        read_log_end: returns the offset behind the routed log. Tables that cover all of it are
            current, even if nobody publishes them any more.
    """

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        copies: CopyTarget | None = None,
        read_expected_contract: Callable[[], Contract] | None = None,
        read_log_end: Callable[[], int] | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._root = root
        self._clock = clock
        self._copies = copies
        self._read_expected_contract = read_expected_contract
        self._read_log_end = read_log_end
        self._breaker = CircuitBreaker() if copies is not None else None
        self._open_tables: _OpenTables | None = None
        self._followed_stamp: FileStamp | None = None
        self._retry_at = 0.0
        self.problem = "nothing is published yet"
        self._lock = threading.Lock()
        self.periodic_task = PeriodicTask("candidates", self.tick, interval_s=poll_s)

    def start(self) -> None:
        self.tick()
        self.periodic_task.start()

    def stop(self) -> None:
        self.periodic_task.stop()
        with self._lock:
            self._retire()

    @contextmanager
    def tables(self) -> Iterator[CandidateTables]:
        """Open the newest tables for a request, or yield `NO_TABLES` where there are none or
        they are unreachable.
        """
        opened_tables = self._acquire()
        if opened_tables is None:
            yield NO_TABLES
            return
        try:
            with ExitStack() as stack:
                try:
                    tables: CandidateTables = FailSafeTables(
                        stack.enter_context(opened_tables.reader.tables()), self._report_problem
                    )
                except TailorbirdError as error:
                    self._report_problem(str(error))
                    tables = NO_TABLES
                yield tables
        finally:
            self._release(opened_tables)

    def covers(self, sources: Collection[str]) -> bool:
        """Return whether the tables hold all that some sources read."""
        with self._lock:
            return self._open_tables is not None and self._open_tables.reader.contract.covers(
                build_contract(sources, shown=self._shown_event_type)
            )

    @property
    def _shown_event_type(self) -> str:
        return (
            self._open_tables.reader.contract.shown
            if self._open_tables is not None
            else "impression"
        )

    def ages(self) -> Mapping[str, int]:
        """Return by group of tables how long they have not been known to be current, in
        microseconds.
        """
        opened_tables = self._acquire()
        if opened_tables is None:
            return {}
        publication = opened_tables.reader.last_published
        self._release(opened_tables)
        if publication is None:
            return {}
        now = self._clock.now()
        log_end = self._read_log_end() if self._read_log_end is not None else 1 << 62
        return {
            name: 0 if group.position >= log_end - 1 else max(now - group.current_as_of, 0)
            for name, group in publication.groups.items()
        }

    def tick(self) -> None:
        """Follow the current contract, and decode new tables."""
        self._follow_contract()
        opened_tables = self._acquire()
        if opened_tables is None:
            return
        try:
            opened_tables.reader.prefetch_sessions()
        except TailorbirdError as error:
            self._report_problem(str(error))
        finally:
            self._release(opened_tables)

    def _follow_contract(self) -> None:
        contract_stamp = file_stamp(self._root / CURRENT_FILE) if self._copies is None else None
        with self._lock:
            opened_tables = self._open_tables
        if (
            opened_tables is not None
            and self._copies is None
            and contract_stamp == self._followed_stamp
        ):
            if (
                read_inode(folder_of(self._root, opened_tables.reader.contract))
                == opened_tables.inode
            ):
                return
        elif time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + RETRY_S
        try:
            contract = (
                current_contract(self._root)
                if self._copies is None or self._read_expected_contract is None
                else self._read_expected_contract()
            )
            if contract is None or (
                opened_tables is not None
                and self._copies is not None
                and opened_tables.reader.contract == contract
            ):
                return
            reader = open_tables(self._root, contract, copies=self._copies, breaker=self._breaker)
            reader.prefetch_sessions()
        except TailorbirdError as error:
            self._report_problem(error.message)
            return
        with self._lock:
            self._retire()
            self._open_tables = _OpenTables(reader, read_inode(folder_of(self._root, contract)))
            self._followed_stamp = contract_stamp
            self.problem = ""
        log.info("candidates of contract %s are read", contract.hash)

    def _report_problem(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            log.warning("candidate tables: %s", problem)

    def _acquire(self) -> _OpenTables | None:
        with self._lock:
            if self._open_tables is not None:
                self._open_tables.use_count += 1
            return self._open_tables

    def _release(self, opened_tables: _OpenTables) -> None:
        with self._lock:
            opened_tables.use_count -= 1
            if opened_tables.is_retired and not opened_tables.use_count:
                opened_tables.reader.close()

    def _retire(self) -> None:
        opened_tables = self._open_tables
        self._open_tables = None
        if opened_tables is None:
            return
        opened_tables.is_retired = True
        if not opened_tables.use_count:
            opened_tables.reader.close()


class FailSafeTables:
    """Tables that are empty from the first failed read on.

    An unreachable store thus takes sources from an answer, but does not fail it. Implements
    `protocol.CandidateTables`.
    """

    def __init__(self, tables: CandidateTables, on_error: Callable[[str], None]) -> None:
        self._tables = tables
        self._on_error = on_error

    @property
    def epochs(self) -> Mapping[str, Epoch]:
        return self._tables.epochs

    def leaderboard(self, board: Board, segment: int = ALL_USERS) -> BoardTable:
        return self._read(lambda tables: tables.leaderboard(board, segment))

    def new_items(self) -> RankedList:
        return self._read(lambda tables: tables.new_items())

    def neighbours(self, keys: Keys) -> Neighbours:
        return self._read(lambda tables: tables.neighbours(keys))

    def sessions(self) -> Sessions | None:
        return self._read(lambda tables: tables.sessions())

    def facts(self, keys: Keys) -> ItemFacts:
        return self._read(lambda tables: tables.facts(keys))

    def _read(self, read: Callable[[CandidateTables], T]) -> T:
        try:
            return read(self._tables)
        except TailorbirdError as error:
            self._on_error(str(error))
            self._tables = NO_TABLES
            return read(self._tables)
