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
_SCRATCH = "rebuild"
_MARKER = "swap.json"
_REPLACED = "replaced"


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
    return lake / _SCRATCH


def is_unfinished(lake: StoragePath) -> bool:
    """Return whether a swap was cut short."""
    return (lake / _SCRATCH / _MARKER).exists()


def begin(lake: Path, swap: SwapPlan) -> None:
    """Decide the swap, after which a crash cannot undo it, and carry it out.

    Only for the lake's writer, once everything in the scratch folder is synced.
    """
    faults.at("rebuild.before_marker")
    durable.replace(lake / _SCRATCH / _MARKER, msgspec.json.encode(swap))
    faults.at("rebuild.after_marker")
    finish(lake)


def finish(lake: Path) -> bool:
    """Continue a swap that was cut short, else delete what a rebuild left behind.

    Only for the lake's writer.

    Returns:
        Whether there was a swap to continue.
    """
    scratch = lake / _SCRATCH
    if not scratch.exists():
        return False
    was_unfinished = is_unfinished(lake)
    if was_unfinished:
        swap = msgspec.json.decode((scratch / _MARKER).read_bytes(), type=SwapPlan)
        for item in swap.items:
            if (scratch / item).exists():
                _replace(lake, scratch, item, swap.evidence.get(item, []))
        faults.at("rebuild.before_cleanup")
        with durable.disk_errors(scratch):
            (scratch / _MARKER).unlink()
        durable.sync_folder(scratch)
    with durable.disk_errors(scratch):
        shutil.rmtree(scratch)
    durable.sync_folder(lake)
    return was_unfinished


def _replace(lake: Path, scratch: Path, item: str, evidence: list[tuple[str, str]]) -> None:
    # The new content is still in the scratch folder, so these files are the old ones.
    for path, folder in evidence:
        if (lake / path).exists():
            durable.move_aside(lake / path, lake / SET_ASIDE_FOLDER / folder)
            faults.at("rebuild.between_evidence")
    target = lake / item
    durable.make_folder(target.parent)
    if target.is_dir():
        durable.move_aside(target, scratch / _REPLACED)
    faults.at("rebuild.between_renames")
    with durable.disk_errors(target):
        (scratch / item).replace(target)
    durable.sync_folder(target.parent)
    durable.sync_folder((scratch / item).parent)
    faults.at("rebuild.after_rename")
