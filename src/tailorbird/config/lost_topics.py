"""What of a project's topics was lost, and how they are begun anew behind router and lake:
`tailorbird stream begin-anew`.

    raw, answers      behind what router and lake hold of each                          `stream.kafka.anew`
    routed, order     behind the routers' tables and the lake, with what lay before     `router.anew`
    erased            behind the last erasure that this machine knows of

Topics that are functions of others come by themselves: `index` with the next snapshot, `shuffled`
with the next shuffle.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.config.erasures import taken
from tailorbird.config.project import Project
from tailorbird.config.schemas import active_schemas, needed_by_workers
from tailorbird.events import ROUTED, Clock
from tailorbird.lake import Lake
from tailorbird.lock import FileLock
from tailorbird.router.anew import LostRouted, begin_routed_anew, lost_routed
from tailorbird.stream.held import router_positions
from tailorbird.stream.kafka import emptied
from tailorbird.stream.kafka.anew import Lost, begin_anew, held_of, lost, lost_of_doors
from tailorbird.stream.kafka.logs import KafkaStream
from tailorbird.stream.released import read_released


@dataclass(frozen=True)
class LostTopics:
    """See above. `others`: all but what routers write."""

    others: tuple[Lost, ...] = ()
    routed: LostRouted | None = None

    @property
    def all(self) -> tuple[Lost, ...]:
        return (*self.others, *(() if self.routed is None else self.routed.topics))

    @property
    def unfinished(self) -> bool:
        """Whether routers' topics were begun anew, and that was cut short."""
        return self.routed is not None and not self.routed.topics


def find_lost(project: Project) -> LostTopics:
    """What ends before what is held of it. Changes nothing, and may run beside the roles.

    Raises:
        NotReadyError: rows that are there would be lost with it; or the routers' tables are
            elsewhere.
        StorageError: the broker cannot be reached.
    """
    stream = project.stream
    assert isinstance(stream, KafkaStream)
    released = read_released(project.paths.lake)
    others = lost_of_doors(stream, held_of(stream, released, router_positions(stream)))
    number = taken(project)
    if number:
        erased = lost(
            [emptied.erasures(stream.cluster)], [number + 1], emptied.topics_of(stream.cluster)
        )
        others += [] if erased is None else [erased]
    lake_has = max(
        [0, *(tables.get("routed", 0) for tables in released.tables.values()), released.of_routed()]
    )
    workers = [
        offset
        for features in active_schemas(project)
        for offset in needed_by_workers(project, features)
    ]
    return LostTopics(tuple(others), lost_routed(stream, max([lake_has, *workers]), lake_has))


def begin_lost_anew(project: Project, clock: Clock) -> LostTopics:
    """Begin anew what is lost; what it was. Cut short, it is gone on with by the next call.

    Raises:
        LockedError: `up` or a router runs on this machine.
    """
    stream = project.stream
    assert isinstance(stream, KafkaStream)
    project.paths.run.mkdir(parents=True, exist_ok=True)
    up = FileLock(project.paths.run / "up")
    try:
        found = find_lost(project)
        if found.routed is not None:
            begin_routed_anew(stream, found.routed, lambda p: _rows(project, p), clock)
        for one in found.others:
            begin_anew(one)
        return found
    finally:
        up.release()


def _rows(project: Project, p: int) -> Iterator[pa.Table]:
    lake = Lake(project.paths.lake)
    if lake.exists("events"):
        for batch in lake.batches("events", ROUTED.names, ds.field("p") >= p):
            yield pa.Table.from_batches([batch])
