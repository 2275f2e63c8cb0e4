"""Who is judged on what: models, versions of the registry and all baselines on the same requests, through the path that serving takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.events import Clock
from tailorbird.features import FeatureSet
from tailorbird.features.backfill import History
from tailorbird.lake import Lake
from tailorbird.places import Place
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.training.clicks import sources_told
from tailorbird.training.dataset import Dataset
from tailorbird.training.indexes import IndexSeries, build_series
from tailorbird.training.item_to_item import Rolling
from tailorbird.training.judge import Evaluation, Judge, shares
from tailorbird.training.matrix import Featured, encoded, featured_from
from tailorbird.training.rows import Material, baselines_of, load_material
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.split import split_at, split_by_time

Floats = npt.NDArray[np.float64]
Scorer = Callable[[Featured], tuple[Mapping[str, Floats], Floats]]  # probability by head, and the value

ROWS_AT_ONCE = 1_000_000
_STEP = 4_000  # requests that are given their candidates at once


def judge(
    material: Material,
    features: FeatureSet,
    test: Dataset,
    rolling: Rolling,
    scorers: Mapping[str, Scorer],
    objective: Mapping[str, float],
    *,
    before: int,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Judge scorers and baselines on a test part. The first scorer is the one that others are compared with.

    Args:
        before: when the test part begins: popularity, novelty and the long tail are as of then.
    """
    model = next(iter(scorers))
    schemes: list[Mapping[str, Any]] = []
    panel = Judge(material.history, shares(material.history, before), objective, seed=seed)
    past = History(features, material.events)
    done = 0
    for start in range(0, test.requests, _STEP):
        whole = material.complete(test.take(np.arange(start, min(start + _STEP, test.requests))), rolling, sampled=False)
        schemes.append(whole.scheme)
        for piece in featured_from(past, whole, rows_max=ROWS_AT_ONCE):
            scores: dict[str, Floats] = {}
            heads: Mapping[str, Floats] = {}
            for name, scorer in scorers.items():
                found, scores[name] = scorer(piece)
                heads = found if name == model else heads
            panel.add(piece.part, scores | baselines_of(material, piece.part, rolling, seed), heads)
        done = min(start + _STEP, test.requests)
        progress("judge", done, test.requests)
    found = panel.result(model)
    return replace(found, about={"source": material.why, **(_drawn(schemes) if material.scheme is not None else {})})


def _drawn(schemes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How candidates were drawn, over all steps."""
    requests = [scheme["requests"] for scheme in schemes]
    mean = {name: float(np.average([scheme[name] for scheme in schemes], weights=requests)) for name in ("found", "candidates_mean")}
    return {**mean, "candidates": sources_told({**schemes[-1], **mean})}


def version_scorer(
    bundle: Bundle, series: IndexSeries, objective: Mapping[str, float], features: FeatureSet | None = None, events: pa.Table | None = None
) -> Scorer:
    """A bundle as a scorer, over the indexes of the time instead of its own, which may know what came later; vectors are the bundle's own
    where the series has none.

    Args:
        features: what the pieces to score were made by, where it may be another schema than the bundle's; the bundle is then given
            values of its own, made of the same `events`.
    """
    own = bundle.features if features is not None and bundle.schema_hash != features.schema_hash else None
    past = History(own, events) if own is not None and events is not None else None

    def score(piece: Featured) -> tuple[Mapping[str, Floats], Floats]:
        if past is not None:
            piece = next(featured_from(past, piece.part, rows_max=max(1, piece.part.rows)))
        scores = bundle.score_matrix(encoded(piece, bundle.encoder, series, otherwise=bundle.space), objective=objective)
        return scores.heads, scores.value

    return score


def foreign(bundle: Bundle, slot: Slot) -> str:
    """Why a bundle cannot order items for a slot, "" if it can: it must predict something that the slot asks for."""
    if set(bundle.heads) & set(slot.objective):
        return ""
    return f"predicts {', '.join(bundle.heads) or 'nothing'}, while slot {slot.name} asks for {', '.join(slot.objective)}"


def evaluate(
    features: FeatureSet,
    slot: Slot,
    versions: tuple[str, ...] = (),
    *,
    lake: Place,
    registry: Path,
    clock: Clock,
    settings: TrainSettings | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Judge versions of the registry, the champion by default, on the newest part of the lake, beside all baselines.

    Raises:
        UsageError: there is no such version, none that predicts what the slot asks for, or no champion to judge.
        BundleError: the versions read different features.
    """
    settings = (settings or TrainSettings()).hurried()
    now = clock.now()
    paths = _paths(Registry(registry, clock=clock), versions)
    # With the features of the versions themselves, whatever the project has gone on to.
    features = Bundle.load(paths[0], schema_hash=None).features or features
    bundles = [Bundle.load(path, schema_hash=features.schema_hash) for path in paths]
    for bundle in bundles:
        if why := foreign(bundle, slot):
            raise UsageError(f"{bundle.version} {why}", where=f"slot {slot.name}", fix="judge it on another slot: --slot NAME")
    progress("read", 0, 1)
    material = load_material(Lake(lake), features, slot, settings.wanted(now))
    progress("read", 1, 1)
    data = material.data
    gap = material.label_window
    border = settings.test_from
    split = split_at(data.t, settings.validation_from or border, border, gap=gap) if border else split_by_time(data.t, gap=gap)
    last = int(data.t[split.test[-1]])
    every = settings.index_every_us
    moments = range(split.validation_until, last + 1, every) if every else [split.validation_until]
    series = build_series(
        material.events, material.items, moments, settings.index_for(slot), room=settings.room, progress=partial(progress, "index")
    )
    scorers = {bundle.version: version_scorer(bundle, series, slot.objective) for bundle in bundles}
    test = data.take(thinned(split.test, settings.test_requests, settings.seed))
    rolling = series.rolling(material.codes)
    before = split.validation_until
    return judge(material, features, test, rolling, scorers, slot.objective, before=before, seed=settings.seed, progress=progress)


def thinned(chosen: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    """At most `limit` of the indices, drawn evenly, in order; 0 keeps all."""
    if not limit or len(chosen) <= limit:
        return chosen
    return np.sort(np.random.default_rng(seed).choice(chosen, limit, replace=False))


def _paths(registry: Registry, versions: tuple[str, ...]) -> list[Path]:
    if versions:
        known = {info.version: info.path for info in registry.versions()}
        if unknown := [version for version in versions if version not in known]:
            raise UsageError(f"there is no version {unknown[0]!r}", fix="tailorbird models list")
        return [known[version] for version in versions]
    champion = registry.champion()
    if champion is None:
        raise UsageError("there is no champion to judge", fix="tailorbird train, or name a version")
    return [champion]
