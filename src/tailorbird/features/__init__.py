"""Features: declared once, updated by the stream, read at a request, recomputed from the lake.

All give equal bits. A project's `features.py` imports its vocabulary from here.
`features.online.read` and `features.online.worker` are the online half, `features.offline.backfill`
the offline one; `features.reference.reference` defines every value in plain Python.
`features.transforms` declares how a model sees a column.
"""

from tailorbird.features.declare.declarations import Entity, Feature
from tailorbird.features.declare.learned import similarity
from tailorbird.features.declare.profiles import age, attribute, attributes, context, derived, match
from tailorbird.features.declare.ratios import ratio, share, trend
from tailorbird.features.declare.sequences import (
    favourite,
    gap_deviation,
    gap_last,
    gap_max,
    gap_mean,
    gap_min,
    refinements,
    seen,
    sequence,
    session,
    session_depth,
    session_duration,
    session_length,
)
from tailorbird.features.declare.single_events import first, last, time_since, time_since_first
from tailorbird.features.declare.vocabulary import (
    count,
    decayed,
    distinct,
    entity,
    maximum,
    mean,
    minimum,
    quantile,
    total,
    variance,
)
from tailorbird.features.featureset import Column, FeatureSet, load_features
from tailorbird.features.request import ReadRequest, Rows, Sequence

__all__ = [
    "Column",
    "Entity",
    "Feature",
    "FeatureSet",
    "ReadRequest",
    "Rows",
    "Sequence",
    "age",
    "attribute",
    "attributes",
    "context",
    "count",
    "decayed",
    "derived",
    "distinct",
    "entity",
    "favourite",
    "first",
    "gap_deviation",
    "gap_last",
    "gap_max",
    "gap_mean",
    "gap_min",
    "last",
    "load_features",
    "match",
    "maximum",
    "mean",
    "minimum",
    "quantile",
    "ratio",
    "refinements",
    "seen",
    "sequence",
    "session",
    "session_depth",
    "session_duration",
    "session_length",
    "share",
    "similarity",
    "time_since",
    "time_since_first",
    "total",
    "trend",
    "variance",
]
