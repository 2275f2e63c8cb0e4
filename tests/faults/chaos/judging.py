"""Judges the state after a fault: restart everything, resend, and count what is wrong.

    lost      acknowledged and not in the lake; refused and not in the quarantine; raw rows that are
              in no table
    doubled   in the lake, or in the tables as a raw row, more than once
    unequal   state that differs from the lake's events; a lake that does not verify; a click
              without the response it followed; an event of another person than identifies and
              merges imply

Roles are started as an operator would start them. Half of the bodies without a response are sent
again, half are not: both must end well.
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
from tests.support.names import ITEMS
from tests.support.oracle import count_lake_events, find_unequal_state, find_wrong_persons

from tailorbird.config import Project
from tailorbird.errors import TailorbirdError
from tailorbird.events import EVENT_TYPES
from tailorbird.features import load_features
from tailorbird.features.offline.backfill import Requests, backfill
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import InProcessRoles


def warm(events: Path) -> None:
    """Compile in the parent what each judge would compile again: the backfill of some events."""
    table = pa.ipc.open_file(events).read_all()
    with as_file(files("tailorbird.platform") / "templates" / "features.py") as path:
        features = load_features(path, event_types=EVENT_TYPES)
    requests = Requests(
        t=np.full(2, int(pc.max(table["ts"].cast("int64")).as_py()) + 1),
        log_position=np.full(2, len(table) + 1_000),
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
    """Write the events of a site's lake for `warm`; to be run in a child."""
    table = Lake(site.project.paths.lake).events()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


class LedgerSets(Protocol):
    """The id sets of a ledger."""

    acked: set[str]
    refused: set[str]
    sent: set[str]


@dataclass
class Verdict:
    """The faults that a judge found; none if all counts are 0.

    Attributes:
        told: corruption that a role detected and named, instead of continuing.
        named_by: our command that names the problem, if one does.
        seconds: from the start of the roles until all of them had caught up.
    """

    lost: int = 0
    doubled: int = 0
    unequal: int = 0
    notes: list[str] = field(default_factory=list)
    told: str = ""
    named_by: str = ""
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.unequal)


def recover(site: Site, ledger: Told, bodies: int) -> None:
    """Resend bodies without a response, and bring everything into state and lake."""
    waiting = [number for number in range(ledger.bodies, bodies) if number not in ledger.answered]
    for number in range(bodies):
        ledger.sent.update(event["event_id"] for event in body(ledger.seed, number))
    resent = [number for number in waiting if number % 2 == 0]
    if resent:
        with site.collector() as collector:
            ledger.take(submit(collector, ledger.seed, number) for number in resent)
    with InProcessRoles(site.project, CLOCK) as roles:
        roles.drain()


def judge(site: Site, ledger: Told, bodies: int, prepare: Callable[[], None]) -> Verdict:
    """Call `prepare`, recover, and count what is wrong.

    Corruption that a role names and refuses is in `told`.
    """
    started = time.monotonic()
    try:
        prepare()
        recover(site, ledger, bodies)
    except TailorbirdError as error:
        return Verdict(told=str(error), notes=[f"recovery was refused: {error}"])
    verdict = Verdict(seconds=time.monotonic() - started)
    count(site.project, ledger, verdict)
    verdict.named_by = verdict.named_by or ledger.named_by
    return verdict


def count(project: Project, ledger: LedgerSets, verdict: Verdict) -> None:
    """Add the faults of a project that has processed everything to a verdict."""
    counts_by_id = count_lake_events(project)
    lake = Lake(project.paths.lake)
    quarantined = (
        b"\n".join(lake.table("quarantine")["body"].to_pylist())
        if lake.exists("quarantine")
        else b""
    )
    lost = sorted(ledger.acked - counts_by_id.keys())
    lost += sorted(each for each in ledger.refused if f'"{each}"'.encode() not in quarantined)
    doubled = sorted(each for each, count in counts_by_id.items() if count > 1)
    wrong = sorted(ledger.refused & counts_by_id.keys()) + sorted(counts_by_id.keys() - ledger.sent)
    verdict.lost += len(lost)
    verdict.doubled += len(doubled)
    verdict.unequal += len(wrong)
    verdict.notes += [f"lost: {each}" for each in lost[:3]] + [
        f"doubled: {each}" for each in doubled[:3]
    ]
    verdict.notes += [f"in the lake and should not be: {each}" for each in wrong[:3]]
    count_rest(project, verdict)


def count_rest(project: Project, verdict: Verdict) -> None:
    """Add faults that need no ledger to a verdict.

    These concern the lake itself, the state against the lake, and clicks against their responses.
    """
    report = verify(project.paths.lake)
    verdict.lost += sum(each.missing for each in report.partitions.values())
    verdict.doubled += sum(each.repeated for each in report.partitions.values())
    other_faults = [str(fault) for fault in report.faults if not fault.where.startswith("raw rows")]
    verdict.unequal += len(other_faults)
    verdict.notes += [str(fault) for fault in report.faults[:5]]
    if report.faults:
        verdict.named_by = "lake verify"
    if other_faults:
        return  # what is damaged is not read
    persons = find_wrong_persons(project)
    state = find_unequal_state(project)
    verdict.unequal += len(state) + len(persons)
    verdict.notes += state + persons[:5]
    if state and not verdict.named_by:
        verdict.named_by = "features verify"
    _count_followers(Lake(project.paths.lake), verdict)


def _count_followers(lake: Lake, verdict: Verdict) -> None:
    """Add clicks that were routed before their response in the lake, or without its items."""
    events = lake.events(["type", "request_id", "p", "slot", "counts"])
    answers = events.filter(pc.equal(events["type"], "answer"))
    first = dict(zip(answers["request_id"].to_pylist(), answers["p"].to_pylist(), strict=True))
    clicks = events.filter(
        pc.and_(pc.equal(events["type"], "click"), pc.is_valid(events["request_id"]))
    ).to_pylist()
    early_clicks = [
        each["request_id"]
        for each in clicks
        if each["request_id"] in first and each["slot"] is None
    ]
    verdict.unequal += len(early_clicks)
    verdict.notes += [f"a click before its answer: {each}" for each in early_clicks[:3]]
    uncounted = sum(not counts for counts in events["counts"].to_pylist())
    verdict.unequal += uncounted
    if uncounted:
        verdict.notes.append(f"{uncounted} events do not count, and all should")
