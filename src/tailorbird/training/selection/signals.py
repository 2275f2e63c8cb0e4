"""Feature selection: leaks → models → value of each column → proposed subset → its loss.

Steps: rows of four parts in `training.selection.signal_rows`; permutation and null importance in
`training.selection.importance`; mutual information and leaks in `training.selection.information`;
clusters in `training.selection.redundancy`; drift in `training.selection.stability`; bytes and time
in `training.report.serving_cost`; verdicts, the subset and its loss in `training.selection.subset`;
charts and the page in `training.selection.signals_page`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.events import DAY, Clock, to_iso
from tailorbird.events.contract.plan import EVENT_TYPES
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.ranking.slot import Slot
from tailorbird.storage_paths import Storage
from tailorbird.training.dataset.rows import Rows
from tailorbird.training.evaluation.judge import PRIMARY
from tailorbird.training.fit.resume import UNFINISHED_FOLDER, UnfinishedRun, exclusive
from tailorbird.training.report.serving_cost import (
    Cost,
    count_request_bytes,
    drop_declarations,
    measure_costs,
    measure_read_us,
)
from tailorbird.training.selection.importance import Permuter, gain_fits, quality
from tailorbird.training.selection.information import (
    ColumnInformation,
    find_leaks,
    measure_information,
)
from tailorbird.training.selection.redundancy import Clusters, find_clusters
from tailorbird.training.selection.signal_rows import SignalParts, gather_signal_rows
from tailorbird.training.selection.stability import Stability, measure_stability
from tailorbird.training.selection.subset import (
    LEAK,
    SEEDS,
    UNDECIDED,
    Interval,
    ModelComparison,
    Signal,
    Subset,
    assign_verdicts,
    bootstrap_people,
    propose_subset,
)
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
        tolerance: loss that a redundant or unstable column may cost on the part to choose on.
    """

    window_us: int = 28 * DAY
    lateness_us: int = DAY
    rows: Rows = "auto"
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


@dataclass(frozen=True)
class SignalReport:
    """Report of a column ranking.

    Attributes:
        signals: columns, most important first.
        clusters, columns: result of `training.selection.redundancy`, and the columns that it
        numbers. periods: start of each drift period, microseconds.
        subset: the proposal; its `about` has bytes and time.
        notes: caveats.
    """

    target: str
    signals: tuple[Signal, ...]
    columns: tuple[str, ...]
    clusters: Clusters
    periods: tuple[int, ...]
    subset: Subset
    about: dict[str, Any]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        ranking = {
            "target": self.target,
            "figure": PRIMARY,
            "signals": [signal.to_dict() for signal in self.signals],
        }
        details = {
            "periods": [to_iso(period) for period in self.periods],
            "subset": self.subset.to_dict(),
            "about": self.about,
        }
        return {**ranking, **details, "notes": list(self.notes)}


