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
COMMON_LAG_SHARE_MIN = 0.01
REPEATS_MIN = 20
COARSE_SHARE_MIN = 0.1  # share of events at the same second of the hour: times are rounded

LEAK = "leak"
REVIEW = "look"


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
    column_names: Sequence[str], matrix: Matrix, labels: npt.NDArray, head: str
) -> list[Finding]:
    """Return columns that alone predict a target suspiciously well."""
    leakage = find_leakage(column_names, matrix, labels)
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
    ts = micros(events["ts"])
    log_position = events["p"].to_numpy()
    is_timeless = pc.fill_null(events["timeless"], False).to_numpy(zero_copy_only=False)
    rng = np.random.default_rng(seed)
    sampled_requests = np.sort(
        rng.choice(data.request_count, min(data.request_count, CHECKED_REQUESTS), replace=False)
    )
    changed_rows_by_column: dict[str, int] = {}
    row_count = 0
    for request_index in sampled_requests:
        request_data = data.take(np.array([request_index]))
        is_visible = is_timeless | (
            (ts < request_data.t[0]) & (log_position <= request_data.log_position[0].max())
        )  # with several workers, the most advanced position counts
        all_events_chunk, visible_events_chunk = (
            _compute_features(request_data, features, known_events)
            for known_events in (events, events.filter(pa.array(is_visible)))
        )
        row_count += request_data.row_count
        for name, count in count_differences(all_events_chunk, visible_events_chunk).items():
            changed_rows_by_column[name] = changed_rows_by_column.get(name, 0) + count
    findings = [
        Finding(
            LEAK,
            name,
            f"of {row_count:,} rows {count:,} have another value once what came, or came in, "
            "after the request is taken away",
        )
        for name, count in changed_rows_by_column.items()
    ]
    if is_timeless.any():
        sample = data.take(sampled_requests)
        changed_rows_without_profiles = count_differences(
            _compute_features(sample, features, events),
            _compute_features(sample, features, events.filter(pa.array(~is_timeless))),
        )
        why = (
            "have a value from a profile without a time, which is valid from the beginning: it "
            "must be one that was known all along"
        )
        findings += [
            Finding(REVIEW, name, f"of {row_count:,} rows {count:,} {why}")
            for name, count in changed_rows_without_profiles.items()
            if name not in changed_rows_by_column
        ]
    return findings


def _compute_features(data: Dataset, features: FeatureSet, events: pa.Table) -> FeatureChunk:
    return next(iterate_features(data, features, events, rows_max=max(1, data.row_count)))


def count_differences(expected: FeatureChunk, actual: FeatureChunk) -> dict[str, int]:
    """Return column or sequence → rows that differ in any bit; missing values are equal."""
    expected_rows = expected.rows
    actual_rows = actual.rows
    counts = count_changes(expected_rows.numeric_names, expected_rows.numeric, actual_rows.numeric)
    counts |= count_changes(
        expected_rows.categorical_names, expected_rows.categorical, actual_rows.categorical
    )
    request_lengths = np.diff(expected.data.offsets)
    for name, expected_sequence in expected.rows.sequences.items():
        actual_sequence = actual.rows.sequences[name]
        changed_requests = [
            request_index
            for request_index in range(len(request_lengths))
            if expected_sequence.of(request_index).to_lists()
            != actual_sequence.of(request_index).to_lists()
        ]
        counts[f"sequence {name}"] = int(request_lengths[changed_requests].sum())
    return {name: count for name, count in counts.items() if count}


