"""Item and user vectors for training: a tower as of each index, and its files for a bundle.

The first tower is learned from events before the first index. Each later one starts from its
weights and learns from the events since. A row's tower therefore knows nothing of the row's future,
and is about as old as towers are in serving. Towers learn from the first declared sequence, which
also serves requests.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import BundleError
from tailorbird.features import FeatureSet
from tailorbird.models.deep.fitting import is_available
from tailorbird.models.retrievers.transformer import SequenceTransformer
from tailorbird.ranking.tower import Space, Tower, TowerPlan
from tailorbird.ranking.tower_net import TOLERANCE, OnnxNet
from tailorbird.retrieval import Index
from tailorbird.retrieval.arrays import array_bytes
from tailorbird.retrieval.sequences import recent_windows
from tailorbird.retrieval.vectors import INVERTED_ITEMS_MIN, Content, ItemVectors, build_content
from tailorbird.training.dataset.codes import IdVocabulary, encode_interactions
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.rows import TrainingData

if TYPE_CHECKING:
    from tailorbird.models.retrievers.transformer.vectors import SequenceVectors

Ints = npt.NDArray[np.int64]

PARITY_ROWS = 10_000  # windows on which a trained tower and its export are compared
PROBE_USERS = 300  # users whose searches set the number of probed lists of the inverted file
GOLDEN_ROWS = 16
TOWERS_MAX = 6  # of a series: indexes are cheap, towers are not
SEQUENCE_SHARE = 1 / 3  # of a slot's candidates
# Distinct pairs of person and item, as a share of interactions; below it, people repeat items.
DISTINCT_SHARE_MAX = 0.8


@dataclass(frozen=True)
class TowerSettings:
    """Size and training of a tower.

    Attributes:
        width, layers, heads, length: of the net; with 64, 2, 2, 20 a vector and its products with
            9,000 items take less than 0.5 ms.
        epochs: passes over the interactions, within `steps_min` and `steps_max` steps of `batch`
            sequences.
        negatives: uniform negatives, and as many from the batch; with fewer items, all are used.
        interactions_min: fewest interactions to learn from.
        rate: learning rate.
    """

    width: int = 64
    layers: int = 2
    heads: int = 2
    length: int = 20
    batch: int = 64
    epochs: float = 25.0
    negatives: int = 512
    steps_min: int = 100
    steps_max: int = 3_000
    interactions_min: int = 2_000
    rate: float = 2e-3

    def build_transformer(
        self, interaction_count: int, seed: int, content: Ints
    ) -> SequenceTransformer:
        """Return the transformer for a number of interactions."""
        steps = int(
            np.clip(
                self.epochs * interaction_count / (self.batch * self.length),
                self.steps_min,
                self.steps_max,
            )
        )
        sizes = {
            "width": self.width,
            "layers": self.layers,
            "heads": self.heads,
            "length": self.length,
            "batch": self.batch,
        }
        return SequenceTransformer(
            **sizes,
            negatives=self.negatives,
            steps=steps,
            rate=self.rate,
            seed=seed,
            content=content,
        )


def find_sequence(features: FeatureSet) -> tuple[str, tuple[str, ...]] | None:
    """Return the sequence that serves requests, and its event types; None if none is declared."""
    for feature, step in zip(features.features, features.layout.steps, strict=True):
        if step.kind == "sequence":
            return step.name, tuple(feature.types)  # type: ignore[attr-defined]
    return None


def explain_missing_tower(features: FeatureSet) -> str:
    """Return why no tower is available, "" if one is."""
    if not is_available("dcn"):
        return "a tower needs torch, which is not installed: pip install 'tailorbird[deep]'"
    return (
        ""
        if find_sequence(features) is not None
        else "features.py declares no sequence of a person's events"
    )


class EventData(Protocol):
    """Events, and codes of persons and items, as in `rows.TrainingData`."""

    @property
    def events(self) -> pa.Table: ...
    @property
    def person_vocabulary(self) -> IdVocabulary: ...
    @property
    def item_vocabulary(self) -> IdVocabulary: ...


class TowerLearner:
    """Learns towers as of ascending times, each from the weights of the previous one.

    Args:
        content: item attributes as tokens.

    Attributes:
        vector_share: share of a slot's candidates that later towers give.
    """

    def __init__(
        self,
        training_data: EventData,
        sequence: str,
        types: tuple[str, ...],
        content: Content,
        settings: TowerSettings,
        seed: int,
    ):
        self.item_vocabulary: IdVocabulary = training_data.item_vocabulary
        self.interactions = encode_interactions(
            training_data.events,
            training_data.person_vocabulary,
            training_data.item_vocabulary,
            types,
        )
        has_ids = (self.interactions.person >= 0) & (self.interactions.item >= 0)
        pairs = np.unique(
            self.interactions.person[has_ids] * max(self.interactions.item_count, 1)
            + self.interactions.item[has_ids]
        )
        self.has_repeats = len(pairs) < DISTINCT_SHARE_MAX * np.count_nonzero(has_ids)
        self._sequence = sequence
        self._content = content
        self._settings = settings
        self._seed = seed
        self._model: SequenceVectors | None = None
        self._learned_until = 0
        self.vector_share = SEQUENCE_SHARE

    def count_interactions(self, as_of: int) -> int:
        """Return the number of interactions before `as_of`."""
        return int(np.count_nonzero(self.interactions.ts < as_of))

    def build_space(self, index: Index, as_of: int, *, learn: bool = True) -> Space:
        """Return vectors over an index, by a tower that knows the events before `as_of`.

        Without `learn`, the current tower is used.
        """
        content_tokens = self._content.tokens(
            index.attributes, index.find(self.item_vocabulary.keys)
        )
        # Sized by all interactions so far, as an update has as much to learn.
        transformer = self._settings.build_transformer(
            self.count_interactions(as_of), self._seed, content_tokens
        )
        if self._model is None:
            self._model = transformer.fit(self.interactions.before(as_of), as_of)
        elif learn and as_of > self._learned_until:
            new_interactions = self.interactions.before(as_of, self._learned_until)
            seed = self._model.recipe.seed
            self._model = replace(self._model, recipe=replace(transformer, seed=seed)).updated(
                new_interactions, as_of
            )
        self._learned_until = as_of if learn else self._learned_until
        model = self._model
        settings = self._settings
        plan = TowerPlan(
            sequence=self._sequence,
            length=settings.length,
            width=settings.width,
            repeats=bool(self.has_repeats),
            trained_until=self._learned_until,
            share=self.vector_share,
        )
        # Inputs for padding and for the start of a sequence.
        edge_vectors = np.stack([model.input_vectors[0], model.input_vectors[-1]])
        vectors = build_item_vectors(
            index, self.item_vocabulary, model, self._content, content_tokens
        )
        return Space(Tower(plan, edge_vectors, model.run), replace(index, vectors=vectors))

    def add_inverted_file(self, space: Space) -> Space:
        """Return the space with an inverted file, tuned with users, if it has many items."""
        if len(space.index) < INVERTED_ITEMS_MIN:
            return space
        item_rows, gaps = self._user_windows(space, PROBE_USERS)
        user_vectors = space.tower.encode_windows(space.vectors, item_rows, gaps)
        return replace(
            space,
            index=replace(space.index, vectors=space.vectors.with_inverted_file(user_vectors)),
        )

    def export_files(self, space: Space) -> dict[str, bytes]:
        """Export the last tower for a bundle, and check the export.

        Raises:
            BundleError: the export gives other vectors.
        """
        from tailorbird.models.retrievers.transformer.export import tower_to_onnx
        from tailorbird.ranking.onnx_session import start_session

        assert self._model is not None
        onnx_bytes = tower_to_onnx(self._model)
        exported_net = OnnxNet(
            start_session(onnx_bytes, where="tower"), space.tower.plan.width, "tower"
        )
        item_rows, gaps = self._parity_windows(space)
        trained_vectors, exported_vectors = (
            replace(space.tower, net=net).encode_windows(space.vectors, item_rows, gaps)
            for net in (space.tower.net, exported_net)
        )
        largest_difference = float(np.abs(trained_vectors - exported_vectors).max(initial=0.0))
        if not largest_difference <= TOLERANCE:
            raise BundleError(
                f"the exported tower differs from the trained one by {largest_difference:.2g} (at "
                f"most {TOLERANCE:g} is allowed)"
            )
        golden_rows, golden_gaps = self._random_windows(space, GOLDEN_ROWS)
        arrays = {"edges": space.tower.edges, "golden_row": golden_rows, "golden_gap": golden_gaps}
        arrays["golden_user"] = replace(space.tower, net=exported_net).encode_windows(
            space.vectors, golden_rows, golden_gaps
        )
        files = {f"{name}.npy": array_bytes(array) for name, array in arrays.items()}
        return {
            "plan.json": msgspec.json.encode(space.tower.plan),
            "user.onnx": onnx_bytes,
            **files,
        }

    def _user_windows(self, space: Space, limit: int) -> tuple[Ints, Ints]:
        """Return the item rows and time gaps of users' sequence windows, drawn evenly."""
        order = np.lexsort((self.interactions.ts, self.interactions.person))
        order = order[self.interactions.person[order] >= 0]
        user_starts = np.flatnonzero(np.diff(self.interactions.person[order], prepend=-1))
        item_rows = space.index.find(
            self.item_vocabulary.keys[np.maximum(self.interactions.item[order], 0)]
        ).astype(np.int64)
        window_rows, window_gaps = recent_windows(
            np.concatenate((user_starts, [len(order)])),
            item_rows,
            self.interactions.ts[order],
            space.tower.plan.length,
        )
        sample = np.random.default_rng(self._seed).permutation(len(window_rows))[:limit]
        return window_rows[sample], window_gaps[sample]

    def _parity_windows(self, space: Space) -> tuple[Ints, Ints]:
        """Return `PARITY_ROWS` windows: of users, filled up with random ones."""
        user_rows, user_gaps = self._user_windows(space, PARITY_ROWS)
        random_rows, random_gaps = self._random_windows(space, PARITY_ROWS - len(user_rows))
        return np.concatenate([user_rows, random_rows]), np.concatenate([user_gaps, random_gaps])

    def _random_windows(self, space: Space, count: int) -> tuple[Ints, Ints]:
        """Return windows of random items, so that no bundle holds a person's events."""
        rng = np.random.default_rng(self._seed)
        length = space.tower.plan.length
        offsets = np.concatenate(([0], np.cumsum(rng.integers(0, length + 1, count))))
        item_rows = (
            rng.integers(0, max(len(space.index), 1), offsets[-1])
            if len(space.index)
            else np.full(offsets[-1], -1)
        )
        return recent_windows(
            offsets, item_rows, np.cumsum(rng.integers(0, 1 << 32, offsets[-1])), length
        )


