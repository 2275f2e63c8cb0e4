"""Episodes of drift of a project, against its own past or against what the champion learned from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc

from tailorbird.config import Project
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import DAY, HOUR, Clock, parse_duration, to_minute
from tailorbird.lake import Lake
from tailorbird.monitoring.churn import score_signal
from tailorbird.monitoring.drift import Cause, Episode, Signal, find_episodes, name_cause
from tailorbird.monitoring.drift.causes import OUTAGE, Change, name_cause_of_fall
from tailorbird.monitoring.drift.detect import CLICKED, DAYS_MIN, LABEL, OUTAGE_DAYS_MIN, Floats
from tailorbird.monitoring.drift.judgement import (
    DriftRow,
    Judgement,
    read_judgement,
    store_judgement,
)
from tailorbird.monitoring.drift.sketches import SketchStore
from tailorbird.monitoring.drift.training import TRAINING, Shift, compare_with_training
from tailorbird.monitoring.figures import FigureStore
from tailorbird.monitoring.figures.cells import SlotRule
from tailorbird.monitoring.versions import CHAMPION_CHANGES
from tailorbird.platform.frames import Frame
from tailorbird.platform.models.churn_figures import refresh_safely
from tailorbird.platform.models.training_histograms import (
    TrainingHistograms,
    read_training_histograms,
)
from tailorbird.registry import AuditEntry, Registry
from tailorbird.training.sketches import signed_bins

HISTORY_DAYS = 56
DEFAULT_SINCE = "7d"
HISTORY = "history"
SIGNALS_SHOWN = 5
FALL = "fall"  # the action of the audit log
RUNBOOKS = "docs/operate"


@dataclass(frozen=True, repr=False)
class DriftResult:
    """Episodes of drift, the newest first.

    Attributes:
        against: `history`, or `training of` a version.
        shifts: signal → its distance to the training, now and then; the largest first.
    """

    false_alarms: float
    history_days: int
    signals: int
    rows: list[DriftRow]
    against: str = HISTORY
    shifts: dict[str, Shift] = field(default_factory=dict)

    def to_frame(self) -> Frame:
        """Return the episodes as a table."""
        names = ["since", "until", "cause", "evidence", "runbook", "moved"]
        return Frame.from_rows(
            names,
            [
                (row.since, row.until, row.cause, row.evidence, row.runbook, ", ".join(row.moved))
                for row in self.rows
            ],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird monitor drift --json` prints."""
        return {
            "false_alarms_a_month": self.false_alarms,
            "history_days": self.history_days,
            "signals": self.signals,
            "against": self.against,
            "episodes": msgspec.to_builtins(self.rows),
            "shifts": [
                {
                    "name": name,
                    "now": None if math.isnan(shift.now) else shift.now,
                    "then": None if math.isnan(shift.then) else shift.then,
                    "is_skew": shift.is_skew,
                }
                for name, shift in self.shifts.items()
            ],
        }

    @property
    def header(self) -> str:
        days = f"{self.history_days} days before"
        against = days if self.against == HISTORY else f"the {self.against}, as {days} vary"
        return (
            f"{self.signals} signals against {against}; chance alone causes "
            f"{self.false_alarms:g} episodes a month"
        )

    def __repr__(self) -> str:
        return f"{self.header}\n{self.to_frame()!r}" if self.rows else f"{self.header}\nno episode"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self.header)


def find_drift(
    project: Project,
    clock: Clock,
    *,
    since: str = DEFAULT_SINCE,
    against: str = HISTORY,
    is_live: bool = True,
) -> DriftResult:
    """Return the episodes of drift of the most recent period.

    Args:
        against: `history`, or `training`: what the champion learned from.
        is_live: store the episodes for status and messages. A view of the past has to leave them.

    Raises:
        NotReadyError: there is too little history to compare with, or no trained champion.
    """
    if against not in (HISTORY, TRAINING):
        fix = f"use {HISTORY} or {TRAINING}"
        raise UsageError(f"cannot compare with {against!r}", where="against", fix=fix)
    if not is_live or (since, against) != (DEFAULT_SINCE, HISTORY):
        return _find_drift(project, clock, since, against)[0]
    folder, now = project.paths.monitoring, clock.now()
    try:
        result, rows = _find_drift(project, clock, since, against)
    except NotReadyError as error:
        store_judgement(folder, Judgement(now, obstacle=error.message))
        raise
    store_judgement(folder, Judgement(now, rows))
    return result


