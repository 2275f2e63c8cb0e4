"""Clusters of items as a retriever: what an index answers people with of whom little is known, see `retrieval.clusters`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers.popular import Popular, PopularItems
from tailorbird.models.retrievers.protocol import Contexts, Top, best_of
from tailorbird.retrieval.clusters import Clusters, find_clusters
from tailorbird.retrieval.columns import Column
from tailorbird.retrieval.cooccurrence import RECENT_DECAY, RECENT_MAX


@dataclass(frozen=True)
class OfItsCluster:
    """Something of each cluster, more of those that a context is of.

    Attributes:
        attributes: of all items, by code.
        window_us: of what is popular within a cluster.
    """

    attributes: Mapping[str, Column] = field(repr=False, compare=False)
    window_us: int | None = None

    def fit(self, seen: Interactions, t: int) -> "ClusteredItems":
        return ClusteredItems(self, Popular(self.window_us).fit(seen, t), find_clusters(self.attributes, seen.items))


@dataclass(frozen=True)
class ClusteredItems:
    """Clusters as they were found, and what is popular."""

    recipe: OfItsCluster
    popular: PopularItems
    clusters: Clusters

    @property
    def items(self) -> int:
        return len(self.clusters.of)

    def updated(self, more: Interactions, t: int) -> "ClusteredItems":
        popular = self.popular.updated(more, t)
        return ClusteredItems(self.recipe, popular, find_clusters(self.recipe.attributes, popular.items))

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> Top:
        item, score = np.full((len(contexts), n), -1, np.int32), np.zeros((len(contexts), n), np.float32)
        for place in range(len(contexts) if self.items else 0):
            one = contexts.part(place, place + 1)
            newest = one.item[::-1][:RECENT_MAX]
            known = (newest >= 0) & (newest < self.items)
            decay = (RECENT_DECAY ** np.arange(len(newest)))[known]
            scores = self.clusters.scores(self.popular.count, newest[known].astype(np.intp), decay)
            own = Contexts(one.t, np.where(one.item < self.items, one.item, -1), one.ts, one.offsets)
            found = best_of(scores.astype(np.float32)[None], own, n, repeats=repeats)
            item[place], score[place] = found.item[0], found.score[0]
        return Top(item, score)
