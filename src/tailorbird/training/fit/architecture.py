"""Model architectures of heads: boosters, one net for all heads, or the better of the two.

Boosters and nets read the same matrix; a net also reads the columns of `ranking.encode.history`.
`auto` chooses the net only if the lower end of its paired gain on the validation part is above 0. A
net costs more to serve, and the gate sees the test part alone.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.architectures import (
    ARCHITECTURES,
    GBDT,
    Forests,
    HeadProgress,
    Logistic,
    NetOptions,
    NeuralNet,
)
from tailorbird.models.deep.batches import Blocks, PartRows, Rows, RowSubset, single_class_problem
from tailorbird.models.deep.fitting import DEEP, Net, is_available
from tailorbird.models.deep.layout import Bag, History, Layout
from tailorbird.models.estimator import EncodedRows, Estimator, HeadFile, HeadKind, Model
from tailorbird.models.export import compare_scores, largest_difference
from tailorbird.ranking.encode import history
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.steps import Codes
from tailorbird.ranking.own_models import SUFFIX, open_own, own_families
from tailorbird.ranking.policy.targets import is_amount, parse_return
from tailorbird.retrieval.columns import TextColumn
from tailorbird.retrieval.words import Words, is_listed
from tailorbird.training.dataset.chunks import sample_blocks
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.evaluation.metrics import ndcg, rank_lists
from tailorbird.training.fit.calibrate import CalibrationChoice, choose_head_calibration
from tailorbird.training.fit.incremental import (
    begin_training,
    make_epoch_logger,
    save_state,
    start_from_scratch,
)
from tailorbird.training.own import OwnEstimator, is_probability
from tailorbird.training.settings import AUTO, Progress, TrainSettings

if TYPE_CHECKING:
    from tailorbird.models.deep.model import DeepModel

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

ARCHITECTURE_CHOICES = (*ARCHITECTURES, AUTO)
HISTORY_LENGTH = 20  # newest items that a net reads
# Rows that an item needs for a code of its own, and the most items that have one.
ITEMS_MIN, ITEMS_MAX = 5, 50_000
WORD_WIDTH, WORD_BUCKETS = 8, 2_048
IMPORTANCE_ROWS = 2_000
QUICK_EPOCHS = 3
# Ratio to the log loss of a constant mean. Weights above it for every head are not saved as a
# start for the next training.
DIVERGED_LOSS_RATIO = 2.0


class DivergenceError(UsageError):
    """The training of a net diverged."""


class HeadModel(Protocol):
    """The model of one head."""

    @property
    def curve(self) -> dict[str, list[float]]:
        """Return the metric after each step, for `train` and `validation`."""
        ...

    @property
    def steps(self) -> int:
        """Return the number of steps that the model uses."""
        ...

    @property
    def unit(self) -> str:
        """Return the plural name of a step, such as "trees"."""
        ...

    def score(self, matrix: Matrix) -> Floats: ...
    def importance(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class ModelHead:
    """One head of a model that fits all heads at once.

    Attributes:
        column_importance: column → share of how far scores move when it is shuffled.
        steps, unit: see `HeadModel`.
    """

    model: Model
    head: str
    column_importance: Mapping[str, float]
    steps: int
    unit: str

    @property
    def curve(self) -> dict[str, list[float]]:
        return {
            part: list(self.model.curve[f"{part}_{self.head}"])
            for part in ("train", "validation")
            if f"{part}_{self.head}" in self.model.curve
        }

    def score(self, matrix: Matrix) -> Floats:
        return self.model.score(matrix)[self.head]

    def importance(self) -> dict[str, float]:
        return dict(self.column_importance)


@dataclass(frozen=True)
class FitInputs:
    """Inputs for fitting heads.

    Attributes:
        encoder: encoder of the matrices, with net columns where a net may be fitted.
        matrix: rows of the training part; empty if they lie in files.
        validation_shown, validation_served: rows of the validation part, encoded with the position
            as it was shown and as serving sets it.
        labels: labels of the training part, NaN where unknown.
        heads: heads to learn.
        until: end of the training part, microseconds.
        label_window: microseconds until the label of a row is known.
        files: rows of the training part in files. A net learns from them, and trees from a sample.
    """

    encoder: Encoder
    matrix: Matrix
    validation_shown: Matrix
    validation_served: Matrix
    train: Dataset
    validation: Dataset
    labels: Mapping[str, npt.NDArray]
    heads: tuple[str, ...]
    objective: Mapping[str, float]
    until: int
    label_window: int
    files: PartRows | None = None

    def without_net_columns(self) -> "FitInputs":
        """Return the inputs without net columns."""
        encoder = drop_net_columns(self.encoder)
        if encoder is self.encoder:
            return self
        matrix, shown, served = (
            np.ascontiguousarray(rows[:, : len(encoder.names)])
            for rows in (self.matrix, self.validation_shown, self.validation_served)
        )
        return replace(
            self,
            encoder=encoder,
            matrix=matrix,
            validation_shown=shown,
            validation_served=served,
            files=None,
        )

    def with_blank_net_columns(self) -> "FitInputs":
        """Return the inputs with net columns blanked.

        Trees next to a net then have the width of its matrix and never split on these columns.
        """
        width = len(drop_net_columns(self.encoder).names)
        blank = [
            rows.copy() for rows in (self.matrix, self.validation_shown, self.validation_served)
        ]
        for copy in blank:
            copy[:, width:] = np.nan
        return replace(self, matrix=blank[0], validation_shown=blank[1], validation_served=blank[2])


@dataclass(frozen=True)
class FittedHeads:
    """Fitted models by head, and their exported files.

    Attributes:
        head_files: location of each head in `files`.
        parity: largest difference between a trained model and its export.
        is_probability: whether classification heads return probabilities without calibration.
        note: how the architecture was chosen; empty if it was requested.
    """

    architecture: str
    encoder: Encoder
    models: dict[str, HeadModel]
    files: dict[str, bytes]
    head_files: dict[str, HeadFile]
    parity: float
    is_probability: bool
    note: str = ""

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        """Return the uncalibrated output of each head's model."""
        return {head: model.score(matrix) for head, model in self.models.items()}

    def calibrations(
        self, raw: Mapping[str, Floats], validation: Dataset, label_window: int
    ) -> dict[str, CalibrationChoice]:
        """Choose the calibration of each head from its output on the validation part as served."""
        return {
            head: choose_head_calibration(
                head, score, validation, label_window, is_probability=self.is_probability
            )
            for head, score in raw.items()
        }


