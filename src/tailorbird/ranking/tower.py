"""User vectors and their similarity to items, shared by retrieval, ranking, churn and segments.

    space = bundle.space                 # None: the bundle has no tower
    space.user_vectors(sequences, requests)     # float32 (requests, width), from each user's newest items
    space.query(sequence)                # a user's vector, and its product with every item
    space.vector_columns(…)                     # VECTOR_COLUMNS of candidates

A tower is a network that maps the vectors of the newest items to the user vector. The index has the
item vectors (`retrieval.vectors`). A user without items has the start vector. In a bundle:

    tower/plan.json       TowerPlan
    tower/user.onnx       vectors float32 (n, length, width), there bool and gap int64
                          (n, length) → float32 (n, width)
    tower/edges.npy       float32 (2, width): vectors of padding and of the start
    tower/golden_row.npy, golden_gap.npy, golden_user.npy
                          sampled windows, and the network's output at the time of writing

Values are float32 sums in the order of a matrix product, so the last digits of a row may depend on
the batch size: TOLERANCE bounds the difference, and tests verify it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.candidates.query import reads_neighbours
from tailorbird.errors import BundleError
from tailorbird.features.declare.declarations import VECTOR_NAMES
from tailorbird.ranking.encode.computed import Keys, RaggedLike, Rows, Times
from tailorbird.retrieval import Index, SearchResult
from tailorbird.retrieval.inverted import ProbeResult
from tailorbird.retrieval.sequences import PAD_ROW, START_ROW, recent_windows
from tailorbird.retrieval.vectors import ItemVectors, largest_indexes

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

FOLDER = "tower"
WIDTH_MAX = 1024
LENGTH_MAX = 512
VECTOR_COLUMNS = {
    "vector_score": "log of the chance, by the tower, that it is the person's next among all items",
    "vector_cosine": "cosine of the person's vector and the item's",
}
assert tuple(VECTOR_COLUMNS) == VECTOR_NAMES
PROBE_FACTOR_MIN = 4  # minimum number of eligible items to probe, as a multiple of the limit
_USERS_PER_BATCH = 256  # users per matrix product with all items


SKETCH_WIDTH = 8  # directions along which user vectors are recorded, for drift


def sketch_vector(user: Matrix) -> list[float]:
    """Return a user vector (width,) along a few random directions that never change."""
    return (user @ _directions(user.size)).tolist()


@cache
def _directions(width: int) -> Matrix:
    directions = np.random.default_rng(0).normal(size=(width, SKETCH_WIDTH))
    return (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)


class TowerPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of a tower.

    Attributes:
        sequence: the sequence of the feature set that it reads.
        length, width: of the windows, and of the vectors.
        repeats: whether recent items of the user may be retrieved again.
        trained_until: microseconds: it knows no event from then on.
        share: the share of a slot's candidates that it retrieves.
    """

    sequence: str
    length: int
    width: int
    repeats: bool
    trained_until: int
    share: float
    format: int = 1

    def __post_init__(self) -> None:
        if self.format != 1:
            raise BundleError(
                f"its tower has the format {self.format}, this version reads 1", fix="upgrade"
            )
        if not (
            1 <= self.length <= LENGTH_MAX and 1 <= self.width <= WIDTH_MAX and 0 < self.share < 1
        ):
            raise BundleError("its tower is without bounds", fix="tailorbird train")


class Net(Protocol):
    """A network that maps windows of item vectors to user vectors.

    ONNX Runtime in a server, torch in training.
    """

    def __call__(
        self, vectors: Matrix, is_present: npt.NDArray[np.bool_], gap: Times
    ) -> Matrix: ...


class SequenceLike(Protocol):
    """One user's sequence, oldest first."""

    @property
    def item(self) -> Keys: ...
    @property
    def ts(self) -> Times: ...


@dataclass(frozen=True)
class Tower:
    """A network with its settings; `edges` are the vectors of padding and of the start."""

    plan: TowerPlan
    edges: Matrix
    net: Net

    def encode_windows(self, vectors: ItemVectors, row: Times, gap: Times) -> Matrix:
        """Return user vectors (n, width) of windows of item rows (n, length)."""
        inputs = vectors.vectors[np.maximum(row, 0)]
        inputs[row == PAD_ROW] = self.edges[0]
        inputs[row == START_ROW] = self.edges[1]
        return self.net(inputs, row != PAD_ROW, gap)


