"""Vectors of people and items for training: a tower as of each index, and what a bundle holds.

The first tower is learned from what came before the first index; each later one goes on from its
weights over what came since. So a row sees a tower that knows nothing of its future, and is about
as old as the one that will serve. It learns from the events of the sequence that answers are given
by, the first that is declared.
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
from tailorbird.models.architectures import available
from tailorbird.models.retrievers.transformer import SequenceTransformer
from tailorbird.ranking.tower import TOLERANCE, OnnxNet, Space, Tower, TowerPlan
from tailorbird.retrieval import Index
from tailorbird.retrieval.arrays import array_bytes
from tailorbird.retrieval.sequences import windows
from tailorbird.retrieval.vectors import INDEXED_FROM, Content, ItemVectors, content_of
from tailorbird.training.coding import Codes, interactions
from tailorbird.training.indexes import IndexSeries
from tailorbird.training.rows import Material

if TYPE_CHECKING:
    from tailorbird.models.retrievers.transformer.vectors import SequenceVectors

Ints = npt.NDArray[np.int64]

PARITY_ROWS = 10_000
MEASURED_BY = 300  # people, how many lists of the inverted file it takes
GOLDEN_ROWS = 16
TOWERS = 6  # of a series, at most: indexes are cheap, towers are not
SEQUENCE_SHARE = 1 / 3  # of a slot's candidates
# distinct pairs of person and item, as a share of interactions: below, people choose the same item
# again
REPEATED = 0.8


@dataclass(frozen=True)
class TowerSettings:
    """How large a tower is, and how long it learns.

    Attributes:
        width, layers, heads, length: of the net; measured at 64, 2, 2, 20: a vector and its
            products with 9,000 items in less than 0.5 ms.
        epochs: how often each interaction is seen, within `steps_min` and `steps_max` steps of
            `batch` stretches.
        negatives: uniform ones, and as many from the batch; where no more items were met, all of
            them are looked at.
        interactions_min: fewer teach nothing.
        rate: of learning.
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
        """For so many interactions."""
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


def read_by(features: FeatureSet) -> tuple[str, tuple[str, ...]] | None:
    """The sequence that answers are given by, and the types of its events; None where none is
    declared.
    """
    for feature, step in zip(features.features, features.layout.steps, strict=True):
        if step.kind == "sequence":
            return step.name, tuple(feature.types)  # type: ignore[attr-defined]
    return None


def why_none(features: FeatureSet) -> str:
    """Why no tower can be had, "" where one can."""
    if not available("dcn"):
        return "a tower needs torch, which is not installed: pip install 'tailorbird[deep]'"
    return (
        ""
        if read_by(features) is not None
        else "features.py declares no sequence of a person's events"
    )


class Log(Protocol):
    """Events, and people and items by code: `rows.Material`."""

    @property
    def events(self) -> pa.Table: ...
    @property
    def people(self) -> Codes: ...
    @property
    def codes(self) -> Codes: ...