def allows_net(settings: TrainSettings) -> bool:
    """Return whether a net may be fitted.

    Raises:
        UsageError: the architecture is unknown, or its dependencies are not installed.
    """
    choices = (*ARCHITECTURE_CHOICES, *own_families())
    if settings.architecture not in choices:
        raise UsageError(
            f"there is no architecture {settings.architecture!r}",
            fix=f"use one of {', '.join(choices)}",
        )
    if settings.architecture == AUTO:
        return is_available("dcn")
    if not is_available(settings.architecture):
        raise UsageError(
            f"{settings.architecture} needs torch, which is not installed",
            fix="pip install 'tailorbird[deep]'",
        )
    return settings.architecture in DEEP


def add_net_columns(encoder: Encoder, train: Dataset, series: IndexSeries) -> Encoder:
    """Add net columns: codes of the candidate and of recent items, and words of item attributes.

    Items with fewer than `ITEMS_MIN` rows share the code of unknown items, which new items have
    too, so its vector is learned. In a simulation with a dcn, 300 items and 100 rare ones (three
    seeds), sharing 64 hash buckets gave new items a log loss of .366 to .392, against .349 to .353
    for a constant mean; the unknown code gives .341 to .347. Buckets for rare items alone gained
    nothing: their log loss was .350 to .357, and is .332 to .353 without.
    """
    keys, counts = np.unique(train.items.keys[train.item], return_counts=True)
    is_frequent = (keys != 0) & (counts >= ITEMS_MIN)
    keys, counts = keys[is_frequent], counts[is_frequent]
    order = np.lexsort((keys, -counts))[:ITEMS_MAX]
    recent = (
        history.History(encoder.sequence, HISTORY_LENGTH, keys[order].tolist())
        if encoder.sequence
        else None
    )
    return msgspec.structs.replace(encoder, history=recent, words=_word_columns(series))


def drop_net_columns(encoder: Encoder) -> Encoder:
    return (
        msgspec.structs.replace(encoder, history=None, words=())
        if encoder.history or encoder.words
        else encoder
    )