@dataclass(frozen=True)
class UserQuery:
    """A user's query: the sequence read, the user vector, products with all items, and log Σ exp.

    With an inverted file, `probe` holds the probed items, instead of all products.
    """

    item_vectors: ItemVectors
    sequence: SequenceLike | None
    user_vector: Matrix
    products: Matrix
    log_sum: float
    probe: ProbeResult | None = None

    def scores_of(self, rows: Rows) -> Matrix:
        """Return the score of some items, (n,), independent of which others are requested."""
        if self.probe is None:
            return self.products[rows]
        # Not a matrix product: the last digits of its rows depend on the batch size, so the scores
        # of a slate would differ from those of the candidates.
        return np.einsum(
            "ij,ij->i",
            self.item_vectors.vectors[rows],
            np.broadcast_to(self.user_vector, (len(rows), self.user_vector.size)),
        )

    def matches(self, item_vectors: ItemVectors, sequence: SequenceLike | None) -> bool:
        """Return whether this query is of that very sequence in that very space.

        Another version has another tower.
        """
        if self.item_vectors is not item_vectors:
            return False
        own_sequence = self.sequence
        if own_sequence is None or sequence is None:
            return own_sequence is sequence
        return np.array_equal(own_sequence.item, sequence.item) and np.array_equal(
            own_sequence.ts, sequence.ts
        )


@dataclass(frozen=True)
class Space:
    """A tower over an index that has vectors."""

    tower: Tower
    index: Index

    @property
    def vectors(self) -> ItemVectors:
        assert self.index.vectors is not None
        return self.index.vectors

    def user_vectors(self, sequences: RaggedLike | None, request_count: int) -> Matrix:
        """Return user vectors, (requests, width), by sequence."""
        plan = self.tower.plan
        offsets = np.zeros(request_count + 1, np.int64)
        item = np.zeros(0, np.uint64)
        ts = np.zeros(0, np.int64)
        if sequences is not None and sequences.item.size:
            window_sizes = np.minimum(np.diff(sequences.offsets), plan.length)
            offsets = np.concatenate(([0], np.cumsum(window_sizes))).astype(np.int64)
            newest_positions = np.arange(offsets[-1]) + np.repeat(
                sequences.offsets[1:] - offsets[1:], window_sizes
            )
            item = sequences.item[newest_positions]
            ts = sequences.ts[newest_positions]
        item_rows, gaps = recent_windows(
            offsets,
            np.where(item != 0, self.index.find(item), -1).astype(np.int64),
            ts,
            plan.length,
        )
        chunks = [
            self.tower.encode_windows(
                self.vectors,
                item_rows[start : start + _USERS_PER_BATCH],
                gaps[start : start + _USERS_PER_BATCH],
            )
            for start in range(0, request_count, _USERS_PER_BATCH)
        ]
        return np.concatenate(chunks) if chunks else np.zeros((0, plan.width), np.float32)

    def query(self, sequence: SequenceLike | None) -> UserQuery:
        """Return a user's vector and its product with every item."""
        user_vector = self.user_vectors(None if sequence is None else _SingleRequest(sequence), 1)[
            0
        ]
        if self.vectors.inverted is not None:
            probe = self.vectors.inverted.probe_lists(user_vector, self.vectors.vectors)
            return UserQuery(
                self.vectors,
                sequence,
                user_vector,
                np.zeros(0, np.float32),
                probe.log_sum_exp,
                probe,
            )
        products = self.vectors.products(user_vector)
        return UserQuery(
            self.vectors, sequence, user_vector, products, float(_log_sum(products[None])[0])
        )

    def nearest(self, query: UserQuery, limit: int) -> SearchResult:
        """Return the nearest items that the index shows.

        Items of the sequence are left out unless users repeat items.
        """
        excluded_rows = np.zeros(0, np.intp)
        if not self.tower.plan.repeats and query.sequence is not None:
            excluded_rows = self.index.find(query.sequence.item)
            excluded_rows = excluded_rows[excluded_rows >= 0]
        if query.probe is not None:
            return self._nearest_inverted(query, query.probe, excluded_rows, limit)
        values = query.products
        if excluded_rows.size:
            values = values.copy()
            values[excluded_rows] = -np.inf
        if self.index.visible is not None:
            values = np.where(self.index.visible, values, -np.inf)
        rows = largest_indexes(values, limit)
        rows = rows[np.isfinite(values[rows])]
        return SearchResult(rows, values[rows].astype(np.float64) - query.log_sum)

    def _nearest_inverted(
        self, query: UserQuery, probe: ProbeResult, excluded_rows: Rows, limit: int
    ) -> SearchResult:
        """Return the nearest items by an inverted file.

        It probes more lists where few of their items may be shown, and scans all items where those
        are few.
        """
        shown_mask = (
            np.ones(len(self.index), np.bool_)
            if self.index.visible is None
            else self.index.visible.copy()
        )
        shown_mask[excluded_rows] = False
        shown_count = int(np.count_nonzero(shown_mask))
        inverted = self.vectors.inverted
        assert inverted is not None
        if shown_count <= max(probe.rows.size, PROBE_FACTOR_MIN * limit):
            rows = np.flatnonzero(shown_mask)
            products = self.vectors.vectors[rows] @ query.user_vector
        else:
            required_candidates = max(
                PROBE_FACTOR_MIN * limit, shown_count * inverted.calibration.share / 2
            )
            rows, products = _shown_items(probe, shown_mask)
            while (
                rows.size < required_candidates
                and (next_probe := inverted.probe_more(probe, query.user_vector)) is not None
            ):
                probe = next_probe
                rows, products = _shown_items(probe, shown_mask)
        best = largest_indexes(products, limit)
        return SearchResult(rows[best], products[best].astype(np.float64) - query.log_sum)

    def vector_columns(
        self,
        names: Sequence[str],
        item_keys: Keys,
        request_by_row: Rows,
        sequences: RaggedLike | None,
        request_count: int,
        query: UserQuery | None = None,
    ) -> dict[str, Matrix]:
        """Return `VECTOR_COLUMNS` of rows, (n,) each; NaN for an item without a vector.

        Args:
            query: the query of a single request's user, if already computed.
        """
        item_rows = self.index.find(item_keys)
        known_rows = np.maximum(item_rows, 0)
        if request_count == 1:
            query = self.query(sequences) if query is None else query
            user_vectors = query.user_vector[None]
            products = query.scores_of(known_rows)
            log_sums = np.full(1, query.log_sum, np.float32)
        else:
            user_vectors = self.user_vectors(sequences, request_count)
            products = np.einsum(
                "ij,ij->i", self.vectors.vectors[known_rows], user_vectors[request_by_row]
            )
            log_sums = (
                self._compute_log_sums(user_vectors)
                if "vector_score" in names
                else np.zeros(request_count, np.float32)
            )
        columns = {"vector_score": products - log_sums[request_by_row]}
        if "vector_cosine" in names:
            user_norms = np.sqrt(np.einsum("ij,ij->i", user_vectors, user_vectors))
            columns["vector_cosine"] = products / np.maximum(
                user_norms[request_by_row] * self.vectors.norms[known_rows], 1e-12
            )
        return {name: np.where(item_rows >= 0, columns[name], np.float32(np.nan)) for name in names}

    def _compute_log_sums(self, user_vectors: Matrix) -> Matrix:
        """Return log Σ exp of each user's products with all items, (users,)."""
        if self.vectors.inverted is not None:  # as `query` computes them
            probe_lists = self.vectors.inverted.probe_lists
            item_vectors = self.vectors.vectors
            return np.array(
                [probe_lists(user, item_vectors).log_sum_exp for user in user_vectors], np.float32
            )
        chunks = [
            _log_sum(user_vectors[start : start + _USERS_PER_BATCH] @ self.vectors.vectors.T)
            for start in range(0, len(user_vectors), _USERS_PER_BATCH)
        ]
        return np.concatenate(chunks)


