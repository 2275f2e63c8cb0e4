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
from tailorbird.candidates.contract import Board, Contract, contract_of
from tailorbird.candidates.folder import CURRENT_FILE, current_contract, folder_of, open_tables
from tailorbird.candidates.protocol import (
    EVERYONE,
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
from tailorbird.store import CopyTarget, inode
from tailorbird.store.breaker import Breaker

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
    """Implements `pipeline.protocols.Tables` over `data/candidates`, or over copies. Thread-safe.

    Args:
        root: the folder of candidates.
        expected_contract: returns the contract to read where only copies are available, because
            `current.json` is on another machine.
        log_end: returns the offset behind the routed log. Tables that cover all of it are current,
            even if nobody publishes them any more.
    """

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        copies: CopyTarget | None = None,
        expected_contract: Callable[[], Contract] | None = None,
        log_end: Callable[[], int] | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._root, self._clock, self._copies, self._expected_contract = (
            root,
            clock,
            copies,
            expected_contract,
        )
        self._log_end = log_end
        self._breaker = Breaker() if copies is not None else None
        self._open_tables: _OpenTables | None = None
        self._current_stamp: FileStamp | None = None
        self._retry_at = 0.0
        self.problem = "nothing is published yet"
        self._lock = threading.Lock()
        self.loop = PeriodicTask("candidates", self.tick, interval_s=poll_s)

    def start(self) -> None:
        self.tick()
        self.loop.start()

    def stop(self) -> None:
        self.loop.stop()
        with self._lock:
            self._retire()

    @contextmanager
    def tables(self) -> Iterator[CandidateTables]:
        """Open the newest tables for a request, or yield `NO_TABLES` where there are none or
        they are unreachable.
        """
        opened = self._acquire()
        if opened is None:
            yield NO_TABLES
            return
        try:
            with ExitStack() as stack:
                try:
                    tables: CandidateTables = FailSafeTables(
                        stack.enter_context(opened.reader.tables()), self._report_problem
                    )
                except TailorbirdError as error:
                    self._report_problem(str(error))
                    tables = NO_TABLES
                yield tables
        finally:
            self._release(opened)

    def covers(self, sources: Collection[str]) -> bool:
        """Return whether the tables hold all that some sources read."""
        with self._lock:
            return self._open_tables is not None and self._open_tables.reader.contract.covers(
                contract_of(sources, shown=self._shown)
            )

    @property
    def _shown(self) -> str:
        return (
            self._open_tables.reader.contract.shown
            if self._open_tables is not None
            else "impression"
        )

    def ages(self) -> Mapping[str, int]:
        """Return by group of tables how long they have not been known to be current, in
        microseconds.
        """
        opened = self._acquire()
        if opened is None:
            return {}
        published = opened.reader.last_published
        self._release(opened)
        if published is None:
            return {}
        now, end = self._clock.now(), self._log_end() if self._log_end is not None else 1 << 62
        return {
            name: 0 if group.position >= end - 1 else max(now - group.current_as_of, 0)
            for name, group in published.groups.items()
        }

    def tick(self) -> None:
        """Follow the current contract, and decode new tables."""
        self._follow_contract()
        opened = self._acquire()
        if opened is None:
            return
        try:
            opened.reader.prefetch_sessions()
        except TailorbirdError as error:
            self._report_problem(str(error))
        finally:
            self._release(opened)

    def _follow_contract(self) -> None:
        current_stamp = file_stamp(self._root / CURRENT_FILE) if self._copies is None else None
        with self._lock:
            opened = self._open_tables
        if opened is not None and self._copies is None and current_stamp == self._current_stamp:
            if inode(folder_of(self._root, opened.reader.contract)) == opened.inode:
                return
        elif time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + RETRY_S
        try:
            contract = (
                current_contract(self._root)
                if self._copies is None or self._expected_contract is None
                else self._expected_contract()
            )
            if contract is None or (
                opened is not None
                and self._copies is not None
                and opened.reader.contract == contract
            ):
                return
            reader = open_tables(self._root, contract, copies=self._copies, breaker=self._breaker)
            reader.prefetch_sessions()
        except TailorbirdError as error:
            self._report_problem(error.message)
            return
        with self._lock:
            self._retire()
            self._open_tables = _OpenTables(reader, inode(folder_of(self._root, contract)))
            self._current_stamp, self.problem = current_stamp, ""
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

    def _release(self, opened: _OpenTables) -> None:
        with self._lock:
            opened.use_count -= 1
            if opened.is_retired and not opened.use_count:
                opened.reader.close()

    def _retire(self) -> None:
        opened, self._open_tables = self._open_tables, None
        if opened is None:
            return
        opened.is_retired = True
        if not opened.use_count:
            opened.reader.close()


class FailSafeTables:
    """Tables that are empty from the first failed read on.

    An unreachable store thus takes sources from an answer, but does not fail it. Implements
    `protocol.CandidateTables`.
    """

    def __init__(self, tables: CandidateTables, on_error: Callable[[str], None]) -> None:
        self._tables, self._on_error = tables, on_error

    @property
    def epochs(self) -> Mapping[str, Epoch]:
        return self._tables.epochs

    def leaderboard(self, board: Board, segment: int = EVERYONE) -> BoardTable:
        return self._read(lambda tables: tables.leaderboard(board, segment))

    def new_items(self) -> RankedList:
        return self._read(lambda tables: tables.new_items())

    def neighbours(self, keys: Keys) -> Neighbours:
        return self._read(lambda tables: tables.neighbours(keys))

    def sessions(self) -> Sessions | None:
        return self._read(lambda tables: tables.sessions())

    def facts(self, keys: Keys) -> ItemFacts:
        return self._read(lambda tables: tables.facts(keys))

    def _read(self, query: Callable[[CandidateTables], T]) -> T:
        try:
            return query(self._tables)
        except TailorbirdError as error:
            self._on_error(str(error))
            self._tables = NO_TABLES
            return query(self._tables)