def find_backdated_items(training_data: TrainingData) -> list[Finding]:
    """Return a finding if item profiles arrived later than they are valid from.

    Indexes of past moments then hold what may not have been known.
    """
    items = training_data.item_profiles
    if "received_at" not in items.column_names or not items.num_rows:
        return []
    timed_items = items.filter(pc.invert(pc.fill_null(items["timeless"], False)))
    delay_us = micros(pc.coalesce(timed_items["received_at"], timed_items["valid_from"])) - micros(
        timed_items["valid_from"]
    )
    late_count = int(np.count_nonzero(delay_us > HOUR))
    if not late_count:
        return []
    summary = (
        f"{late_count:,} of {timed_items.num_rows:,} profiles with a time came in "
        "over an hour after it, "
        f"at most {delay_us.max() / DAY:,.1f} days"
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
    interactions_by_type: Mapping[str, Interactions], split_borders: Sequence[int]
) -> list[Finding]:
    """Return a finding if the log repeats events, so that held-out events were trained on.

    The usual cause is an import that ran twice with other times or ids. If many events share the
    same second of the hour, times are rounded to days or hours, and repeats whole hours apart mean
    nothing.

    Args:
        interactions_by_type: interactions by event type; a click and the view that it opened are no
            repeat.
        split_borders: moments between training and holdout parts.
    """
    empty = np.zeros(0, np.int64)
    all_ts = [empty, *(interactions.ts for interactions in interactions_by_type.values())]
    repeats = [(empty, empty), *map(_measure_repeats, interactions_by_type.values())]
    lags, repeat_ts = map(np.concatenate, zip(*repeats, strict=True))
    is_coarse = _mark_coarse_lags(lags, repeat_ts, np.concatenate(all_ts))
    lags = lags[~is_coarse]
    repeat_ts = repeat_ts[~is_coarse]
    if not len(lags):
        return []
    distinct_lags, lag_counts = np.unique(lags, return_counts=True)
    most_common_index = int(np.argmax(lag_counts))
    common_lag_count = int(lag_counts[most_common_index])
    common_lag = int(distinct_lags[most_common_index])
    if common_lag_count < REPEATS_MIN or common_lag_count < COMMON_LAG_SHARE_MIN * len(lags):
        return []
    earlier_ts = repeat_ts[lags == common_lag] - common_lag
    crossing_count = sum(
        int(np.count_nonzero((earlier_ts < border) & (earlier_ts + common_lag >= border)))
        for border in split_borders
    )
    lag_text = (
        "at the very same time"
        if common_lag == 0
        else f"exactly {common_lag / SECOND:,.6g} s later"
    )
    summary = (
        f"{common_lag_count:,} times somebody did the same with the same item {lag_text}: "
        f"{common_lag_count / len(lags):.1%} of all that was done again"
    )
    border_note = (
        f"; {crossing_count:,} of them lie on both sides of a border between what is learned from "
        "and what is judged"
        if crossing_count
        else ""
    )
    return [Finding(LEAK if crossing_count else REVIEW, "the log", summary + border_note)]


def _measure_repeats(interactions: Interactions) -> tuple[Ints, Ints]:
    """Return the lag and time of each repeat of a person's action on an item."""
    known_rows = np.flatnonzero((interactions.person >= 0) & (interactions.item >= 0))
    sorted_rows = known_rows[
        np.lexsort(
            (
                interactions.ts[known_rows],
                interactions.item[known_rows],
                interactions.person[known_rows],
            )
        )
    ]
    person = interactions.person[sorted_rows]
    item = interactions.item[sorted_rows]
    ts = interactions.ts[sorted_rows]
    is_repeat = (person[1:] == person[:-1]) & (item[1:] == item[:-1])
    return (ts[1:] - ts[:-1])[is_repeat], ts[1:][is_repeat]


def _mark_coarse_lags(lags: Ints, repeat_ts: Ints, ts: Ints) -> npt.NDArray[np.bool_]:
    """Return which repeats are whole hours apart because times are rounded."""
    offsets_in_hour, offset_counts = np.unique(ts % HOUR, return_counts=True)
    return (lags % HOUR == 0) & np.isin(
        repeat_ts % HOUR, offsets_in_hour[offset_counts >= COARSE_SHARE_MIN * len(ts)]
    )


def findings_from_ranking(signals: Mapping[str, Any]) -> list[Finding]:
    """Return the columns that `features rank` flagged as leaking."""
    return [
        Finding(LEAK, signal["name"], f"`features rank` called it too good: {signal['why']}")
        for signal in signals.get("signals", ())
        if signal.get("verdict") == "too good: leak?"
    ]