def _word_columns(series: IndexSeries) -> tuple[Words, ...]:
    """Return the columns of titles and of attributes that are lists."""
    words = []
    for name, column in sorted(series.indexes[0].attributes.items()):
        if not isinstance(column, TextColumn) or not column.values:
            continue
        listed = is_listed(column)
        if listed or name == "title":
            words.append(Words(name, WORD_WIDTH, WORD_BUCKETS, listed))
    return tuple(words)


def build_layout(encoder: Encoder) -> Layout:
    """Return the role that each column of an encoder's matrix has in a net."""
    names = encoder.names
    index_of = {name: index for index, name in enumerate(names)}
    codes = {index_of[name]: size for name, size in encoder.sizes.items()}
    past = encoder.history
    history_indices = [index_of[name] for name in past.names] if past else []
    recent = (
        History(
            history_indices[0],
            tuple(history_indices[1 : 1 + past.length]),
            tuple(history_indices[1 + past.length :]),
            past.size,
        )
        if past
        else None
    )
    bags = tuple(
        Bag(words.attribute, tuple(index_of[name] for name in words.names), words.size)
        for words in encoder.words
    )
    used = {*codes, *history_indices, *(index for bag in bags for index in bag.places)}
    numbers = tuple(index for index in range(len(names)) if index not in used)
    return Layout(names, numbers, codes, bags, recent, index_of.get("position", -1))


def fit_heads(
    inputs: FitInputs, settings: TrainSettings, progress: Progress, sample: npt.NDArray[np.intp]
) -> FittedHeads:
    """Fit the configured architecture. Trees always predict expected amounts, also next to a net.

    Args:
        sample: rows of the validation part on which model and export are compared.
    """
    amount_heads = tuple(head for head in inputs.heads if is_amount(head))
    probability_heads = tuple(head for head in inputs.heads if not is_amount(head))
    if not amount_heads or (settings.architecture == "gbdt" and not settings.beside):
        return _fit_by_architecture(inputs, settings, progress, sample)
    if not probability_heads:
        return _fit_amount_trees(
            inputs, inputs.without_net_columns(), amount_heads, settings, progress, sample
        )
    fitted = _fit_by_architecture(
        replace(inputs, heads=probability_heads), settings, progress, sample
    )
    tree_inputs = (
        inputs.with_blank_net_columns()
        if len(fitted.encoder.names) == len(inputs.encoder.names)
        else inputs.without_net_columns()
    )
    trees = _fit_amount_trees(inputs, tree_inputs, amount_heads, settings, progress, sample)
    files, head_files = {**fitted.files, **trees.files}, {**fitted.head_files, **trees.head_files}
    note = "; ".join(part for part in (fitted.note, trees.note) if part)
    parity = max(fitted.parity, trees.parity)
    return replace(
        fitted,
        models={**fitted.models, **trees.models},
        files=files,
        head_files=head_files,
        parity=parity,
        note=note,
    )


def _fit_amount_trees(
    inputs: FitInputs,
    tree_inputs: FitInputs,
    heads: tuple[str, ...],
    settings: TrainSettings,
    progress: Progress,
    sample: npt.NDArray[np.intp],
) -> FittedHeads:
    """Fit trees of expected amounts.

    If the rows lie in files, the trees see a sample that fits into memory.
    """
    tree_inputs = replace(tree_inputs, heads=heads)
    if inputs.files is None:
        return _fit_boosters(tree_inputs, settings, progress, sample)
    rows = sample_blocks(inputs.files.select_heads(heads), settings.rows_in_memory)
    matrix = rows.matrix.copy()
    matrix[:, len(drop_net_columns(inputs.encoder).names) :] = np.nan
    rows = replace(rows, matrix=np.ascontiguousarray(matrix[:, : len(tree_inputs.encoder.names)]))
    fitted = _fit_boosters(tree_inputs, settings, progress, sample, rows)
    note = (
        f"{', '.join(heads)} was learned by trees, from {len(rows):,} of the "
        f"{len(inputs.files):,} rows in files, evenly over all"
    )
    return replace(fitted, note=note)


