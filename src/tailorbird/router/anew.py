"""What routers write, begun anew where its topics were lost: behind the routers' own tables, which
their machines still have.

    routed, order     begin where the tables end, with a row without meaning, as after an erasure (`router.emptying`)
    index             gets a snapshot of the tables, for routers elsewhere
    items             what the lost rows said of items, summed up from the lake

What was routed and is not in the lake yet is lost from the tables of the lake, not from the
archive: `lake verify` counts it, and `lake repair` routes it again.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import NotReadyError
from tailorbird.events import Clock
from tailorbird.lock import FileLock
from tailorbird.router.emptying import open_routed
from tailorbird.router.group import member_folder
from tailorbird.router.order import restart
from tailorbird.router.retention import sum_up_rows
from tailorbird.router.router import FIRST_P
from tailorbird.router.topic import index_end, name_topic
from tailorbird.stream import open_reader, sqlite
from tailorbird.stream.kafka import KafkaLog, emptied
from tailorbird.stream.kafka.anew import Lost, begin_anew, lost
from tailorbird.stream.kafka.cluster import topic_settings
from tailorbird.stream.kafka.emptied import Emptying, end_of
from tailorbird.stream.kafka.logs import KafkaStream

Tables = Callable[[int], Iterator[pa.Table]]  # given a p, the lake's events from it on


@dataclass(frozen=True)
class LostRouted:
    """What has to be begun anew of what routers write.

    Attributes:
        ends: of each partition, where its router's tables end.
        end: behind which row of the whole the lake, a worker, a summary or the order is.
        topics: those that are lost; none where they were begun anew, and that was cut short.
        behind: of a single partition, how many routed rows the lake does not have.
    """

    ends: tuple[int, ...]
    end: int
    topics: tuple[Lost, ...]
    behind: int = 0


def lost_routed(stream: KafkaStream, known: int, lake_has: int) -> LostRouted | None:
    """What is lost; None where nothing is. `known`: up to where anybody has read the whole,
    `lake_has` what the lake has.

    Raises:
        NotReadyError: the tables of a partition are on another machine, or rows that are there were
            not read yet.
    """
    there, logs = emptied.topics_of(stream.cluster), stream.routed_parts
    files = [_newest(stream, number) for number in range(stream.count)]
    if known <= FIRST_P and not any(files):
        return None
    ends = tuple(FIRST_P if file is None else _end(file) for file in files)
    order = [] if stream.count == 1 else [stream.order(None)]
    end = max([known, *(end_of(log, there) for log in order), *(ends if not order else ())])
    found = [lost(logs, ends, there, "run the routers until their tables have it, then begin anew")]
    found += [lost([log], [end], there) for log in order]
    topics = tuple(one for one in found if one is not None)
    if not topics and not any(_is_empty(log) for log in (*logs, *order)):
        return None
    missing = [number for number, file in enumerate(files) if file is None]
    if missing:
        raise NotReadyError(
            f"the tables of the router of partition {', '.join(map(str, missing))} are not "
            "on this machine, and the topic that could "
            "make them again is lost",
            where=str(stream.folder),
            fix="run this where the routers ran, or copy their routed-index*.db here",
        )
    return LostRouted(ends, end, topics, 0 if order else max(0, end - max(lake_has, FIRST_P)))


def _is_empty(log: KafkaLog) -> bool:
    """Whether a topic was begun anew, and has no row yet."""
    with open_reader(log) as reader:
        return FIRST_P < reader.end() == reader.start()


def begin_routed_anew(stream: KafkaStream, found: LostRouted, rows: Tables, clock: Clock) -> None:
    """Begin anew what routers write; whatever was done of it before is not done again.

    Raises:
        LockedError: a router runs on this machine.
    """
    with _tables(stream) as folder:
        sum_up_rows(stream, rows, found.end)
        faults.at("anew.items")
        for one in found.topics:
            if one.was.topic != "order":
                begin_anew(one)
        ends = [_begin(stream, number, folder) for number in range(stream.count)]
        faults.at("anew.routed")
        if stream.count > 1:
            copies = stream.cluster.replication
            order = stream.order(folder)
            emptied.empty(
                [order], Emptying("order", (found.end,), copies, topic_settings(copies)), anew=True
            )
            faults.at("anew.order")
            restart(order, found.ends, ends, clock)


def _begin(stream: KafkaStream, number: int, folder: Path) -> int:
    """Put a row without meaning behind the tables, which are put into the topic of snapshots
    before; where the log ends then.
    """
    share = stream.share(number, folder)
    with sqlite.errors(share.index), closing(sqlite.connect_writer(share.index)) as connection:
        name_topic(connection, share.routed)
    with open_routed(stream, number, folder) as topic:
        topic.put_snapshot(share.snapshots, newer_than=topic.end())
        topic.begin_anew()
        return topic.end()


@contextmanager
def _tables(stream: KafkaStream) -> Iterator[Path]:
    """The folder with the newest tables of each partition, while no router runs here."""
    if stream.count == 1:
        lock = FileLock(stream.share(0, stream.folder).index)
        lock.release()  # whoever opens the tables takes it
        yield stream.folder
        return
    with member_folder(stream.folder, alone=True) as folder:
        for number in range(stream.count):
            newest, ours = _newest(stream, number), stream.share(number, folder).index
            if (
                newest is not None
                and newest != ours
                and (not ours.exists() or _end(ours) < _end(newest))
            ):
                with sqlite.errors(newest), closing(sqlite.connect_writer(newest)) as connection:
                    sqlite.checkpoint(connection, newest, truncate=True)
                for each in (Path(f"{ours}-wal"), Path(f"{ours}-shm")):
                    each.unlink(missing_ok=True)
                shutil.copyfile(newest, ours)
        yield folder


def _newest(stream: KafkaStream, number: int) -> Path | None:
    name = stream.share(number, stream.folder).index.name
    files = [path for path in stream.index_paths() if path.name == name and path.exists()]
    return max(files, key=_end, default=None)


def _end(file: Path) -> int:
    return index_end(file) or FIRST_P
