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
from tailorbird.retrieval.vectors import INVERTED_ITEMS_MIN, Content, ItemVectors, content_of
from tailorbird.training.dataset.codes import Codes, encode_interactions
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.rows import TrainingData

if TYPE_CHECKING:
    from tailorbird.models.retrievers.transformer.vectors import SequenceVectors

Ints = npt.NDArray[np.int64]

PARITY_ROWS = 10_000
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

    def recipe(self, count: int, seed: int, content: Ints) -> SequenceTransformer:
        """Return the transformer for a number of interactions."""
        steps = int(
            np.clip(
                self.epochs * count / (self.batch * self.length), self.steps_min, self.steps_max
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
    def people(self) -> Codes: ...
    @property
    def item_codes(self) -> Codes: ...


class TowerLearner:
    """Learns towers as of ascending moments, each from the weights of the previous one.

    Args:
        content: item attributes as tokens.

    Attributes:
        share: share of a slot's candidates that later towers give.
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
        self.codes: Codes = training_data.item_codes
        self.interactions = encode_interactions(
            training_data.events, training_data.people, training_data.item_codes, types
        )
        identified = (self.interactions.person >= 0) & (self.interactions.item >= 0)
        pairs = np.unique(
            self.interactions.person[identified] * max(self.interactions.items, 1)
            + self.interactions.item[identified]
        )
        self.has_repeats = len(pairs) < DISTINCT_SHARE_MAX * np.count_nonzero(identified)
        self._sequence, self._content, self._settings, self._seed = (
            sequence,
            content,
            settings,
            seed,
        )
        self._model: SequenceVectors | None = None
        self._until = 0
        self.share = SEQUENCE_SHARE

    def count(self, before: int) -> int:
        """Return the number of interactions before a moment."""
        return int(np.count_nonzero(self.interactions.ts < before))

    def space(self, index: Index, moment: int, *, learn: bool = True) -> Space:
        """Return vectors over an index, by a tower that knows the events before a moment.

        Without `learn`, the current tower is used.
        """
        tokens = self._content.tokens(index.attributes, index.find(self.codes.keys))
        # Sized by all interactions so far, as an update has as much to learn.
        recipe = self._settings.recipe(self.count(moment), self._seed, tokens)
        if self._model is None:
            self._model = recipe.fit(self.interactions.before(moment), moment)
        elif learn and moment > self._until:
            new_interactions, seed = (
                self.interactions.before(moment, self._until),
                self._model.recipe.seed,
            )
            self._model = replace(self._model, recipe=replace(recipe, seed=seed)).updated(
                new_interactions, moment
            )
        self._until = moment if learn else self._until
        model, settings = self._model, self._settings
        plan = TowerPlan(
            self._sequence,
            settings.length,
            settings.width,
            bool(self.has_repeats),
            self._until,
            self.share,
        )
        edges = np.stack([model.input_vectors[0], model.input_vectors[-1]])
        vectors = build_item_vectors(index, self.codes, model, self._content, tokens)
        return Space(Tower(plan, edges, model.run), replace(index, vectors=vectors))

    def add_inverted_file(self, space: Space) -> Space:
        """Return the space with an inverted file, tuned with users, if it has many items."""
        if len(space.index) < INVERTED_ITEMS_MIN:
            return space
        row, gap = self._user_windows(space, PROBE_USERS)
        users = space.tower.encode_windows(space.vectors, row, gap)
        return replace(space, index=replace(space.index, vectors=space.vectors.indexed(users)))

    def export_files(self, space: Space) -> dict[str, bytes]:
        """Export the last tower for a bundle, and check the export.

        Raises:
            BundleError: the export gives other vectors.
        """
        from tailorbird.models.retrievers.transformer.export import tower_to_onnx
        from tailorbird.ranking.onnx_session import start_session

        assert self._model is not None
        data = tower_to_onnx(self._model)
        exported = OnnxNet(start_session(data, where="tower"), space.tower.plan.width, "tower")
        row, gap = self._parity_windows(space)
        trained, restored_vectors = (
            replace(space.tower, net=net).encode_windows(space.vectors, row, gap)
            for net in (space.tower.net, exported)
        )
        largest_difference = float(np.abs(trained - restored_vectors).max(initial=0.0))
        if not largest_difference <= TOLERANCE:
            raise BundleError(
                f"the exported tower differs from the trained one by {largest_difference:.2g} (at most "
                f"{TOLERANCE:g} is allowed)"
            )
        golden = self._random_windows(space, GOLDEN_ROWS)
        arrays = {"edges": space.tower.edges, "golden_row": golden[0], "golden_gap": golden[1]}
        arrays["golden_user"] = replace(space.tower, net=exported).encode_windows(
            space.vectors, *golden
        )
        files = {f"{name}.npy": array_bytes(array) for name, array in arrays.items()}
        return {"plan.json": msgspec.json.encode(space.tower.plan), "user.onnx": data, **files}

    def _user_windows(self, space: Space, limit: int) -> tuple[Ints, Ints]:
        """Return sequence windows of users, drawn evenly."""
        order = np.lexsort((self.interactions.ts, self.interactions.person))
        order = order[self.interactions.person[order] >= 0]
        user_starts = np.flatnonzero(np.diff(self.interactions.person[order], prepend=-1))
        row = space.index.find(
            self.codes.keys[np.maximum(self.interactions.item[order], 0)]
        ).astype(np.int64)
        rows, gaps = recent_windows(
            np.concatenate((user_starts, [len(order)])),
            row,
            self.interactions.ts[order],
            space.tower.plan.length,
        )
        sample = np.random.default_rng(self._seed).permutation(len(rows))[:limit]
        return rows[sample], gaps[sample]

    def _parity_windows(self, space: Space) -> tuple[Ints, Ints]:
        """Return `PARITY_ROWS` windows: of users, filled up with random ones."""
        people = self._user_windows(space, PARITY_ROWS)
        random_windows = self._random_windows(space, PARITY_ROWS - len(people[0]))
        row, gap = (np.concatenate(pair) for pair in zip(people, random_windows, strict=True))
        return row, gap

    def _random_windows(self, space: Space, count: int) -> tuple[Ints, Ints]:
        """Return windows of random items, so that no bundle holds a person's events."""
        rng, length = np.random.default_rng(self._seed), space.tower.plan.length
        offsets = np.concatenate(([0], np.cumsum(rng.integers(0, length + 1, count))))
        items = (
            rng.integers(0, max(len(space.index), 1), offsets[-1])
            if len(space.index)
            else np.full(offsets[-1], -1)
        )
        return recent_windows(
            offsets, items, np.cumsum(rng.integers(0, 1 << 32, offsets[-1])), length
        )


def build_item_vectors(
    index: Index, codes: Codes, model: "SequenceVectors", content: Content, tokens: Ints
) -> ItemVectors:
    """Return vectors of an index's items: learned ones, or by content for unseen items."""
    net = model.net.state_dict()
    is_learned = net["known"].numpy()[1:-1] > 0
    table = np.zeros((content.size, model.recipe.width), np.float32)
    seen_tokens = np.unique(tokens[is_learned])
    seen_tokens = seen_tokens[seen_tokens > 0]
    table[seen_tokens] = net["token.weight"].numpy()[seen_tokens]
    content_vectors = ItemVectors(
        np.zeros((len(index), model.recipe.width), np.float32),
        table,
        net["unknown"].numpy().copy(),
        content,
    )
    vectors = content_vectors.unknown + content_vectors.of_content(
        index.attributes, np.arange(len(index))
    )
    row = index.find(codes.keys)
    is_indexed = is_learned & (row >= 0)
    vectors[row[is_indexed]] = model.item_vectors[is_indexed]
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
    count = len(index_series.indexes)
    first_space = next(
        (
            position
            for position, moment in enumerate(index_series.moments.tolist())
            if learner.count(moment) >= events_min
        ),
        count,
    )
    evenly_chosen = (
        np.linspace(first_space, count - 1, min(count - first_space, TOWERS_MAX))
        .astype(int)
        .tolist()
    )
    learned_at = {*evenly_chosen, int(index_series.positions_at(np.array([validation_from]))[0])}
    spaces: list[Space | None] = [None] * first_space
    for number in range(first_space, count):
        progress(number, count)
        spaces.append(
            learner.space(
                index_series.indexes[number],
                int(index_series.moments[number]),
                learn=number in learned_at,
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
        training_data, *sequence, content_of(index_series.indexes[0].attributes), settings, seed
    )
