"""Features: declared once, updated by the stream, read at a request, recomputed from the lake.

All give equal bits. A project's `features.py` imports its vocabulary from here. `features.read` and
`features.worker` are the online half, `features.backfill` the offline one; `features.reference`
defines every value in plain Python. `features.transforms` declares how a model sees a column.
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
    quantile,
    ratio,
    share,
    total,
    trend,
    variance,
)
from tailorbird.features.vocabulary_last import first, last, time_since, time_since_first
from tailorbird.features.vocabulary_learned import similarity
from tailorbird.features.vocabulary_profile import (
    age,
    attribute,
    attributes,
    context,
    derived,
    match,
)
from tailorbird.features.vocabulary_run import (
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
