"""The routed log in a topic, and the router's index in a file beside it, kept as one.

A step is a run of messages: its blocks, and one of kind "index" with what the step changed in the router's tables (dedup
index, answers, identity, catalogue, raw positions), as a patch set of SQLite. The topic is first: only when all of the run is
acknowledged is the change committed to the file. So the file is a function of the topic; whatever it lacks after a kill, or
on another machine, is applied from there before the first decision.

    topic   ─ events │ quarantine │ index ─ events │ index ─ …        position in the file: how much of it is applied
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import DamageError, StorageError
from tailorbird.stream import Block, open_reader, open_writer, sqlite
from tailorbird.stream.kafka import KafkaLog
from tailorbird.stream.lock import FileLock
from tailorbird.stream.protocol import Stored

INDEX = "index"  # the kind of the block that carries a step's changes to the tables
_POSITION = """
CREATE TABLE IF NOT EXISTS routed_position(id INTEGER PRIMARY KEY CHECK (id = 1), topic TEXT NOT NULL, offset INTEGER NOT NULL) STRICT;
"""
_OWN = "routed_position"  # is about this file, and never in a patch set
_CODEC = "zstd"
log = logging.getLogger(__name__)


class RoutedTopic:
    """What `EmbeddedWriter` is to the router, on a topic.

    Args:
        file: of the index.
        make_tables: makes the router's tables, where they are not there yet.
        first: the position of the first row, if the log begins now.
    Attributes:
        connection: of the index; change its tables only within `transaction()`.
    Raises:
        LockedError: another router is at work on this machine.
        DamageError: the file knows of more than the topic has, or does not fit.
    """

    def __init__(self, address: KafkaLog, file: Path, make_tables: Callable[[apsw.Connection], None], *, first: int) -> None:
        self.address, self.path = address, file
        self._failed = ""
        self._lock = FileLock(file)
        try:
            with sqlite.errors(file):
                self.connection = sqlite.connect_writer(file)
                self.connection.execute(_POSITION)
                make_tables(self.connection)
                self.connection.execute("INSERT OR IGNORE INTO routed_position VALUES (1, ?, ?)", (str(address), first))
            self._topic = open_writer(address, partition="routed", first=first)  # from here on, no other router's steps count
            self._catch_up()
        except BaseException:
            self._lock.release()
            raise

    def _catch_up(self) -> None:
        topic, position = sqlite.one_row(self.connection, "SELECT topic, offset FROM routed_position")
        if topic != str(self.address) or position > self._topic.end():
            raise DamageError(
                f"this index is of {topic} up to {position}, and the topic {self.address} ends at {self._topic.end()}",
                where=str(self.path),
                fix="if the topic is the right one, move the file away: the index is made anew from the topic",
            )
        began = position
        with open_reader(self.address) as reader:
            while position < self._topic.end() and (stored := reader.read(position)):
                self._apply(stored)
                position = stored[-1].end
        if position > began:
            log.info("brought the index up from %d to %d", began, position)

    def _apply(self, stored: list[Stored]) -> None:
        with sqlite.errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                for one in stored:
                    if one.block.kind == INDEX:
                        apsw.Changeset.apply(_unpacked(one.block), self.connection)
                self._move_to(stored[-1].end)
            except apsw.AbortError as error:
                self._roll_back()
                raise DamageError(
                    "the index does not fit to the topic", where=str(self.path), fix="move the file away: it is made anew from the topic"
                ) from error
            except BaseException:
                self._roll_back()
                raise
            self.connection.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """Everything within, blocks and tables, becomes durable as one, first in the topic."""
        if self._failed:
            raise StorageError(f"an earlier step failed: {self._failed}", where=str(self.path), fix="start the router again")
        sent = False
        with sqlite.errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
        try:
            with self._topic.transaction():
                session = apsw.Session(self.connection, "main")
                session.table_filter(lambda table: table != _OWN)
                session.attach()
                yield self.connection
                patch = session.patchset()
                session.close()
                if patch:
                    self._topic.append([_packed(patch)])
                faults.at("router.before_topic")
            sent = True
            faults.at("router.between_topic_and_index")
            with sqlite.errors(self.path):
                self._move_to(self._topic.end())
                self.connection.execute("COMMIT")
        except BaseException as error:
            if sent:  # the step is decided, and this file does not know of it
                self._failed = str(error) or type(error).__name__
            self._roll_back()
            raise
        if sqlite.wal_bytes(self.path) > sqlite.CHECKPOINT_BYTES:
            with sqlite.errors(self.path):
                sqlite.checkpoint(self.connection, self.path)

    def _move_to(self, position: int) -> None:
        self.connection.execute("UPDATE routed_position SET offset = ?", (position,))

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def append(self, blocks: Iterable[Block]) -> int:
        """Append blocks within `transaction()`; the position of the first."""
        return self._topic.append(blocks)

    def end(self) -> int:
        return self._topic.end()

    def prune_some(self, before: int, *, last_look: Callable[[list[Stored]], None] | None = None) -> int:
        """Nothing: an index that is made anew needs the topic whole."""
        return 0

    def close(self) -> None:
        """Let go of topic and file, and let the next router in."""
        self._topic.close()
        self.connection.close()
        self._lock.release()


def _packed(patch: bytes) -> Block:
    return Block(INDEX, 1, pa.compress(patch, codec=_CODEC, asbytes=True), b"%d" % len(patch))


def _unpacked(block: Block) -> bytes:
    return pa.decompress(block.payload, decompressed_size=int(block.receipt), codec=_CODEC, asbytes=True)
