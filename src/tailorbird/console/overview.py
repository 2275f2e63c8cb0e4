"""A project at a glance, for the page at `/`: its clock, roles, last events, models with
reports, and slots.
"""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tailorbird.config import Project
from tailorbird.config.roles import read_roles
from tailorbird.console.recent import RecentEvents, read_recent_events
from tailorbird.errors import TailorbirdError
from tailorbird.events import DAY, EVENT_TYPES, to_iso
from tailorbird.registry import Registry, VersionInfo
from tailorbird.serving.http.handling import Service
from tailorbird.serving.messages import DEGRADED
from tailorbird.serving.pipeline.notes import describe_baseline
from tailorbird.stream.lag import Lag
from tailorbird.version import __version__

VERSIONS_MAX = 20
_OWN_MODEL = "tailorbird"  # key of the evaluated model in a report's results


class RoleRow(msgspec.Struct, frozen=True):
    """A role that runs here, or a reader of the logs elsewhere.

    Attributes:
        state: `runs`, `waits to start again`, or `seen by its position` where `up` does not run it.
        since_s: start of that state, in seconds since 1970; 0 where it is unknown.
        behind_rows, behind_s: its lag behind the logs; None where it reads none.
    """

    name: str
    state: str
    since_s: float = 0.0
    restarts: int = 0
    behind_rows: int | None = None
    behind_s: float | None = None


class ModelRow(msgspec.Struct, frozen=True):
    """A version of the registry, with the reason why it was made or refused.

    `made` is a time in UTC as text, and `about` explains a version that is no model.
    """

    version: str
    aliases: list[str]
    made: str
    kind: str
    decision: str = ""
    ndcg_10: float | None = None
    report: str = ""
    about: str = ""


class SlotRow(msgspec.Struct, frozen=True):
    """A slot to try on the page; `deeds` are the event types that its objective counts."""

    name: str
    size: int
    deeds: list[str]


class Overview(msgspec.Struct, frozen=True):
    """The state of a project.

    Attributes:
        clock: a sentence where the project's clock is that of a log that ended; "" where it is
            today's.
        missing: what answers lack, as `/readyz` has it.
        degraded: a sentence for each code that answers may carry.
        problem: why the events cannot be shown; "" where they can.
        slot: name of the slot that the page shows first.
        reports: further pages in the folder of reports.
        shop: whether the demo shop is served too.
    """

    name: str
    version: str
    now: int
    clock: str
    missing: list[str]
    degraded: dict[str, str]
    roles: list[RoleRow]
    events: RecentEvents
    problem: str
    models: list[ModelRow]
    slots: list[SlotRow]
    slot: str
    reports: list[str]
    shop: bool


def read_overview(project: Project, service: Service, *, shop: bool = False) -> Overview:
    """Read the state of the project: a few files, and the end of the log.

    Args:
        shop: whether the demo shop is served too.
    """
    clock = project.clock()
    events = RecentEvents()
    problem = ""
    try:
        events = read_recent_events(project.routed)
    except TailorbirdError as error:
        problem = str(error)
    reports = sorted(path.name for path in project.paths.reports.glob("*.html"))
    versions = Registry(project.paths.registry, clock=clock).newest(VERSIONS_MAX)
    newest_model = next((info.version for info in versions if info.heads), "")
    models = [_describe_model(info, reports, newest_model) for info in versions]
    return Overview(
        name=project.settings.project.name,
        version=__version__,
        now=clock.now(),
        clock=_describe_clock(clock.now(), clock.lag_us),
        missing=service.pipeline.missing_parts(),
        degraded=DEGRADED,
        roles=_list_roles(project.paths.run, service.lags(), clock.now()),
        events=events,
        problem=problem,
        models=models,
        slots=[_describe_slot(project, name) for name in project.slots],
        slot=project.settings.train.slot,
        reports=[name for name in reports if name not in {model.report for model in models}],
        shop=shop,
    )


def _describe_clock(now: int, lag_us: int) -> str:
    if not lag_us:
        return ""
    days = lag_us // DAY
    time_text = to_iso(now)[:16].replace("T", " ")
    return (
        f"The log ended long ago. Everything here goes on from its end: it is {time_text} UTC, "
        f"{days:,} days back. "
        "The first event that the site dates today ends this, and so does tailorbird up --live."
    )


def _list_roles(run: Path, lags: list[Lag], now: int) -> list[RoleRow]:
    """Return the roles that `up` runs here, and the readers that run elsewhere."""
    rows = []
    for role in read_roles(run):
        role_lags = [lag for lag in lags if lag.reader.split()[0] == role.name.split()[0]]
        state = "runs" if role.pid else "waits to start again"
        rows.append(
            RoleRow(role.name, state, role.since_s, role.restarts, *_total_lag(role_lags, now))
        )
    local_names = {row.name.split()[0] for row in rows}
    for reader in dict.fromkeys(
        lag.reader for lag in lags if lag.reader.split()[0] not in local_names
    ):
        rows.append(
            RoleRow(
                reader,
                "seen by its position",
                0.0,
                0,
                *_total_lag([lag for lag in lags if lag.reader == reader], now),
            )
        )
    return rows


def _total_lag(lags: list[Lag], now: int) -> tuple[int | None, float | None]:
    if not lags:
        return None, None
    return sum(lag.rows for lag in lags), max(lag.seconds(now) for lag in lags)


def _describe_model(info: VersionInfo, reports: list[str], newest_model: str) -> ModelRow:
    created = datetime.fromtimestamp(info.path.stat().st_mtime, UTC).strftime(
        "%Y-%m-%d %H:%M"
    )  # real time, whatever the log's clock
    kind = f"baseline: {info.baseline}" if info.baseline else ", ".join(info.heads) or "no model"
    if not info.is_readable:
        kind = "its manifest is damaged"
    decision = "; ".join(str(line) for line in info.metrics.get("decision", ()))
    ndcg = info.metrics.get("results", {}).get(_OWN_MODEL, {}).get("ndcg_10")
    report = f"{info.version}.html"
    baseline_note = (
        describe_baseline(info.version, info.baseline, newest_model, "tailorbird")
        if info.baseline
        else ""
    )
    return ModelRow(
        version=info.version,
        aliases=list(info.aliases),
        made=created,
        kind=kind,
        decision=decision,
        ndcg_10=ndcg,
        report=report if report in reports else "",
        about=baseline_note,
    )


def _describe_slot(project: Project, name: str) -> SlotRow:
    slot = project.slots[name]
    event_types = [
        head for head in slot.objective if head in {*EVENT_TYPES, *project.settings.events.types}
    ]
    return SlotRow(name, slot.size, event_types or ["click"])
