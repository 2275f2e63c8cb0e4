"""After a fault: start everything again as an operator would, let the client send again what got no
answer, and count what is wrong.

    lost      acknowledged and not in the lake; refused and not in the quarantine; raw rows that are in no table
    doubled   in the lake, or in the tables as a raw row, more than once
    unequal   state that differs from what the lake's events make; a lake that does not verify; a click without the answer it followed;
              an event of another person than identifies and merges say

Half of the bodies without an answer are sent again, half are not: both must end well.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tests.faults.chaos.site import CLOCK, Site, Told, body, submit
from tests.faults.names import ITEMS
from tests.faults.oracle import in_lake, unequal_state, wrong_persons

from tailorbird.config import Project
from tailorbird.errors import TailorbirdError
from tailorbird.events import EVENT_TYPES
from tailorbird.features import load_features
from tailorbird.features.backfill import Requests, backfill
from tailorbird.lake import Lake, verify
from tailorbird.platform.roles import Roles


def warm(events: Path) -> None:
    """Compile, in the parent of all judges, what each of them would compile again: the backfill of
    some events in a file.
    """
    table = pa.ipc.open_file(events).read_all()
    with as_file(files("tailorbird.platform") / "templates" / "features.py") as path:
        features = load_features(path, event_types=EVENT_TYPES)
    requests = Requests(
        t=np.full(2, int(pc.max(table["ts"].cast("int64")).as_py()) + 1),
        p=np.full(2, len(table) + 1_000),
        person=["u1", "u2"],
        session_id=[None] * 2,
        device=["phone"] * 2,
        country=["NO"] * 2,
        local_hour=np.full(2, 12),
        row_request=np.arange(2),
        row_item=ITEMS[:2],
    )
    backfill(features, table, requests)


def save_events(site: Site, file: Path) -> None:
    """To be run in a child: the events of a site's lake, for `warm`."""
    table = Lake(site.project.paths.lake).events()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


class Known(Protocol):
    """What a ledger says: ids by what became of them."""

    acked: set[str]
    refused: set[str]
    sent: set[str]


@dataclass
class Verdict:
    """What is wrong after a fault; nothing, if all counts are 0.

    Attributes:
        told: damage that a role found by itself and named, instead of going on with it.
        named_by: the command of ours that names what is wrong, if one does.
        seconds: from the start of the roles until all of them were through.
    """

    lost: int = 0
    doubled: int = 0
    unequal: int = 0
    notes: list[str] = field(default_factory=list)
    told: str = ""
    named_by: str = ""
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.unequal)


def recover(site: Site, told: Told, bodies: int) -> None:
    """Send again what got no answer, and bring everything into state and lake."""
    waiting = [number for number in range(told.bodies, bodies) if number not in told.answered]
    for number in range(bodies):
        told.sent.update(event["event_id"] for event in body(told.seed, number))
    again = [number for number in waiting if number % 2 == 0]
    if again:
        with site.door() as door:
            told.take(submit(door, told.seed, number) for number in again)
    with Roles(site.project, CLOCK) as roles:
        roles.drain()


def judge(site: Site, told: Told, bodies: int, first: Callable[[], None]) -> Verdict:
    """Do `first`, recover, and count what is wrong. Damage that a role names and refuses is in
    `told`.
    """
    started = time.monotonic()
    try:
        first()
        recover(site, told, bodies)
    except TailorbirdError as error:
        return Verdict(told=str(error), notes=[f"recovery was refused: {error}"])
    verdict = Verdict(seconds=time.monotonic() - started)
    count(site.project, told, verdict)
    verdict.named_by = verdict.named_by or told.named_by
    return verdict


def count(project: Project, told: Known, verdict: Verdict) -> None:
    """Add to a verdict what is wrong with a project in which everything is through."""
    found = in_lake(project)
    lake = Lake(project.paths.lake)
    quarantined = (
        b"\n".join(lake.table("quarantine")["body"].to_pylist())
        if lake.exists("quarantine")
        else b""
    )
    lost = sorted(told.acked - found.keys())
    lost += sorted(each for each in told.refused if f'"{each}"'.encode() not in quarantined)
    doubled = sorted(each for each, count in found.items() if count > 1)
    wrong = sorted(told.refused & found.keys()) + sorted(found.keys() - told.sent)
    verdict.lost += len(lost)
    verdict.doubled += len(doubled)
    verdict.unequal += len(wrong)
    verdict.notes += [f"lost: {each}" for each in lost[:3]] + [
        f"doubled: {each}" for each in doubled[:3]
    ]
    verdict.notes += [f"in the lake and should not be: {each}" for each in wrong[:3]]
    count_rest(project, verdict)


def count_rest(project: Project, verdict: Verdict) -> None:
    """Add what is wrong whatever a ledger says: the lake with itself, the state with the lake,
    clicks with the answers they follow.
    """
    report = verify(project.paths.lake)
    verdict.lost += sum(each.missing for each in report.partitions.values())
    verdict.doubled += sum(each.repeated for each in report.partitions.values())
    others = [str(fault) for fault in report.faults if not fault.where.startswith("raw rows")]
    verdict.unequal += len(others)
    verdict.notes += [str(fault) for fault in report.faults[:5]]
    if report.faults:
        verdict.named_by = "lake verify"
    if others:
        return  # what is damaged is not read
    persons = wrong_persons(project)
    state = unequal_state(project)
    verdict.unequal += len(state) + len(persons)
    verdict.notes += state + persons[:5]
    if state and not verdict.named_by:
        verdict.named_by = "features verify"
    _count_followers(Lake(project.paths.lake), verdict)


def _count_followers(lake: Lake, verdict: Verdict) -> None:
    """Clicks whose answer is in the lake must have been routed behind it, and know what it showed."""
    events = lake.events(["type", "request_id", "p", "slot", "counts"])
    answers = events.filter(pc.equal(events["type"], "answer"))
    first = dict(zip(answers["request_id"].to_pylist(), answers["p"].to_pylist(), strict=True))
    clicks = events.filter(
        pc.and_(pc.equal(events["type"], "click"), pc.is_valid(events["request_id"]))
    ).to_pylist()
    astray = [
        each["request_id"]
        for each in clicks
        if each["request_id"] in first and each["slot"] is None
    ]
    verdict.unequal += len(astray)
    verdict.notes += [f"a click before its answer: {each}" for each in astray[:3]]
    uncounted = sum(not counts for counts in events["counts"].to_pylist())
    verdict.unequal += uncounted
    if uncounted:
        verdict.notes.append(f"{uncounted} events do not count, and all should")