def build_item_vectors(
    index: Index,
    item_vocabulary: IdVocabulary,
    model: "SequenceVectors",
    content: Content,
    content_tokens: Ints,
) -> ItemVectors:
    """Return vectors of an index's items: learned ones, or by content for unseen items."""
    weights_by_name = model.net.state_dict()
    is_learned = weights_by_name["known"].numpy()[1:-1] > 0
    token_vectors = np.zeros((content.size, model.recipe.width), np.float32)
    seen_tokens = np.unique(content_tokens[is_learned])
    seen_tokens = seen_tokens[seen_tokens > 0]
    token_vectors[seen_tokens] = weights_by_name["token.weight"].numpy()[seen_tokens]
    content_vectors = ItemVectors(
        np.zeros((len(index), model.recipe.width), np.float32),
        token_vectors,
        weights_by_name["unknown"].numpy().copy(),
        content,
    )
    vectors = content_vectors.unknown_vector + content_vectors.content_vectors(
        index.attributes, np.arange(len(index))
    )
    index_rows = index.find(item_vocabulary.keys)
    is_indexed = is_learned & (index_rows >= 0)
    vectors[index_rows[is_indexed]] = model.item_vectors[is_indexed]
    return replace(content_vectors, vectors=vectors)


def add_spaces(
    index_series: IndexSeries,
    learner: TowerLearner,
    validation_from: int,
    events_min: int,
    progress: Callable[[int, int], None],
) -> IndexSeries:
    """Return the series with vectors of at most `TOWERS_MAX` towers, each used until the next.

    One of the towers is as of `validation_from`.

    Args:
        events_min: number of events before which nothing is learned.
    """
    index_count = len(index_series.indexes)
    first_space_number = next(
        (
            index_number
            for index_number, as_of in enumerate(index_series.as_of_times.tolist())
            if learner.count_interactions(as_of) >= events_min
        ),
        index_count,
    )
    evenly_chosen = (
        np.linspace(
            first_space_number, index_count - 1, min(index_count - first_space_number, TOWERS_MAX)
        )
        .astype(int)
        .tolist()
    )
    learned_index_numbers = {
        *evenly_chosen,
        int(index_series.index_numbers_at(np.array([validation_from]))[0]),
    }
    spaces: list[Space | None] = [None] * first_space_number
    for index_number in range(first_space_number, index_count):
        progress(index_number, index_count)
        spaces.append(
            learner.build_space(
                index_series.indexes[index_number],
                int(index_series.as_of_times[index_number]),
                learn=index_number in learned_index_numbers,
            )
        )
    progress(len(spaces), len(index_series.indexes))
    return replace(index_series, spaces=tuple(spaces))


def make_learner(
    training_data: TrainingData,
    features: FeatureSet,
    index_series: IndexSeries,
    settings: TowerSettings,
    seed: int,
) -> TowerLearner | None:
    """Return a learner for some indexes; None if no sequence is declared."""
    sequence = find_sequence(features)
    if sequence is None:
        return None
    return TowerLearner(
        training_data, *sequence, build_content(index_series.indexes[0].attributes), settings, seed
    )
