"""The models behind heads: boosters, a net for all of them, or whichever is better by the
validation part.

Both see the same matrix; a net sees, behind it, the columns of `ranking.history` too. `auto` takes
the net only where the lower end of its paired gain on the validation part is above 0: it costs more
to serve, and the gate looks at the test part alone.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.architectures import (
    ARCHITECTURES,
    HeadFile,
    Net,
    available,
    fit_net,
    sample_of,
)
from tailorbird.models.deep.batches import Blocks, PartRows, Rows, SomeRows, nothing_to_tell_apart
from tailorbird.models.deep.layout import Bag, History, Layout
from tailorbird.models.export import gbdt_to_onnx, largest_difference
from tailorbird.models.gbdt import Gbdt, fit_gbdt
from tailorbird.ranking import history
from tailorbird.ranking.encoders import Encoder
from tailorbird.ranking.steps import Codes
from tailorbird.ranking.targets import is_amount, return_of
from tailorbird.retrieval.columns import TextColumn
from tailorbird.retrieval.words import Words, is_listed
from tailorbird.training.bootstrap import Bootstrap, Interval
from tailorbird.training.calibrate import Chosen, choose_for
from tailorbird.training.dataset import Dataset
from tailorbird.training.incremental import afresh, begun, epoch_log, keep
from tailorbird.training.indexes import IndexSeries
from tailorbird.training.metrics import ndcg, rank_lists
from tailorbird.training.pieces import looked_at
from tailorbird.training.settings import AUTO, Progress, TrainSettings

if TYPE_CHECKING:
    from tailorbird.models.deep.model import Deep

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

CHOICES = (*ARCHITECTURES, AUTO)
LENGTH = 20  # newest items that a net looks at
ITEMS_MIN, ITEMS_MAX = (
    5,
    50_000,
)  # rows of an item for it to have a code of its own; items that have one
WORD_WIDTH, WORD_BUCKETS = 8, 2_048
ROWS_OF_IMPORTANCE = 2_000
QUICK_EPOCHS = 3
# times the log loss of always the mean: weights that are worse for every head are no beginning for
# another training
DIVERGED = 2.0


class Diverged(UsageError):
    """A net whose training came apart."""


class HeadModel(Protocol):
    """What a head is computed by."""

    @property
    def curve(self) -> dict[str, list[float]]:
        """Metric by step, for `train` and `validation`."""
        ...

    @property
    def steps(self) -> int:
        """How many of them count."""
        ...

    @property
    def unit(self) -> str:
        """What a step is, in the plural."""
        ...

    def score(self, matrix: Matrix) -> Floats: ...
    def importance(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class NetHead:
    """One head of a net."""

    net: "Deep"
    head: str
    moved: Mapping[str, float]  # column → share of how far probabilities move when it is shuffled
    unit: str = "epochs"

    @property
    def curve(self) -> dict[str, list[float]]:
        return {
            part: self.net.curve[f"{part}_{self.head}"]
            for part in ("train", "validation")
            if f"{part}_{self.head}" in self.net.curve
        }

    @property
    def steps(self) -> int:
        return self.net.best_epoch[self.head]

    def score(self, matrix: Matrix) -> Floats:
        return self.net.score(matrix)[self.head]

    def importance(self) -> dict[str, float]:
        return dict(self.moved)


@dataclass(frozen=True)
class Ground:
    """What heads are learned on.

    Attributes:
        encoder: of the matrices, its columns for nets included where a net may be fitted. matrix,
        shown, served: of the training part, without rows where they lie in files; of the validation
        part as it was shown, and as it would be served.
        labels: of the training part, NaN where unknown.
        heads: those that are learned.
        until: microseconds: the training part is before this.
        label_window: microseconds until a row's label is known.
        files: the rows of the training part, where they lie in files: a net learns from them, trees
            from some of them.
    """

    encoder: Encoder
    matrix: Matrix
    shown: Matrix
    served: Matrix
    train: Dataset
    held: Dataset
    labels: Mapping[str, npt.NDArray]
    heads: tuple[str, ...]
    objective: Mapping[str, float]
    until: int
    label_window: int
    files: PartRows | None = None

    def plain(self) -> "Ground":
        """The same without columns for nets."""
        encoder = without_columns_for_nets(self.encoder)
        if encoder is self.encoder:
            return self
        matrix, shown, served = (
            np.ascontiguousarray(each[:, : len(encoder.names)])
            for each in (self.matrix, self.shown, self.served)
        )
        return replace(self, encoder=encoder, matrix=matrix, shown=shown, served=served, files=None)

    def unread(self) -> "Ground":
        """The same where columns for nets tell nothing: trees beside a net see as many columns as
        it, and split on none of these.
        """
        width = len(without_columns_for_nets(self.encoder).names)
        blank = [each.copy() for each in (self.matrix, self.shown, self.served)]
        for each in blank:
            each[:, width:] = np.nan
        return replace(self, matrix=blank[0], shown=blank[1], served=blank[2])


@dataclass(frozen=True)
class Made:
    """Models by head, and their files.

    Attributes:
        places: head → where it is in `files`.
        parity: the largest difference between a trained model and its export.
        probability: whether heads of classes tell a probability by themselves.
        note: how the architecture was chosen; "" where it was asked for.
    """

    architecture: str
    encoder: Encoder
    models: dict[str, HeadModel]
    files: dict[str, bytes]
    places: dict[str, HeadFile]
    parity: float
    probability: bool
    note: str = ""

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        """What each head's model says of rows as it was learned, before any calibration."""
        return {head: model.score(matrix) for head, model in self.models.items()}

    def calibrations(
        self, raw: Mapping[str, Floats], held: Dataset, label_window: int
    ) -> dict[str, Chosen]:
        """How each head's output is calibrated, by what it said of the validation part, as that
        would be served.
        """
        return {
            head: choose_for(head, score, held, label_window, probability=self.probability)
            for head, score in raw.items()
        }


