"""What features make of whose events: which fields of an erased person's events have to stay as
they are, and states made anew.

An event that is unlinked from its person keeps type, time and item. What else states of items,
categories and everyone are made of follows from the declarations: `needs` tells it, so that nothing
else has to stay, and these states stay equal.

    kept      texts and numbers that a filter or an entity without a person reads
    counted   texts of which such a state knows how many different ones there were: another text takes their place which falls into
              the same register of the sketch with the same rank, so that it stays as it is to the bit
    shared    fields by which states of more than one person are told apart; `shared_read`: of which their values and filters are made
    keyed     fields by which entities are told apart, of persons too; `read`: fields of which values are made, or filters
    ordered   whether such a state keeps events by (ts, id): then another id must not change the order of what happened at one time
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tailorbird.errors import NotReadyError
from tailorbird.events.clock import Clock
from tailorbird.features.bootstrap import build_from_lake, follow, lake_is_ahead
from tailorbird.features.declare import Amount, Entity
from tailorbird.features.expression import Expression
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.keypart import WHOLE, KeyPart
from tailorbird.features.layout import EntityLayout, Source
from tailorbird.features.state import state_folder
from tailorbird.features.worker import FeatureWorker
from tailorbird.lake import Lake
from tailorbird.places import Place
from tailorbird.stream import Address

PERSONAL = ("user", "session")  # fields of entities that are a person, or of one
_READ_WITH = {"weekday": ("local_hour",), "query": ("query", "answer_query")}


@dataclass(frozen=True)
class Needs:
    """What has to stay of events, see above. Names as expressions have them: "device",
    "properties.colour", "user.age".
    """

    kept: frozenset[str] = frozenset()
    counted: tuple[tuple[str, tuple[int, ...]], ...] = ()  # name → the precisions of its sketches
    ordered: bool = False
    keyed: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    shared_read: frozenset[str] = frozenset()

    def precisions(self, name: str) -> tuple[int, ...]:
        return dict(self.counted).get(name, ())


def needs(sets: Iterable[FeatureSet]) -> Needs:
    """What the states of these sets that are about no person need of an event."""
    kept: set[str] = set()
    counted: dict[str, set[int]] = {}
    ordered = False
    keyed: set[str] = set()
    read: set[str] = set()
    shared: set[str] = set()
    shared_read: set[str] = set()
    for layout in (layout for features in sets for layout in features.layout.entities):
        personal = is_personal(layout.entity)
        sketched = (
            frozenset() if personal else frozenset(sketch.source for sketch in layout.sketches)
        )
        names: set[str] = set()  # what is read but for what is counted alone
        keyed.update(layout.entity.fields)
        for source, more in _sources(layout):
            of = source.value.of if isinstance(source.value, Amount) else source.value
            read |= _names(source.where, of, *more)
            plain = isinstance(of, Expression) and of.kind == "text" and of.text in dict(of.names)
            if source in sketched and plain and isinstance(of, Expression):
                counted.setdefault(of.text, set()).update(
                    one.precision for one in layout.sketches if one.source == source
                )
                of = None
            names |= _names(source.where, of, *more)
        if not any(name in PERSONAL for name in layout.entity.fields):
            shared.update(layout.entity.fields)
            shared_read |= names
        if not personal:
            kept.update(layout.entity.fields)
            kept |= names
            ordered |= bool(layout.lasts or layout.sequences or layout.first_values)
    kept.update(more for name in tuple(kept) for more in _READ_WITH.get(name, ()))
    sketched_names = tuple(sorted((name, tuple(sorted(each))) for name, each in counted.items()))
    return Needs(
        frozenset(kept),
        sketched_names,
        ordered,
        frozenset(keyed),
        frozenset(read),
        frozenset(shared),
        frozenset(shared_read),
    )


def is_personal(entity: Entity) -> bool:
    """Whether an entity is a person, or one of a person's things."""
    return any(name in PERSONAL or name.startswith("user.") for name in entity.fields)


def _names(*expressions: Expression | None) -> set[str]:
    return {name for one in expressions if one is not None for name, _ in one.names}


def _sources(layout: EntityLayout) -> Iterator[tuple[Source, Sequence[Expression]]]:
    for spot in (
        *layout.rings,
        *layout.sketches,
        *layout.lasts,
        *layout.firsts,
        *layout.first_values,
    ):
        yield spot.source, ()
    for sequence in layout.sequences:
        yield sequence.source, sequence.of


def remake_state(
    state: Path,
    features: FeatureSet,
    lake: Place,
    routed: Address,
    *,
    clock: Clock,
    entities_max: int,
    part: KeyPart = WHOLE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Throw the state of a schema, or a part of it, away, free pages and all, and build it from the
    lake; how many rows it took in.

    Raises:
        LockedError: its worker runs.
    """
    folder = state_folder(state, features, part)
    for name in ("data.mdb", "lock.mdb", "data.mdb.damaged"):
        (folder / name).unlink(missing_ok=True)
    with FeatureWorker(
        routed, state, features, clock=clock, entities_max=entities_max, part=part
    ) as worker:
        tables = Lake(lake)
        if worker.needs_history() and lake_is_ahead(worker, tables):
            build_from_lake(worker, tables, threading.Event(), progress=progress)
        follow(worker, tables)
        if not worker.position.ready:
            raise NotReadyError(
                "the state could not be built",
                where=str(folder),
                fix="tailorbird run worker builds it",
            )
        worker.sweep_all()
        worker.tell()
        return worker.position.rows
