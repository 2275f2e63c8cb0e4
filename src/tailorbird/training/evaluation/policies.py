"""Policies that off-policy evaluation compares: what orders a slot's items, under which settings.

    version of the registry ─┐
    popular, recent, random ─┴─► scorer ─► formula, rules, sources, exploration of a slot ─► slates

`build_policy_scorer` scores as the serving path does: a model with the formula of the policy's slot,
and an arm without a model by the counts of its sources, by age, or evenly.
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
from tailorbird.training.evaluation.evaluate import Scorer, build_version_scorer

CHAMPION = "champion"
POOL_MAX = 10_000  # more candidates than any slot has
UNIFORM_EXPLORE = Explore(method="plackett_luce", first=1, pool=POOL_MAX, temperature=1.0)


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
            explore=UNIFORM_EXPLORE,
            boosts=(),
            quotas=(),
            per_category=0,
            diversity=None,
            promotions=(),
            pins=(),
        )


def select_policy_columns(policy: Policy, bundle: Bundle | None) -> LiveColumns:
    """Return the live columns that a policy reads."""
    if bundle is not None and policy.has_model:
        return bundle.encoder.live_columns
    if policy.order == "popular":
        return LiveColumns(CandidateColumns(Baseline.parse(FALLBACK).sources))
    return LiveColumns(CandidateColumns(()))


def build_policy_scorer(
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
        features, events: see `build_version_scorer`.
    """
    if policy.has_model:
        assert bundle is not None
        return build_version_scorer(
            bundle=bundle,
            index_series=index_series,
            objective=policy.slot.objective,
            live_columns=live_columns,
            features=features,
            events=events,
        )
    if policy.order == "popular":
        return _count_scorer(Baseline.parse(FALLBACK), live_columns)
    if policy.order == "recent":
        return _recency_scorer(index_series)
    return lambda chunk: ({}, np.zeros(chunk.data.row_count))


def _count_scorer(baseline: Baseline, live_columns: LiveColumns) -> Scorer:
    names = [f"{source_of(name).column}_score" for name in baseline.sources]
    column_indexes = [live_columns.names.index(name) for name in names]

    def score(chunk: FeatureChunk) -> tuple[Mapping[str, npt.NDArray], npt.NDArray]:
        live_values = chunk.data.live_values
        assert live_values is not None, "a replay gives live columns"
        return {}, live_values[:, column_indexes].sum(axis=1, dtype=np.float64)

    return score


def _recency_scorer(index_series: IndexSeries) -> Scorer:
    def score(chunk: FeatureChunk) -> tuple[Mapping[str, npt.NDArray], npt.NDArray]:
        data = chunk.data
        values = np.zeros(data.row_count)
        index_numbers = index_series.index_numbers_at(data.t)
        for request, index_number in enumerate(index_numbers.tolist()):
            rows = slice(data.offsets[request], data.offsets[request + 1])
            index = index_series.indexes[index_number]
            item_rows = index.find(data.item_vocabulary.keys[data.item_codes[rows]])
            first_seen = index.first_seen[np.maximum(item_rows, 0)].astype(np.float64)
            values[rows] = np.where(item_rows >= 0, first_seen, 0.0)
        return {}, values

    return score