def wants_net(settings: TrainSettings) -> bool:
    """Whether a net may be fitted.

    Raises:
        UsageError: no such architecture, or one that needs what is not installed.
    """
    if settings.architecture not in CHOICES:
        raise UsageError(
            f"there is no architecture {settings.architecture!r}",
            fix=f"use one of {', '.join(CHOICES)}",
        )
    if settings.architecture == AUTO:
        return available("dcn")
    if not available(settings.architecture):
        raise UsageError(
            f"{settings.architecture} needs torch, which is not installed",
            fix="pip install 'tailorbird[deep]'",
        )
    return settings.architecture != "gbdt"


def with_columns_for_nets(encoder: Encoder, train: Dataset, series: IndexSeries) -> Encoder:
    """The encoder with codes of the candidate and of the newest items, learned from training rows,
    and words of item attributes.

    Items of fewer than `ITEMS_MIN` rows have the code of the unknown, as items have that are new
    since: its vector is learned. While both shared 64 buckets by hash, a dcn of 300 items and 100
    rare ones had a log loss of .366 to .392 of new items in a simulation, over three seeds, and
    always the mean .349 to .353; the unknown has .341 to .347. To keep buckets for rare items alone
    gained nothing: their own log loss was .350 to .357, and is .332 to .353 without.
    """
    keys, counts = np.unique(train.items.keys[train.item], return_counts=True)
    kept = (keys != 0) & (counts >= ITEMS_MIN)
    keys, counts = keys[kept], counts[kept]
    order = np.lexsort((keys, -counts))[:ITEMS_MAX]
    recent = (
        history.History(encoder.sequence, LENGTH, keys[order].tolist())
        if encoder.sequence
        else None
    )
    return msgspec.structs.replace(encoder, history=recent, words=_words(series))


def without_columns_for_nets(encoder: Encoder) -> Encoder:
    return (
        msgspec.structs.replace(encoder, history=None, words=())
        if encoder.history or encoder.words
        else encoder
    )


def _words(series: IndexSeries) -> tuple[Words, ...]:
    """Titles, and attributes that are lists."""
    found = []
    for name, column in sorted(series.indexes[0].attributes.items()):
        if not isinstance(column, TextColumn) or not column.values:
            continue
        listed = is_listed(column)
        if listed or name == "title":
            found.append(Words(name, WORD_WIDTH, WORD_BUCKETS, listed))
    return tuple(found)


