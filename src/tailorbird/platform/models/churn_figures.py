"""Live figures of churn models: brought up to date from the lake, and read."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from tailorbird.config import Project
from tailorbird.errors import BundleError, NotReadyError, TailorbirdError, UsageError
from tailorbird.events import DAY, Clock, to_iso
from tailorbird.lake import Lake
from tailorbird.monitoring.churn import (
    BINS,
    OUTCOMES_MIN,
    PEOPLE_MIN,
    ChurnDay,
    ChurnRecord,
    ChurnWeek,
    count_scores,
    is_monday,
    measure_week,
    read_record,
    store_record,
)
from tailorbird.monitoring.versions import CHAMPION_CHANGES
from tailorbird.platform.frames import Frame
from tailorbird.ranking import Churn
from tailorbird.registry import AuditEntry, Registry

if TYPE_CHECKING:
    from tailorbird.ranking.churn.bundle import ChurnBundle
    from tailorbird.training.tasks.churn.past import PastScores

DEFAULT_DAYS = 180  # of figures, unless a time is named
HISTORY_DAYS = 56  # of scores
HISTORY_WEEKS = 53  # of outcomes
DAY_PEOPLE = 5_000  # at most, drawn, for the distribution of a day
WEEK_PEOPLE = 20_000  # at most, drawn, for the figures of a week
COLUMNS = ("week", "version", "people", "auc", "auc_se", "brier", "predicted", "observed", "gain")
_lock = threading.Lock()
log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class ChurnFigures:
    """The accuracy of a churn model by week; a week is listed once its outcome is known."""

    name: str
    weeks: list[ChurnWeek]

    def to_frame(self) -> Frame:
        """Return a row for each week, the newest first."""
        rows = [list(row.values()) for row in self.to_dict()["weeks"]]
        return Frame.from_rows([*COLUMNS, "calibration", "previous"], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird monitor figures --churn NAME --json` prints."""
        rows = [
            {name: getattr(week, name) for name in COLUMNS}
            | {"week": _day(week.week), "calibration": week.calibration}
            | {"previous": week.previous}
            for week in reversed(self.weeks)
        ]
        return {"churn": self.name, "weeks": rows}

    def __repr__(self) -> str:
        return repr(self.to_frame())

    def _repr_html_(self) -> str:
        return self.to_frame().to_html()


