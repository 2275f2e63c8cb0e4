"""Who is judged on what: models, versions of the registry and all baselines on the same requests,
through the path that serving takes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.candidates.merge import bounded
from tailorbird.candidates.query import CandidateColumns
from tailorbird.errors import UsageError
from tailorbird.events import Clock
from tailorbird.features import FeatureSet
from tailorbird.features.backfill import History
from tailorbird.lake import Lake
from tailorbird.places import Place
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.live import LiveColumns
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.training.clicks import Drawn, sources_told, with_candidates
from tailorbird.training.dataset import Dataset
from tailorbird.training.indexes import IndexSeries, build_series
from tailorbird.training.judge import Evaluation, Judge, shares
from tailorbird.training.matrix import Featured, encoded, featured_from
from tailorbird.training.replaying import Replay, Slates
from tailorbird.training.rows import Material, load_material
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.split import split_at, split_by_time
from tailorbird.training.thinned import thinned

Floats = npt.NDArray[np.float64]
Values = Mapping[str, Floats]
Scorer = Callable[
    [Featured], tuple[Mapping[str, Floats], Floats]
]  # probability by head, and the value

ROWS_AT_ONCE = 1_000_000
_STEP = 4_000  # requests that are given their candidates at once


def judge(
    material: Material,
    features: FeatureSet,
    test: Dataset,
    replay: Replay,
    sources: Mapping[str, int],
    scorers: Mapping[str, Scorer],
    objective: Mapping[str, float],
    *,
    before: int,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Judge scorers on a test part, beside the baselines of a replay. The first scorer is the one
    that others are compared with.

    Args:
        replay: of the slot, with the live columns that any scorer reads.
        sources: that it asks, for reports.
        before: when the test part begins: popularity, novelty and the long tail are as of then.
    """
    model = next(iter(scorers))
    panel = Judge(material.history, shares(material.history, before), objective, seed=seed)
    past = History(features, material.events)
    told = partial(progress, "judge")
    truths = found = candidates = 0
    for drawn, values in _parts(material, test, replay, told):
        done = rows = 0
        for piece in featured_from(past, drawn.data, rows_max=ROWS_AT_ONCE):
            scores: dict[str, Floats] = {}
            heads: Mapping[str, Floats] = {}
            for name, scorer in scorers.items():
                said, scores[name] = scorer(piece)
                heads = said if name == model else heads
            count, here = piece.part.requests, slice(rows, rows + piece.part.rows)
            scores |= {name: each[here] for name, each in values.items()}
            panel.add(
                piece.part,
                scores,
                heads,
                {name: _cut(each, done, count) for name, each in drawn.slates.items()},
            )
            done, rows = done + count, rows + piece.part.rows
        truths, found = truths + drawn.truths, found + drawn.found
        candidates += int(drawn.data.scheme.get("candidates", drawn.data.rows))
    about: dict[str, Any] = {"source": material.why}
    if material.scheme is not None:
        about |= {
            "candidate_recall": found / max(truths, 1),
            "candidates_mean": candidates / max(test.requests, 1),
        }
        about["candidates"] = sources_told(sources, about)
    return replace(panel.result(model), about=about)


def _parts(
    material: Material, test: Dataset, replay: Replay, told: Callable[[int, int], None]
) -> Iterator[tuple[Drawn, Values]]:
    """The test part with its candidates and live columns, in pieces that fit into memory; of logged
    answers with baselines' values.
    """
    if material.scheme is not None:
        for drawn in with_candidates(test, replay, material.scheme, progress=told):
            yield replace(drawn, data=material.labelled(drawn.data)), {}
        return
    live, values = replay.of_rows(test, progress=told)
    rows = replace(test, live=live)
    for start in range(0, rows.requests, _STEP):
        chosen = np.arange(start, min(start + _STEP, rows.requests))
        here = slice(rows.offsets[chosen[0]], rows.offsets[chosen[-1] + 1])
        yield (
            Drawn(rows.take(chosen), {}, 0, 0),
            {name: each[here] for name, each in values.items()},
        )


def _cut(slates: Slates, low: int, count: int) -> Slates:
    offsets = slates.offsets[low : low + count + 1]
    return Slates(offsets - offsets[0], slates.item[offsets[0] : offsets[-1]])


def version_scorer(
    bundle: Bundle,
    series: IndexSeries,
    objective: Mapping[str, float],
    live: LiveColumns,
    features: FeatureSet | None = None,
    events: pa.Table | None = None,
) -> Scorer:
    """A bundle as a scorer, over the indexes of the time instead of its own, which may know what
    came later; vectors are the bundle's own where the series has none.

    Args:
        live: the live columns of the pieces, among which are the bundle's own.
        features: what the pieces to score were made by, where it may be another schema than the
            bundle's; the bundle is then given values of its own, made of the same `events`.
    """
    own = (
        bundle.features
        if features is not None and bundle.schema_hash != features.schema_hash
        else None
    )
    past = History(own, events) if own is not None and events is not None else None

    def score(piece: Featured) -> tuple[Mapping[str, Floats], Floats]:
        if past is not None:
            piece = next(featured_from(past, piece.part, rows_max=max(1, piece.part.rows)))
        scores = bundle.score_matrix(
            encoded(piece, bundle.encoder, series, otherwise=bundle.space, live=live),
            objective=objective,
        )
        return scores.heads, scores.value

    return score


def foreign(bundle: Bundle, slot: Slot) -> str:
    """Why a bundle cannot order items for a slot, "" if it can: it must predict something that the
    slot asks for.
    """
    if set(bundle.heads) & set(slot.objective):
        return ""
    return (
        f"predicts {', '.join(bundle.heads) or 'nothing'}, while slot {slot.name} asks for "
        f"{', '.join(slot.objective)}"
    )


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
    """Judge versions of the registry, the champion by default, on the newest part of the lake,
    beside all baselines.

    Raises:
        UsageError: there is no such version, none that predicts what the slot asks for, or no
            champion to judge.
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
            raise UsageError(
                f"{bundle.version} {why}",
                where=f"slot {slot.name}",
                fix="judge it on another slot: --slot NAME",
            )
    progress("read", 0, 1)
    material = load_material(Lake(lake), features, slot, settings.wanted(now))
    progress("read", 1, 1)
    data = material.data
    gap = material.label_window
    border = settings.test_from
    split = (
        split_at(data.t, settings.validation_from or border, border, gap=gap)
        if border
        else split_by_time(data.t, gap=gap)
    )
    series = build_series(
        material.events,
        material.items,
        [split.validation_until],
        progress=partial(progress, "index"),
    )
    live = joined_columns([bundle.encoder.live for bundle in bundles])
    scorers = {
        bundle.version: version_scorer(bundle, series, slot.objective, live) for bundle in bundles
    }
    test = data.take(thinned(split.test, settings.test_requests, settings.seed))
    sources = bounded(slot.sources)
    baselines = default_baselines(slot.sources)
    replay = Replay(
        material.log, features, slot, material.codes, live, baselines=baselines, sources=sources
    )
    before = split.validation_until
    return judge(
        material,
        features,
        test,
        replay,
        sources,
        scorers,
        slot.objective,
        before=before,
        seed=settings.seed,
        progress=progress,
    )


def joined_columns(each: Sequence[LiveColumns]) -> LiveColumns:
    """Return the live columns that any of several models reads."""
    sources = dict.fromkeys(name for live in each for name in live.candidates.sources)
    similar = {one.name: one for live in each for one in live.similarities}
    return LiveColumns(CandidateColumns(tuple(sources)), tuple(similar.values()))


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