def layout_of(encoder: Encoder) -> Layout:
    """What a net takes the columns of an encoder's matrix for."""
    names = encoder.names
    at = {name: place for place, name in enumerate(names)}
    codes = {at[name]: size for name, size in encoder.sizes.items()}
    past = encoder.history
    places = [at[name] for name in past.names] if past else []
    recent = (
        History(
            places[0],
            tuple(places[1 : 1 + past.length]),
            tuple(places[1 + past.length :]),
            past.size,
        )
        if past
        else None
    )
    bags = tuple(
        Bag(one.attribute, tuple(at[name] for name in one.names), one.size) for one in encoder.words
    )
    used = {*codes, *places, *(place for bag in bags for place in bag.places)}
    numbers = tuple(place for place in range(len(names)) if place not in used)
    return Layout(names, numbers, codes, bags, recent, at.get("position", -1))


def fit_heads(
    ground: Ground, settings: TrainSettings, progress: Progress, sample: npt.NDArray[np.intp]
) -> Made:
    """Fit what the settings ask for. Expected amounts are always told by trees, beside a net too.

    Args:
        sample: rows of the validation part on which model and export are compared.
    """
    amounts = tuple(head for head in ground.heads if is_amount(head))
    chances = tuple(head for head in ground.heads if not is_amount(head))
    if not amounts or settings.architecture == "gbdt":
        return _fit_heads(ground, settings, progress, sample)
    if not chances:
        return _beside(ground, ground.plain(), amounts, settings, progress, sample)
    made = _fit_heads(replace(ground, heads=chances), settings, progress, sample)
    seen = (
        ground.unread() if len(made.encoder.names) == len(ground.encoder.names) else ground.plain()
    )
    trees = _beside(ground, seen, amounts, settings, progress, sample)
    files, places = {**made.files, **trees.files}, {**made.places, **trees.places}
    note = "; ".join(part for part in (made.note, trees.note) if part)
    parity = max(made.parity, trees.parity)
    return replace(
        made,
        models={**made.models, **trees.models},
        files=files,
        places=places,
        parity=parity,
        note=note,
    )


def _beside(
    ground: Ground,
    seen: Ground,
    heads: tuple[str, ...],
    settings: TrainSettings,
    progress: Progress,
    sample: npt.NDArray[np.intp],
) -> Made:
    """Trees of expected amounts over the columns that they see; of as many rows as memory may hold,
    where rows lie in files.
    """
    seen = replace(seen, heads=heads)
    if ground.files is None:
        return _boosters(seen, settings, progress, sample)
    rows = looked_at(ground.files.only(heads), settings.rows_in_memory)
    matrix = rows.matrix.copy()
    matrix[:, len(without_columns_for_nets(ground.encoder).names) :] = np.nan
    rows = replace(rows, matrix=np.ascontiguousarray(matrix[:, : len(seen.encoder.names)]))
    made = _boosters(seen, settings, progress, sample, rows)
    told = (
        f"{', '.join(heads)} was learned by trees, from {len(rows):,} of the "
        f"{len(ground.files):,} rows in files, evenly over all"
    )
    return replace(made, note=told)


def _fit_heads(
    ground: Ground, settings: TrainSettings, progress: Progress, sample: npt.NDArray[np.intp]
) -> Made:
    if settings.architecture == "gbdt":
        return _boosters(ground, settings, progress, sample)
    if settings.architecture != AUTO:
        return _net(ground, settings.architecture, settings, progress, sample)
    boosters = _boosters(ground.plain(), settings, progress, sample)
    if not wants_net(settings):
        return replace(
            boosters,
            note="gbdt, as torch is not installed: pip install 'tailorbird[deep]' lets auto try "
            "nets",
        )
    other = net_beside_trees(ground.heads)
    net = _net(ground, other, settings, progress, sample)
    gain = _gain(ground, net, boosters)
    told = f"ndcg_10 on the validation part {gain.signed} for {other} over gbdt"
    taken = net if gain.known and gain.low > 0 else boosters
    return replace(
        taken,
        note="; ".join(
            part for part in (f"{taken.architecture} was chosen: {told}", net.note) if part
        ),
    )


def net_beside_trees(heads: Collection[str]) -> str:
    """The net that `auto` holds against trees."""
    return "mmoe" if len(heads) > 1 else "dcn"


