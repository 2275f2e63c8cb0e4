"""What an erasure would find, and the receipt that it leaves: neither names anybody."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.config import Project
from tailorbird.events import Clock
from tailorbird.events.suppression import ERASURE_FOLDER, RECEIPTS_FOLDER, SuppressionList
from tailorbird.lake import Lake
from tailorbird.privacy.footprint import find_footprint
from tailorbird.privacy.journal import write_private
from tailorbird.privacy.mentions import attribute_names
from tailorbird.privacy.models import find_trained_models
from tailorbird.privacy.people import StoredId, count_people, find_people, find_unknown, flatten_ids
from tailorbird.privacy.search import SearchReport


@dataclass(frozen=True)
class Preview:
    """What an erasure would find.

    Attributes:
        shared: devices that others used too, which are erased whole.
        events: number by type. refused: rows of the quarantine.
        bundles: models that learned from their events, and when they are due.
        unknown: which of the given ids the project has nothing of, counted from 1.
    """

    users: int
    devices: int
    shared: int
    events: dict[str, int]
    refused: int
    first: int
    last: int
    bundles: list[dict[str, object]]
    unknown: list[int]


@dataclass(frozen=True)
class Receipt:
    """What an erasure did.

    Attributes:
        people: keyed hashes, as on the suppression list.
        counts: by place; `tables` counts the answers that are exempt from parity.
        bundles: models that learned from their events, and when they are due.
        unknown: which of the given ids the project had nothing of, counted from 1.
        left: files with an id that are not the project's own to change.
        path: where the receipt is.
    """

    people: list[str]
    begun_at: int
    finished_at: int
    counts: dict[str, Any]
    bundles: list[dict[str, object]]
    searched: SearchReport
    unknown: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    path: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether the search found nothing."""
        return not self.searched.matches


def preview(project: Project, stored_ids: Sequence[StoredId], clock: Clock) -> Preview:
    """Return what an erasure would find; reads only, and may run beside the roles."""
    lake = Lake(project.paths.lake)
    people = find_people(lake, flatten_ids(stored_ids))
    footprint = find_footprint(lake, people, attribute_names(project.plan))
    first_ts = footprint.first
    last_ts = footprint.last
    users, devices = count_people(stored_ids, people)
    return Preview(
        users,
        devices,
        shared=len(people.shared),
        events=footprint.types,
        refused=len(footprint.refused_rows),
        first=first_ts,
        last=last_ts,
        bundles=find_trained_models(project, first_ts, last_ts, clock.now(), clock),
        unknown=find_unknown(lake, stored_ids, SuppressionList.load(project.paths.data)),
    )


def next_receipt_path(data: Path) -> Path:
    """Return the path of the next receipt."""
    folder = data / ERASURE_FOLDER / RECEIPTS_FOLDER
    numbers = (int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())
    return folder / f"{1 + max(numbers, default=0):06d}.json"


def write_receipt(receipt: Receipt) -> None:
    """Write a receipt, without names of files that hold an id."""
    matches = [
        {"path": match.redacted, "count": match.count, "where": match.where}
        for match in receipt.searched.matches
    ]
    content = asdict(receipt)
    content["searched"] |= {"matches": matches}
    content["left"] = [match["path"] for match in matches]
    write_private(Path(receipt.path), json.dumps(content, indent=1).encode() + b"\n")


class _ReceiptCounts(msgspec.Struct):
    counts: dict[str, dict[str, Any]]


def count_erased_answers(data: Path) -> int:
    """Return how many logged answers were erased, by the receipts that can be read."""
    total = 0
    for path in (data / ERASURE_FOLDER / RECEIPTS_FOLDER).glob("*.json"):
        with suppress(OSError, msgspec.DecodeError):
            receipt = msgspec.json.decode(path.read_bytes(), type=_ReceiptCounts)
            total += receipt.counts.get("tables", {}).get("answers", 0)
    return total