def _fit_by_architecture(
    inputs: FitInputs, settings: TrainSettings, progress: Progress, sample: npt.NDArray[np.intp]
) -> FittedHeads:
    if settings.architecture in DEEP:
        return _fit_net(inputs, settings.architecture, settings, progress, sample)
    trees_inputs = inputs.without_net_columns()
    if settings.architecture not in ("gbdt", AUTO):
        return _fit_plain(trees_inputs, settings.architecture, settings, sample)
    challengers: dict[str, FittedHeads] = {}
    boosters = _fit_boosters(trees_inputs, settings, progress, sample)
    if settings.architecture == AUTO and allows_net(settings):
        name = auto_net_architecture(inputs.heads)
        challengers[name] = _fit_net(inputs, name, settings, progress, sample)
    for name in settings.beside:
        progress(name, 0, 1)
        challengers[name] = _fit_plain(trees_inputs, name, replace(settings, parameters={}), sample)
        progress(name, 1, 1)
    winner = _choose(inputs, boosters, challengers)
    if settings.architecture == AUTO and not allows_net(settings):
        missing = (
            "gbdt, as torch is not installed: pip install 'tailorbird[deep]' lets auto try nets"
        )
        return replace(winner, note="; ".join(part for part in (winner.note, missing) if part))
    return winner


def _choose(
    inputs: FitInputs, boosters: FittedHeads, challengers: Mapping[str, FittedHeads]
) -> FittedHeads:
    """Return the model that beats the boosters most on the validation part, or the boosters."""
    winner, most, comparisons = boosters, 0.0, []
    for name, challenger in challengers.items():
        gain = _validation_gain(inputs, challenger, boosters)
        comparisons.append(f"{gain.signed} for {name} over gbdt")
        if gain.has_bounds and gain.low > 0 and gain.value > most:
            winner, most = challenger, gain.value
    if not comparisons:
        return boosters
    comparison = f"ndcg_10 on the validation part {', '.join(comparisons)}"
    notes = (
        f"{winner.architecture} was chosen: {comparison}",
        *(challenger.note for challenger in challengers.values()),
    )
    return replace(winner, note="; ".join(note for note in notes if note))


def auto_net_architecture(heads: Collection[str]) -> str:
    """Return the net that `auto` compares with trees."""
    return "mmoe" if len(heads) > 1 else "dcn"


def build_estimator(
    name: str,
    parameters: Mapping[str, Any],
    settings: TrainSettings,
    *,
    progress: HeadProgress | None = None,
    options: NetOptions | None = None,
) -> Estimator:
    """Return an estimator as training fits it: the one place that says how a model is fitted.

    Args:
        parameters: settings that differ from its defaults; of trees, from `settings.gbdt`.

    Raises:
        UsageError: there is no such estimator, or it has no such setting.
    """
    if name == "gbdt":
        overrides: dict[str, Any] = {"seed": settings.seed, **parameters}
        return GBDT(settings.gbdt, progress=progress, **overrides)
    if name == "logistic":
        return Logistic(**parameters)
    if name in DEEP:
        return NeuralNet(name, seed=settings.seed, options=options, **parameters)
    return OwnEstimator(name, parameters, seed=settings.seed)


def encode_parts(inputs: FitInputs, rows: Blocks | None) -> tuple[EncodedRows, EncodedRows]:
    """Return the training part, or the `rows` in its place, and the validation part."""
    layout, heads = build_layout(inputs.encoder), inputs.heads
    kinds: dict[str, HeadKind] = {
        head: "return" if parse_return(head) else "amount" if is_amount(head) else "item"
        for head in heads
    }
    train = rows or Rows(
        inputs.matrix,
        {head: inputs.labels[head] for head in heads},
        inputs.train.weight,
        np.diff(inputs.train.offsets),
    )
    valid = Rows(
        inputs.validation_shown,
        {head: inputs.validation.labels[head] for head in heads},
        inputs.validation.weight,
        np.diff(inputs.validation.offsets),
    )
    return EncodedRows(train, layout, kinds), EncodedRows(valid, layout, kinds)


