"""Find leakage that makes metrics too good to be true: in columns, in profiles and in the log.

    target leakage   a column alone separates positives from negatives almost perfectly, or far
                     better than any other column
    lookahead        a value changes once events after the request are removed
    timeless         a value comes from a profile without a time, which is valid from the
                     beginning and may know the future
    backdated        an item's profile arrived later than the time that it is valid from, by
                     which indexes of past moments hold it; or a user's profile was imported
                     that may say what was only known at export
    repeated         the same person did the same with the same item again after exactly the
                     same time, many times

The first is a guess by size, the second a proof. The others are facts about the log for a person to
judge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, HOUR, SECOND, micros
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.interactions import Interactions
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.matrix import FeatureChunk, iterate_features
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.leakage.backdated import describe_backdated_profiles
from tailorbird.training.leakage.columns import count_changes, find_leakage

Matrix = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

CHECKED_REQUESTS = 12  # checked one by one
# Share and count of repeats with the same lag that cannot be chance.
REPEATED_SHARE_MAX = 0.01
REPEATS_MIN = 20
COARSE_SHARE_MIN = 0.1  # share of events at the same second of the hour: times are rounded

LEAK, REVIEW = "leak", "look"


@dataclass(frozen=True)
class Finding:
    """A suspected leak.

    Attributes:
        severity: `leak` if metrics cannot be trusted before it is fixed, `look` if a person has to
            judge.
        subject: a column, or the log.
        why: the evidence.
    """

    severity: str
    subject: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        return {"severity": self.severity, "what": self.subject, "why": self.why}


def find_target_leakage(
    names: Sequence[str], matrix: Matrix, label: npt.NDArray, head: str
) -> list[Finding]:
    """Return columns that alone predict a target suspiciously well."""
    leakage = find_leakage(names, matrix, label)
    findings = [Finding(LEAK, name, f"{why} for {head}") for name, why in leakage.leaks.items()]
    return findings + [
        Finding(LEAK, name, why) for name, why in leakage.describe_dominant(head).items()
    ]


def find_lookahead(
    training_data: TrainingData, data: Dataset, features: FeatureSet, *, seed: int = 0
) -> list[Finding]:
    """Return columns whose values change once later events or timeless profiles are removed.

    An event is later if it happened at or after the request's time, or if it was routed after the
    position at which the request's features were read.

    Args:
        data: rows of requests; a sample of the requests is checked.
    """
    events = training_data.events
    ts, p = micros(events["ts"]), events["p"].to_numpy()
    timeless = pc.fill_null(events["timeless"], False).to_numpy(zero_copy_only=False)
    rng = np.random.default_rng(seed)
    sampled_requests = np.sort(
        rng.choice(data.requests, min(data.requests, CHECKED_REQUESTS), replace=False)
    )
    changed_rows: dict[str, int] = {}
    rows = 0
    for index in sampled_requests:
        request = data.take(np.array([index]))
        is_visible = timeless | (
            (ts < request.t[0]) & (p <= request.p[0].max())
        )  # with several parts, the most advanced position counts
        full, truncated = (
            _compute_rows(request, features, known_events)
            for known_events in (events, events.filter(pa.array(is_visible)))
        )
        rows += request.rows
        for name, count in count_differences(full, truncated).items():
            changed_rows[name] = changed_rows.get(name, 0) + count
    findings = [
        Finding(
            LEAK,
            name,
            f"of {rows:,} rows {count:,} have another value once what came, or came in, "
            "after the request is taken away",
        )
        for name, count in changed_rows.items()
    ]
    if timeless.any():
        sample = data.take(sampled_requests)
        changed_without_profiles = count_differences(
            _compute_rows(sample, features, events),
            _compute_rows(sample, features, events.filter(pa.array(~timeless))),
        )
        why = (
            "have a value from a profile without a time, which is valid from the beginning: it "
            "must be one that was known all along"
        )
        findings += [
            Finding(REVIEW, name, f"of {rows:,} rows {count:,} {why}")
            for name, count in changed_without_profiles.items()
            if name not in changed_rows
        ]
    return findings


def _compute_rows(data: Dataset, features: FeatureSet, events: pa.Table) -> FeatureChunk:
    return next(iterate_features(data, features, events, rows_max=max(1, data.rows)))


def count_differences(expected: FeatureChunk, actual: FeatureChunk) -> dict[str, int]:
    """Return column or sequence → rows that differ in any bit; missing values are equal."""
    a, b = expected.rows, actual.rows
    counts = count_changes(a.numeric_names, a.numeric, b.numeric)
    counts |= count_changes(a.categorical_names, a.categorical, b.categorical)
    lengths = np.diff(expected.part.offsets)
    for name, sequence in expected.rows.sequences.items():
        other_sequence = actual.rows.sequences[name]
        changed = [
            request
            for request in range(len(lengths))
            if sequence.of(request).lists() != other_sequence.of(request).lists()
        ]
        counts[f"sequence {name}"] = int(lengths[changed].sum())
    return {name: count for name, count in counts.items() if count}


def find_backdated_items(training_data: TrainingData) -> list[Finding]:
    """Return a finding if item profiles arrived later than they are valid from.

    Indexes of past moments then hold what may not have been known.
    """
    items = training_data.items
    if "received_at" not in items.column_names or not items.num_rows:
        return []
    timed = items.filter(pc.invert(pc.fill_null(items["timeless"], False)))
    delay = micros(pc.coalesce(timed["received_at"], timed["valid_from"])) - micros(
        timed["valid_from"]
    )
    count = int(np.count_nonzero(delay > HOUR))
    if not count:
        return []
    summary = (
        f"{count:,} of {timed.num_rows:,} profiles with a time came in over an hour after it, "
        f"at most {delay.max() / DAY:,.1f} days"
    )
    why = (
        f"{summary}: columns of indexes know what they say from that time on, which must be "
        "something that was known then"
    )
    return [Finding(REVIEW, "items", why)]


def find_backdated_imports(lake: Lake, features: FeatureSet) -> list[Finding]:
    """Return findings on backdated profiles that features read."""
    return [
        Finding(REVIEW, subject, why)
        for subject, why in describe_backdated_profiles(lake, features)
    ]


def find_repeated_events(
    interactions_by_type: Mapping[str, Interactions], borders: Sequence[int]
) -> list[Finding]:
    """Return a finding if the log repeats events, so that held-out events were trained on.

    The usual cause is an import that ran twice with other times or ids. If many events share the
    same second of the hour, times are rounded to days or hours, and repeats whole hours apart mean
    nothing.

    Args:
        interactions_by_type: interactions by event type; a click and the view that it opened are no
            repeat.
        borders: moments between training and holdout parts.
    """
    repeats = [_repeat_lags(interaction) for interaction in interactions_by_type.values()]
    lag, event_rows = (
        np.concatenate([np.zeros(0, np.int64), *(repeat[index] for repeat in repeats)])
        for index in (0, 1)
    )
    is_coarse = _is_coarse_time(
        lag,
        event_rows,
        np.concatenate(
            [
                np.zeros(0, np.int64),
                *(interaction.ts for interaction in interactions_by_type.values()),
            ]
        ),
    )
    lag, event_rows = lag[~is_coarse], event_rows[~is_coarse]
    if not len(lag):
        return []
    values, counts = np.unique(lag, return_counts=True)
    most_frequent = int(np.argmax(counts))
    count, after = int(counts[most_frequent]), int(values[most_frequent])
    if count < REPEATS_MIN or count < REPEATED_SHARE_MAX * len(lag):
        return []
    earlier = event_rows[lag == after] - after
    crossing_count = sum(
        int(np.count_nonzero((earlier < border) & (earlier + after >= border)))
        for border in borders
    )
    when = "at the very same time" if after == 0 else f"exactly {after / SECOND:,.6g} s later"
    summary = (
        f"{count:,} times somebody did the same with the same item {when}: "
        f"{count / len(lag):.1%} of all that was done again"
    )
    border_note = (
        f"; {crossing_count:,} of them lie on both sides of a border between what is learned from "
        "and what is judged"
        if crossing_count
        else ""
    )
    return [Finding(LEAK if crossing_count else REVIEW, "the log", summary + border_note)]


def _repeat_lags(interactions: Interactions) -> tuple[Ints, Ints]:
    """Return the lag and time of each repeat of a person's action on an item."""
    rows = np.flatnonzero((interactions.person >= 0) & (interactions.item >= 0))
    order = rows[
        np.lexsort((interactions.ts[rows], interactions.item[rows], interactions.person[rows]))
    ]
    person, item, ts = interactions.person[order], interactions.item[order], interactions.ts[order]
    is_repeat = (person[1:] == person[:-1]) & (item[1:] == item[:-1])
    return (ts[1:] - ts[:-1])[is_repeat], ts[1:][is_repeat]


def _is_coarse_time(lag: Ints, event_rows: Ints, ts: Ints) -> npt.NDArray[np.bool_]:
    """Return which repeats are whole hours apart because times are rounded."""
    offsets_in_hour, counts = np.unique(ts % HOUR, return_counts=True)
    return (lag % HOUR == 0) & np.isin(
        event_rows % HOUR, offsets_in_hour[counts >= COARSE_SHARE_MIN * len(ts)]
    )


def findings_from_ranking(signals: Mapping[str, Any]) -> list[Finding]:
    """Return the columns that `features rank` flagged as leaking."""
    return [
        Finding(LEAK, signal["name"], f"`features rank` called it too good: {signal['why']}")
        for signal in signals.get("signals", ())
        if signal.get("verdict") == "too good: leak?"
    ]