class Learner:
    """Learns towers as of ascending moments, each from where the one before it stopped.

    Args:
        content: what items are told apart by.

    Attributes:
        share: of a slot's candidates, that towers made from then on find.
    """

    def __init__(
        self,
        material: Log,
        sequence: str,
        types: tuple[str, ...],
        content: Content,
        settings: TowerSettings,
        seed: int,
    ):
        self.codes: Codes = material.codes
        self.done = interactions(material.events, material.people, material.codes, types)
        known = (self.done.person >= 0) & (self.done.item >= 0)
        pairs = np.unique(self.done.person[known] * max(self.done.items, 1) + self.done.item[known])
        self.repeats = len(pairs) < REPEATED * np.count_nonzero(known)
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
        """How many interactions came before a moment."""
        return int(np.count_nonzero(self.done.ts < before))

    def space(self, index: Index, moment: int, *, learn: bool = True) -> Space:
        """Vectors over an index, by a tower that knows what came before a moment; without `learn`,
        by the one that is there.
        """
        tokens = self._content.tokens(index.attributes, index.find(self.codes.keys))
        recipe = self._settings.recipe(
            self.count(moment), self._seed, tokens
        )  # by what there is now: an update has as much to learn
        if self._model is None:
            self._model = recipe.fit(self.done.before(moment), moment)
        elif learn and moment > self._until:
            more, seed = self.done.before(moment, self._until), self._model.recipe.seed
            self._model = replace(self._model, recipe=replace(recipe, seed=seed)).updated(
                more, moment
            )
        self._until = moment if learn else self._until
        model, settings = self._model, self._settings
        plan = TowerPlan(
            self._sequence,
            settings.length,
            settings.width,
            bool(self.repeats),
            self._until,
            self.share,
        )
        edges = np.stack([model.input_vectors[0], model.input_vectors[-1]])
        vectors = vectors_over(index, self.codes, model, self._content, tokens)
        return Space(Tower(plan, edges, model.run), replace(index, vectors=vectors))

    def indexed(self, space: Space) -> Space:
        """The same space with an inverted file over its items, where there are many: measured by
        people who are there.
        """
        if len(space.index) < INDEXED_FROM:
            return space
        row, gap = self._windows(space, MEASURED_BY)
        users = space.tower.read(space.vectors, row, gap)
        return replace(space, index=replace(space.index, vectors=space.vectors.indexed(users)))

    def files(self, space: Space) -> dict[str, bytes]:
        """The last tower as a bundle holds it, after its export was held against it.

        Raises:
            BundleError: the export gives other vectors.
        """
        from tailorbird.models.retrievers.transformer.export import tower_to_onnx
        from tailorbird.ranking.onnx_session import start_session

        assert self._model is not None
        data = tower_to_onnx(self._model)
        exported = OnnxNet(start_session(data, where="tower"), space.tower.plan.width, "tower")
        row, gap = self._compared(space)
        ours, theirs = (
            replace(space.tower, net=net).read(space.vectors, row, gap)
            for net in (space.tower.net, exported)
        )
        worst = float(np.abs(ours - theirs).max(initial=0.0))
        if not worst <= TOLERANCE:
            raise BundleError(
                f"the exported tower differs from the trained one by {worst:.2g} (at most "
                f"{TOLERANCE:g} is allowed)"
            )
        drawn = self._drawn(space, GOLDEN_ROWS)
        arrays = {"edges": space.tower.edges, "golden_row": drawn[0], "golden_gap": drawn[1]}
        arrays["golden_user"] = replace(space.tower, net=exported).read(space.vectors, *drawn)
        files = {f"{name}.npy": array_bytes(array) for name, array in arrays.items()}
        return {"plan.json": msgspec.json.encode(space.tower.plan), "user.onnx": data, **files}

    def _windows(self, space: Space, most: int) -> tuple[Ints, Ints]:
        """Windows of people who are there, drawn evenly."""
        order = np.lexsort((self.done.ts, self.done.person))
        order = order[self.done.person[order] >= 0]
        first = np.flatnonzero(np.diff(self.done.person[order], prepend=-1))
        row = space.index.find(self.codes.keys[np.maximum(self.done.item[order], 0)]).astype(
            np.int64
        )
        rows, gaps = windows(
            np.concatenate((first, [len(order)])), row, self.done.ts[order], space.tower.plan.length
        )
        some = np.random.default_rng(self._seed).permutation(len(rows))[:most]
        return rows[some], gaps[some]

    def _compared(self, space: Space) -> tuple[Ints, Ints]:
        """`PARITY_ROWS` windows: of people, and of nobody where there are fewer people."""
        people = self._windows(space, PARITY_ROWS)
        nobody = self._drawn(space, PARITY_ROWS - len(people[0]))
        row, gap = (np.concatenate(pair) for pair in zip(people, nobody, strict=True))
        return row, gap

    def _drawn(self, space: Space, count: int) -> tuple[Ints, Ints]:
        """Windows of nobody: items drawn evenly, so that no bundle holds what a person did."""
        rng, length = np.random.default_rng(self._seed), space.tower.plan.length
        offsets = np.concatenate(([0], np.cumsum(rng.integers(0, length + 1, count))))
        items = (
            rng.integers(0, max(len(space.index), 1), offsets[-1])
            if len(space.index)
            else np.full(offsets[-1], -1)
        )
        return windows(offsets, items, np.cumsum(rng.integers(0, 1 << 32, offsets[-1])), length)


def vectors_over(
    index: Index, codes: Codes, model: "SequenceVectors", content: Content, tokens: Ints
) -> ItemVectors:
    """Vectors of an index's items: as learned of those that somebody had met, by what they are of
    all others.
    """
    net = model.net.state_dict()
    met = net["known"].numpy()[1:-1] > 0
    table = np.zeros((content.size, model.recipe.width), np.float32)
    heard = np.unique(tokens[met])
    heard = heard[heard > 0]
    table[heard] = net["token.weight"].numpy()[heard]
    bare = ItemVectors(
        np.zeros((len(index), model.recipe.width), np.float32),
        table,
        net["unknown"].numpy().copy(),
        content,
    )
    vectors = bare.unknown + bare.of_content(index.attributes, np.arange(len(index)))
    row = index.find(codes.keys)
    known = met & (row >= 0)
    vectors[row[known]] = model.item_vectors[known]
    return replace(bare, vectors=vectors)


def with_spaces(
    series: IndexSeries, learner: Learner, border: int, least: int, tell: Callable[[int, int], None]
) -> IndexSeries:
    """The series with towers as of its moments; of at most `TOWERS` of them and the border, each of
    which serves until the next.

    Args:
        least: events, below which nothing is learned yet.
    """
    count = len(series.indexes)
    first = next(
        (
            place
            for place, moment in enumerate(series.moments.tolist())
            if learner.count(moment) >= least
        ),
        count,
    )
    even = np.linspace(first, count - 1, min(count - first, TOWERS)).astype(int).tolist()
    learned = {*even, int(series.place_of(np.array([border]))[0])}
    spaces: list[Space | None] = [None] * first
    for place in range(first, count):
        tell(place, count)
        spaces.append(
            learner.space(series.indexes[place], int(series.moments[place]), learn=place in learned)
        )
    tell(len(spaces), len(series.indexes))
    return replace(series, spaces=tuple(spaces))


def learner_for(
    material: Material,
    features: FeatureSet,
    series: IndexSeries,
    settings: TowerSettings,
    seed: int,
) -> Learner | None:
    """Who learns for these indexes; None where no sequence is declared."""
    read = read_by(features)
    if read is None:
        return None
    return Learner(material, *read, content_of(series.indexes[0].attributes), settings, seed)