def _shown_items(probe: ProbeResult, shown_mask: npt.NDArray[np.bool_]) -> tuple[Rows, Matrix]:
    is_shown = shown_mask[probe.rows]
    return probe.rows[is_shown], probe.products[is_shown]


def add_sequence_source(sources: Mapping[str, int], share: float) -> dict[str, int]:
    """Add the `sequence` source to a slot's sources, at a share of the same total.

    Unchanged if the slot names it, or has no item-kNN source.
    """
    if "sequence" in sources or not any(reads_neighbours(name) for name in sources):
        return dict(sources)
    total = sum(sources.values())
    sequence_limit = int(total * share)
    return {"sequence": sequence_limit} | {
        name: limit * (total - sequence_limit) // total for name, limit in sources.items()
    }


def missing_vector_columns(names: Sequence[str], rows: int) -> dict[str, Matrix]:
    """Return `VECTOR_COLUMNS` without a tower: all missing."""
    return dict.fromkeys(names, np.full(rows, np.nan, np.float32))


@dataclass(frozen=True)
class _SingleRequest:
    """One user's sequence as the sequences of one request."""

    sequence: SequenceLike

    @property
    def offsets(self) -> Times:
        return np.array([0, self.sequence.item.size], np.int64)

    @property
    def item(self) -> Keys:
        return self.sequence.item

    @property
    def ts(self) -> Times:
        return self.sequence.ts


def _log_sum(products: Matrix) -> Matrix:
    """Return log Σ exp by row, (n,)."""
    if not products.shape[1]:
        return np.zeros(len(products), np.float32)
    maximum = products.max(axis=1, keepdims=True)
    shifted = products - maximum
    return (maximum + np.log(np.exp(shifted, out=shifted).sum(axis=1, keepdims=True)))[:, 0]
