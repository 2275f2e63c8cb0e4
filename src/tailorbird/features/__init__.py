"""Features: declared once, updated by the stream, read at a request, recomputed from the lake; equal to the bit.

A project's `features.py` imports its vocabulary from here. `features.read` and `features.worker` are the online half,
`features.backfill` the offline one; `features.reference` says in plain Python what every value is. How a model sees a column is
declared with `features.transforms`.
"""

from tailorbird.features.declare import Entity, Feature
from tailorbird.features.featureset import Column, FeatureSet, load_features
from tailorbird.features.request import ReadRequest, Rows, Sequence
from tailorbird.features.vocabulary import (
    count,
    decayed,
    distinct,
    entity,
    maximum,
    mean,
    minimum,
    ratio,
    share,
    total,
    trend,
    variance,
)
from tailorbird.features.vocabulary_last import (
    attribute,
    context,
    derived,
    first,
    gap_mean,
    last,
    sequence,
    session,
    session_depth,
    session_duration,
    session_length,
    time_since,
    time_since_first,
)

__all__ = [
    "Column",
    "Entity",
    "Feature",
    "FeatureSet",
    "ReadRequest",
    "Rows",
    "Sequence",
    "attribute",
    "context",
    "count",
    "decayed",
    "derived",
    "distinct",
    "entity",
    "first",
    "gap_mean",
    "last",
    "load_features",
    "maximum",
    "mean",
    "minimum",
    "ratio",
    "sequence",
    "session",
    "session_depth",
    "session_duration",
    "session_length",
    "share",
    "time_since",
    "time_since_first",
    "total",
    "trend",
    "variance",
]
