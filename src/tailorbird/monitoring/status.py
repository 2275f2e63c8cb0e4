"""The last 24 hours in ten lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, to_iso, to_iso_minute
from tailorbird.monitoring.daily import read_reports
from tailorbird.monitoring.figures.label_free import auc_interval
from tailorbird.monitoring.figures.report import Figures, figures_to_json, slot_delays, summarize
from tailorbird.monitoring.versions import CHAMPION_CHANGES, Aliases, AuditEntry, RegistryReader
from tailorbird.pages.notebook import text_html

DECISIONS_MAX = 4
SLOTS_MAX = 2  # slots with scores, the busiest first


@dataclass(frozen=True)
class Status:
    """The state of a site, for `tailorbird monitor status`.

    Attributes:
        at: microseconds.
        lines: ten at most.
        today, before: the figures of the last 24 hours and of the 24 before; None without any.
    """

    at: int
    lines: tuple[str, ...]
    today: Figures | None
    before: Figures | None

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird monitor status --json` prints."""
        today, before = (
            figures_to_json([figures])[0] if figures else None
            for figures in (self.today, self.before)
        )
        return {"at": to_iso(self.at), "lines": self.lines, "today": today, "before": before}

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    _repr_html_ = text_html


def build_status(
    cells: pa.Table,
    now: int,
    *,
    registry: RegistryReader,
    checks_folder: Path,
    catalogue_size: int = 0,
    alarms: tuple[str, ...] = (),
    drift_note: str,
    waiting_notes: tuple[str, ...] = (),
    churn_notes: tuple[str, ...] = (),
    churn_decisions: Sequence[AuditEntry] = (),
) -> Status:
    """Return the state from the cells of the last two days.

    Args:
        alarms: one sentence for each open alarm.
        drift_note: when drift was last looked for, or why that could not be.
        waiting_notes: one sentence for each training that cannot run, and step that waits for a
            person.
        churn_notes: one phrase for each churn model.
        churn_decisions: on churn models.
    """
    delays = slot_delays(cells)
    minute = pc.field("minute")

    def summarize_day(day_cells: pa.Table, since: int) -> Figures | None:
        rows = summarize(
            day_cells, since, since + DAY, catalogue_size=catalogue_size, delays=delays
        )
        return rows[0] if rows else None

    today_cells = cells.filter(minute >= now - DAY)
    today = summarize_day(today_cells, now - DAY)
    aliases = registry.aliases()
    audit = registry.audit()
    # A score promises clicks in its own slot only, and only where the champion gave it.
    is_scored = (pc.field("version") == aliases.champion) & (pc.field("predicted_clicks") > 0)
    scored_slots = sorted(
        summarize(today_cells.filter(is_scored), now - DAY, now, by="slot", delays=delays),
        key=lambda row: -row.seen,
    )[:SLOTS_MAX]
    previous_day = summarize_day(cells.filter(minute < now - DAY), now - 2 * DAY)
    lines = [
        f"{to_iso_minute(now)}, the last 24 hours against the 24 before",
        *_describe_traffic(today, previous_day, scored_slots),
        _describe_slots(today_cells, now, delays),
        "; ".join(
            [
                _describe_models(
                    aliases, scored_slots, _later_promotion(audit, aliases.champion, now)
                ),
                *churn_notes,
            ]
        ),
        _describe_checks(checks_folder),
        *(["to do: " + "; ".join(waiting_notes)] if waiting_notes else []),
        "alarms: " + "; ".join([*(alarms or ["none open"]), drift_note]),
        _describe_decisions([*audit, *churn_decisions], now),
    ]
    return Status(now, tuple(lines), today, previous_day)


def _describe_traffic(
    today: Figures | None, previous_day: Figures | None, scored_slots: Sequence[Figures]
) -> list[str]:
    if today is None:
        return ["requests: none was served"]
    return [
        f"requests: {today.requests:,}{_format_change(today, previous_day, 'requests')}, "
        f"p95 {_format_milliseconds(today.latency_ms_p95)}"
        f"{_format_change(today, previous_day, 'latency_ms_p95')}, "
        f"{today.error_rate:.2%} errors, {today.empty_rate:.2%} empty, "
        f"{today.degraded_rate:.2%} degraded",
        f"clicks: CTR {_format_rate(today, 'ctr')}{_format_change(today, previous_day, 'ctr')}"
        f"{_describe_promises(scored_slots)}",
        f"purchases: conversion {_format_rate(today, 'conversion')}"
        f"{_format_change(today, previous_day, 'conversion')}"
        f", {today.conversion_estimated_share:.0%} of it estimated, revenue {today.revenue:,.2f}"
        f"{_format_change(today, previous_day, 'revenue')}",
    ]


