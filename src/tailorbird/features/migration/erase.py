"""What an erasure changes in feature values, and states built again.

An erased event keeps type, time, item and numbers. A state that is made of these alone keeps its
value. Any other state that is not one person's may move by what the erased person contributed;
`compute_sensitivity` says which states of some declarations these are.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tailorbird.errors import NotReadyError
from tailorbird.events.clock import Clock
from tailorbird.events.contract.envelope import NUMBER_BOUNDS
from tailorbird.features.declare.declarations import Amount, Entity
from tailorbird.features.expr.expression import Expression
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import EntityLayout
from tailorbird.features.migration.bootstrap import build_if_needed, catch_up
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.key_partition import ALL_KEYS, KeyPart
from tailorbird.features.state.state import state_folder
from tailorbird.lake import Lake
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import Address

_PERSON_FIELDS = ("user", "session")  # an entity with one of these fields is one person's
_RETAINED_FIELDS = frozenset(
    {"item", "type", "agent", "slot", "experiment", "arm", "model", "position", "propensity"}
    | NUMBER_BOUNDS.keys()
)


@dataclass(frozen=True)
class Sensitivity:
    """How states that are not one person's depend on whose the events are.

    Attributes:
        by_item: states of single items do.
        beyond_items: states of categories, devices, everyone and the like do.
        attributes: of items and users that such states read, "item.category" for instance.
    """

    by_item: bool
    beyond_items: bool
    attributes: frozenset[str]


def compute_sensitivity(feature_sets: Iterable[FeatureSet]) -> Sensitivity:
    """Return how the shared states of these sets depend on whose the events are."""
    by_item = beyond_items = False
    attributes: set[str] = set()
    for layout in (layout for features in feature_sets for layout in features.layout.entities):
        if is_personal(layout.entity):
            continue
        names = {*layout.entity.fields, *_state_columns(layout)}
        attributes |= {name for name in names if name.startswith(("item.", "user."))}
        # Events of one time are ordered by their ids, which are new.
        is_ordered = bool(layout.lasts or layout.sequences or layout.first_values)
        if is_ordered or any(not name.startswith("item.") for name in names - _RETAINED_FIELDS):
            by_item |= layout.entity.fields == ("item",)
            beyond_items |= layout.entity.fields != ("item",)
    return Sensitivity(by_item, beyond_items, frozenset(attributes))


def is_personal(entity: Entity) -> bool:
    """Return whether an entity is a person, or one of a person's things."""
    return any(name in _PERSON_FIELDS for name in entity.fields)


def _state_columns(layout: EntityLayout) -> Iterator[str]:
    """Yield the columns that the states of a layout read."""
    sources = [
        accumulator.source
        for accumulators in (layout.rings, layout.sketches, layout.lasts, layout.firsts)
        for accumulator in accumulators
    ]
    sources += [accumulator.source for accumulator in (*layout.first_values, *layout.sequences)]
    value_expressions = [
        source.value.of if isinstance(source.value, Amount) else source.value for source in sources
    ]
    sequence_values = [expression for sequence in layout.sequences for expression in sequence.of]
    for expression in (*(source.where for source in sources), *value_expressions, *sequence_values):
        if isinstance(expression, Expression):
            yield from (name for name, _ in expression.names)


def rebuild_state(
    state: Path,
    features: FeatureSet,
    lake: StoragePath,
    routed: Address,
    *,
    clock: Clock,
    entities_max: int,
    part: KeyPart = ALL_KEYS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Delete the state of a schema, or a part of it, and build it from the lake; return how many
    rows it took in.

    Raises:
        LockedError: its worker runs.
    """
    folder = state_folder(state, features, part)
    for name in ("data.mdb", "lock.mdb", "data.mdb.damaged"):
        (folder / name).unlink(missing_ok=True)
    with FeatureWorker(
        routed, state, features, clock=clock, entities_max=entities_max, part=part
    ) as worker:
        opened_lake = Lake(lake)
        build_if_needed(worker, opened_lake, progress=progress)
        catch_up(worker, opened_lake)
        if not worker.position.is_ready:
            raise NotReadyError(
                "the state could not be built",
                where=str(folder),
                fix="tailorbird run worker builds it",
            )
        worker.sweep_all()
        worker.publish_progress()
        return worker.position.applied_rows
