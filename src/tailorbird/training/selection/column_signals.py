"""Signals of the value of each column: gains, permutation importance, and time saved without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.events import DAY
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.training.dataset.request_choice import RowSource
from tailorbird.training.fit.resume import UnfinishedRun
from tailorbird.training.report.serving_cost import (
    ColumnCost,
    count_request_bytes,
    drop_declarations,
    measure_read_us,
)
from tailorbird.training.selection.importance import Permuter, build_gain_fits, measure_request_ndcg
from tailorbird.training.selection.information import ColumnInformation
from tailorbird.training.selection.redundancy import Clusters
from tailorbird.training.selection.signal_rows import SignalParts
from tailorbird.training.selection.stability import Stability
from tailorbird.training.selection.subset import (
    SEED_COUNT,
    Interval,
    ModelComparer,
    Subset,
    bootstrap_people,
)
from tailorbird.training.selection.verdicts import Signal
from tailorbird.training.settings import Progress, TrainSettings, check_seed

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RankSettings:
    """Settings for ranking columns.

    Attributes:
        window_us, lateness_us, rows: as in `TrainSettings`.
        requests: maximum of the training part, and of requests with a positive in each later part.
        repeats: permutations of each column for each model.
        fits, nulls: small models with real labels, and with shuffled labels.
        tolerance: loss that a redundant or unstable column may cost on the selection part.
    """

    window_us: int = TrainSettings.window_us
    lateness_us: int = DAY
    rows: RowSource = "auto"
    requests: int = 6_000
    repeats: int = 2
    fits: int = 3
    nulls: int = 20
    tolerance: float = 0.002
    seed: int = 7
    gbdt: GbdtSettings = field(
        default_factory=lambda: GbdtSettings(trees=150, rate=0.08, patience=15)
    )

    def __post_init__(self) -> None:
        check_seed(self.seed)


def measure_permutation_importances(
    model_comparer: ModelComparer,
    trusted_columns: Sequence[int],
    is_request_level: Bools,
    clusters: Clusters,
    settings: RankSettings,
    unfinished_run: UnfinishedRun,
    progress: Progress,
) -> tuple[list[Interval], list[Interval]]:
    """Measure the importance of columns that leak nothing, and of clusters.

    Both are measured on the selection part.
    """
    parts = model_comparer.parts
    rows = parts.selection.take(parts.selection.has_both_classes)
    trusted_set = set(trusted_columns)
    column_groups = [[index] for index in trusted_columns] + [
        [index for index in column_group if index in trusted_set]
        for column_group in clusters.groups()
    ]
    drop_by_group = [np.zeros(rows.request_count) for _ in column_groups]
    progress("permute", 0, SEED_COUNT * len(column_groups))
    for seed_number in range(SEED_COUNT):
        model = model_comparer.fit_model(
            [parts.column_names[index] for index in trusted_columns], settings.seed + seed_number
        )
        permuter = Permuter(
            model,
            trusted_columns,
            rows,
            is_request_level,
            settings.repeats,
            settings.seed + seed_number,
        )
        unpermuted_ndcg = measure_request_ndcg(
            model, np.ascontiguousarray(rows.matrix[:, trusted_columns]), rows
        )
        for group_index, column_group in enumerate(column_groups):
            drop_by_group[group_index] += (
                unfinished_run.load_or_compute(
                    f"permute {seed_number} {column_group}",
                    partial(permuter.measure_loss, column_group, unpermuted_ndcg),
                )
                / SEED_COUNT
            )
            progress(
                "permute",
                seed_number * len(column_groups) + group_index + 1,
                SEED_COUNT * len(column_groups),
            )
    intervals = bootstrap_people(rows, settings.seed).means(drop_by_group)
    return intervals[: len(trusted_columns)], intervals[len(trusted_columns) :]


def fit_gains(
    parts: SignalParts,
    trusted_columns: Sequence[int],
    settings: RankSettings,
    unfinished_run: UnfinishedRun,
    progress: Progress,
) -> tuple[Floats, Floats]:
    """Fit small models; return the gain per column, and with shuffled labels (nulls, columns)."""
    sample = parts.train.sample(trusted_columns)
    names = [parts.column_names[index] for index in trusted_columns]
    real_fits, null_fits = build_gain_fits(
        sample,
        parts.train.request_index,
        names,
        real_count=settings.fits,
        null_count=settings.nulls,
        seed=settings.seed,
    )
    gains = []
    for fit_number, fit in enumerate([*real_fits, *null_fits]):
        progress("null fits", fit_number, len(real_fits) + len(null_fits))
        gains.append(unfinished_run.load_or_compute(f"gain {fit_number}", fit))
    progress("null fits", len(gains), len(gains))
    return np.mean(gains[: len(real_fits)], axis=0), np.stack(gains[len(real_fits) :])


def build_signals(
    features: FeatureSet,
    parts: SignalParts,
    *,
    is_request_level: Bools,
    information_by_column: Sequence[ColumnInformation],
    stability: Stability,
    clusters: Clusters,
    importances: Sequence[Interval],
    cluster_importances: Sequence[Interval],
    trusted_columns: Sequence[int],
    gains: Floats,
    null_gains: Floats,
    column_costs: Mapping[str, ColumnCost],
) -> list[Signal]:
    """Build a signal without verdict for each column of the matrix, in its order."""
    location_by_declaration = {
        declaration.name: declaration.location
        for declaration in (*features.features, *features.similarities)
    }
    declaration_by_column = {
        column.name: (column.kind, column.entity, location_by_declaration[column.name])
        for column in features.columns
    }
    groups = clusters.groups()
    cluster_by_column = {
        member: cluster_number for cluster_number, group in enumerate(groups, 1) for member in group
    }
    unknown_importance = Interval(float("nan"), float("nan"), float("nan"))
    null_spread = null_gains.std(axis=0, ddof=1)
    null_z = np.divide(
        gains - null_gains.mean(axis=0),
        null_spread,
        out=np.zeros_like(gains),
        where=null_spread > 0,
    )
    # Where chance gives next to nothing, a small gain is no proof.
    is_above_nulls = (gains > null_gains.max(axis=0)) & (gains > np.median(null_gains.mean(axis=0)))
    gain_shares = gains / max(gains.sum(), 1e-12)
    trusted_position_by_column = {
        member: trusted_position for trusted_position, member in enumerate(trusted_columns)
    }
    signals = []
    for column_index, name in enumerate(parts.column_names):
        kind, entity, location = declaration_by_column.get(name, ("computed", "", ""))
        cost = column_costs.get(name, ColumnCost(0, 0, float("nan")))
        trusted_position = trusted_position_by_column.get(column_index)
        signals.append(
            Signal(
                name=name,
                kind=kind,
                entity=entity,
                location=location,
                is_request_level=bool(is_request_level[column_index]),
                importance=unknown_importance
                if trusted_position is None
                else importances[trusted_position],
                gain=0.0 if trusted_position is None else float(gain_shares[trusted_position]),
                null_z=0.0 if trusted_position is None else float(null_z[trusted_position]),
                above_nulls=trusted_position is not None and bool(is_above_nulls[trusted_position]),
                bits=information_by_column[column_index].bits,
                bits_z=information_by_column[column_index].z,
                drift=float(stability.worst_drift[column_index]),
                period_drifts=tuple(float(value) for value in stability.drift[column_index]),
                missing=float(stability.missing_shares[column_index]),
                record_bytes=cost.record_bytes,
                request_bytes=cost.request_bytes,
                finish_us=cost.finish_us,
                cluster=cluster_by_column.get(column_index, 0),
                cluster_importance=cluster_importances[cluster_by_column[column_index] - 1]
                if column_index in cluster_by_column
                else None,
            )
        )
    return signals


def measure_savings(
    features: FeatureSet, subset: Subset, lake: Lake, event_types: Sequence[str]
) -> dict[str, Any]:
    """Measure bytes and time of a request with all declarations, and with the remaining ones."""
    declared_names = {feature.name for feature in (*features.features, *features.similarities)}
    removed_names = [name for name in subset.removed_columns if name in declared_names]
    if not removed_names or len(removed_names) == len(declared_names):
        return {
            "request_bytes": count_request_bytes(features),
            "declarations_to_remove": [],
            "declarations_that_others_need": [],
        }
    reduced_features, still_needed = drop_declarations(features, removed_names, event_types)
    full_us, reduced_us = measure_read_us([features, reduced_features], lake)
    return {
        "request_bytes": count_request_bytes(features),
        "request_bytes_subset": count_request_bytes(reduced_features),
        "read_us": round(full_us, 1),
        "read_us_subset": round(reduced_us, 1),
        "declarations_to_remove": [name for name in removed_names if name not in still_needed],
        "declarations_that_others_need": list(still_needed),
    }