def _boosters(
    ground: Ground,
    settings: TrainSettings,
    progress: Progress,
    sample: npt.NDArray[np.intp],
    rows: Rows | None = None,
) -> Made:
    """Trees of each head; `rows` in place of those of the training part."""
    models: dict[str, HeadModel] = {}
    files, places, parity = {}, {}, 0.0
    rows = rows or Rows(
        ground.matrix, ground.labels, ground.train.weight, np.diff(ground.train.offsets)
    )
    held = Rows(ground.shown, ground.held.labels, ground.held.weight, np.diff(ground.held.offsets))
    for head in ground.heads:
        train, watch = sample_of(rows, head), sample_of(held, head)
        # Items of one answer are all followed by the same return: there is no order to learn. An
        # amount is no class.
        objective = (
            "binary"
            if return_of(head)
            else "tweedie"
            if is_amount(head)
            else settings.gbdt.objective
        )
        chosen = replace(settings.gbdt, objective=objective, seed=settings.seed)
        told = partial(progress, f"trees of {head}")
        categorical = ground.encoder.categorical_names
        model: Gbdt = fit_gbdt(
            train, watch, ground.encoder.names, chosen, categorical=categorical, progress=told
        )
        file = f"model/{head}.onnx"
        models[head], files[file], places[head] = model, gbdt_to_onnx(model), HeadFile(file)
        parity = max(parity, largest_difference(model, files[file], ground.served[sample]))
    return Made(
        "gbdt", ground.encoder, models, files, places, parity, settings.gbdt.objective == "binary"
    )


