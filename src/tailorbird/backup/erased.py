"""Keep erased people erased: what a backup holds of people who were erased later is erased again.

The suppression list holds keyed hashes, so the ids are found by asking the list about each id in
the restored lake. That is why rows are brought into the lake first, by the list of the backup: the
newer list would hide the ids from the router.
"""

from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc

from tailorbird.config import Project
from tailorbird.events import Clock
from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX
from tailorbird.events.suppression import ERASED_COUNT_FILE, ERASURE_FOLDER, SuppressionList
from tailorbird.lake import Lake
from tailorbird.lake.files import durable
from tailorbird.privacy import Receipt, erase

Progress = Callable[[str, int, int | None], None]
# Table, column, kind on the suppression list, and prefix of the id as `privacy.people` takes it.
_ID_COLUMNS = (
    ("events", "user_id", "u", ""),
    ("events", "anonymous_id", "a", ANONYMOUS_PREFIX),
    ("answers", "user_id", "u", ""),
    ("answers", "anonymous_id", "a", ANONYMOUS_PREFIX),
    ("users", "id", "u", ""),
)


def find_erased_since(
    lake: Lake, older_list: SuppressionList, newer_list: SuppressionList
) -> list[str]:
    """Return the ids in the lake that are on the newer list, and not on the older one."""
    ids: set[str] = set()
    for table, column, kind, prefix in _ID_COLUMNS:
        if not lake.exists(table):
            continue
        ids_in_lake: set[str] = set()
        for batch in lake.batches(table, [column]):
            ids_in_lake.update(pc.unique(batch.column(0)).drop_null().to_pylist())
        ids |= {
            f"{prefix}{id_}"
            for id_ in ids_in_lake
            if _is_erased_since(kind, id_, older_list, newer_list)
        }
    return sorted(ids)


def _is_erased_since(
    kind: str, id_: str, older_list: SuppressionList, newer_list: SuppressionList
) -> bool:
    erased_at = newer_list.get_erased_at(kind, id_)
    return erased_at is not None and erased_at > (older_list.get_erased_at(kind, id_) or 0)


def erase_again(
    project: Project,
    install_newer_list: Callable[[], None],
    clock: Clock,
    *,
    drain: Callable[[Project, Clock, Progress], object],
    progress: Progress,
) -> Receipt | None:
    """Erase whom the newer list has, in a project that was just restored.

    Args:
        install_newer_list: writes the newer suppression list and the receipts.
        drain: brings all rows of the logs into the lake.
    Returns:
        The receipt, or None if nobody on the newer list is in the restored data.
    """
    data = project.paths.data
    older_list = SuppressionList.load(data)
    drain(project, clock, progress)
    install_newer_list()
    newer_list = SuppressionList.load(data)
    durable.replace(project.paths.lake / ERASED_COUNT_FILE, newer_list.encode_count())
    ids = find_erased_since(Lake(project.paths.lake), older_list, newer_list)
    return erase(project, ids, clock, progress=progress) if ids else None


def is_erasure_file(path: str) -> bool:
    """Return whether a path below the data folder belongs to the suppression list or receipts."""
    return Path(path).parts[0] == ERASURE_FOLDER
