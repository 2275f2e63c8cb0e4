"""Heads: a model for each target (see `training.architecture`), calibrated on the later part, and
proven equal to its export.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY
from tailorbird.features import FeatureSet
from tailorbird.models.architectures import DEEP, HeadFile
from tailorbird.models.deep.batches import PartRows
from tailorbird.ranking.calibration import Calibration
from tailorbird.ranking.encoders import Encoder
from tailorbird.ranking.live import NOTHING_LIVE, LiveColumns
from tailorbird.ranking.targets import of_items, return_of
from tailorbird.training.architecture import (
    Ground,
    HeadModel,
    fit_heads,
    wants_net,
    with_columns_for_nets,
)
from tailorbird.training.calibrate import Chosen
from tailorbird.training.dataset import Dataset
from tailorbird.training.giveaways import giveaways, notes_on_ahead
from tailorbird.training.indexes import IndexSeries
from tailorbird.training.matrix import Featured, encoded, featured
from tailorbird.training.pieces import ROWS_AT_ONCE, Pieces, looked_at, streamed
from tailorbird.training.position import click_weights, examination
from tailorbird.training.prepared import labels_of, learn_encoder, stack
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.target import Labelled

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

POSITIVES_MIN = 30  # of a head in the training part; a head with fewer is left out, and said so
PARITY_ROWS = 10_000
ROWS = "rows"  # the folder of rows that memory is not to hold


@dataclass(frozen=True)
class Parts:
    """The three parts of a split; `live`: what the live columns of their rows are."""

    train: Dataset
    validation: Dataset
    test: Dataset
    live: LiveColumns = NOTHING_LIVE


@dataclass(frozen=True)
class Fitted:
    """What training made.

    Attributes:
        exported: file → ONNX bytes.
        places: head → where it is in them.
        golden: rows of the matrix that a bundle carries to check itself.
        parity: the largest difference between a trained model and its export.
        leaks: columns that look as if they knew the answer, with why.
    """

    encoder: Encoder
    architecture: str
    models: dict[str, HeadModel]
    exported: dict[str, bytes]
    places: dict[str, HeadFile]
    calibration: dict[str, Calibration]
    golden: Matrix
    parity: float
    leaks: dict[str, str]
    notes: tuple[str, ...]
    chosen: dict[str, Chosen] = field(default_factory=dict)  # head → how its calibration was chosen

    def score(
        self,
        piece: Featured,
        series: IndexSeries,
        objective: Mapping[str, float],
        live: LiveColumns,
    ) -> tuple[dict[str, Floats], Floats]:
        """Calibrated probability by head, and the value, of each row of a piece: what serving
        computes from the export.
        """
        matrix = encoded(piece, self.encoder, series, live=live)
        heads = {
            name: self.calibration[name].apply(model.score(matrix))
            for name, model in self.models.items()
        }
        value = sum(
            (weight * heads[name] for name, weight in objective.items() if name in heads),
            np.zeros(len(matrix)),
        )
        return heads, value


def fit(
    events: pa.Table,
    features: FeatureSet,
    parts: Parts,
    series: IndexSeries,
    objective: Mapping[str, float],
    settings: TrainSettings,
    *,
    position: bool,
    label_window: int,
    progress: Progress,
    heads: Sequence[str] = (),
) -> Fitted:
    """Learn from the training part, watch and calibrate by the validation part.

    Args:
        position: whether rows are all that was shown, looked at or not: the model then takes the
            position into account, which serving sets to the first. Where only seen items are rows,
            position tells nothing but what the old policy liked. Weights of clicks are learned from
            rows of either kind: among seen items, from how much less is clicked further down though
            it was seen.
        label_window: microseconds until a row's label is known; target encodings look at no younger
            one.
        heads: further targets, of other slots, that have labels; one that cannot be learned here is
            left out.

    Raises:
        NotReadyError: no head of the objective has enough positives.
        UsageError: clicks are to be weighed by their place, and no row had one, or none was drawn
            at random.
    """
    weighed = ""
    if settings.position == "weights":
        parts, weighed = _weighed(parts, of_items(objective)[0])
    position = position and settings.position == "column"
    progress("features", 0, 2)
    labels = labels_of(parts.train, settings)
    labelled = Labelled(
        parts.train.t[parts.train.request], labels, parts.train.weight, label_window
    )
    with _folder(parts.train, settings) as folder:
        encoder, learned = _learned(
            events, features, parts, series, settings, labelled, folder, position=position
        )
        progress("features", 1, 2)
        held = list(featured(parts.validation, features, events))
        shown = stack(held, encoder, series, position=position, live=parts.live)
        served = (
            stack(held, encoder, series, position=False, live=parts.live) if position else shown
        )
        del held
        progress("features", 2, 2)
        found = _learnable((*objective, *heads), objective, encoder, learned, labels, parts)
        notes = [note for note in (weighed, *found.notes, learned.note) if note]
        if not any(head in found.heads for head in objective):
            raise NotReadyError(
                "; ".join(notes) or f"none of {', '.join(objective)} ever happened",
                fix="train on a longer window",
            )
        data, until = (parts.train, parts.validation, labels), int(parts.train.t[-1])
        ground = Ground(
            encoder,
            learned.matrix,
            shown,
            served,
            *data,
            found.heads,
            objective,
            until,
            label_window,
            learned.files,
        )
        sample = _some(len(served), settings.seed)
        made = fit_heads(ground, settings, progress, sample)
    encoder, served = made.encoder, served[:, : len(made.encoder.names)]
    chosen = made.calibrations(made.score(served), parts.validation, label_window)
    calibration = {head: each.calibration for head, each in chosen.items()}
    notes += [made.note] if made.note else []
    files = (made.architecture, made.models, made.files, made.places)
    return Fitted(
        encoder, *files, calibration, served[sample], made.parity, found.leaks, tuple(notes), chosen
    )


@dataclass(frozen=True)
class _Learned:
    """The rows that are learned from: a matrix, or files and a matrix without rows."""

    matrix: Matrix
    files: PartRows | None = None

    @property
    def note(self) -> str:
        return (
            ""
            if self.files is None
            else (
                f"the {len(self.files):,} rows that were learned from lay in files, a few blocks "
                "of them in memory"
            )
        )


@contextmanager
def _folder(train: Dataset, settings: TrainSettings) -> Iterator[Path | None]:
    """Where rows lie that a net learns from but memory is not to hold; None where it holds them."""
    if settings.architecture not in DEEP or train.rows <= settings.rows_in_memory:
        yield None
        return
    # Beside the checkpoint erasures look, and a run that was killed left its own there.
    folder = (settings.checkpoint or Path(tempfile.mkdtemp(prefix="tailorbird-"))) / ROWS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder if settings.checkpoint else folder.parent, ignore_errors=True)


def _learned(
    events: pa.Table,
    features: FeatureSet,
    parts: "Parts",
    series: IndexSeries,
    settings: TrainSettings,
    labelled: Labelled,
    folder: Path | None,
    *,
    position: bool,
) -> tuple[Encoder, _Learned]:
    """The encoder, and the rows as it encodes them."""
    train, live = parts.train, parts.live
    if folder is None:
        pieces = Pieces.of(list(featured(train, features, events)))
    else:
        pieces = Pieces.in_files(
            featured(train, features, events, rows_max=ROWS_AT_ONCE),
            folder / "features",
            train.rows,
        )
    encoder, in_time = learn_encoder(
        pieces, features, series, settings, labelled, position=position, live=live
    )
    if wants_net(settings):
        encoder = with_columns_for_nets(encoder, train, series)
    if folder is None:
        return encoder, _Learned(
            stack(pieces.each, encoder, series, position=position, learned=in_time, live=live)
        )
    labels, weight = labelled.labels, labelled.weight
    files = streamed(
        pieces,
        encoder,
        series,
        folder / "matrix",
        labels,
        weight,
        position=position,
        learned=in_time,
        live=live,
    )
    del pieces
    shutil.rmtree(folder / "features")
    return encoder, _Learned(np.zeros((0, len(encoder.names)), np.float32), files)


@dataclass(frozen=True)
class _Learnable:
    """Heads that can be learned, columns that give one away, and what was left out."""

    heads: tuple[str, ...]
    leaks: dict[str, str]
    notes: tuple[str, ...]


def _learnable(
    wanted: Sequence[str],
    objective: Mapping[str, float],
    encoder: Encoder,
    learned: _Learned,
    labels: Mapping[str, npt.NDArray],
    parts: Parts,
) -> _Learnable:
    matrix, some = learned.matrix, labels
    if learned.files is not None:
        rows = looked_at(learned.files)
        matrix, some = rows.matrix, rows.labels
    heads: list[str] = []
    leaks: dict[str, str] = {}
    ahead: dict[str, str] = {}
    notes: list[str] = []
    for head in dict.fromkeys(wanted):
        if why := _unwatched(head, parts.validation):
            notes.append(f"head {head} was left out: {why}")
            continue
        if (count := int(np.count_nonzero(labels[head] > 0))) < POSITIVES_MIN:
            notes.append(
                f"head {head} was left out: {count} positives in the training part, at least "
                f"{POSITIVES_MIN} are needed"
            )
            continue
        told = giveaways(encoder.names, *_known(matrix, some[head]))
        known = told.known
        if known and head not in objective:
            notes.append(
                f"head {head} of another slot was left out: columns that look as if they "
                f"knew the answer: {', '.join(known)}"
            )
            continue
        leaks |= known
        ahead = told.told_of_ahead(head) | ahead
        heads.append(head)
    return _Learnable(tuple(heads), leaks, (*notes, *notes_on_ahead(ahead)))


def _weighed(parts: Parts, head: str) -> tuple[Parts, str]:
    """The training part with clicks weighed by how likely their place was looked at, and a sentence
    on it.
    """
    train = parts.train
    examined = examination(train.position, train.labels[head] > 0, train.propensity, train.request)
    positive = np.logical_or.reduce([train.labels[each] > 0 for each in of_items(train.labels)])
    weight = train.weight * click_weights(examined, train.position, positive)
    told = ", ".join(f"{chance:.2f}" for chance in examined.chance)
    return replace(
        parts, train=replace(train, weight=weight)
    ), f"positives weigh by how likely their place was looked at: {told}"


def _unwatched(head: str, held: Dataset) -> str:
    """Why the validation part cannot tell how a head of returning does, "" where it can."""
    asked = return_of(head)
    if asked is None:
        return ""
    label = held.labels[head]
    known = label[np.isfinite(label)]
    if 0 < np.count_nonzero(known) < len(known):
        return ""
    days = f"{(held.t[-1] - held.t[0]) / DAY:.1f} days"
    return (
        f"what it asks for is known {asked.until / DAY:g} days later, and the validation part "
        f"is {days} long; train on a longer --window"
    )


def _known(matrix: Matrix, label: npt.NDArray) -> tuple[Matrix, npt.NDArray]:
    """The rows whose label is known."""
    known = np.isfinite(label)
    return (matrix, label) if known.all() else (matrix[known], label[known])


def _some(rows: int, seed: int) -> npt.NDArray[np.intp]:
    if rows <= PARITY_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, PARITY_ROWS, replace=False))
