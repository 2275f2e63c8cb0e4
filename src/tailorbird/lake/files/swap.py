"""Replace parts of a lake by what was rebuilt in its scratch folder, all of them or none.

    lake/rebuild/<item>       the new content of lake/<item>: a table's folder or a file
    lake/rebuild/swap.json    written once all items are complete and verified; from then on the
                              swap is only ever continued
    lake/rebuild/replaced/    the old table folders, until the swap is complete

A crash before `swap.json` leaves the lake as it was: the scratch folder is deleted. A crash after
it leaves a swap that `finish` continues. Both happen when the lake role starts and when
`tailorbird lake repair --yes` runs again.
"""

import shutil
from pathlib import Path

import msgspec

from tailorbird import faults
from tailorbird.lake.files import durable
from tailorbird.storage_paths import StoragePath

SET_ASIDE_FOLDER = "set-aside"
_SCRATCH_FOLDER = "rebuild"
_PLAN_FILE = "swap.json"
_REPLACED_FOLDER = "replaced"


class SwapPlan(msgspec.Struct):
    """The items to replace in this order, and for each the corrupt files to keep as evidence.

    Attributes:
        items: paths below the lake, and below its scratch folder.
        evidence: by item, pairs of a path below the lake and a folder below `set-aside`.
    """

    items: list[str] = []
    evidence: dict[str, list[tuple[str, str]]] = {}


def scratch_folder(lake: Path) -> Path:
    """Return the folder in which the parts of a lake are rebuilt."""
    return lake / _SCRATCH_FOLDER


def is_unfinished(lake: StoragePath) -> bool:
    """Return whether a swap was cut short."""
    return (lake / _SCRATCH_FOLDER / _PLAN_FILE).exists()


def begin(lake: Path, plan: SwapPlan) -> None:
    """Decide the swap, after which a crash cannot undo it, and carry it out.

    Only for the lake's writer, once everything in the scratch folder is synced.
    """
    faults.fire_if_armed("rebuild.before_marker")
    durable.replace(lake / _SCRATCH_FOLDER / _PLAN_FILE, msgspec.json.encode(plan))
    faults.fire_if_armed("rebuild.after_marker")
    finish(lake)


def finish(lake: Path) -> bool:
    """Continue a swap that was cut short, else delete what a rebuild left behind.

    Only for the lake's writer.

    Returns:
        Whether there was a swap to continue.
    """
    scratch = lake / _SCRATCH_FOLDER
    if not scratch.exists():
        return False
    was_unfinished = is_unfinished(lake)
    if was_unfinished:
        plan = msgspec.json.decode((scratch / _PLAN_FILE).read_bytes(), type=SwapPlan)
        for item in plan.items:
            if (scratch / item).exists():
                _replace_item(lake, scratch, item, plan.evidence.get(item, []))
        faults.fire_if_armed("rebuild.before_cleanup")
        with durable.translate_disk_errors(scratch):
            (scratch / _PLAN_FILE).unlink()
        durable.sync_folder(scratch)
    with durable.translate_disk_errors(scratch):
        shutil.rmtree(scratch)
    durable.sync_folder(lake)
    return was_unfinished


def _replace_item(lake: Path, scratch: Path, item: str, evidence: list[tuple[str, str]]) -> None:
    # The new content is still in the scratch folder, so these files are the old ones.
    for path, folder in evidence:
        if (lake / path).exists():
            durable.move_aside(lake / path, lake / SET_ASIDE_FOLDER / folder)
            faults.fire_if_armed("rebuild.between_evidence")
    lake_path = lake / item
    durable.make_folder(lake_path.parent)
    if lake_path.is_dir():
        durable.move_aside(lake_path, scratch / _REPLACED_FOLDER)
    faults.fire_if_armed("rebuild.between_renames")
    with durable.translate_disk_errors(lake_path):
        (scratch / item).replace(lake_path)
    durable.sync_folder(lake_path.parent)
    durable.sync_folder((scratch / item).parent)
    faults.fire_if_armed("rebuild.after_rename")
