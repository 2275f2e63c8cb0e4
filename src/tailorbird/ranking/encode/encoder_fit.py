"""Fitting of an encoder: which columns of the features a matrix has, and their vocabularies."""

from collections.abc import Sequence

import numpy as np

from tailorbird.candidates.query import CandidateColumns
from tailorbird.features.declare import declarations
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS, Keys
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.similarities import from_declaration
from tailorbird.ranking.encode.vocabulary import Vocabulary
from tailorbird.registry import ColumnNames

NO_CANDIDATE_COLUMNS = CandidateColumns()


def fit_encoder(
    columns: ColumnNames,
    categorical: Keys,
    *,
    numeric: Sequence[str] | None = None,
    computed: Sequence[str] = tuple(COMPUTED_COLUMNS),
    position: bool = False,
    count_min: int = 5,
    size_max: int = 100_000,
    excluded_columns: Sequence[str] = (),
    similarities: Sequence[declarations.Similarity] = (),
    candidates: CandidateColumns = NO_CANDIDATE_COLUMNS,
) -> Encoder:
    """Learn the vocabularies from training rows.

    Args:
        columns: of the feature set.
        categorical: (n, C): the training rows' keys.
        numeric: the numeric columns to use; all by default.
        position: whether the matrix has the position at which an item was shown.
        count_min: a value seen less often is unknown, so that the model learns what unknown means.
        size_max: the most values of one column, the most frequent ones.
        excluded_columns: columns of any kind that the model must not see.
        similarities: as declared; the encoder keeps also those that are left out, since a transform
            may be made of them.
        candidates: columns of candidate sources, likewise.
    """
    vocabularies: list[Vocabulary] = []
    for index, name in enumerate(columns.categorical):
        if name in excluded_columns:
            continue
        keys, counts = np.unique(categorical[:, index], return_counts=True)
        is_frequent = (keys != 0) & (counts >= count_min)
        keys = keys[is_frequent]
        counts = counts[is_frequent]
        order = np.lexsort((keys, -counts))[:size_max]
        vocabularies.append(Vocabulary(name, keys[order].tolist()))
    used_numeric = tuple(
        name
        for name in (columns.numeric if numeric is None else numeric)
        if name not in excluded_columns
    )
    encoded_similarities = tuple(from_declaration(similarity) for similarity in similarities)
    selected_columns = tuple(
        name
        for name in (
            *computed,
            *candidates.names,
            *(similarity.name for similarity in encoded_similarities),
        )
        if name not in excluded_columns
    )
    sequence = columns.sequences[0] if columns.sequences else ""
    return Encoder(
        columns,
        used_numeric,
        tuple(vocabularies),
        selected_columns,
        sequence,
        position,
        candidates=candidates,
        similarities=encoded_similarities,
    )
