"""Episodes of drift of a project, against its own past or the training of the champion."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow.compute as pc

from tailorbird.config import Project
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import DAY, HOUR, Clock, parse_duration, to_iso_minute
from tailorbird.lake import Lake
from tailorbird.monitoring import RetrainVerdict
from tailorbird.monitoring.churn import score_signal
from tailorbird.monitoring.drift import Cause, Episode, Signal, find_episodes, name_cause
from tailorbird.monitoring.drift.causes import OUTAGE, Change, name_cause_of_fall
from tailorbird.monitoring.drift.detect import (
    CLICKED_BIN,
    DAYS_MIN,
    LABEL_KIND,
    OUTAGE_DAYS_MIN,
    Floats,
)
from tailorbird.monitoring.drift.explained import EVENT_COLUMNS, RECORD_COLUMNS, count_requests
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
from tailorbird.platform.models.churn_figures import refresh_safely
from tailorbird.platform.models.training_histograms import (
    TrainingHistograms,
    read_training_histograms,
)
from tailorbird.platform.results import HISTORY, DriftResult
from tailorbird.registry import AuditEntry, Registry
from tailorbird.training.sketches import signed_bins

HISTORY_DAYS = 56
DEFAULT_SINCE = "7d"
SIGNALS_SHOWN = 5
FALL_ACTION = "fall"  # of entries of the audit log that record a fall of the champion's figures
RUNBOOK_FOLDER = "docs/operate"


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
        return _detect_drift(project, clock, since, against)[0]
    folder = project.paths.monitoring
    now = clock.now()
    try:
        result, drift_rows = _detect_drift(project, clock, since, against)
    except NotReadyError as error:
        store_judgement(folder, Judgement(now, obstacle=error.message))
        raise
    store_judgement(folder, Judgement(now, drift_rows))
    return result


def _detect_drift(
    project: Project, clock: Clock, since: str, against: str
) -> tuple[DriftResult, list[DriftRow]]:
    """Return what moved, and the episodes in it without the falls in the audit log."""
    now = clock.now()
    features = project.features
    lake = Lake(project.paths.lake)
    store = _sketch_store(project)
    store.refresh(max(now - HISTORY_DAYS * DAY, _first_visit(lake, now)), now)
    histograms = read_training_histograms(project, clock) if against == TRAINING else None
    if histograms is None:
        signals, start_us = store.read(now - HISTORY_DAYS * DAY, now)
        signals += _churn_signals(project, clock, signals, start_us)
        signals_with_training = []
    else:
        signals_with_training, start_us = store.read_with(
            now - HISTORY_DAYS * DAY, now, histograms.table, histograms.slot
        )
        signals_with_training = histograms.comparable_signals(signals_with_training, features)
        signals = [signal for signal, _ in signals_with_training]
    hour_count = len(signals[0].counts) if signals else 0
    history_hours = _history_hours(hour_count, parse_duration(since) // HOUR)
    if history_hours < (OUTAGE_DAYS_MIN if histograms is None else DAYS_MIN) * 24:
        raise _short_history_error(project, hour_count, is_training=histograms is not None)
    history_days = int(history_hours // 24)
    false_alarms = project.settings.monitoring.false_alarms
    shift_by_signal: dict[str, Shift] = {}
    if histograms is None:
        episodes = find_episodes(signals, history_hours, false_alarms_per_month=false_alarms)
    else:
        if histograms.is_logged and histograms.slot in project.slots:
            signals_with_training.append(
                _click_signal(project, histograms, start_us, now, len(signals[0].counts))
            )
        training_hours = histograms.hour_range(start_us)
        episodes, shift_by_signal = compare_with_training(
            signals_with_training,
            history_hours,
            training_hours,
            false_alarms_per_month=false_alarms,
        )
        signals = [signal for signal, _ in signals_with_training]
    model_changes = _model_changes(project, clock)
    drift_rows = []
    for episode in reversed(episodes):
        cause = _skew_cause(episode, shift_by_signal) or name_cause(
            episode, signals, start_us, model_changes
        )
        if history_hours < DAYS_MIN * 24 and cause.name != OUTAGE:
            continue  # so few days do not tell what is usual
        drift_rows.append(
            DriftRow(
                since=_format_hour(start_us, episode.start),
                until="" if episode.is_open else _format_hour(start_us, episode.stop),
                detected=_format_hour(start_us, episode.detected),
                cause=cause.name,
                evidence=cause.evidence,
                runbook=f"{RUNBOOK_FOLDER}/{cause.runbook_page}",
                compared_with=episode.compared_with,
                moved={signal.name: signal.distance for signal in episode.moved[:SIGNALS_SHOWN]},
            )
        )
    if histograms is None:
        since_iso = to_iso_minute(now - parse_duration(since))
        falls = [row for row in read_falls(project, clock) if (row.until or since_iso) >= since_iso]
        all_episodes = sorted([*falls, *drift_rows], key=lambda row: row.since, reverse=True)
        return DriftResult(false_alarms, history_days, len(signals), all_episodes), drift_rows
    ordered_shifts = dict(
        sorted(shift_by_signal.items(), key=lambda pair: -np.nan_to_num(pair[1].current_distance))
    )
    comparison_name = f"{TRAINING} of {histograms.version}"
    drift_rows = [msgspec.structs.replace(row, compared_with=comparison_name) for row in drift_rows]
    return DriftResult(
        false_alarms,
        history_days,
        len(signals),
        drift_rows,
        against=comparison_name,
        shift_by_signal=ordered_shifts,
    ), drift_rows


def explain_fall(
    project: Project, clock: Clock, decision: RetrainVerdict, reference_from: int
) -> Cause:
    """Return the likely cause of a fall of the champion's figures.

    Args:
        decision: the judgement that found it.
        reference_from: since when the figure was as it was before the fall.
    """
    assert decision.since is not None
    store = _sketch_store(project)
    now = clock.now()
    lake = Lake(project.paths.lake)
    store.refresh(reference_from, now)
    signals, start_us = store.read(reference_from, now)
    slot = project.slots[decision.criteria.slot]
    attribution_us = parse_duration(slot.attribution)
    requests = count_requests(
        lake.events(EVENT_COLUMNS, reference_from - attribution_us, now),
        lake.responses(RECORD_COLUMNS, reference_from, now) if lake.exists("answers") else None,
        decision.criteria,
        reference_from=reference_from,
        since=decision.since,
        denominator=slot.denominator,
        attribution=attribution_us,
    )
    start = (decision.since - start_us) // HOUR
    return name_cause_of_fall(signals, start, start_us, requests, _model_changes(project, clock))


def fall_details(since: int, reason: str, cause: Cause) -> dict[str, str]:
    """Return what the audit log has of a fall, for `read_falls`."""
    return {
        "since": to_iso_minute(since),
        "cause": cause.name,
        "evidence": f"{reason}; {cause.evidence}",
        "runbook": f"{RUNBOOK_FOLDER}/{cause.runbook_page}",
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
        if entry.action != FALL_ACTION or not entry.details or entry.at > now:
            continue
        takeover_times = [
            later_entry.at
            for later_entry in audit[index:]
            if later_entry.action in CHAMPION_CHANGES and later_entry.at <= now
        ]
        until = to_iso_minute(takeover_times[0]) if takeover_times else ""
        times = {"until": until, "detected": to_iso_minute(entry.at)}
        row_fields = {**entry.details, **times, "compared_with": "reference"}
        rows.append(msgspec.convert(row_fields, DriftRow))
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
    folder_by_prefix = {"": project.paths.registry}
    folder_by_prefix |= {f"{name} ": project.paths.churn(name) for name in project.churn}
    return [
        Change(entry.at, f"{entry.by}: {entry.action} {prefix}{entry.version}")
        for prefix, folder in folder_by_prefix.items()
        for entry in Registry(folder, clock=clock).audit()
        if entry.action in ("promote", "rollback", "canary", "end canary")
    ]


def _churn_signals(
    project: Project, clock: Clock, signals: Sequence[Signal], start_us: int
) -> list[Signal]:
    """Return the scores of each churn model by day, in the hours of other signals."""
    hour_count = len(signals[0].counts) if signals else 0
    score_signals = [
        score_signal(name, refresh_safely(project, clock, name).days, start_us, hour_count)
        for name in (project.churn if hour_count else ())
    ]
    return [signal for signal in score_signals if signal is not None]


def _short_history_error(project: Project, hour_count: int, *, is_training: bool) -> NotReadyError:
    where = str(project.paths.monitoring)
    if is_training and not hour_count:
        return NotReadyError(
            "no response of the last weeks has logged features to compare with the training; "
            "imported ones have none",
            where=where,
            fix=f"let a server answer for {DAYS_MIN} days",
        )
    requirement = f"a comparison with the training needs {DAYS_MIN} days of responses"
    if not is_training:
        requirement = f"drift needs {DAYS_MIN} days of history, and an outage {OUTAGE_DAYS_MIN}"
    return NotReadyError(f"{requirement}; there are {hour_count / 24:.1f}", where=where, fix="wait")


def _history_hours(hour_count: int, recent_hours: int) -> int:
    """Return the hours that the last ones are compared with; less are recent on a young site."""
    if hour_count > DAYS_MIN * 24:
        return max(hour_count - recent_hours, DAYS_MIN * 24)
    return OUTAGE_DAYS_MIN * 24 if hour_count > OUTAGE_DAYS_MIN * 24 else 0


def _click_signal(
    project: Project, histograms: TrainingHistograms, start_us: int, now: int, hour_count: int
) -> tuple[Signal, Floats]:
    """Return clicks on seen items by hour, and in the training.

    They are counted from cells, the stored figures of each minute. Hours whose attribution window
    is open are left out.
    """
    store = figure_store(project)
    store.refresh(start_us, now)
    cells = store.read(start_us, now, ("minute", "slot", "seen", "clicks"))
    attributed_until = now - parse_duration(project.slots[histograms.slot].attribution)
    cells = cells.filter(
        (pc.field("slot") == histograms.slot) & (pc.field("minute") < attributed_until)
    )
    hour_indexes = (cells["minute"].to_numpy() - start_us) // HOUR
    counts_by_hour = np.zeros((hour_count + 1, 3))
    seen = cells["seen"].to_numpy()
    clicks = cells["clicks"].to_numpy()
    cell_counts = np.column_stack(
        [np.zeros(len(hour_indexes)), np.maximum(seen - clicks, 0.0), clicks]
    )
    np.add.at(counts_by_hour, np.clip(hour_indexes, 0, hour_count), cell_counts)
    is_click_label = (pc.field("kind") == LABEL_KIND) & (pc.field("name") == "click")
    label_counts = histograms.table.filter(is_click_label)
    count_by_bin = dict(
        zip(label_counts["bin"].to_pylist(), label_counts["count"].to_pylist(), strict=True)
    )
    # Sketches have a label of 0 and one of 1 in a bin each.
    training_counts = [
        count_by_bin.get(str(bin_), 0.0) for bin_ in signed_bins(np.array([0.0, 1.0])).tolist()
    ]
    signal = Signal(
        "clicks", counts_by_hour[:hour_count], True, LABEL_KIND, ("missing", "seen", CLICKED_BIN)
    )
    return signal, np.array([0.0, *training_counts])


def _skew_cause(episode: Episode, shift_by_signal: dict[str, Shift]) -> Cause | None:
    """Return training-serving skew if the strongest signal was apart already then."""
    if not shift_by_signal or not (shift := shift_by_signal[episode.moved[0].name]).is_skew:
        return None
    evidence = (
        f"{episode.moved[0].name} is {shift.current_distance:.2f} from the training, and was "
        f"{shift.training_distance:.2f} "
        "from it already in the time that the model learned from"
    )
    return Cause("training-serving skew", evidence)


def read_episodes(project: Project, clock: Clock) -> list[DriftRow]:
    """Return the falls and the stored episodes."""
    return [*read_falls(project, clock), *read_judgement(project.paths.monitoring).rows]


def read_open_episodes(project: Project, clock: Clock) -> list[DriftRow]:
    """Return the falls and the stored episodes that go on."""
    now = to_iso_minute(clock.now())
    return [row for row in read_episodes(project, clock) if row.is_open_at(now)]


def _first_visit(lake: Lake, now: int) -> int:
    """Return the time of the first event of a person; `now` without any. Profiles may be older."""
    is_person_event = "timeless IS NOT TRUE AND type NOT IN ('user', 'item')"
    earliest_ts = lake.sql(f"SELECT min(ts) AS ts FROM events WHERE {is_person_event}")["ts"]
    return earliest_ts.cast("int64")[0].as_py() or now


def _format_hour(start_us: int, hour: int) -> str:
    return to_iso_minute(start_us + hour * HOUR)


def figure_store(project: Project) -> FigureStore:
    """Return the figures of a project on disk."""
    rules = {
        name: SlotRule(slot.denominator, parse_duration(slot.attribution))
        for name, slot in project.slots.items()
    }
    return FigureStore(project.paths.monitoring / "figures", Lake(project.paths.lake), rules)
