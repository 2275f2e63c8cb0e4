"""Signal selection, start to end: rows of four parts of the time → leaks → a model → what each
column is worth → a subset → its loss.

What each figure is made of: rows in `training.signal_rows`; permutation and null importance in
`training.importance`; mutual information and leaks in `training.information`; clusters in
`training.redundancy`; drift in `training.stability`; bytes and time in `training.serving_cost`;
verdicts, the subset and what it loses in `training.subset`; pictures and the page in
`training.signals_page`.
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
from tailorbird.events.plan import EVENT_TYPES
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.places import Place
from tailorbird.ranking.slot import Slot
from tailorbird.training.importance import Permuter, gain_fits, quality
from tailorbird.training.information import Told, leaks, told_by
from tailorbird.training.judge import PRIMARY
from tailorbird.training.redundancy import Clusters, find_clusters
from tailorbird.training.resuming import UNFINISHED, Unfinished, alone
from tailorbird.training.rows import Rows
from tailorbird.training.serving_cost import Cost, costs, read_us, request_bytes, without
from tailorbird.training.settings import Progress, TrainSettings, check_seed
from tailorbird.training.signal_rows import Ground, gather
from tailorbird.training.stability import Stability, stability
from tailorbird.training.subset import (
    LEAK,
    SEEDS,
    UNDECIDED,
    Contest,
    Interval,
    Signal,
    Subset,
    bootstrap_of,
    judged,
    propose,
)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RankSettings:
    """How columns are ranked.

    Attributes:
        window_us, lateness_us, rows: as in `TrainSettings`.
        requests: of the training part at most, and with something to find of each later part.
        repeats: permutations of each column for each of a few models. fits, nulls: small models
        with the labels as they are, and with shuffled ones.
        tolerance: how much of the judged figure a redundant or unstable column may cost where the
            subset is chosen.
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
    """What came of it.

    Attributes:
        signals: most important first.
        clusters, columns: as `training.redundancy` found them, and the columns they number.
        periods: when each period that drift was looked at begins.
        subset: what is proposed; its `about` has bytes and time.
        notes: what a reader must know.
    """

    target: str
    signals: tuple[Signal, ...]
    columns: tuple[str, ...]
    clusters: Clusters
    periods: tuple[int, ...]
    subset: Subset
    about: dict[str, Any]
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        told = {
            "target": self.target,
            "figure": PRIMARY,
            "signals": [one.plain() for one in self.signals],
        }
        more = {
            "periods": [to_iso(one) for one in self.periods],
            "subset": self.subset.plain(),
            "about": self.about,
        }
        return {**told, **more, "notes": list(self.notes)}


