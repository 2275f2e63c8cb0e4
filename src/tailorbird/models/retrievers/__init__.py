"""Retrievers: from what people did to the best items of the whole catalogue. What each promises stands in `protocol`."""

from tailorbird.models.retrievers.clusters import OfItsCluster
from tailorbird.models.retrievers.cooccurrence import WhatGoesWith
from tailorbird.models.retrievers.ease import EASE
from tailorbird.models.retrievers.kind import OfItsKind
from tailorbird.models.retrievers.neighbours import STAN, VSkNN
from tailorbird.models.retrievers.own import OwnItems
from tailorbird.models.retrievers.popular import Popular
from tailorbird.models.retrievers.protocol import Contexts, Recipe, Retriever, Top
from tailorbird.models.retrievers.sessions import Sequences

__all__ = [
    "EASE",
    "STAN",
    "Contexts",
    "OfItsCluster",
    "OfItsKind",
    "OwnItems",
    "Popular",
    "Recipe",
    "Retriever",
    "Sequences",
    "Top",
    "VSkNN",
    "WhatGoesWith",
]