def _describe_slots(cells: pa.Table, now: int, delays: dict[str, Any]) -> str:
    rows = summarize(cells, now - DAY, now, by="slot", delays=delays)
    busiest = sorted(rows, key=lambda row: -row.requests)[:4]
    return "slots: " + (
        ", ".join(f"{row.group} {row.requests:,} at {_format_percent(row.ctr)}" for row in busiest)
        or "none"
    )


def _describe_promises(scored_slots: Sequence[Figures]) -> str:
    """Return what the champion's scores promise in each slot beside what people clicked there."""
    return "".join(
        f"; the champion in {row.group} {row.ctr:.2%} of {row.seen:,}, its scores promise "
        f"{_format_rate(row, 'ctr_expected')}, calibration "
        f"{'unknown' if math.isnan(row.calibration) else format(row.calibration, '.2f')}"
        for row in scored_slots
    )


def _later_promotion(audit: Sequence[AuditEntry], champion: str, now: int) -> str:
    """Return the time at which the champion was promoted if that is later than `now`."""
    promotion_times = [
        entry.at
        for entry in audit
        if entry.version == champion and entry.action in CHAMPION_CHANGES
    ]
    return (
        to_iso_minute(promotion_times[-1]) if promotion_times and promotion_times[-1] > now else ""
    )


def _describe_models(aliases: Aliases, scored_slots: Sequence[Figures], promoted_later: str) -> str:
    text = f"models: champion {aliases.champion or 'none'}"
    if promoted_later:
        return f"{text}, promoted later, {promoted_later}"
    champion = next(iter(scored_slots), None)
    if champion is not None and not math.isnan(champion.auc_expected):
        low = champion.auc_expected_low
        high = champion.auc_expected_high
        text += f" (AUC in {champion.group} {champion.auc_expected:.2f} expected, "
        text += f"{low:.2f} to {high:.2f}"
        if not math.isnan(champion.auc):
            low, high = auc_interval(champion.auc, champion.clicks, champion.seen)
            text += f"; by {champion.clicks:,} clicks on {champion.seen:,} seen items so far "
            text += f"{champion.auc:.2f}, {low:.2f} to {high:.2f}"
        text += ")"
    if aliases.previous:
        text += f", previous {aliases.previous}"
    if aliases.canary:
        text += f", canary {aliases.canary} at {aliases.share:.0%}"
    if aliases.shadow:
        text += f", shadow {aliases.shadow}"
    return text


def _describe_checks(folder: Path) -> str:
    report = next(iter(read_reports(folder)), None)
    if report is None:
        return "data: no day was checked yet"
    failed = ", ".join(check.name for check in report.failed_checks)
    return f"data of {report.day}: " + (f"FAILED {failed}" if failed else "every check passed")


def _describe_decisions(audit: Sequence[AuditEntry], now: int) -> str:
    # An entry without a version is the end of a shadow, beside the step that ended it.
    recent = [
        entry
        for entry in audit
        if now - DAY < entry.at <= now and entry.action != "add" and entry.version
    ]
    recent.sort(key=lambda entry: entry.at)
    texts = [
        f"{to_iso(entry.at)[11:16]}Z {entry.by}: {entry.action} {entry.version}, {entry.why}"
        for entry in recent[-DECISIONS_MAX:][::-1]
    ]
    return "decisions: " + ("; ".join(texts) or "none")


def _format_percent(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.2%}"


def _format_milliseconds(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.1f} ms"


def _format_rate(figures: Figures, name: str) -> str:
    """Return a rate with its interval."""
    low = getattr(figures, f"{name}_low")
    high = getattr(figures, f"{name}_high")
    if math.isnan(low):
        return "unknown"
    return f"{getattr(figures, name):.2%} ({low:.2%} to {high:.2%})"


def _format_change(today: Figures, previous_day: Figures | None, name: str) -> str:
    old = getattr(previous_day, name) if previous_day is not None else 0.0
    new = getattr(today, name)
    if not old or math.isnan(old) or math.isnan(new):
        return ""
    return f" ({new / old - 1.0:+.0%})"
