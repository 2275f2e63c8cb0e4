"""Policies that off-policy evaluation compares: what orders a slot's items, under which settings.

    version of the registry ─┐
    popular, recent, random ─┴─► scorer ─► formula, rules, sources, exploration of a slot ─► slates

`scorer_of` scores as the serving path does: a model with the formula of the policy's slot, and an
arm without a model by the counts of its sources, by age, or evenly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.candidates.query import CandidateColumns, source_of
from tailorbird.features import FeatureSet
from tailorbird.ranking.baseline import FALLBACK, Baseline
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.ranking.slot import Explore, Slot
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.matrix import FeatureChunk
from tailorbird.training.evaluation.evaluate import Scorer, version_scorer

CHAMPION = "champion"
POOL_MAX = 10_000  # more candidates than any slot has
EVEN_DRAW = Explore(method="plackett_luce", first=1, pool=POOL_MAX, temperature=1.0)


@dataclass(frozen=True)
class Policy:
    """What orders the items of a slot, and the settings that it is served with.

    Attributes:
        name: in reports; "" takes the version.
        slot: whose formula, rules, sources and exploration apply.
        version: of the model, or an alias.
        order: `model`, or `popular`, `recent` or `random` as of an arm without a model.
    """

    slot: Slot
    version: str = CHAMPION
    order: str = "model"
    name: str = ""

    @property
    def has_model(self) -> bool:
        """Whether a model orders the items."""
        return self.order == "model"

    @property
    def served_slot(self) -> Slot:
        """The slot as its slates are drawn: `random` shows any visible item, whatever its value."""
        if self.order != "random":
            return self.slot
        return replace(
            self.slot,
            explore=EVEN_DRAW,
            boosts=(),
            quotas=(),
            per_category=0,
            diversity=None,
            promotions=(),
            pins=(),
        )


def live_columns_of(policy: Policy, bundle: Bundle | None) -> LiveColumns:
    """Return the live columns that a policy reads."""
    if bundle is not None and policy.has_model:
        return bundle.encoder.live
    if policy.order == "popular":
        return LiveColumns(CandidateColumns(Baseline.parse(FALLBACK).sources))
    return LiveColumns(CandidateColumns(()))


def scorer_of(
    policy: Policy,
    bundle: Bundle | None,
    index_series: IndexSeries,
    live_columns: LiveColumns,
    features: FeatureSet,
    events: pa.Table,
) -> Scorer:
    """Return the scorer of a policy.

    Args:
        bundle: of a policy with a model.
        live_columns: of the chunks, which include the policy's own.
        features, events: see `version_scorer`.
    """
    if policy.has_model:
        assert bundle is not None
        return version_scorer(
            bundle, index_series, policy.slot.objective, live_columns, features, events
        )
    if policy.order == "popular":
        return _count_scorer(Baseline.parse(FALLBACK), live_columns)
    if policy.order == "recent":
        return _recency_scorer(index_series)
    return lambda chunk: ({}, np.zeros(chunk.part.rows))


def _count_scorer(baseline: Baseline, live_columns: LiveColumns) -> Scorer:
    names = [f"{source_of(name).column}_score" for name in baseline.sources]
    columns = [live_columns.names.index(name) for name in names]

    def score(chunk: FeatureChunk) -> tuple[Mapping[str, npt.NDArray], npt.NDArray]:
        live = chunk.part.live
        assert live is not None, "a replay gives live columns"
        return {}, live[:, columns].sum(axis=1, dtype=np.float64)

    return score


def _recency_scorer(index_series: IndexSeries) -> Scorer:
    def score(chunk: FeatureChunk) -> tuple[Mapping[str, npt.NDArray], npt.NDArray]:
        part = chunk.part
        values = np.zeros(part.rows)
        positions = index_series.positions_at(part.t)
        for request, position in enumerate(positions.tolist()):
            rows = slice(part.offsets[request], part.offsets[request + 1])
            index = index_series.indexes[position]
            places = index.find(part.items.keys[part.item[rows]])
            first_seen = index.first_seen[np.maximum(places, 0)].astype(np.float64)
            values[rows] = np.where(places >= 0, first_seen, 0.0)
        return {}, values

    return score