def export_model(
    model: Model, inputs: FitInputs, settings: TrainSettings, sample: npt.NDArray[np.intp]
) -> FittedHeads:
    """Export a model, and compare it with its export on the validation part.

    Raises:
        BundleError: the export gives other scores than the model.
    """
    rows = inputs.validation_served[sample]
    models: dict[str, HeadModel] = {}
    if isinstance(model, Forests):
        models |= model.boosters
        is_probabilistic = all(
            one.settings.objective != "lambdarank" for one in model.boosters.values()
        )
    else:
        is_probabilistic = isinstance(model, Net) or is_probability(model, rows)
        probe = rows[:: max(1, len(rows) // IMPORTANCE_ROWS)]
        importances = _permutation_importance(model, inputs.encoder, probe, settings.seed)
        for head in model.heads:
            steps, unit = (
                (model.deep.best_epoch[head], "epochs") if isinstance(model, Net) else (1, "fits")
            )
            models[head] = ModelHead(model, head, importances[head], steps, unit)
    files, head_files = model.export()
    parity = max(
        _difference(models[head], place, files[place.file], rows)
        for head, place in head_files.items()
    )
    return FittedHeads(
        model.architecture, inputs.encoder, models, files, head_files, parity, is_probabilistic
    )


def _difference(model: HeadModel, place: HeadFile, exported: bytes, rows: Matrix) -> float:
    if not place.file.endswith(SUFFIX):
        return largest_difference(model, exported, rows, place.column)
    loaded = open_own(exported, where=place.file)
    scores = loaded.run([], {loaded.get_inputs()[0].name: rows})[0][:, place.column]
    return compare_scores(model.score(rows), scores)


def _fit_boosters(
    inputs: FitInputs,
    settings: TrainSettings,
    progress: Progress,
    sample: npt.NDArray[np.intp],
    rows: Rows | None = None,
) -> FittedHeads:
    """Fit trees for each head; `rows` replaces the rows of the training part."""
    estimator = build_estimator(
        "gbdt",
        {},
        settings,
        progress=lambda head, done, total: progress(f"trees of {head}", done, total),
    )
    return export_model(estimator.fit(*encode_parts(inputs, rows)), inputs, settings, sample)


def _fit_plain(
    inputs: FitInputs, name: str, settings: TrainSettings, sample: npt.NDArray[np.intp]
) -> FittedHeads:
    """Fit an estimator that reads the columns of trees: regressions, or one of the project."""
    estimator = build_estimator(name, settings.parameters, settings)
    return export_model(estimator.fit(*encode_parts(inputs, None)), inputs, settings, sample)


def _fit_net(
    inputs: FitInputs,
    architecture: str,
    settings: TrainSettings,
    progress: Progress,
    sample: npt.NDArray[np.intp],
) -> FittedHeads:
    parameters = dict(settings.parameters)
    if settings.quick:
        parameters.setdefault("epochs", QUICK_EPOCHS)
    rows = None if inputs.files is None else inputs.files.select_heads(inputs.heads)
    train, valid = encode_parts(inputs, rows)
    start = begin_training(
        architecture,
        parameters,
        train.layout,
        code_keys(inputs.encoder),
        inputs.heads,
        inputs.until,
        settings,
    )
    if start.since is not None:
        newest = RowSubset.from_mask(
            train.blocks, inputs.train.t[inputs.train.request] >= start.since
        )
        if reason := single_class_problem(newest):
            start = start_from_scratch(train.layout, parameters, f"since then {reason}")
        else:
            train = replace(train, blocks=newest)
    options = NetOptions(
        on_epoch=make_epoch_logger(settings.logs),
        progress=partial(progress, f"net {architecture} (rows)"),
        checkpoint=settings.checkpoint,
        layout=start.layout,
        initial_weights=start.weights,
        processes=settings.processes,
    )
    model = build_estimator(architecture, start.parameters, settings, options=options).fit(
        train, valid
    )
    assert isinstance(model, Net)
    warm_start_note = _save_warm_start(
        model.deep, valid.rows, code_keys(inputs.encoder), inputs.until, settings
    )
    note = "; ".join(each for each in (start.summary, warm_start_note) if each)
    return replace(export_model(model, inputs, settings, sample), note=note)


def _save_warm_start(
    deep: "DeepModel",
    validation: Rows,
    keys: dict[int, npt.NDArray[np.uint64]],
    until: int,
    settings: TrainSettings,
) -> str:
    """Save the state for the next training; return a warning about the net, or "".

    Raises:
        DivergenceError: weights or losses are not finite.
    """
    check_convergence(deep)
    worthless = deep.heads_without_skill(validation)
    losses = ", ".join(
        f"{head} {loss:.4f} to {mean:.4f}" for head, (loss, mean) in worthless.items()
    )
    warning = (
        "the net tells no more of the validation part than its mean does, by log loss: "
        f"{losses}: it diverged, or there is little to learn"
    )
    is_unusable = all(
        loss > DIVERGED_LOSS_RATIO * mean for loss, mean in worthless.values()
    ) and len(worthless) == len(deep.heads)
    save_note = save_state(
        deep, keys, until, replace(settings, warm=None) if is_unusable else settings
    )
    suffix = "; no later training goes on from it" if is_unusable else ""
    return "; ".join(
        note for note in (f"{warning}{suffix}" if worthless else "", save_note) if note
    )


def check_convergence(deep: "DeepModel") -> None:
    """Raise if the training of a net diverged.

    Raises:
        DivergenceError: weights or losses are not finite.
    """
    if deep.has_diverged:
        problem = (
            f"the net diverged at a rate of {deep.parameters.rate:g}: its weights are no numbers"
        )
        raise DivergenceError(
            problem,
            where=deep.architecture,
            fix="""a lower rate, such as --parameters '{"rate": 0.0003}'""",
        )


def code_keys(encoder: Encoder) -> dict[int, npt.NDArray[np.uint64]]:
    """Return the keys of each code column by column index; position i holds the key of code i + 2.

    Hashed columns have no keys and are left out.
    """
    index_of = {name: index for index, name in enumerate(encoder.names)}
    keys_by_index = {
        index_of[vocabulary.name]: vocabulary.keys for vocabulary in encoder.vocabularies
    }
    keys_by_index |= {
        index_of[transform.name]: transform.steps[-1].keys
        for transform in encoder.transforms
        if transform.size and isinstance(transform.steps[-1], Codes)
    }
    if encoder.history:
        keys_by_index[index_of[encoder.history.names[0]]] = encoder.history.keys
    return {index: np.array(keys, np.uint64) for index, keys in keys_by_index.items()}


def _permutation_importance(
    model: Model, encoder: Encoder, matrix: Matrix, seed: int
) -> dict[str, dict[str, float]]:
    """Return permutation importances by head and column.

    An importance is the share of the mean change in output when a column is shuffled. Columns that
    belong together are shuffled as one.
    """
    names = encoder.names
    group_of = dict.fromkeys(encoder.history.names[1:] if encoder.history else (), "newest items")
    group_of |= {
        name: f"words of {words.attribute}" for words in encoder.words for name in words.names
    }
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(group_of.get(name, name), []).append(index)
    rng = np.random.default_rng(seed)
    outputs = model.score(matrix)
    shifts: dict[str, dict[str, float]] = {head: {} for head in outputs}
    for name, columns in groups.items():
        shuffled = matrix.copy()
        shuffled[:, columns] = matrix[rng.permutation(len(matrix))][:, columns]
        for head, after in model.score(shuffled).items():
            shifts[head][name] = float(np.abs(after - outputs[head]).mean())
    total = {head: max(sum(by_column.values()), 1e-12) for head, by_column in shifts.items()}
    return {
        head: {
            name: value / total[head]
            for name, value in sorted(by_column.items(), key=lambda entry: -entry[1])
        }
        for head, by_column in shifts.items()
    }


def _validation_gain(
    inputs: FitInputs, net_heads: FittedHeads, booster_heads: FittedHeads
) -> Interval:
    """Return the gain in NDCG@10 of a net over boosters on the validation part, as served.

    Ranking outputs have no scale, so the heads are calibrated before they are added.
    """
    values = []
    for fitted in (net_heads, booster_heads):
        raw = fitted.score(
            np.ascontiguousarray(inputs.validation_served[:, : len(fitted.encoder.names)])
        )
        choices = fitted.calibrations(raw, inputs.validation, inputs.label_window)
        served = [
            weight * choices[head].calibration.apply(raw[head])
            for head, weight in inputs.objective.items()
            if head in raw
        ]
        values.append(sum(served, np.zeros(len(inputs.validation_served))))
    return ndcg_gain(
        values[0],
        values[1],
        inputs.validation.gain(inputs.objective),
        inputs.validation.offsets,
        inputs.validation.person,
    )


def ndcg_gain(
    first: Floats,
    second: Floats,
    gain: Floats,
    offsets: npt.NDArray[np.int64],
    person: npt.NDArray[np.int64],
) -> Interval:
    """Return the paired gain in NDCG@10 of one ordering over another, with interval over users."""
    figures = [ndcg(rank_lists(value, gain, offsets)) for value in (first, second)]
    # Each request of an unknown user counts as a user of its own.
    anonymous_codes = int(person.max(initial=0)) + 1 + np.arange(len(person))
    _, codes = np.unique(np.where(person >= 0, person, anonymous_codes), return_inverse=True)
    return Bootstrap(codes, seed=0).difference(figures[0], figures[1])