def read_churn_figures(project: Project, clock: Clock, name: str, since: int = 0) -> ChurnFigures:
    """Return the figures of the weeks from a time on, after computing those that are missing.

    Raises:
        NotReadyError: no outcome is known yet, or none of that time.
    """
    project.churn_model(name)
    record, now = refresh_churn(project, clock, name), clock.now()
    known_weeks = [week for week in record.weeks if week.known_at <= now]
    weeks = [week for week in known_weeks if since <= week.week]
    if not weeks:
        if known_weeks:
            days = max(DEFAULT_DAYS, -(-(now - known_weeks[-1].week) // DAY))
            problem = f"no week in this time, the newest with a known outcome: {_day(known_weeks[-1].week)}"
            fix = f"try --since {days}d"
        else:
            problem, fix = _why_empty(project, clock, name, record)
        raise NotReadyError(problem, where=f"churn {name}", fix=fix)
    return ChurnFigures(name, weeks)


def _why_empty(project: Project, clock: Clock, name: str, record: ChurnRecord) -> tuple[str, str]:
    """Return why no week of a churn model has figures, and what to do."""
    churn, audit = project.churn[name], churn_registry(project, clock, name).audit()
    promoted = first_promotion(audit)
    if not promoted:
        return "there is no champion yet", f"tailorbird train {name}, and promote it"
    if clock.now() < (known_at := _first_week(promoted) + horizon_us(project, churn)):
        problem = "no outcome of a week is known yet: the window of the first has to be over"
        return problem, f"wait until {_day(known_at)}"
    if record.weeks_until < _first_week(promoted):
        until = _day(last_activity(project, churn))
        problem = f"no outcome is known: {' and '.join(churn.types)} events end on {until}"
        return problem, "import or send newer events"
    return (
        f"no week had the {PEOPLE_MIN} people with a known outcome that figures need, "
        f"{OUTCOMES_MIN} of them gone and {OUTCOMES_MIN} still there",
        f"wait until more people are known; tailorbird models show --churn {name} has the gate's",
    )


def refresh_churn(project: Project, clock: Clock, name: str) -> ChurnRecord:
    """Compute the days and weeks of a churn model that are missing, and return all."""
    from tailorbird.training.tasks.churn.past import PastScores

    with _lock:
        folder, now = project.paths.monitoring, clock.now()
        record = read_record(folder, name)
        audit = churn_registry(project, clock, name).audit()
        due = _due(record, project, project.churn[name], audit, now)
        if not (due.days or due.weeks):
            return record
        bundles = _load_bundles(project, clock, name, audit, [*due.days, *due.weeks])
        past_scores = PastScores(
            bundles,
            project.churn[name],
            lake=project.paths.lake,
            now=now,
            lateness_us=project.plan.lateness_us,
        )
        horizon = horizon_us(project, project.churn[name])
        record = _complete(record, due, past_scores, audit, horizon)
        store_record(folder, name, record)
    return record


def refresh_safely(project: Project, clock: Clock, name: str) -> ChurnRecord:
    """Call `refresh_churn`; log what stands in the way, and return what is stored."""
    try:
        return refresh_churn(project, clock, name)
    except TailorbirdError as error:
        log.info("churn %s: %s", name, error)
        return read_record(project.paths.monitoring, name)


def describe_churn(project: Project, clock: Clock) -> list[str]:
    """Return a phrase for each churn model with a champion, for the status."""
    phrases = []
    for name, churn in project.churn.items():
        registry = churn_registry(project, clock, name)
        if not (champion := registry.aliases().champion):
            continue
        record = read_record(project.paths.monitoring, name)
        if weeks := record.of_version(champion):
            figures = weeks[-1].describe()
        else:
            last_changed_at = last_change(registry.audit())
            known_at = _first_week(last_changed_at) + horizon_us(project, churn)
            figures = f"outcomes are known from {_day(known_at)}"
            if record.weeks_until >= _first_week(last_changed_at):
                figures = "no figures: too few people whose outcome is known"
            elif clock.now() >= known_at:
                figures = "no figures: no outcome is known yet"
        phrases.append(f"{name} {champion} ({figures})")
    return phrases


def churn_decisions(project: Project, clock: Clock) -> list[AuditEntry]:
    """Return the audit logs of all churn models; versions have the name of their model."""
    return [
        msgspec.structs.replace(entry, version=f"{name} {entry.version}")
        for name in project.churn
        for entry in churn_registry(project, clock, name).audit()
        if entry.version
    ]


def churn_registry(project: Project, clock: Clock, name: str) -> Registry:
    """Return the registry of a churn model."""
    return Registry(project.paths.churn(name), clock=clock)


def champions_at(audit: Sequence[AuditEntry], moment: int) -> tuple[str, str]:
    """Return the champion at a time, and the version before it; "" without one."""
    stack = [""]
    for entry in audit:
        if entry.at > moment:
            continue
        if entry.action == "promote":
            stack.append(entry.version)
        elif entry.action == "rollback" and len(stack) > 1:
            stack.pop()
    return stack[-1], stack[-2] if len(stack) > 1 else ""


def first_promotion(audit: Sequence[AuditEntry]) -> int:
    """Return when the first champion was made, microseconds; 0 without one."""
    return min((entry.at for entry in audit if entry.action == "promote"), default=0)


def horizon_us(project: Project, churn: Churn) -> int:
    """Return how long after a score its outcome is known, with the allowed lateness."""
    return churn.gap_us + churn.window_us + project.plan.lateness_us


def last_change(audit: Sequence[AuditEntry]) -> int:
    """Return when the champion was made, microseconds; 0 without one."""
    changes = [entry.at for entry in audit if entry.action in CHAMPION_CHANGES]
    return changes[-1] if changes else 0


def _first_week(promoted: int) -> int:
    """Return the first Monday from a promotion on."""
    return next(day for day in _days(promoted, promoted + 8 * DAY) if is_monday(day))


def _day(moment: int) -> str:
    return to_iso(moment)[:10]


@dataclass(frozen=True)
class _Due:
    """Beginnings of days to score, and of weeks whose outcome is known; microseconds."""

    days: list[int]
    weeks: list[int]


def _due(
    record: ChurnRecord, project: Project, churn: Churn, audit: Sequence[AuditEntry], now: int
) -> _Due:
    promoted = first_promotion(audit)
    if not promoted:
        return _Due([], [])
    lateness = project.plan.lateness_us
    until = min(now, last_activity(project, churn) + lateness) - lateness
    known_days = {each.day for each in record.days}
    days = _days(max(promoted, now - HISTORY_DAYS * DAY), until)
    known_until = until - churn.gap_us - churn.window_us
    weeks = _days(max(promoted, now - HISTORY_WEEKS * 7 * DAY), known_until)
    return _Due(
        [day for day in days if day not in known_days],
        [day for day in weeks if is_monday(day) and day > record.weeks_until],
    )


def _days(since: int, until: int) -> range:
    """Return the beginnings of days from `since` to `until`, both included."""
    return range(-(-since // DAY) * DAY, until + 1, DAY)


def last_activity(project: Project, churn: Churn) -> int:
    """Return the time of the last event that shows that a person is still there; 0 without any."""
    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        return 0
    types = ", ".join(f"'{type_}'" for type_ in churn.types)
    query = f"SELECT max(ts) AS ts FROM events WHERE timeless IS NOT TRUE AND type IN ({types})"
    return lake.sql(query)["ts"].cast("int64")[0].as_py() or 0


def _load_bundles(
    project: Project, clock: Clock, name: str, audit: Sequence[AuditEntry], moments: Sequence[int]
) -> dict[str, "ChurnBundle"]:
    """Return the champions of some moments, and the versions before them, by version."""
    from tailorbird.ranking.churn.bundle import ChurnBundle

    registry, bundles = churn_registry(project, clock, name), {}
    for version in {each for moment in moments for each in champions_at(audit, moment) if each}:
        try:
            bundles[version] = ChurnBundle.load(registry.resolve(version), schema_hash=None)
        except (BundleError, UsageError) as error:  # a damaged one, or one that was removed
            log.info("churn %s: %s cannot be judged: %s", name, version, error.message)
    return bundles


def _complete(
    record: ChurnRecord,
    due: _Due,
    past_scores: "PastScores",
    audit: Sequence[AuditEntry],
    horizon: int,
) -> ChurnRecord:
    """Return the record with what is due; what no version can be asked about stays empty."""
    days = list(record.days)
    for day in due.days:
        version = champions_at(audit, day)[0]
        counts = [0] * BINS
        if past_scores.can_score(version) and len(
            person := past_scores.people(version, day, DAY_PEOPLE)
        ):
            counts = count_scores(past_scores.probabilities(version, day, person))
        days.append(ChurnDay(day, version, counts))
    measured = [_measure(past_scores, audit, week, horizon) for week in due.weeks]
    weeks = [*record.weeks, *(week for week in measured if week is not None)]
    return ChurnRecord(
        sorted(days, key=lambda each: each.day)[-HISTORY_DAYS:],
        weeks[-HISTORY_WEEKS:],
        max(due.weeks, default=record.weeks_until),
    )


def _measure(
    past_scores: "PastScores", audit: Sequence[AuditEntry], week: int, horizon: int
) -> ChurnWeek | None:
    version, previous = champions_at(audit, week)
    if not past_scores.can_score(version):
        return None
    person = past_scores.people(version, week, WEEK_PEOPLE)
    if not len(person):
        return None
    scores = past_scores.probabilities(version, week, person)
    before = (
        past_scores.probabilities(previous, week, person)
        if past_scores.can_score(previous)
        else None
    )
    gone = past_scores.has_gone(week, person)
    return measure_week(week, week + horizon, version, scores, gone, previous, before)