def rank_signals(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: Storage,
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
    with exclusive(out / f"{UNFINISHED_FOLDER}.lock", f"columns for slot {slot.name} are ranked"):
        unfinished = UnfinishedRun(out / UNFINISHED_FOLDER, fingerprint, clock.now())
        try:
            parts = _load_parts(features, slot, target, Lake(lake), settings, unfinished, progress)
        except TailorbirdError:
            unfinished.discard()  # nothing to resume; the next run starts as of its own time
            raise
        report = rank_parts(
            parts,
            features,
            Lake(lake),
            unfinished,
            target,
            settings,
            event_types=event_types,
            progress=progress,
        )
        unfinished.discard()
    return report


def rank_parts(
    parts: SignalParts,
    features: FeatureSet,
    lake: Lake,
    unfinished: UnfinishedRun,
    target: str,
    settings: RankSettings = RankSettings(),
    *,
    event_types: Sequence[str] = EVENT_TYPES,
    progress: Progress = lambda stage, done, total: None,
) -> SignalReport:
    """Rank the columns of loaded rows; undeclared columns count as computed ones."""
    of_request = np.logical_and.reduce(
        [rows.request_level_columns() for rows in (parts.train, parts.choose)]
    )
    categorical = [parts.names.index(name) for name in parts.categorical]
    progress("information", 0, 1)
    information = measure_information(parts.train, categorical, of_request, seed=settings.seed)
    leaking = find_leaks(parts.names, parts.train, information)
    honest = [index for index, name in enumerate(parts.names) if name not in leaking]
    if len(honest) < 2:
        raise UsageError(
            "fewer than two columns are left to choose from",
            where="features.py",
            fix="declare more, or see what leaks",
        )
    clusters = find_clusters(parts.train.matrix, categorical, seed=settings.seed)
    drift = measure_stability(parts.train, parts.choose, categorical, of_request)
    progress("information", 1, 1)

    comparison = ModelComparison(parts, settings.gbdt, settings.seed, unfinished.array)
    importances, cluster_importances = _permutation_importances(
        comparison, honest, of_request, clusters, settings, unfinished, progress
    )
    gains, null_gains = _fit_gains(parts, honest, settings, unfinished, progress)
    progress("cost", 0, 2)
    column_costs = measure_costs(features, event_types)
    signals = _build_signals(
        features,
        parts,
        of_request,
        information,
        drift,
        clusters,
        importances,
        cluster_importances,
        honest,
        gains,
        null_gains,
        column_costs,
    )
    signals = assign_verdicts(signals, leaking, int(parts.choose.has_both_classes.sum()))
    subset, signals = propose_subset(
        comparison,
        signals,
        settings.tolerance,
        progress=lambda done, total: progress("subset", done, total),
    )
    progress("cost", 1, 2)
    subset = replace(subset, about=_measure_savings(features, subset, lake, event_types))
    progress("cost", 2, 2)
    ordered = sorted(
        signals,
        key=lambda signal: (
            signal.verdict == LEAK,
            -np.nan_to_num(signal.importance.value),
            -signal.bits,
        ),
    )
    about = parts.about | {
        "schema_hash": features.schema_hash,
        "as_of": to_iso(unfinished.started_at),
        "seed": settings.seed,
    }
    notes = _notes(
        parts, leaking, features, [signal.name for signal in signals if signal.verdict == UNDECIDED]
    )
    return SignalReport(
        target, tuple(ordered), parts.names, clusters, drift.periods, subset, about, notes
    )


def _load_parts(
    features: FeatureSet,
    slot: Slot,
    target: str,
    lake: Lake,
    settings: RankSettings,
    unfinished: UnfinishedRun,
    progress: Progress,
) -> SignalParts:
    """Load the rows of an interrupted run, or gather them."""

    def make() -> Mapping[str, npt.NDArray]:
        trained = TrainSettings(
            window_us=settings.window_us,
            lateness_us=settings.lateness_us,
            rows=settings.rows,
            requests=settings.requests,
            test_requests=settings.requests,
            seed=settings.seed,
        )
        gathered = gather_signal_rows(
            features, slot, target, lake, unfinished.started_at, trained, progress=progress
        )
        head = msgspec.json.encode([gathered.names, gathered.categorical, gathered.about])
        return {**gathered.arrays(), "head": np.frombuffer(head, np.uint8)}

    arrays = unfinished.arrays("ground", make)
    names, categorical, about = msgspec.json.decode(arrays.pop("head").tobytes())
    parts = [SignalParts.load_part(arrays, part) for part in ("train", "watch", "choose", "judge")]
    return SignalParts(tuple(names), tuple(categorical), *parts, about=about)


def _permutation_importances(
    comparison: ModelComparison,
    honest: Sequence[int],
    of_request: Bools,
    clusters: Clusters,
    settings: RankSettings,
    unfinished: UnfinishedRun,
    progress: Progress,
) -> tuple[list[Interval], list[Interval]]:
    """Measure the importance of each honest column and each cluster on the part to choose on."""
    parts = comparison.parts
    rows = parts.choose.take(parts.choose.has_both_classes)
    honest_columns = set(honest)
    groups = [[index] for index in honest] + [
        [index for index in group if index in honest_columns] for group in clusters.groups()
    ]
    drops = [np.zeros(rows.requests) for _ in groups]
    progress("permute", 0, SEEDS * len(groups))
    for number in range(SEEDS):
        model = comparison.model([parts.names[index] for index in honest], settings.seed + number)
        permuter = Permuter(
            model, honest, rows, of_request, settings.repeats, settings.seed + number
        )
        baseline = quality(model, np.ascontiguousarray(rows.matrix[:, honest]), rows)
        for done, group in enumerate(groups):
            drops[done] += (
                unfinished.array(
                    f"permute {number} {group}", partial(permuter.loss, group, baseline)
                )
                / SEEDS
            )
            progress("permute", number * len(groups) + done + 1, SEEDS * len(groups))
    intervals = bootstrap_people(rows, settings.seed).means(drops)
    return intervals[: len(honest)], intervals[len(honest) :]


def _fit_gains(
    parts: SignalParts,
    honest: Sequence[int],
    settings: RankSettings,
    unfinished: UnfinishedRun,
    progress: Progress,
) -> tuple[Floats, Floats]:
    """Fit small models; return the gain per column, and with shuffled labels (nulls, columns)."""
    sample = parts.train.sample(honest)
    names = [parts.names[index] for index in honest]
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


def _build_signals(
    features: FeatureSet,
    parts: SignalParts,
    of_request: Bools,
    information: Sequence[ColumnInformation],
    drift: Stability,
    clusters: Clusters,
    importances: Sequence[Interval],
    cluster_importances: Sequence[Interval],
    honest: Sequence[int],
    gain: Floats,
    null: Floats,
    column_costs: Mapping[str, Cost],
) -> list[Signal]:
    """Build a signal without verdict for each column of the matrix, in its order."""
    declared_places = {
        declaration.name: declaration.place
        for declaration in (*features.features, *features.similarities)
    }
    declared = {
        column.name: (column.kind, column.entity, declared_places[column.name])
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
    honest_index = {index: number for number, index in enumerate(honest)}
    signals = []
    for place, name in enumerate(parts.names):
        kind, entity, declared_at = declared.get(name, ("computed", "", ""))
        cost = column_costs.get(name, Cost(0, 0, float("nan")))
        number = honest_index.get(place)
        signals.append(
            Signal(
                name=name,
                kind=kind,
                entity=entity,
                place=declared_at,
                of_request=bool(of_request[place]),
                importance=unknown if number is None else importances[number],
                gain=0.0 if number is None else float(share[number]),
                null_z=0.0 if number is None else float(z[number]),
                above_nulls=number is not None and bool(is_above_nulls[number]),
                bits=information[place].bits,
                bits_z=information[place].z,
                drift=float(drift.worst[place]),
                drifts=tuple(float(value) for value in drift.drift[place]),
                missing=float(drift.missing[place]),
                record_bytes=cost.record_bytes,
                request_bytes=cost.request_bytes,
                finish_us=cost.finish_us,
                cluster=cluster.get(place, 0),
                together=cluster_importances[cluster[place] - 1] if place in cluster else None,
            )
        )
    return signals


def _measure_savings(
    features: FeatureSet, subset: Subset, lake: Lake, event_types: Sequence[str]
) -> dict[str, Any]:
    """Measure bytes and time of a request with all declarations, and with the remaining ones."""
    declared = {feature.name for feature in (*features.features, *features.similarities)}
    removed = [name for name in subset.remove if name in declared]
    if not removed or len(removed) == len(declared):
        return {
            "request_bytes": count_request_bytes(features),
            "declarations_to_remove": [],
            "declarations_that_others_need": [],
        }
    fewer, still_needed = drop_declarations(features, removed, event_types)
    before, after = measure_read_us([features, fewer], lake)
    return {
        "request_bytes": count_request_bytes(features),
        "request_bytes_subset": count_request_bytes(fewer),
        "read_us": round(before, 1),
        "read_us_subset": round(after, 1),
        "declarations_to_remove": [name for name in removed if name not in still_needed],
        "declarations_that_others_need": list(still_needed),
    }


def _notes(
    parts: SignalParts, leaking: Mapping[str, str], features: FeatureSet, undecided: Sequence[str]
) -> tuple[str, ...]:
    notes = [parts.about["source"]]
    if undecided:
        notes.append(
            f"too few requests to decide on {len(undecided)} of {len(parts.names)} columns, "
            "which stay: more data, or a longer window"
        )
    notes += [
        f"{name} is too good: leak? {why}; no model here saw it" for name, why in leaking.items()
    ]
    if features.transforms:
        notes.append("columns are ranked as they are read; no transform was applied")
    if features.sequences:
        notes.append(
            f"sequences ({', '.join(features.sequences)}) are no columns; the computed ones "
            "are made from the first"
        )
    return tuple(notes)
