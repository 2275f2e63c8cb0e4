"""Feature selection: leaks → models → value of each column → proposed subset → its loss.

Steps: rows of four parts in `training.selection.signal_rows`; permutation and null importance in
`training.selection.importance`; mutual information and leaks in `training.selection.information`;
clusters in `training.selection.redundancy`; drift in `training.selection.stability`; bytes and time
in `training.report.serving_cost`; verdicts, the subset and its loss in `training.selection.subset`;
charts and the page in `training.selection.signals_page`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.events import Clock, to_iso
from tailorbird.events.contract.plan import EVENT_TYPES
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.platform.frames import Frame
from tailorbird.ranking.slot import Slot
from tailorbird.storage_paths import StoragePath
from tailorbird.training.evaluation.figures import PRIMARY_METRIC
from tailorbird.training.fit.resume import UNFINISHED_FOLDER, UnfinishedRun, hold_exclusive
from tailorbird.training.report.serving_cost import measure_costs
from tailorbird.training.selection.column_signals import (
    RankSettings,
    build_signals,
    fit_gains,
    measure_permutation_importances,
    measure_savings,
)
from tailorbird.training.selection.information import find_leaks, measure_information
from tailorbird.training.selection.redundancy import Clusters, find_clusters
from tailorbird.training.selection.signal_rows import SignalParts, gather_signal_rows
from tailorbird.training.selection.stability import measure_stability
from tailorbird.training.selection.subset import ModelComparer, Subset, propose_subset
from tailorbird.training.selection.verdicts import LEAK, TOO_FEW_REQUESTS, Signal, assign_verdicts
from tailorbird.training.settings import Progress, TrainSettings


@dataclass(frozen=True, repr=False)
class SignalReport:
    """Report of a column ranking.

    Attributes:
        signals: columns, most important first.
        clusters: groups of redundant columns, which it numbers as `column_names`.
        period_starts: start of each drift period, microseconds.
        subset: the proposal; its `about` has bytes and time.
        notes: caveats.
    """

    target: str
    signals: tuple[Signal, ...]
    column_names: tuple[str, ...]
    clusters: Clusters
    period_starts: tuple[int, ...]
    subset: Subset
    about: dict[str, Any]
    notes: tuple[str, ...]

    def to_frame(self) -> Frame:
        """Return a row for each column, the most important first."""
        return Frame.from_rows(
            ["column", "importance", "low", "high", "drift", "missing", "is_kept", "verdict"],
            [
                (
                    signal.name,
                    signal.importance.value,
                    signal.importance.low,
                    signal.importance.high,
                    signal.drift,
                    signal.missing,
                    signal.kept,
                    signal.verdict,
                )
                for signal in self.signals
            ],
        )

    @property
    def _summary_line(self) -> str:
        return (
            f"{len(self.subset.kept_columns)} of {len(self.signals)} columns that predict {self.target} "
            "are proposed to stay"
        )

    def __repr__(self) -> str:
        return f"{self._summary_line}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._summary_line)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        ranking_fields = {
            "target": self.target,
            "figure": PRIMARY_METRIC,
            "signals": [signal.to_dict() for signal in self.signals],
        }
        detail_fields = {
            "periods": [to_iso(start) for start in self.period_starts],
            "subset": self.subset.to_dict(),
            "about": self.about,
        }
        return {**ranking_fields, **detail_fields, "notes": list(self.notes)}


def rank_signals(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: StoragePath,
    clock: Clock,
    out: Path,
    target: str = "",
    settings: RankSettings = RankSettings(),
    event_types: Sequence[str] = EVENT_TYPES,
    progress: Progress = lambda stage, done, total: None,
) -> SignalReport:
    """Rank columns by value and cost, and propose which to keep.

    Args:
        out: folder for intermediate results, so that an interrupted run can continue.
        target: head that columns should predict; by default the first of the slot's objective.
        event_types: all event types of the project.

    Raises:
        NotReadyError: the lake is empty, or the target happened in too few requests.
        UsageError: there is nothing to choose from.
        LockedError: another process ranks into the same folder.
    """
    target = target or next(iter(slot.objective))
    if target not in event_types:
        raise UsageError(
            f"{target!r} is no event type",
            where="--target",
            fix=f"use one of {', '.join(event_types)}",
        )
    fingerprint = {
        **asdict(settings),
        "schema": features.schema_hash,
        "slot": slot.name,
        "target": target,
        "lake": str(lake),
    }
    with hold_exclusive(
        out / f"{UNFINISHED_FOLDER}.lock", f"columns for slot {slot.name} are ranked"
    ):
        unfinished_run = UnfinishedRun(out / UNFINISHED_FOLDER, fingerprint, clock.now())
        try:
            parts = _load_parts(
                features, slot, target, Lake(lake), settings, unfinished_run, progress
            )
        except TailorbirdError:
            unfinished_run.discard()  # nothing to resume; the next run starts as of its own time
            raise
        report = rank_loaded_columns(
            parts,
            features,
            Lake(lake),
            unfinished_run,
            target,
            settings,
            event_types=event_types,
            progress=progress,
        )
        unfinished_run.discard()
    return report


def rank_loaded_columns(
    parts: SignalParts,
    features: FeatureSet,
    lake: Lake,
    unfinished_run: UnfinishedRun,
    target: str,
    settings: RankSettings = RankSettings(),
    *,
    event_types: Sequence[str] = EVENT_TYPES,
    progress: Progress = lambda stage, done, total: None,
) -> SignalReport:
    """Rank the columns of loaded rows; undeclared columns count as computed ones."""
    is_request_level = np.logical_and.reduce(
        [rows.mark_request_level_columns() for rows in (parts.train, parts.selection)]
    )
    categorical_indexes = [parts.column_names.index(name) for name in parts.categorical_names]
    progress("information", 0, 1)
    information_by_column = measure_information(
        parts.train, categorical_indexes, is_request_level, seed=settings.seed
    )
    leak_reasons = find_leaks(parts.column_names, parts.train, information_by_column)
    trusted_columns = [
        index for index, name in enumerate(parts.column_names) if name not in leak_reasons
    ]
    if len(trusted_columns) < 2:
        raise UsageError(
            "fewer than two columns are left to choose from",
            where="features.py",
            fix="declare more, or see what leaks",
        )
    clusters = find_clusters(parts.train.matrix, categorical_indexes, seed=settings.seed)
    stability = measure_stability(
        parts.train, parts.selection, categorical_indexes, is_request_level
    )
    progress("information", 1, 1)

    model_comparer = ModelComparer(
        parts, settings.gbdt, settings.seed, unfinished_run.load_or_compute
    )
    importances, cluster_importances = measure_permutation_importances(
        model_comparer,
        trusted_columns,
        is_request_level,
        clusters,
        settings,
        unfinished_run,
        progress,
    )
    gains, null_gains = fit_gains(parts, trusted_columns, settings, unfinished_run, progress)
    progress("cost", 0, 2)
    column_costs = measure_costs(features, event_types)
    signals = build_signals(
        features,
        parts,
        is_request_level=is_request_level,
        information_by_column=information_by_column,
        stability=stability,
        clusters=clusters,
        importances=importances,
        cluster_importances=cluster_importances,
        trusted_columns=trusted_columns,
        gains=gains,
        null_gains=null_gains,
        column_costs=column_costs,
    )
    signals = assign_verdicts(signals, leak_reasons, int(parts.selection.has_both_classes.sum()))
    subset, signals = propose_subset(
        model_comparer,
        signals,
        settings.tolerance,
        progress=lambda done, total: progress("subset", done, total),
    )
    progress("cost", 1, 2)
    subset = replace(subset, about=measure_savings(features, subset, lake, event_types))
    progress("cost", 2, 2)
    ranked_signals = sorted(
        signals,
        key=lambda signal: (
            signal.verdict == LEAK,
            -np.nan_to_num(signal.importance.value),
            -signal.bits,
        ),
    )
    about = parts.about | {
        "schema_hash": features.schema_hash,
        "as_of": to_iso(unfinished_run.started_at),
        "seed": settings.seed,
    }
    notes = _list_notes(
        parts,
        leak_reasons,
        features,
        [signal.name for signal in signals if signal.verdict == TOO_FEW_REQUESTS],
    )
    return SignalReport(
        target,
        tuple(ranked_signals),
        parts.column_names,
        clusters,
        stability.period_starts,
        subset,
        about,
        notes,
    )


def _load_parts(
    features: FeatureSet,
    slot: Slot,
    target: str,
    lake: Lake,
    settings: RankSettings,
    unfinished_run: UnfinishedRun,
    progress: Progress,
) -> SignalParts:
    """Load the rows of an interrupted run, or gather them."""

    def gather_arrays() -> Mapping[str, npt.NDArray]:
        train_settings = TrainSettings(
            window_us=settings.window_us,
            lateness_us=settings.lateness_us,
            rows=settings.rows,
            requests=settings.requests,
            test_requests=settings.requests,
            seed=settings.seed,
        )
        gathered_parts = gather_signal_rows(
            features,
            slot,
            target,
            lake,
            unfinished_run.started_at,
            train_settings,
            progress=progress,
        )
        header = msgspec.json.encode(
            [gathered_parts.column_names, gathered_parts.categorical_names, gathered_parts.about]
        )
        return {**gathered_parts.to_arrays(), "head": np.frombuffer(header, np.uint8)}

    arrays = unfinished_run.load_or_compute_arrays("rows", gather_arrays)
    column_names, categorical_names, about = msgspec.json.decode(arrays.pop("head").tobytes())
    parts = [
        SignalParts.load_part(arrays, part) for part in ("train", "validation", "selection", "test")
    ]
    return SignalParts(tuple(column_names), tuple(categorical_names), *parts, about=about)


def _list_notes(
    parts: SignalParts,
    leak_reasons: Mapping[str, str],
    features: FeatureSet,
    undecided_names: Sequence[str],
) -> tuple[str, ...]:
    notes = [parts.about["source"]]
    if undecided_names:
        notes.append(
            f"too few requests to decide on {len(undecided_names)} of "
            f"{len(parts.column_names)} columns, "
            "which stay: more data, or a longer window"
        )
    notes += [
        f"{name} is too good: leak? {why}; no model here saw it"
        for name, why in leak_reasons.items()
    ]
    if features.transforms:
        notes.append("columns are ranked as they are read; no transform was applied")
    if features.sequences:
        notes.append(
            f"sequences ({', '.join(features.sequences)}) are no columns; the computed ones "
            "are made from the first"
        )
    return tuple(notes)
