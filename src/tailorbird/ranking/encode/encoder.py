"""The encoder: from features to the matrix of a model, identical in training and serving.

The columns of the matrix, in this order:

    numeric        float32 as read; NaN is missing
    categorical    codes of a vocabulary: 0 missing, 1 unknown, 2.. as learned
    computed       from the items and the user's recent sequence (`COMPUTED_COLUMNS`), by vectors
                   (`ranking.tower`), and live: rank and score in candidate sources and declared
                   similarities (`ranking.encode.live`)
    position       the position shown in training, 1 in serving; only if trained with it
    transformed    computed from any of these by learned steps, see `ranking.encode.transforms`
    for nets       the candidate, the newest items and words as codes, see `ranking.encode.history`

Each row depends only on its own request, and sums run in a fixed order, so rows are bit-identical
for any batch size. Only columns by vectors may differ in their last digits.
"""

from collections.abc import Mapping
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.candidates.query import CandidateColumns, RequestLists
from tailorbird.errors import BundleError
from tailorbird.features.declare.declarations import POSITION_COLUMN
from tailorbird.ranking.encode.blocks import TransformBlock, split_transforms
from tailorbird.ranking.encode.computed import (
    COMPUTED_COLUMNS,
    Keys,
    RaggedLike,
    Rows,
    Times,
    computed_columns,
)
from tailorbird.ranking.encode.history import History
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.ranking.encode.rows import Matrix, RaggedArrays, RowsLike, source_column
from tailorbird.ranking.encode.similarities import Similarity
from tailorbird.ranking.encode.steps import MISSING
from tailorbird.ranking.encode.transforms import TransformOutput
from tailorbird.ranking.encode.vocabulary import Vocabulary
from tailorbird.ranking.tower import VECTOR_COLUMNS, Space, UserQuery, missing_vector_columns
from tailorbird.registry import ColumnNames
from tailorbird.retrieval import Index
from tailorbird.retrieval.words import Words

Floats = npt.NDArray[np.float64]

FORMAT = 7  # of encoder.json; another one is not read
# Computed columns, besides those of candidate sources, with descriptions.
ITEM_COLUMNS = COMPUTED_COLUMNS | VECTOR_COLUMNS