def _find_drift(
    project: Project, clock: Clock, since: str, against: str
) -> tuple[DriftResult, list[DriftRow]]:
    """Return what moved, and the episodes in it without the falls in the audit log."""
    now, features, lake = clock.now(), project.features, Lake(project.paths.lake)
    store = _sketch_store(project)
    store.refresh(max(now - HISTORY_DAYS * DAY, _first_visit(lake, now)), now)
    reference = read_training_histograms(project, clock) if against == TRAINING else None
    if reference is None:
        signals, start = store.read(now - HISTORY_DAYS * DAY, now)
        signals += _churn_signals(project, clock, signals, start)
        pairs = []
    else:
        pairs, start = store.read_with(
            now - HISTORY_DAYS * DAY, now, reference.table, reference.slot
        )
        pairs = reference.comparable(pairs, features)
        signals = [signal for signal, _ in pairs]
    hours = len(signals[0].counts) if signals else 0
    history = _history_hours(hours, parse_duration(since) // HOUR)
    if history < (OUTAGE_DAYS_MIN if reference is None else DAYS_MIN) * 24:
        raise _short_history_error(project, hours, is_training=reference is not None)
    rate = project.settings.monitoring.false_alarms
    shifts: dict[str, Shift] = {}
    if reference is None:
        episodes = find_episodes(signals, history, false_alarms=rate)
    else:
        if reference.is_logged and reference.slot in project.slots:
            pairs.append(_click_signal(project, reference, start, now, len(signals[0].counts)))
        training_hours = reference.hours(start)
        episodes, shifts = compare_with_training(pairs, history, training_hours, false_alarms=rate)
        signals = [signal for signal, _ in pairs]
    changes, rows = _model_changes(project, clock), []
    for episode in reversed(episodes):
        cause = _skew_cause(episode, shifts) or name_cause(episode, signals, start, changes)
        if history < DAYS_MIN * 24 and cause.name != OUTAGE:
            continue  # so few days do not tell what is usual
        rows.append(
            DriftRow(
                since=_hour(start, episode.start),
                until="" if episode.is_open else _hour(start, episode.stop),
                detected=_hour(start, episode.detected),
                cause=cause.name,
                evidence=cause.evidence,
                runbook=f"{RUNBOOKS}/{cause.page}",
                compared_with=episode.compared_with,
                moved={signal.name: signal.distance for signal in episode.moved[:SIGNALS_SHOWN]},
            )
        )
    if reference is None:
        since_iso = to_minute(now - parse_duration(since))
        falls = [row for row in read_falls(project, clock) if (row.until or since_iso) >= since_iso]
        all_rows = sorted([*falls, *rows], key=lambda row: row.since, reverse=True)
        return DriftResult(rate, int(history // 24), len(signals), all_rows), rows
    ordered_shifts = dict(sorted(shifts.items(), key=lambda pair: -np.nan_to_num(pair[1].now)))
    name = f"{TRAINING} of {reference.version}"
    rows = [msgspec.structs.replace(row, compared_with=name) for row in rows]
    return DriftResult(rate, int(history // 24), len(signals), rows, name, ordered_shifts), rows


def explain_fall(project: Project, clock: Clock, reference_from: int, since: int) -> Cause:
    """Return the likely cause of a fall of the champion's clicks against those of a control.

    Args:
        reference_from: since when clicks were as they were before the fall.
        since: when the fall began.
    """
    store, now = _sketch_store(project), clock.now()
    store.refresh(reference_from, now)
    signals, first = store.read(reference_from, now)
    return name_cause_of_fall(
        signals, (since - first) // HOUR, first, _model_changes(project, clock)
    )


def fall_details(since: int, reason: str, cause: Cause) -> dict[str, str]:
    """Return what the audit log has of a fall, for `read_falls`."""
    return {
        "since": to_minute(since),
        "cause": cause.name,
        "evidence": f"{reason}; {cause.evidence}",
        "runbook": f"{RUNBOOKS}/{cause.page}",
    }


def read_falls(project: Project, clock: Clock) -> list[DriftRow]:
    """Return the falls in the audit logs; one goes on until another model takes over."""
    folders = [project.paths.registry, *map(project.paths.churn, project.churn)]
    return [
        row
        for folder in folders
        for row in _falls_of(Registry(folder, clock=clock).audit(), clock.now())
    ]


def _falls_of(audit: Sequence[AuditEntry], now: int) -> list[DriftRow]:
    rows = []
    for index, entry in enumerate(audit):
        if entry.action != FALL or not entry.details or entry.at > now:
            continue
        ends = [
            later.at
            for later in audit[index:]
            if later.action in CHAMPION_CHANGES and later.at <= now
        ]
        times = {"until": to_minute(ends[0]) if ends else "", "detected": to_minute(entry.at)}
        row = {**entry.details, **times, "compared_with": "reference"}
        rows.append(msgspec.convert(row, DriftRow))
    return rows


def _sketch_store(project: Project) -> SketchStore:
    features = project.features
    return SketchStore(
        project.paths.monitoring / "sketches",
        Lake(project.paths.lake),
        features.numeric,
        features.schema_hash,
        features.categorical,
    )


def _model_changes(project: Project, clock: Clock) -> list[Change]:
    """Return the changes of models in the audit logs."""
    folders = {"": project.paths.registry}
    folders |= {f"{name} ": project.paths.churn(name) for name in project.churn}
    return [
        Change(entry.at, f"{entry.by}: {entry.action} {prefix}{entry.version}")
        for prefix, folder in folders.items()
        for entry in Registry(folder, clock=clock).audit()
        if entry.action in ("promote", "rollback", "canary", "end canary")
    ]


def _churn_signals(
    project: Project, clock: Clock, signals: Sequence[Signal], start: int
) -> list[Signal]:
    """Return the scores of each churn model by day, in the hours of other signals."""
    hours = len(signals[0].counts) if signals else 0
    records = {name: refresh_safely(project, clock, name) for name in project.churn if hours}
    score_signals = [score_signal(name, each.days, start, hours) for name, each in records.items()]
    return [signal for signal in score_signals if signal is not None]


def _short_history_error(project: Project, hours: int, *, is_training: bool) -> NotReadyError:
    where = str(project.paths.monitoring)
    if is_training and not hours:
        return NotReadyError(
            "no response of the last weeks has logged features to compare with the training; "
            "imported ones have none",
            where=where,
            fix=f"let a server answer for {DAYS_MIN} days",
        )
    needed = f"a comparison with the training needs {DAYS_MIN} days of responses"
    if not is_training:
        needed = f"drift needs {DAYS_MIN} days of history, and an outage {OUTAGE_DAYS_MIN}"
    return NotReadyError(f"{needed}; there are {hours / 24:.1f}", where=where, fix="wait")


def _history_hours(hours: int, recent: int) -> int:
    """Return the hours that the last ones are compared with; less are recent on a young site."""
    if hours > DAYS_MIN * 24:
        return max(hours - recent, DAYS_MIN * 24)
    return OUTAGE_DAYS_MIN * 24 if hours > OUTAGE_DAYS_MIN * 24 else 0


def _click_signal(
    project: Project, reference: TrainingHistograms, start: int, now: int, hours: int
) -> tuple[Signal, Floats]:
    """Return clicks on seen items by hour, and in the training.

    Hours whose attribution window is open are left out.
    """
    store = figure_store(project)
    store.refresh(start, now)
    cells = store.read(start, now, ("minute", "slot", "seen", "clicks"))
    until = now - parse_duration(project.slots[reference.slot].attribution)
    cells = cells.filter((pc.field("slot") == reference.slot) & (pc.field("minute") < until))
    hour = (cells["minute"].to_numpy() - start) // HOUR
    counts = np.zeros((hours + 1, 3))
    seen, clicks = cells["seen"].to_numpy(), cells["clicks"].to_numpy()
    values = np.column_stack([np.zeros(len(hour)), np.maximum(seen - clicks, 0.0), clicks])
    np.add.at(counts, np.clip(hour, 0, hours), values)
    labels = reference.table.filter((pc.field("kind") == LABEL) & (pc.field("name") == "click"))
    count_by_bin = dict(zip(labels["bin"].to_pylist(), labels["count"].to_pylist(), strict=True))
    training_counts = [
        count_by_bin.get(str(bin_), 0.0) for bin_ in signed_bins(np.array([0.0, 1.0])).tolist()
    ]
    signal = Signal("clicks", counts[:hours], True, LABEL, ("missing", "seen", CLICKED))
    return signal, np.array([0.0, *training_counts])


def _skew_cause(episode: Episode, shifts: dict[str, Shift]) -> Cause | None:
    """Return training-serving skew if the strongest signal was apart already then."""
    if not shifts or not (shift := shifts[episode.moved[0].name]).is_skew:
        return None
    evidence = (
        f"{episode.moved[0].name} is {shift.now:.2f} from the training, and was {shift.then:.2f} "
        "from it already in the time that the model learned from"
    )
    return Cause("training-serving skew", evidence)


def read_episodes(project: Project, clock: Clock) -> list[DriftRow]:
    """Return the falls and the stored episodes."""
    return [*read_falls(project, clock), *read_judgement(project.paths.monitoring).rows]


def read_open_episodes(project: Project, clock: Clock) -> list[DriftRow]:
    """Return the falls and the stored episodes that go on."""
    now = to_minute(clock.now())
    return [row for row in read_episodes(project, clock) if row.is_open_at(now)]


def _first_visit(lake: Lake, now: int) -> int:
    """Return the time of the first event of a person; `now` without any. Profiles may be older."""
    of_people = "timeless IS NOT TRUE AND type NOT IN ('user', 'item')"
    first = lake.sql(f"SELECT min(ts) AS ts FROM events WHERE {of_people}")["ts"]
    return first.cast("int64")[0].as_py() or now


def _hour(start: int, hour: int) -> str:
    return to_minute(start + hour * HOUR)


def figure_store(project: Project) -> FigureStore:
    """Return the figures of a project on disk."""
    rules = {
        name: SlotRule(slot.denominator, parse_duration(slot.attribution))
        for name, slot in project.slots.items()
    }
    return FigureStore(project.paths.monitoring / "figures", Lake(project.paths.lake), rules)