def _net(
    ground: Ground,
    architecture: str,
    settings: TrainSettings,
    progress: Progress,
    sample: npt.NDArray[np.intp],
) -> Made:
    parameters = dict(settings.parameters)
    if settings.quick:
        parameters.setdefault("epochs", QUICK_EPOCHS)
    layout = layout_of(ground.encoder)
    start = begun(
        architecture,
        parameters,
        layout,
        keys_of(ground.encoder),
        ground.heads,
        ground.until,
        settings,
    )
    rows: Blocks = Rows(
        ground.matrix, {head: ground.labels[head] for head in ground.heads}, ground.train.weight
    )
    rows = rows if ground.files is None else ground.files.only(ground.heads)
    if start.since is not None:
        newest = SomeRows.of(rows, ground.train.t[ground.train.request] >= start.since)
        if why := nothing_to_tell_apart(newest):
            start = afresh(layout, parameters, f"since then {why}")
        else:
            rows = newest
    held = Rows(
        ground.shown, {head: ground.held.labels[head] for head in ground.heads}, ground.held.weight
    )
    fitted: Net = fit_net(
        architecture,
        start.parameters,
        start.layout,
        rows,
        held,
        seed=settings.seed,
        on_epoch=epoch_log(settings.logs),
        progress=partial(progress, f"net {architecture} (rows)"),
        checkpoint=settings.checkpoint,
        begin=start.weights,
        processes=settings.processes,
    )
    told = _left(fitted.deep, held, keys_of(ground.encoder), ground.until, settings)
    files, places = fitted.export()
    moved = _moved(
        fitted,
        ground.encoder,
        ground.served[sample[:: max(1, len(sample) // ROWS_OF_IMPORTANCE)]],
        settings.seed,
    )
    models: dict[str, HeadModel] = {
        head: NetHead(fitted.deep, head, moved[head]) for head in ground.heads
    }
    compared = (
        largest_difference(models[head], files[at.file], ground.served[sample], at.column)
        for head, at in places.items()
    )
    note = "; ".join(each for each in (start.told, told) if each)
    return Made(architecture, ground.encoder, models, files, places, max(compared), True, note)


def _left(
    deep: "Deep",
    held: Rows,
    keys: dict[int, npt.NDArray[np.uint64]],
    until: int,
    settings: TrainSettings,
) -> str:
    """Leave the next training what it may begin with; what a reader must know of the net, or "".

    Raises:
        Diverged: training went on until weights or losses were no numbers.
    """
    check_whole(deep)
    worthless = deep.worthless(held)
    losses = ", ".join(
        f"{head} {loss:.4f} to {mean:.4f}" for head, (loss, mean) in worthless.items()
    )
    why = (
        "the net tells no more of the validation part than its mean does, by log loss: "
        f"{losses}: it diverged, or there is little to learn"
    )
    lost = all(loss > DIVERGED * mean for loss, mean in worthless.values()) and len(
        worthless
    ) == len(deep.heads)
    told = keep(deep, keys, until, replace(settings, warm=None) if lost else settings)
    kept = "; no later training goes on from it" if lost else ""
    return "; ".join(note for note in (f"{why}{kept}" if worthless else "", told) if note)


def check_whole(deep: "Deep") -> None:
    """That training did not come apart.

    Raises:
        Diverged: weights or losses are no numbers.
    """
    if deep.broken:
        said = f"the net diverged at a rate of {deep.parameters.rate:g}: its weights are no numbers"
        raise Diverged(
            said,
            where=deep.architecture,
            fix="""a lower rate, such as --parameters '{"rate": 0.0003}'""",
        )


def keys_of(encoder: Encoder) -> dict[int, npt.NDArray[np.uint64]]:
    """Place of each column of codes → what its codes from 2 on stand for; hashed ones have no such
    thing.
    """
    at = {name: place for place, name in enumerate(encoder.names)}
    found = {at[each.name]: each.keys for each in encoder.vocabularies}
    found |= {
        at[one.name]: one.steps[-1].keys
        for one in encoder.transforms
        if one.size and isinstance(one.steps[-1], Codes)
    }
    if encoder.history:
        found[at[encoder.history.names[0]]] = encoder.history.keys
    return {place: np.array(keys, np.uint64) for place, keys in found.items()}


def _moved(model: Net, encoder: Encoder, matrix: Matrix, seed: int) -> dict[str, dict[str, float]]:
    """By head and column, the share of how far probabilities move when the column is shuffled; what
    belongs together is shuffled as one.
    """
    names = encoder.names
    together = dict.fromkeys(encoder.history.names[1:] if encoder.history else (), "newest items")
    together |= {name: f"words of {one.attribute}" for one in encoder.words for name in one.names}
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(together.get(name, name), []).append(place)
    rng = np.random.default_rng(seed)
    before = model.score(matrix)
    far: dict[str, dict[str, float]] = {head: {} for head in before}
    for name, places in groups.items():
        shuffled = matrix.copy()
        shuffled[:, places] = matrix[rng.permutation(len(matrix))][:, places]
        for head, after in model.score(shuffled).items():
            far[head][name] = float(np.abs(after - before[head]).mean())
    total = {head: max(sum(each.values()), 1e-12) for head, each in far.items()}
    return {
        head: {
            name: value / total[head]
            for name, value in sorted(each.items(), key=lambda entry: -entry[1])
        }
        for head, each in far.items()
    }


def _gain(ground: Ground, ours: Made, theirs: Made) -> Interval:
    """What a net orders the validation part better by than boosters do, each by the formula as it
    would be served.

    An order learned as such has no scale: until it is calibrated, its heads are not to be added.
    """
    values = []
    for made in (ours, theirs):
        raw = made.score(np.ascontiguousarray(ground.served[:, : len(made.encoder.names)]))
        chosen = made.calibrations(raw, ground.held, ground.label_window)
        served = [
            weight * chosen[head].calibration.apply(raw[head])
            for head, weight in ground.objective.items()
            if head in raw
        ]
        values.append(sum(served, np.zeros(len(ground.served))))
    return ordered_better(
        values[0],
        values[1],
        ground.held.gain(ground.objective),
        ground.held.offsets,
        ground.held.person,
    )


def ordered_better(
    ours: Floats,
    theirs: Floats,
    gain: Floats,
    offsets: npt.NDArray[np.int64],
    person: npt.NDArray[np.int64],
) -> Interval:
    """What one value of the rows of requests orders them better by than another, in NDCG@10,
    paired, with its interval over people.
    """
    figures = [ndcg(rank_lists(value, gain, offsets)) for value in (ours, theirs)]
    nobody = (
        int(person.max(initial=0)) + 1 + np.arange(len(person))
    )  # requests of nobody are a person each
    _, codes = np.unique(np.where(person >= 0, person, nobody), return_inverse=True)
    return Bootstrap(codes, seed=0).difference(figures[0], figures[1])