def rank_signals(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: Place,
    clock: Clock,
    out: Path,
    target: str = "",
    settings: RankSettings = RankSettings(),
    event_types: Sequence[str] = EVENT_TYPES,
    progress: Progress = lambda stage, done, total: None,
) -> SignalReport:
    """Say of each column what it is worth and what it costs, and propose which to keep.

    Args:
        out: what is found on the way is kept below it, so that a run that was cut short goes on.
        target: what columns should tell; the first of the slot's objective unless told otherwise.
        event_types: all that the project knows.

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
    asked = {
        **asdict(settings),
        "schema": features.schema_hash,
        "slot": slot.name,
        "target": target,
        "lake": str(lake),
    }
    with alone(out / f"{UNFINISHED}.lock", f"columns for slot {slot.name} are ranked"):
        unfinished = Unfinished(out / UNFINISHED, asked, clock.now())
        try:
            ground = _ground(features, slot, target, Lake(lake), settings, unfinished, progress)
        except TailorbirdError:
            unfinished.done()  # there is nothing to go on with, and the next try is of its own time
            raise
        found = rank_ground(
            ground,
            features,
            Lake(lake),
            unfinished,
            target,
            settings,
            event_types=event_types,
            progress=progress,
        )
        unfinished.done()
    return found


def rank_ground(
    ground: Ground,
    features: FeatureSet,
    lake: Lake,
    unfinished: Unfinished,
    target: str,
    settings: RankSettings = RankSettings(),
    *,
    event_types: Sequence[str] = EVENT_TYPES,
    progress: Progress = lambda stage, done, total: None,
) -> SignalReport:
    """The same for rows that are there already; columns that nobody declares are taken as computed
    ones.
    """
    of_request = np.logical_and.reduce(
        [rows.of_request() for rows in (ground.train, ground.choose)]
    )
    categorical = [ground.names.index(name) for name in ground.categorical]
    progress("information", 0, 1)
    told = told_by(ground.train, categorical, of_request, seed=settings.seed)
    leaking = leaks(ground.names, ground.train, told)
    honest = [place for place, name in enumerate(ground.names) if name not in leaking]
    if len(honest) < 2:
        raise UsageError(
            "fewer than two columns are left to choose from",
            where="features.py",
            fix="declare more, or see what leaks",
        )
    clusters = find_clusters(ground.train.matrix, categorical, seed=settings.seed)
    stable = stability(ground.train, ground.choose, categorical, of_request)
    progress("information", 1, 1)

    contest = Contest(ground, settings.gbdt, settings.seed, unfinished.array)
    lost, together = _permuted(
        contest, honest, of_request, clusters, settings, unfinished, progress
    )
    gain, null = _gains(ground, honest, settings, unfinished, progress)
    progress("cost", 0, 2)
    price = costs(features, event_types)
    signals = _signals(
        features,
        ground,
        of_request,
        told,
        stable,
        clusters,
        lost,
        together,
        honest,
        gain,
        null,
        price,
    )
    signals = judged(signals, leaking, int(ground.choose.found.sum()))
    subset, signals = propose(
        contest,
        signals,
        settings.tolerance,
        progress=lambda done, total: progress("subset", done, total),
    )
    progress("cost", 1, 2)
    subset = replace(subset, about=_saved(features, subset, lake, event_types))
    progress("cost", 2, 2)
    ordered = sorted(
        signals,
        key=lambda one: (one.verdict == LEAK, -np.nan_to_num(one.importance.value), -one.bits),
    )
    about = ground.about | {
        "schema_hash": features.schema_hash,
        "as_of": to_iso(unfinished.now),
        "seed": settings.seed,
    }
    notes = _notes(
        ground, leaking, features, [one.name for one in signals if one.verdict == UNDECIDED]
    )
    return SignalReport(
        target, tuple(ordered), ground.names, clusters, stable.periods, subset, about, notes
    )


def _ground(
    features: FeatureSet,
    slot: Slot,
    target: str,
    lake: Lake,
    settings: RankSettings,
    unfinished: Unfinished,
    progress: Progress,
) -> Ground:
    """The rows, as an earlier try left them or made anew."""

    def make() -> Mapping[str, npt.NDArray]:
        trained = TrainSettings(
            window_us=settings.window_us,
            lateness_us=settings.lateness_us,
            rows=settings.rows,
            requests=settings.requests,
            test_requests=settings.requests,
            seed=settings.seed,
        )
        made = gather(features, slot, target, lake, unfinished.now, trained, progress=progress)
        head = msgspec.json.encode([made.names, made.categorical, made.about])
        return {**made.arrays(), "head": np.frombuffer(head, np.uint8)}

    arrays = unfinished.arrays("ground", make)
    names, categorical, about = msgspec.json.decode(arrays.pop("head").tobytes())
    parts = [Ground.part(arrays, part) for part in ("train", "watch", "choose", "judge")]
    return Ground(tuple(names), tuple(categorical), *parts, about=about)


def _permuted(
    contest: Contest,
    honest: Sequence[int],
    of_request: Bools,
    clusters: Clusters,
    settings: RankSettings,
    unfinished: Unfinished,
    progress: Progress,
) -> tuple[list[Interval], list[Interval]]:
    """Importance of each honest column, and of each cluster as a whole, on the part that is chosen
    by.
    """
    ground = contest.ground
    rows = ground.choose.take(ground.choose.found)
    kept = set(honest)
    groups = [[place] for place in honest] + [
        [place for place in group if place in kept] for group in clusters.groups()
    ]
    drops = [np.zeros(rows.requests) for _ in groups]
    progress("permute", 0, SEEDS * len(groups))
    for number in range(SEEDS):
        model = contest.model([ground.names[place] for place in honest], settings.seed + number)
        permuter = Permuter(
            model, honest, rows, of_request, settings.repeats, settings.seed + number
        )
        whole = quality(model, np.ascontiguousarray(rows.matrix[:, honest]), rows)
        for done, group in enumerate(groups):
            drops[done] += (
                unfinished.array(f"permute {number} {group}", partial(permuter.loss, group, whole))
                / SEEDS
            )
            progress("permute", number * len(groups) + done + 1, SEEDS * len(groups))
    found = bootstrap_of(rows, settings.seed).means(drops)
    return found[: len(honest)], found[len(honest) :]


def _gains(
    ground: Ground,
    honest: Sequence[int],
    settings: RankSettings,
    unfinished: Unfinished,
    progress: Progress,
) -> tuple[Floats, Floats]:
    """Gain of each honest column, shape (columns,), and under shuffled labels, shape (nulls,
    columns).
    """
    sample = ground.train.sample(honest)
    names = [ground.names[place] for place in honest]
    real, null = gain_fits(
        sample,
        ground.train.request,
        names,
        real=settings.fits,
        nulls=settings.nulls,
        seed=settings.seed,
    )
    found = []
    for number, fit in enumerate([*real, *null]):
        progress("null fits", number, len(real) + len(null))
        found.append(unfinished.array(f"gain {number}", fit))
    progress("null fits", len(found), len(found))
    return np.mean(found[: len(real)], axis=0), np.stack(found[len(real) :])


def _signals(
    features: FeatureSet,
    ground: Ground,
    of_request: Bools,
    told: Sequence[Told],
    stable: Stability,
    clusters: Clusters,
    lost: Sequence[Interval],
    together: Sequence[Interval],
    honest: Sequence[int],
    gain: Floats,
    null: Floats,
    price: Mapping[str, Cost],
) -> list[Signal]:
    """One for each column of the matrix, in its order, not judged yet."""
    places = {one.name: one.place for one in (*features.features, *features.similarities)}
    declared = {
        column.name: (column.kind, column.entity, places[column.name])
        for column in features.columns
    }
    groups = clusters.groups()
    cluster = {place: number for number, group in enumerate(groups, 1) for place in group}
    unknown = Interval(float("nan"), float("nan"), float("nan"))
    spread = null.std(axis=0, ddof=1)
    z = np.divide(gain - null.mean(axis=0), spread, out=np.zeros_like(gain), where=spread > 0)
    above = (gain > null.max(axis=0)) & (
        gain > np.median(null.mean(axis=0))
    )  # where chance gives next to nothing, a little is no proof
    share = gain / max(gain.sum(), 1e-12)
    at = {place: number for number, place in enumerate(honest)}
    found = []
    for place, name in enumerate(ground.names):
        kind, entity, where = declared.get(name, ("computed", "", ""))
        cost = price.get(name, Cost(0, 0, float("nan")))
        number = at.get(place)
        found.append(
            Signal(
                name=name,
                kind=kind,
                entity=entity,
                place=where,
                of_request=bool(of_request[place]),
                importance=unknown if number is None else lost[number],
                gain=0.0 if number is None else float(share[number]),
                null_z=0.0 if number is None else float(z[number]),
                above_nulls=number is not None and bool(above[number]),
                bits=told[place].bits,
                bits_z=told[place].z,
                drift=float(stable.worst[place]),
                drifts=tuple(float(each) for each in stable.drift[place]),
                missing=float(stable.missing[place]),
                record_bytes=cost.record_bytes,
                request_bytes=cost.request_bytes,
                finish_us=cost.finish_us,
                cluster=cluster.get(place, 0),
                together=together[cluster[place] - 1] if place in cluster else None,
            )
        )
    return found


def _saved(
    features: FeatureSet, subset: Subset, lake: Lake, event_types: Sequence[str]
) -> dict[str, Any]:
    """Bytes and microseconds of a request with all declarations and with those that are left."""
    declared = {feature.name for feature in (*features.features, *features.similarities)}
    gone = [name for name in subset.remove if name in declared]
    if not gone or len(gone) == len(declared):
        return {
            "request_bytes": request_bytes(features),
            "declarations_to_remove": [],
            "declarations_that_others_need": [],
        }
    fewer, stay = without(features, gone, event_types)
    before, after = read_us([features, fewer], lake)
    return {
        "request_bytes": request_bytes(features),
        "request_bytes_subset": request_bytes(fewer),
        "read_us": round(before, 1),
        "read_us_subset": round(after, 1),
        "declarations_to_remove": [name for name in gone if name not in stay],
        "declarations_that_others_need": list(stay),
    }


def _notes(
    ground: Ground, leaking: Mapping[str, str], features: FeatureSet, undecided: Sequence[str]
) -> tuple[str, ...]:
    notes = [ground.about["source"]]
    if undecided:
        notes.append(
            f"too few requests to decide on {len(undecided)} of {len(ground.names)} columns, "
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
