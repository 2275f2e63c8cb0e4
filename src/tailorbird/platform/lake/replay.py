"""Refused rows of a project: what is in the quarantine, and its replay after a fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.errors import LockedError, NotReadyError, UsageError
from tailorbird.events import to_iso
from tailorbird.pages.notebook import text_html
from tailorbird.platform.frames import Frame
from tailorbird.platform.progress import Progress, no_progress

if TYPE_CHECKING:
    from tailorbird.lake.quarantine import QuarantineFilter, ReasonSummary
    from tailorbird.lake.write.replay import ReplayReport


@dataclass(frozen=True, repr=False)
class Quarantine:
    """Refused rows that match a filter.

    Attributes:
        reasons: by reason: rows, replayed rows, first and last time, wrong fields.
        samples: the newest rows, as they came.
    """

    reasons: "Sequence[ReasonSummary]"
    samples: Sequence[dict[str, Any]]

    def to_frame(self) -> Frame:
        """Return a row for each reason, the most frequent first."""
        return Frame.from_rows(
            ["code", "rows", "replayed", "first", "last", "fields"],
            [
                (
                    reason.code,
                    reason.rows,
                    reason.replayed,
                    to_iso(reason.first)[:19],
                    to_iso(reason.last)[:19],
                    ", ".join(reason.paths),
                )
                for reason in self.reasons
            ],
        )

    def __repr__(self) -> str:
        return repr(self.to_frame()) if self.reasons else "Nothing was refused."

    def _repr_html_(self) -> str:
        return self.to_frame().to_html()


def read_quarantine(
    project: Project,
    *,
    reasons: Sequence[str] = (),
    path: str = "",
    since: str = "",
    limit: int = 10,
) -> Quarantine:
    """Return refused rows.

    Args:
        reasons: only these.
        path: only where this field was wrong, or one below it, such as `$.properties`.
        since: only what came in at this ISO 8601 time or later.
        limit: number of samples.

    Raises:
        UsageError: nothing was refused for a reason.
    """
    from tailorbird.lake import Lake
    from tailorbird.lake import quarantine as lake_quarantine
    from tailorbird.lake.write.replay import read_replayed_keys

    if limit < 0:
        raise UsageError(f"expected 0 or more, got {limit}", where="--limit")
    lake = Lake(project.paths.lake)
    quarantine_filter = _build_filter(reasons, path, since)
    _check_reasons(project, quarantine_filter)
    return Quarantine(
        lake_quarantine.summarize_reasons(
            lake, quarantine_filter, read_replayed_keys(project.paths.stream)
        ),
        lake_quarantine.read_samples(lake, quarantine_filter, limit),
    )


@dataclass(frozen=True, repr=False)
class ReplayResult:
    """What was sent again.

    Attributes:
        count_by_decision: events by the router's decision; None if another process routes them.
    """

    report: "ReplayReport"
    count_by_decision: dict[str, int] | None
    is_dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird lake replay --json` prints."""
        report = self.report
        return {
            "dry_run": self.is_dry_run,
            "examined": report.examined,
            "replayed_before": report.replayed_before,
            "accepted": report.accepted,
            "sent": report.sent,
            "repeats": report.repeats,
            "left_out": report.left_out,
            "refused": dict(report.refused),
            "by_reason": {reason: dict(counts) for reason, counts in report.by_reason.items()},
            "examples": report.examples,
            "routed": self.count_by_decision,
        }

    def __repr__(self) -> str:
        report = self.report
        verb = "would be accepted" if self.is_dry_run else "accepted"
        return (
            f"{report.examined:,} rows: {report.accepted:,} {verb}, {report.repeats:,} in the lake "
            f"already, {sum(report.refused.values()):,} refused again"
        )

    _repr_html_ = text_html


def replay(
    project: Project,
    *,
    reasons: Sequence[str],
    path: str = "",
    since: str = "",
    dry_run: bool = False,
    route: bool = True,
    progress: Progress = no_progress,
) -> ReplayResult:
    """Send refused rows again, each at most once.

    Args:
        reasons, path, since: as for `read_quarantine`.
        dry_run: only say what would be accepted.
        route: also route the events and load the lake.

    Raises:
        UsageError: nothing was refused for a reason.
        NotReadyError: a running router has older declarations and would refuse the rows again.
    """
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.events import SystemClock
    from tailorbird.lake.write.replay import replay as replay_rows
    from tailorbird.platform.runtime.roles import drain

    quarantine_filter = _build_filter(reasons, path, since)
    if not dry_run:
        apply_remote_erasures(project)
    _check_reasons(project, quarantine_filter)
    if not dry_run:
        _require_new_routers(project)
    report = replay_rows(
        project.paths.lake,
        project.paths.stream,
        quarantine_filter,
        plan=project.plan,
        clock=SystemClock(),
        suppression_list=project.suppression_list(),
        dry_run=dry_run,
        progress=progress,
    )
    count_by_decision = None
    if route and not dry_run:
        try:
            count_by_decision = drain(project, SystemClock(), progress=progress)
        except LockedError:
            count_by_decision = None  # a role or another command is at work
    return ReplayResult(report, count_by_decision, dry_run)


def _build_filter(reasons: Sequence[str], path: str, since: str) -> "QuarantineFilter":
    from tailorbird.lake.quarantine import QuarantineFilter
    from tailorbird.platform.clocks import parse_time

    return QuarantineFilter(tuple(reasons), path, parse_time(since, "--since") if since else None)


def _require_new_routers(project: Project) -> None:
    """Raise NotReadyError if a running router has older declarations and would refuse again."""
    from tailorbird.router.declarations import find_outdated_routers

    if router_pids := find_outdated_routers(project.paths.run, project.plan):
        raise NotReadyError(
            f"the running router (process {', '.join(map(str, router_pids))}) decides by "
            "declarations of before, and would refuse them again",
            where=str(project.root),
            fix="stop `tailorbird up`, start it again, and then replay; nothing was sent",
        )


def _check_reasons(project: Project, quarantine_filter: "QuarantineFilter") -> None:
    """Raise UsageError for a reason that no row was refused for, if any row was refused."""
    from tailorbird.lake import Lake
    from tailorbird.lake import quarantine as lake_quarantine

    known_reasons = [
        reason_summary.code
        for reason_summary in lake_quarantine.summarize_reasons(
            Lake(project.paths.lake), lake_quarantine.QuarantineFilter(), frozenset()
        )
    ]
    unknown_reasons = [
        reason for reason in quarantine_filter.reasons if reason not in known_reasons
    ]
    if known_reasons and unknown_reasons:
        raise UsageError(
            f"nothing was refused for {unknown_reasons[0]!r}",
            where="--reason",
            fix=f"the reasons there are: {', '.join(known_reasons)}",
        )
