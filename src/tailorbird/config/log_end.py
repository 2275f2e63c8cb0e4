"""Where a project's log ends, and whether it goes by its own time: a log that was imported and
ended long ago does.
"""

from dataclasses import dataclass

from tailorbird.config.project import Project
from tailorbird.events import DAY, Clock, to_iso
from tailorbird.lake import Lake
from tailorbird.stream.partitions import IMPORTS

IDLE_US = 2 * DAY  # since the newest event, from which on a log is taken for one that ended

_NEWEST = """
SELECT max(ts) AS ts, max(CASE WHEN type <> 'answer' THEN ts END) AS deed,
       max(CASE WHEN type <> 'answer' AND raw_partition <> '{imports}' THEN ts END) AS live
FROM events WHERE NOT timeless
"""


@dataclass(frozen=True)
class LogEnd:
    """The end of what the lake holds, in microseconds since 1970; 0 where nothing has a time.

    Attributes:
        deed: just behind the newest that somebody did. An answer alone, as to a look at an old log,
            is no life.
        record: just behind the newest of all, answers too.
        imported: whether the newest deed came from files.
    """

    deed: int = 0
    record: int = 0
    imported: bool = False

    def ended(self, now: int) -> bool:
        """Whether it ended long ago."""
        return bool(self.deed) and now - self.deed >= IDLE_US

    def told(self, now: int) -> str:
        """Return when it ended, in words."""
        idle = now - self.deed
        return f"The log ended on {to_iso(self.deed)[:10]}" + (
            f", {idle // DAY:,} days ago" if idle >= DAY else ""
        )


def end_of_log(project: Project) -> LogEnd:
    """Read where the log ends, as far as the lake has it."""
    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        return LogEnd()
    row = lake.sql(_NEWEST.format(imports=IMPORTS))
    record, deed, live = (
        0 if not row.column(name)[0].is_valid else row.column(name)[0].value + 1
        for name in ("ts", "deed", "live")
    )
    return LogEnd(deed, record, deed > live)


def settle_clock(project: Project, machine: Clock, *, live: bool = False) -> str:
    """Choose the time that roles which are about to start go by, and return a sentence where it is
    not today's, or has just become it.

    A log from files that ended long ago goes on from its end, with what was done since on its own
    clock. A site that was live goes by today's time, however long it was quiet.

    Args:
        live: go by today's time from now on.
    """
    clock = project.clock()
    if live or clock.was_live:
        behind = clock.behind
        if live:
            clock.go_live()
        return "all roles go by today's time from now on" if behind else ""
    end, now = end_of_log(project), machine.now()
    if not end.ended(now) or not (end.imported or clock.behind):
        if not (clock.behind and end.deed):
            return ""
        clock.go_live()
        return "the log has events of today: all roles go by today's time from now on"
    clock.set_lag(now - end.record)
    return (
        f"{end.told(now)}: all roles go on from there, until an event of today comes in; up "
        "--live goes by today"
    )