class Encoder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The recipe of a matrix; `encoder.json` of the bundle.

    Attributes:
        columns: the columns of the feature set, in the order in which they are read.
        numeric: the numeric columns that the model uses.
        vocabularies: of the categorical columns that the model uses.
        computed: the names among `COMPUTED_COLUMNS`, vector and live columns that it uses untransformed.
        sequence: the sequence that the computed columns look at; "" for none.
        position: whether the model was trained with the position.
        transforms: further columns, computed from any of these by learned steps.
        candidates, similarities: live columns that it uses or transforms.
        history, words: columns for nets, after all others.
        format: of the file.
    """

    columns: ColumnNames
    numeric: tuple[str, ...]
    vocabularies: tuple[Vocabulary, ...] = ()
    computed: tuple[str, ...] = tuple(COMPUTED_COLUMNS)
    sequence: str = ""
    position: bool = False
    transforms: tuple[TransformOutput, ...] = ()
    candidates: CandidateColumns = CandidateColumns()
    similarities: tuple[Similarity, ...] = ()
    history: History | None = None
    words: tuple[Words, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        categorical = [vocabulary.name for vocabulary in self.vocabularies]
        computed = (*ITEM_COLUMNS, *self.live_columns.names)
        for names, available in (
            (self.numeric, self.columns.numeric),
            (categorical, self.columns.categorical),
            (self.computed, computed),
        ):
            if unknown := [name for name in names if name not in available]:
                raise BundleError(f"the encoder uses a column {unknown[0]!r} that does not exist")
        for sequence in (*self._sequences, *(similarity.of for similarity in self.similarities)):
            if sequence not in self.columns.sequences:
                raise BundleError(f"the encoder uses a sequence {sequence!r} that does not exist")
        feature_names = {*ITEM_COLUMNS, *self.columns.numeric, *self.columns.categorical}
        live_names = self.live_columns.names
        if len(set(live_names)) < len(live_names) or feature_names & set(live_names):
            raise BundleError(
                "a column of the encoder that is read live is called like another of its columns"
            )
        for output in self.transforms:
            self._check_transform(output)
        transformed = [name for output in self.transforms for name in output.names]
        untransformed = self.names[: len(self.names) - len(transformed) - len(self._net_columns)]
        if len(set(transformed)) != len(transformed) or set(transformed) & set(untransformed):
            raise BundleError(
                "a transform of the encoder is called like another of its columns",
                fix="give it a name=",
            )
        if duplicates := sorted(set(self._net_columns) & {*untransformed, *transformed}):
            raise BundleError(
                f"{duplicates[0]!r} is the name of a column for nets and of another",
                fix="give the feature another name",
            )

    @cached_property
    def live_columns(self) -> LiveColumns:
        """The columns that are read live."""
        return LiveColumns(self.candidates, self.similarities)

    @cached_property
    def _sequences(self) -> tuple[str, ...]:
        """The sequences that any column is computed from."""
        history = self.history.sequence if self.history else ""
        return tuple(dict.fromkeys(name for name in (self.sequence, history) if name))

    @cached_property
    def _net_columns(self) -> tuple[str, ...]:
        """Names of the columns for nets."""
        return (
            *(self.history.names if self.history else ()),
            *(name for words in self.words for name in words.names),
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the matrix's columns."""
        categorical = tuple(vocabulary.name for vocabulary in self.vocabularies)
        transformed = (name for output in self.transforms for name in output.names)
        return (
            *self.numeric,
            *categorical,
            *self.computed,
            *((POSITION_COLUMN,) if self.position else ()),
            *transformed,
            *self._net_columns,
        )

    @property
    def categorical_names(self) -> tuple[str, ...]:
        """Names of the columns that hold codes, for a model that treats them apart."""
        return tuple(self.code_counts)

    @cached_property
    def code_counts(self) -> dict[str, int]:
        """The number of codes of each column with codes, 0 (missing) and 1 (unknown) included.

        These are the rows of an embedding.
        """
        transformed = {
            output.name: output.code_count for output in self.transforms if output.code_count
        }
        return {vocabulary.name: vocabulary.size for vocabulary in self.vocabularies} | transformed

    @cached_property
    def missing_row(self) -> Matrix:
        """The value of each column of the matrix where everything is missing, shape (width,)."""
        numeric = np.full((1, len(self.columns.numeric)), np.nan, np.float32)
        categorical = np.zeros((1, len(self.columns.categorical)), np.uint64)
        computed = dict.fromkeys(
            (*ITEM_COLUMNS, *self.live_columns.names), np.full(1, np.nan, np.float32)
        )
        matrix = self._fill_matrix(numeric, categorical, computed, np.full(1, np.nan), {})
        no_item = np.zeros(1, np.uint64)
        no_time = np.zeros(1, np.int64)
        if self.history:
            missing_history = self.history.columns(no_item, np.zeros(1, np.intp), None, no_time)
            net_start = len(self.names) - len(self._net_columns)
            matrix[:, net_start : net_start + missing_history.shape[1]] = missing_history
        return matrix[0]

    def warm_up(self) -> None:
        """Build all lookup tables ahead of the first request."""
        assert self.missing_row.shape == (len(self.names),)

    def describe_columns(self) -> dict[str, str]:
        """Describe each column of the matrix."""
        descriptions = dict.fromkeys(self.names, "as read")
        descriptions |= {
            vocabulary.name: f"codes of {len(vocabulary.keys):,} values"
            for vocabulary in self.vocabularies
        }
        column_texts = ITEM_COLUMNS | self.live_columns.describe_columns()
        descriptions |= {name: column_texts[name] for name in self.computed}
        descriptions |= {
            name: f"{output.column}: {output.describe()}"
            for output in self.transforms
            for name in output.names
        }
        if self.history:
            descriptions |= self.history.describe_columns()
        for words in self.words:
            descriptions |= words.describe_columns()
        return descriptions

    def _check_transform(self, output: TransformOutput) -> None:
        name = output.column
        if name in self.columns.categorical:
            is_valid = output.is_categorical or output.is_missing_indicator
        elif (
            name in self.columns.numeric
            or name in ITEM_COLUMNS
            or name in self.live_columns.names
            or name == POSITION_COLUMN
        ):
            is_valid = not output.is_categorical
        else:
            raise BundleError(f"the encoder uses a column {name!r} that does not exist")
        if not is_valid:
            raise BundleError(f"the encoder's steps do not fit the column {name!r}")

    @cached_property
    def _column_indices(self) -> tuple[Rows, Rows]:
        numeric = np.array([self.columns.numeric.index(name) for name in self.numeric], np.intp)
        categorical = np.array(
            [self.columns.categorical.index(vocabulary.name) for vocabulary in self.vocabularies],
            np.intp,
        )
        return numeric, categorical

    def encode(
        self,
        numeric: Matrix,
        categorical: Keys,
        item_keys: Keys,
        request: Rows,
        sequences: Mapping[str, RaggedLike],
        t: Times,
        index: Index,
        position: npt.NDArray[np.generic] | None = None,
        target_encodings: Mapping[str, Floats] | None = None,
        space: Space | None = None,
        user_query: UserQuery | None = None,
        live: Mapping[str, npt.NDArray[np.generic]] | None = None,
    ) -> Matrix:
        """Encode n rows of some requests as a matrix (n, len(names)).

        Args:
            numeric, categorical: (n, F) and (n, C), all columns of the feature set.
            item_keys: (n,): the candidates.
            request: (n,): which request a row belongs to.
            sequences: name → sequences by request.
            t: (requests,): the time of each request.
            index: for the computed columns; in training, one whose `as_of` is not after the first
                t.
            position: (n,), from 1; None in serving, which scores every item as if it stood first.
            target_encodings: for training rows, name of a transform → (n,): its target encoding as of each
                row's time.
            space: for the columns by vectors, which are missing without it; in training, one that
                is as old as the index.
            user_query: the query of a single request's user, if already computed.
            live: column that is read live → (n,); all are missing without it.
        """
        computed_names, vector_names, live_names = self._required_columns
        columns = (
            computed_columns(
                computed_names, item_keys, request, sequences.get(self.sequence), t, index
            )
            if computed_names
            else {}
        )
        if vector_names and space is not None and len(space.index):
            columns |= space.vector_columns(
                vector_names,
                item_keys,
                request,
                sequences.get(space.tower.plan.sequence),
                len(t),
                user_query,
            )
        elif vector_names:
            columns |= missing_vector_columns(vector_names, item_keys.size)
        missing_column = np.full(item_keys.size, np.nan, np.float32)
        columns |= {name: missing_column if live is None else live[name] for name in live_names}
        positions = np.ones(item_keys.size, np.float32) if position is None else position
        matrix = self._fill_matrix(numeric, categorical, columns, positions, target_encodings or {})
        net_start = matrix.shape[1] - len(self._net_columns)
        if self.history:
            history = self.history.columns(
                item_keys, request, sequences.get(self.history.sequence), t
            )
            matrix[:, net_start : net_start + history.shape[1]] = history
            net_start += history.shape[1]
        for words in self.words:
            matrix[:, net_start : net_start + words.width] = words.columns(
                index.attributes, index.find(item_keys)
            )
            net_start += words.width
        return matrix

    @cached_property
    def _required_columns(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """The computed, vector and live columns that any column of the matrix needs."""
        source_names = {*self.computed, *(output.column for output in self.transforms)}
        item_columns, vector_columns, live_columns = (
            tuple(name for name in names if name in source_names)
            for names in (COMPUTED_COLUMNS, VECTOR_COLUMNS, self.live_columns.names)
        )
        return item_columns, vector_columns, live_columns

    def _fill_matrix(
        self,
        numeric: Matrix,
        categorical: Keys,
        computed: Mapping[str, npt.NDArray[np.generic]],
        position: npt.NDArray[np.generic],
        target_encodings: Mapping[str, Floats],
    ) -> Matrix:
        matrix = np.empty((len(numeric), len(self.names)), np.float32)
        matrix[:, len(self.names) - len(self._net_columns) :] = MISSING
        numeric_indices, categorical_indices = self._column_indices
        matrix[:, : numeric_indices.size] = numeric[:, numeric_indices]
        offset = numeric_indices.size
        for vocabulary, source_index in zip(self.vocabularies, categorical_indices, strict=True):
            matrix[:, offset] = vocabulary.encode(categorical[:, source_index])
            offset += 1
        for name in self.computed:
            matrix[:, offset] = computed[name]
            offset += 1
        if self.position:
            matrix[:, offset] = position
            offset += 1
        source_arrays = numeric, categorical, computed, position
        single_outputs, blocks = self._transform_blocks
        for start, output in single_outputs:
            values = output.apply(
                source_column(self.columns, output.column, *source_arrays),
                target_encodings.get(output.name),
            )
            matrix[:, offset + start : offset + start + output.width] = values.reshape(
                len(matrix), output.width
            )
        for block, offsets in blocks:
            matrix[:, offset + offsets] = block.apply(
                [source_column(self.columns, column, *source_arrays) for column in block.columns]
            ).T
        return matrix

    @cached_property
    def _transform_blocks(
        self,
    ) -> tuple[list[tuple[int, TransformOutput]], list[tuple[TransformBlock, Rows]]]:
        return split_transforms(self.transforms)

    def encode_people(self, numeric: Matrix, categorical: Keys) -> Matrix:
        """Encode rows about users alone, by an encoder without computed columns and position."""
        return self._fill_matrix(numeric, categorical, {}, np.ones(len(numeric), np.float32), {})

    def encode_request(
        self,
        rows: RowsLike,
        item_keys: Keys,
        index: Index,
        space: Space | None = None,
        user_query: UserQuery | None = None,
        live: Matrix | None = None,
    ) -> Matrix:
        """Encode one request's candidates; `live` holds their columns of `self.live_columns`."""
        ragged_sequences: dict[str, RaggedLike] = {}
        tower_sequences = () if space is None else (space.tower.plan.sequence,)
        for name in (*self._sequences, *tower_sequences):
            if name in rows.sequences:
                sequence = rows.sequences[name]
                ragged_sequences[name] = RaggedArrays(
                    np.array([0, sequence.item.size], np.int64), sequence.item, sequence.ts
                )
        request = np.zeros(item_keys.size, np.intp)
        if user_query is not None and space is not None:
            sequence = rows.sequences.get(space.tower.plan.sequence)
            user_query = user_query if user_query.matches(space.vectors, sequence) else None
        t = np.array([rows.t], np.int64)
        columns = None if live is None else self.live_columns.by_name(live)
        return self.encode(
            rows.numeric,
            rows.categorical,
            item_keys,
            request,
            ragged_sequences,
            t,
            index,
            space=space,
            user_query=user_query,
            live=columns,
        )

    def read_live_columns(self, lists: RequestLists, rows: RowsLike, item_keys: Keys) -> Matrix:
        """Read the live columns of one request's candidates, (n, columns)."""
        return self.live_columns.matrix(lists, rows.sequences, item_keys)
