"""Live figures of churn models: brought up to date from the lake, and read."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from tailorbird.config import Project
from tailorbird.errors import BundleError, NotReadyError, TailorbirdError, UsageError
from tailorbird.events import DAY, Clock, to_iso, to_iso_minute
from tailorbird.events.schedule import next_run
from tailorbird.lake import Lake
from tailorbird.monitoring.churn import (
    BIN_COUNT,
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
from tailorbird.registry import AuditEntry, Registry, VersionInfo

if TYPE_CHECKING:
    from tailorbird.ranking.churn.bundle import ChurnBundle
    from tailorbird.training.tasks.churn.past import PastScores

DEFAULT_DAYS = 180  # of figures, unless a time is named
HISTORY_DAYS = 56  # of scores
HISTORY_WEEKS = 53  # of outcomes
DAY_PEOPLE_MAX = 5_000  # at most, drawn, for the distribution of a day
WEEK_PEOPLE_MAX = 20_000  # at most, drawn, for the figures of a week
BACK_OFF_MAX = 3  # refusals in a row that double the wait: eight times `train.every` at most
WEEK_COLUMNS = (  # of `ChurnWeek`; `gain` is in log loss over the previous version
    "week",
    "version",
    "people",
    "auc",
    "auc_se",
    "brier",
    "predicted",
    "observed",
    "gain",
)
_refresh_lock = threading.Lock()
log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class ChurnFigures:
    """The accuracy of a churn model by week; a week is listed once its outcome is known."""

    name: str
    weeks: list[ChurnWeek]

    def to_frame(self) -> Frame:
        """Return a row for each week, the newest first."""
        rows = [list(row.values()) for row in self.to_dict()["weeks"]]
        return Frame.from_rows([*WEEK_COLUMNS, "calibration", "previous"], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird monitor figures --churn NAME --json` prints."""
        rows = [
            {name: getattr(week, name) for name in WEEK_COLUMNS}
            | {"week": _format_day(week.week), "calibration": week.calibration}
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
    record = refresh_churn(project, clock, name)
    now = clock.now()
    known_weeks = [week for week in record.weeks if week.known_at <= now]
    weeks = [week for week in known_weeks if since <= week.week]
    if not weeks:
        if known_weeks:
            days = max(DEFAULT_DAYS, -(-(now - known_weeks[-1].week) // DAY))
            newest_week = _format_day(known_weeks[-1].week)
            problem = f"no week in this time, the newest with a known outcome: {newest_week}"
            fix = f"try --since {days}d"
        else:
            problem, fix = _why_empty(project, clock, name, record)
        raise NotReadyError(problem, where=f"churn {name}", fix=fix)
    return ChurnFigures(name, weeks)


def _why_empty(project: Project, clock: Clock, name: str, record: ChurnRecord) -> tuple[str, str]:
    """Return why no week of a churn model has figures, and what to do."""
    churn = project.churn[name]
    audit = churn_registry(project, clock, name).audit()
    promoted_at = first_promotion_time(audit)
    if not promoted_at:
        return "there is no champion yet", f"tailorbird train {name}, and promote it"
    if clock.now() < (known_at := _first_monday(promoted_at) + outcome_delay_us(project, churn)):
        problem = "no outcome of a week is known yet: the window of the first has to be over"
        return problem, f"wait until {_format_day(known_at)}"
    if record.weeks_until < _first_monday(promoted_at):
        until = _format_day(last_activity_time(project, churn))
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

    with _refresh_lock:
        folder = project.paths.monitoring
        now = clock.now()
        record = read_record(folder, name)
        audit = churn_registry(project, clock, name).audit()
        due_work = _find_due(record, project, project.churn[name], audit, now)
        if not (due_work.days or due_work.weeks):
            return record
        bundle_by_version = _load_bundles(
            project, clock, name, audit, [*due_work.days, *due_work.weeks]
        )
        past_scores = PastScores(
            bundle_by_version,
            project.churn[name],
            lake=project.paths.lake,
            now=now,
            lateness_us=project.plan.lateness_us,
        )
        delay_us = outcome_delay_us(project, project.churn[name])
        record = _measure_due(record, due_work, past_scores, audit, delay_us)
        store_record(folder, name, record)
    return record


def refresh_safely(project: Project, clock: Clock, name: str) -> ChurnRecord:
    """Call `refresh_churn`; log what stands in the way, and return what is stored."""
    try:
        return refresh_churn(project, clock, name)
    except TailorbirdError as error:
        log.info("churn %s: %s", name, error)
        return read_record(project.paths.monitoring, name)


@dataclass(frozen=True)
class ScheduledTraining:
    """The time when a churn model is due by `train.every`, microseconds, after refusals in a row.

    The rows of a few days more hardly change what the gate says, so that each refusal doubles the
    wait.
    """

    due_at: int
    refusals: int
    reasons: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return when and why, as a phrase of the status; "" if the newest was not refused."""
        if not self.refusals:
            return ""
        return (
            f"the gate refused the newest {self.refusals}: {'; '.join(self.reasons)}; next try "
            f"{to_iso_minute(self.due_at)}, after {2 ** min(self.refusals, BACK_OFF_MAX)} times "
            "train.every"
        )


def schedule_training(schedule: str, versions: Sequence[VersionInfo]) -> ScheduledTraining:
    """Return when a churn model is trained next.

    Args:
        schedule: `train.every`.
        versions: of the model, oldest first; at least one.
    """
    is_refused = [info.metrics.get("accepted") is False for info in reversed(versions)]
    refusals = is_refused.index(False) if False in is_refused else len(is_refused)
    due_at = versions[-1].created_at
    for _ in range(2 ** min(refusals, BACK_OFF_MAX)):
        due_at = next_run(schedule, due_at)
    return ScheduledTraining(due_at, refusals, tuple(versions[-1].metrics.get("decision", ())))


def describe_churn(project: Project, clock: Clock) -> list[str]:
    """Return a phrase for each churn model that was trained, for the status."""
    phrases = []
    for name, churn in project.churn.items():
        registry = churn_registry(project, clock, name)
        versions = registry.versions()
        schedule = project.settings.train.every
        next_training = (
            schedule_training(schedule, versions).describe() if versions and schedule else ""
        )
        if not (champion := registry.aliases().champion):
            if next_training:
                phrases.append(f"{name} has no champion ({next_training})")
            continue
        record = read_record(project.paths.monitoring, name)
        if weeks := record.weeks_of_version(champion):
            description = weeks[-1].describe()
        else:
            last_changed_at = champion_since(registry.audit())
            known_at = _first_monday(last_changed_at) + outcome_delay_us(project, churn)
            description = f"outcomes are known from {_format_day(known_at)}"
            if record.weeks_until >= _first_monday(last_changed_at):
                description = "no figures: too few people whose outcome is known"
            elif clock.now() >= known_at:
                description = "no figures: no outcome is known yet"
        description += f"; {next_training}" if next_training else ""
        phrases.append(f"{name} {champion} ({description})")
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


def champions_at(audit: Sequence[AuditEntry], as_of: int) -> tuple[str, str]:
    """Return the champion at a time, and the version before it; "" without one."""
    champions = [""]
    for entry in audit:
        if entry.at > as_of:
            continue
        if entry.action == "promote":
            champions.append(entry.version)
        elif entry.action == "rollback" and len(champions) > 1:
            champions.pop()
    return champions[-1], champions[-2] if len(champions) > 1 else ""


def first_promotion_time(audit: Sequence[AuditEntry]) -> int:
    """Return when the first champion was made, microseconds; 0 without one."""
    return min((entry.at for entry in audit if entry.action == "promote"), default=0)


def outcome_delay_us(project: Project, churn: Churn) -> int:
    """Return how long after a score its outcome is known, with the allowed lateness."""
    return churn.gap_us + churn.window_us + project.plan.lateness_us


def champion_since(audit: Sequence[AuditEntry]) -> int:
    """Return when the champion was made, microseconds; 0 without one."""
    change_times = [entry.at for entry in audit if entry.action in CHAMPION_CHANGES]
    return change_times[-1] if change_times else 0


def _first_monday(promoted_at: int) -> int:
    """Return the first Monday from a promotion on."""
    return next(day for day in _days(promoted_at, promoted_at + 8 * DAY) if is_monday(day))


def _format_day(time_us: int) -> str:
    return to_iso(time_us)[:10]


@dataclass(frozen=True)
class _DueWork:
    """Beginnings of days to score, and of weeks whose outcome is known; microseconds."""

    days: list[int]
    weeks: list[int]


def _find_due(
    record: ChurnRecord, project: Project, churn: Churn, audit: Sequence[AuditEntry], now: int
) -> _DueWork:
    promoted_at = first_promotion_time(audit)
    if not promoted_at:
        return _DueWork([], [])
    lateness_us = project.plan.lateness_us
    activity_until = min(now, last_activity_time(project, churn) + lateness_us) - lateness_us
    recorded_days = {churn_day.day for churn_day in record.days}
    days = _days(max(promoted_at, now - HISTORY_DAYS * DAY), activity_until)
    outcomes_known_until = activity_until - churn.gap_us - churn.window_us
    days_with_outcome = _days(max(promoted_at, now - HISTORY_WEEKS * 7 * DAY), outcomes_known_until)
    return _DueWork(
        [day for day in days if day not in recorded_days],
        [day for day in days_with_outcome if is_monday(day) and day > record.weeks_until],
    )


def _days(since: int, until: int) -> range:
    """Return the beginnings of days from `since` to `until`, both included."""
    return range(-(-since // DAY) * DAY, until + 1, DAY)


def last_activity_time(project: Project, churn: Churn) -> int:
    """Return the time of the last event that shows that a person is still there; 0 without any."""
    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        return 0
    quoted_types = ", ".join(f"'{type_}'" for type_ in churn.types)
    query = (
        f"SELECT max(ts) AS ts FROM events WHERE timeless IS NOT TRUE AND type IN ({quoted_types})"
    )
    return lake.sql(query)["ts"].cast("int64")[0].as_py() or 0


def _load_bundles(
    project: Project, clock: Clock, name: str, audit: Sequence[AuditEntry], times: Sequence[int]
) -> dict[str, "ChurnBundle"]:
    """Return the champions at some times, and the versions before them, by version."""
    from tailorbird.ranking.churn.bundle import ChurnBundle

    registry = churn_registry(project, clock, name)
    bundle_by_version = {}
    for version in {each for time_us in times for each in champions_at(audit, time_us) if each}:
        try:
            bundle_by_version[version] = ChurnBundle.load(
                registry.resolve(version), schema_hash=None
            )
        except (BundleError, UsageError) as error:  # a damaged one, or one that was removed
            log.info("churn %s: %s cannot be judged: %s", name, version, error.message)
    return bundle_by_version


def _measure_due(
    record: ChurnRecord,
    due_work: _DueWork,
    past_scores: "PastScores",
    audit: Sequence[AuditEntry],
    delay_us: int,
) -> ChurnRecord:
    """Return the record with what is due; what no version can be asked about stays empty."""
    days = list(record.days)
    for day in due_work.days:
        version = champions_at(audit, day)[0]
        counts = [0] * BIN_COUNT
        if past_scores.can_score(version) and len(
            people := past_scores.people(version, day, DAY_PEOPLE_MAX)
        ):
            counts = count_scores(past_scores.probabilities(version, day, people))
        days.append(ChurnDay(day, version, counts))
    measured_weeks = [
        _measure_week_of(past_scores, audit, week, delay_us) for week in due_work.weeks
    ]
    weeks = [*record.weeks, *(week for week in measured_weeks if week is not None)]
    return ChurnRecord(
        sorted(days, key=lambda each: each.day)[-HISTORY_DAYS:],
        weeks[-HISTORY_WEEKS:],
        max(due_work.weeks, default=record.weeks_until),
    )


def _measure_week_of(
    past_scores: "PastScores", audit: Sequence[AuditEntry], week_start: int, delay_us: int
) -> ChurnWeek | None:
    version, previous_version = champions_at(audit, week_start)
    if not past_scores.can_score(version):
        return None
    people = past_scores.people(version, week_start, WEEK_PEOPLE_MAX)
    if not len(people):
        return None
    scores = past_scores.probabilities(version, week_start, people)
    previous_scores = (
        past_scores.probabilities(previous_version, week_start, people)
        if past_scores.can_score(previous_version)
        else None
    )
    has_gone = past_scores.has_gone(week_start, people)
    return measure_week(
        week_start,
        week_start + delay_us,
        version,
        scores,
        has_gone,
        previous_version,
        previous_scores,
    )
