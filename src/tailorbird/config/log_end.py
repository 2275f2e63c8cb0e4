"""The end of a project's log, and the clock that its roles follow.

Roles of an imported log that ended long ago continue from its end on simulated time.
"""

from dataclasses import dataclass

from tailorbird.config.project import Project
from tailorbird.events import DAY, Clock, to_iso
from tailorbird.lake import Lake
from tailorbird.stream.partitions import IMPORT_PRODUCER

IDLE_US = 2 * DAY  # Since the newest event; a log that is idle for longer counts as ended.

# Newest timestamp of any event, of user events, and of user events that were not imported.
_NEWEST_EVENTS_SQL = """
SELECT max(ts) AS ts, max(CASE WHEN type <> 'answer' THEN ts END) AS activity_ts,
       max(CASE WHEN type <> 'answer' AND raw_partition <> '{imports}' THEN ts END) AS live_ts
FROM events WHERE NOT timeless
"""


@dataclass(frozen=True)
class LogEnd:
    """The end of what the lake holds, in microseconds since 1970; 0 without timestamps.

    Attributes:
        activity_end: just after the newest user event. Answers do not count, because a query
            of an old log would revive it.
        record_end: just after the newest event of any type, answers included.
        is_imported: whether the newest user event came from files.
    """

    activity_end: int = 0
    record_end: int = 0
    is_imported: bool = False

    def has_ended(self, now: int) -> bool:
        """Return whether the log ended long ago."""
        return bool(self.activity_end) and now - self.activity_end >= IDLE_US

    def describe(self, now: int) -> str:
        """Return a clause that says when the log ended."""
        idle = now - self.activity_end
        return f"The log ended on {to_iso(self.activity_end)[:10]}" + (
            f", {idle // DAY:,} days ago" if idle >= DAY else ""
        )


def end_of_log(project: Project) -> LogEnd:
    """Read the end of the log as far as the lake has it."""
    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        return LogEnd()
    row = lake.sql(_NEWEST_EVENTS_SQL.format(imports=IMPORT_PRODUCER))
    record_end, activity_end, live_end = (
        0 if not row.column(name)[0].is_valid else row.column(name)[0].value + 1
        for name in ("ts", "activity_ts", "live_ts")
    )
    return LogEnd(activity_end, record_end, activity_end > live_end)


def settle_clock(project: Project, machine_clock: Clock, *, force_live: bool = False) -> str:
    """Choose the clock of the roles that are about to start; return a notice if it is not today's.

    An imported log that ended long ago continues from its end, and time passes for it from then on.
    A site that was live follows the machine's clock, however long it was quiet. A switch back to
    the machine's clock also returns a notice.

    Args:
        force_live: follow the machine's clock from now on.
    """
    log_clock = project.clock()
    if force_live or log_clock.was_live:
        was_behind = log_clock.lag_us
        if force_live:
            log_clock.go_live()
        return "all roles go by today's time from now on" if was_behind else ""
    log_end = end_of_log(project)
    now = machine_clock.now()
    if not log_end.has_ended(now) or not (log_end.is_imported or log_clock.lag_us):
        if not (log_clock.lag_us and log_end.activity_end):
            return ""
        log_clock.go_live()
        return "the log has events of today: all roles go by today's time from now on"
    log_clock.set_lag(now - log_end.record_end)
    return (
        f"{log_end.describe(now)}: all roles go on from there, until an event of today comes in; up "
        "--live goes by today"
    )
