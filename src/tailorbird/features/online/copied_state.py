"""A state that is copied to a server for remote readers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tailorbird.errors import UsageError
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import Layout
from tailorbird.features.state.eviction import read_all_counts
from tailorbird.features.state.key_partition import KeyPart
from tailorbird.features.state.progress import CopyLag, KindProgress
from tailorbird.features.state.state import COMMIT_PREFIX, Position, open_state
from tailorbird.store import WRITE_TIMEOUT_S, CopyTarget, Store


def open_copied_state(
    state: Path, features: FeatureSet, part: KeyPart, copies: CopyTarget | None
) -> Store:
    """Open a state to write, with copies if there is a target for them."""
    store = open_state(state, features, part, create=True)
    if copies is None:
        return store
    from tailorbird.store.published import PublishedStore

    try:
        return PublishedStore(
            store,
            copies.open(part.copies_name(features.schema_hash), timeout_s=WRITE_TIMEOUT_S),
            skipped_prefixes=(COMMIT_PREFIX,),
        )
    except BaseException:
        store.close()
        raise


def republish_records(store: Store, progress: Callable[[int], None] | None) -> int:
    """Copy all records again, and return their number."""
    from tailorbird.store.published import PublishedStore

    if not isinstance(store, PublishedStore):
        raise UsageError("this worker was given no address to copy to", fix="set store.url")
    return store.republish(progress)


def measure_copy_lag(store: Store) -> CopyLag | None:
    """Return the figures of the copies, None without copies."""
    from tailorbird.store.published import PublishedStore

    if not isinstance(store, PublishedStore):
        return None
    publish_status = store.status()
    return CopyLag(
        at=publish_status.at,
        commits=publish_status.commits,
        records=publish_status.records,
        failing=bool(publish_status.problem),
    )


def measure_state(store: Store, layout: Layout, position: Position) -> dict[str, Any]:
    """Return the fields of `Figures` that tell the progress and the sizes of a state."""
    with store.snapshot() as snapshot:
        kinds = {
            name: KindProgress(**vars(counts))
            for name, counts in read_all_counts(snapshot, layout).items()
        }
    return {
        "rows": position.applied_rows,
        "offset": position.offset,
        "kinds": kinds,
        "copies": measure_copy_lag(store),
    }
