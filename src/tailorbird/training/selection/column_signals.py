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
    Cost,
    count_request_bytes,
    drop_declarations,
    measure_read_us,
)
from tailorbird.training.selection.importance import Permuter, gain_fits, request_quality
from tailorbird.training.selection.information import ColumnInformation
from tailorbird.training.selection.redundancy import Clusters
from tailorbird.training.selection.signal_rows import SignalParts
from tailorbird.training.selection.stability import Stability
from tailorbird.training.selection.subset import (
    SEEDS,
    Interval,
    ModelComparison,
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


def permutation_importances(
    comparison: ModelComparison,
    trusted_columns: Sequence[int],
    is_request_level: Bools,
    clusters: Clusters,
    settings: RankSettings,
    unfinished: UnfinishedRun,
    progress: Progress,
) -> tuple[list[Interval], list[Interval]]:
    """Measure the importance of each column that leaks nothing, and of each cluster, on the selection part."""
    parts = comparison.parts
    rows = parts.selection.take(parts.selection.has_both_classes)
    trusted_set = set(trusted_columns)
    groups = [[index] for index in trusted_columns] + [
        [index for index in group if index in trusted_set] for group in clusters.groups()
    ]
    drops = [np.zeros(rows.requests) for _ in groups]
    progress("permute", 0, SEEDS * len(groups))
    for number in range(SEEDS):
        model = comparison.fit_model(
            [parts.names[index] for index in trusted_columns], settings.seed + number
        )
        permuter = Permuter(
            model, trusted_columns, rows, is_request_level, settings.repeats, settings.seed + number
        )
        baseline = request_quality(
            model, np.ascontiguousarray(rows.matrix[:, trusted_columns]), rows
        )
        for done, group in enumerate(groups):
            drops[done] += (
                unfinished.array(
                    f"permute {number} {group}", partial(permuter.loss, group, baseline)
                )
                / SEEDS
            )
            progress("permute", number * len(groups) + done + 1, SEEDS * len(groups))
    intervals = bootstrap_people(rows, settings.seed).means(drops)
    return intervals[: len(trusted_columns)], intervals[len(trusted_columns) :]


def fit_gains(
    parts: SignalParts,
    trusted_columns: Sequence[int],
    settings: RankSettings,
    unfinished: UnfinishedRun,
    progress: Progress,
) -> tuple[Floats, Floats]:
    """Fit small models; return the gain per column, and with shuffled labels (nulls, columns)."""
    sample = parts.train.sample(trusted_columns)
    names = [parts.names[index] for index in trusted_columns]
    real, null = gain_fits(
        sample,
        parts.train.request,
        names,
        real=settings.fits,
        nulls=settings.nulls,
        seed=settings.seed,
    )
    gains = []
    for number, fit in enumerate([*real, *null]):
        progress("null fits", number, len(real) + len(null))
        gains.append(unfinished.array(f"gain {number}", fit))
    progress("null fits", len(gains), len(gains))
    return np.mean(gains[: len(real)], axis=0), np.stack(gains[len(real) :])


def build_signals(
    features: FeatureSet,
    parts: SignalParts,
    is_request_level: Bools,
    information: Sequence[ColumnInformation],
    stability: Stability,
    clusters: Clusters,
    importances: Sequence[Interval],
    cluster_importances: Sequence[Interval],
    trusted_columns: Sequence[int],
    gain: Floats,
    null: Floats,
    column_costs: Mapping[str, Cost],
) -> list[Signal]:
    """Build a signal without verdict for each column of the matrix, in its order."""
    declared_locations = {
        declaration.name: declaration.location
        for declaration in (*features.features, *features.similarities)
    }
    declared_columns = {
        column.name: (column.kind, column.entity, declared_locations[column.name])
        for column in features.columns
    }
    groups = clusters.groups()
    cluster = {index: number for number, group in enumerate(groups, 1) for index in group}
    unknown = Interval(float("nan"), float("nan"), float("nan"))
    spread = null.std(axis=0, ddof=1)
    z = np.divide(gain - null.mean(axis=0), spread, out=np.zeros_like(gain), where=spread > 0)
    # Where chance gives next to nothing, a small gain is no proof.
    is_above_nulls = (gain > null.max(axis=0)) & (gain > np.median(null.mean(axis=0)))
    share = gain / max(gain.sum(), 1e-12)
    trusted_index = {index: number for number, index in enumerate(trusted_columns)}
    signals = []
    for position, name in enumerate(parts.names):
        kind, entity, location = declared_columns.get(name, ("computed", "", ""))
        cost = column_costs.get(name, Cost(0, 0, float("nan")))
        number = trusted_index.get(position)
        signals.append(
            Signal(
                name=name,
                kind=kind,
                entity=entity,
                location=location,
                is_request_level=bool(is_request_level[position]),
                importance=unknown if number is None else importances[number],
                gain=0.0 if number is None else float(share[number]),
                null_z=0.0 if number is None else float(z[number]),
                above_nulls=number is not None and bool(is_above_nulls[number]),
                bits=information[position].bits,
                bits_z=information[position].z,
                drift=float(stability.worst[position]),
                period_drifts=tuple(float(value) for value in stability.drift[position]),
                missing=float(stability.missing[position]),
                record_bytes=cost.record_bytes,
                request_bytes=cost.request_bytes,
                finish_us=cost.finish_us,
                cluster=cluster.get(position, 0),
                cluster_importance=cluster_importances[cluster[position] - 1]
                if position in cluster
                else None,
            )
        )
    return signals


def measure_savings(
    features: FeatureSet, subset: Subset, lake: Lake, event_types: Sequence[str]
) -> dict[str, Any]:
    """Measure bytes and time of a request with all declarations, and with the remaining ones."""
    declared_names = {feature.name for feature in (*features.features, *features.similarities)}
    removed = [name for name in subset.remove if name in declared_names]
    if not removed or len(removed) == len(declared_names):
        return {
            "request_bytes": count_request_bytes(features),
            "declarations_to_remove": [],
            "declarations_that_others_need": [],
        }
    reduced_features, still_needed = drop_declarations(features, removed, event_types)
    before, after = measure_read_us([features, reduced_features], lake)
    return {
        "request_bytes": count_request_bytes(features),
        "request_bytes_subset": count_request_bytes(reduced_features),
        "read_us": round(before, 1),
        "read_us_subset": round(after, 1),
        "declarations_to_remove": [name for name in removed if name not in still_needed],
        "declarations_that_others_need": list(still_needed),
    }
