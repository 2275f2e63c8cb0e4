"""Name the cause of a drawn incident, for tests, and of what a real log with an outage contains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.quality.monitoring.incidents import FIRST_HOUR, Incident
from tailorbird.events import HOUR, to_iso
from tailorbird.experiments.statistics import proportion_interval
from tailorbird.monitoring.drift import Cause, Episode, Signal, find_episodes, name_cause
from tailorbird.monitoring.drift.causes import OUTAGE
from tailorbird.monitoring.drift.detect import DAYS_MIN, OUTAGE_DAYS_MIN
from tailorbird.monitoring.drift.sketches import EVENT_COLUMNS, build_signals, sketch_events
from tailorbird.training.sketches import to_table

CODES = ("environment", "device_group", "os", "country", "region", "referrer_type")


def share_with_interval(hits: int, runs: int) -> dict[str, float | int]:
    """Return a share with Wilson's interval."""
    low, high = proportion_interval(hits, runs)
    return {"value": hits / runs, "low": low, "high": high, "n": runs}


def diagnose(incident: Incident) -> str:
    """Return the cause of the first episode that overlaps an incident; "" if none does."""
    episodes = find_episodes(incident.signals, incident.history)
    overlapping_episodes = [
        episode
        for episode in episodes
        if episode.detected > incident.start and episode.start < incident.stop
    ]
    if not overlapping_episodes:
        return ""
    first_episode = min(overlapping_episodes, key=lambda episode: episode.detected)
    return name_cause(first_episode, incident.signals, FIRST_HOUR, incident.changes).name


def replay_clicks(path: Path) -> dict[str, Any]:
    """Return the episodes in a log of clicks, with their causes, as a project would report them.

    Hours become sketches. Within the first week only outages are reported. The codes of the log are opaque; `device_group` stands
    for the device, and each code is a field.
    """
    table = pq.read_table(path).sort_by("ts")
    ts = table["ts"].cast(pa.int64()).to_numpy()
    first = int(ts[0] // HOUR * HOUR)
    hours = int((ts[-1] - first) // HOUR) + 1
    hour_starts = np.searchsorted(ts, first + np.arange(hours + 1) * HOUR)
    sketches = []
    for hour in range(hours):
        hour_clicks = table.slice(hour_starts[hour], hour_starts[hour + 1] - hour_starts[hour])
        rows = sketch_events(_to_events(hour_clicks)) if hour_clicks.num_rows else []
        for code in CODES if hour_clicks.num_rows else ():
            value_counts = pc.value_counts(
                hour_clicks[code].cast(pa.string()).combine_chunks()
            ).to_pylist()
            rows += [
                (code, "code", True, each["values"], float(each["counts"])) for each in value_counts
            ]
        sketch = to_table(rows)
        sketches.append(sketch.append_column("hour", pa.array(np.full(sketch.num_rows, hour))))
    signals = build_signals(pa.concat_tables(sketches), hours)
    longest_gap_row = int(np.diff(ts).argmax())
    return {
        "hours": hours,
        "longest_gap": {
            "since": to_iso(int(ts[longest_gap_row])),
            "minutes": float(np.diff(ts)[longest_gap_row]) / 60e6,
        },
        "first_week": [
            each
            for each in _explain_episodes(signals, first, OUTAGE_DAYS_MIN * 24, DAYS_MIN * 24)
            if each["cause"] == OUTAGE
        ],
        "later": _explain_episodes(signals, first, DAYS_MIN * 24, hours),
    }


def _explain_episodes(
    signals: list[Signal], first: int, history: int, until: int
) -> list[dict[str, Any]]:
    """Return the episodes between the history and an hour, each with its cause."""
    known_signals = [replace(signal, counts=signal.counts[:until]) for signal in signals]
    return [
        _describe_episode(episode, name_cause(episode, known_signals, first), first)
        for episode in find_episodes(known_signals, history)
    ]


def _to_events(part: pa.Table) -> pa.Table:
    """Return clicks with the columns that sketches read."""
    columns = {
        "type": pa.array(["click"] * part.num_rows),
        "agent": pa.array(["person"] * part.num_rows),
        "device": part["device_group"].cast(pa.string()),
        "item_id": part["article_id"].cast(pa.string()),
        "session_id": part["session_id"].cast(pa.string()),
        "user_id": part["user_id"].cast(pa.string()),
    }
    empty = pa.nulls(part.num_rows, pa.string())
    return pa.table({name: columns.get(name, empty) for name in EVENT_COLUMNS})


def _describe_episode(episode: Episode, cause: Cause, first: int) -> dict[str, Any]:
    return {
        "since": to_iso(first + episode.start * HOUR)[:16] + "Z",
        "until": to_iso(first + episode.stop * HOUR)[:16] + "Z",
        "compared_with": episode.compared_with,
        "cause": cause.name,
        "evidence": cause.evidence,
        "moved": {one.name: round(one.distance, 3) for one in episode.moved[:5]},
    }
