"""Rows for ranking columns: four consecutive parts, encoded as the model sees them.

    ──── train ────|── validation ──|── selection ──|── test ──►  t

Trees learn from the first part and stop early by the second. The third part alone decides which
columns to keep, and the fourth alone measures what that costs, so a subset chosen by luck is
exposed. Rows are those of `training.dataset.rows`; where requests are drawn, all parts hold sampled
candidates, as in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import NotReadyError
from tailorbird.events import to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.gbdt import Sample
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.completion import training_rows
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import build_series
from tailorbird.training.dataset.matrix import bundle_columns, encode_rows, iterate_features
from tailorbird.training.dataset.replay import Replay, select_live_columns
from tailorbird.training.dataset.rows import TrainingData, load_training_data
from tailorbird.training.dataset.sampling import thin_evenly
from tailorbird.training.dataset.split import split_at, split_by_time
from tailorbird.training.settings import Progress, TrainSettings

Matrix = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Shares of all requests; the later part is halved: for the selection and the test.
VALIDATION_SHARE, LATER_SHARE = 0.1, 0.35
# Requests with a positive in each part; with fewer, hardly any interval excludes anything.
REQUESTS_MIN = 60


@dataclass(frozen=True)
class SignalRows:
    """Requests in order of time and their rows.

    Attributes:
        matrix: shape (rows, columns), as the model sees it.
        label: shape (rows,), whether the target happened.
        weight: shape (rows,), number of rows of the full set that a row stands for.
        offsets: shape (requests + 1,).
        t, person: shape (requests,); −1 for unknown persons.
        is_uniform_draw: shape (requests,), whether the request was drawn independently of its outcome; the
            others were drawn for a positive.
    """

    matrix: Matrix
    label: Bools
    weight: Floats
    offsets: Ints
    t: Ints
    person: Ints
    is_uniform_draw: Bools

    @property
    def requests(self) -> int:
        return len(self.t)

    @cached_property
    def request(self) -> Ints:
        """Return the request of each row."""
        return np.repeat(np.arange(self.requests), np.diff(self.offsets))

    @cached_property
    def has_both_classes(self) -> Bools:
        """Return the mask of requests with positives and negatives."""
        positives = np.bincount(self.request, self.label, minlength=self.requests)
        return (positives > 0) & (positives < np.diff(self.offsets))

    def take(self, requests: Bools) -> "SignalRows":
        """Select some requests."""
        rows = requests[self.request]
        offsets = np.concatenate(([0], np.cumsum(np.diff(self.offsets)[requests]))).astype(np.int64)
        row_columns = (self.matrix[rows], self.label[rows], self.weight[rows])
        return SignalRows(
            *row_columns,
            offsets,
            self.t[requests],
            self.person[requests],
            self.is_uniform_draw[requests],
        )

    def sample(self, columns: Sequence[int]) -> Sample:
        """Return some columns as a sample to fit on."""
        return Sample(
            np.ascontiguousarray(self.matrix[:, columns]),
            self.label,
            np.diff(self.offsets),
            self.weight,
        )

    def request_level_columns(self) -> Bools:
        """Return the mask of columns that are constant within requests, shape (columns,)."""
        first_rows = self.matrix[self.offsets[:-1]][self.request]
        same = (self.matrix == first_rows) | (np.isnan(self.matrix) & np.isnan(first_rows))
        return same.all(axis=0)


@dataclass(frozen=True)
class SignalParts:
    """The four parts, and the names of their columns.

    Attributes:
        names: columns of the matrix.
        categorical: columns that hold codes.
        about: caveats of the figures, as JSON.
    """

    names: tuple[str, ...]
    categorical: tuple[str, ...]
    train: SignalRows
    validation: SignalRows
    selection: SignalRows
    test: SignalRows
    about: dict[str, Any]

    def arrays(self) -> dict[str, npt.NDArray]:
        """Return all rows as named arrays, for a file."""
        parts = {
            "train": self.train,
            "validation": self.validation,
            "selection": self.selection,
            "test": self.test,
        }
        return {
            f"{part}.{field.name}": getattr(rows, field.name)
            for part, rows in parts.items()
            for field in fields(rows)
        }

    @staticmethod
    def load_part(arrays: dict[str, npt.NDArray], part: str) -> SignalRows:
        """Load one part from `arrays`."""
        return SignalRows(
            **{field.name: arrays[f"{part}.{field.name}"] for field in fields(SignalRows)}
        )


def gather_signal_rows(
    features: FeatureSet,
    slot: Slot,
    target: str,
    lake: Lake,
    now: int,
    settings: TrainSettings,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> SignalParts:
    """Read the lake, split it into four parts, and encode the rows.

    Args:
        target: head that columns should predict, such as `click`.
        settings: `requests` limits the training part; `test_requests` limits requests with a
            positive in each other part.

    Raises:
        NotReadyError: the target happened in too few requests.
    """
    target_slot = replace(slot, objective={target: 1.0})
    progress("read", 0, 1)
    training_data = load_training_data(lake, features, target_slot, settings.row_settings(now))
    data, gap = training_data.data, training_data.label_window
    _require_requests(
        data, target, 4 * REQUESTS_MIN, f"{data.requests:,} requests of slot {slot.name}"
    )
    split = split_by_time(data.t, validation=VALIDATION_SHARE, test=LATER_SHARE, gap=gap)
    test_from = int(np.quantile(data.t[split.test], 0.5))
    later_split = split_at(data.t, split.validation_until, test_from, gap=gap)
    progress("read", 1, 1)

    train_times = data.t[split.train]
    starts = np.linspace(0, len(train_times), settings.index_parts + 1).astype(int)[:-1]
    borders = {split.train_until, split.validation_until, test_from}
    series = build_series(
        training_data.events,
        training_data.items,
        sorted({*train_times[starts].tolist(), *borders}),
        progress=partial(progress, "index"),
    )
    live = select_live_columns(features, slot)
    replay = Replay(
        training_data.events_with_profiles, features, slot, training_data.item_codes, live
    )
    train_requests = split.train[series.positions_at(train_times) >= 0]
    all_requests = np.ones(data.requests, bool)
    part_requests = {
        "train": (thin_evenly(train_requests, settings.requests, settings.seed), all_requests),
        "validation": (
            thin_evenly(split.validation, settings.requests, settings.seed),
            all_requests,
        ),
        "selection": _draw_later(data, later_split.validation, target, settings),
        "test": _draw_later(data, later_split.test, target, settings),
    }
    parts: dict[str, SignalRows] = {}
    encoder = None
    for number, (name, (requests, is_uniform_draw)) in enumerate(part_requests.items()):
        progress("features", number, len(part_requests))
        part = training_rows(training_data, data.take(requests), replay)
        _require_requests(
            part, target, REQUESTS_MIN, f"the {part.requests:,} requests of the {name} part"
        )
        chunks = list(iterate_features(part, features, training_data.events))
        if encoder is None:
            categorical = np.concatenate([chunk.rows.categorical for chunk in chunks])
            encoder = fit_encoder(
                bundle_columns(features),
                categorical,
                similarities=features.similarities,
                candidates=live.candidates,
            )
        matrix = np.concatenate(
            [encode_rows(chunk, encoder, series, live_columns=live) for chunk in chunks]
        )
        is_uniform = (
            is_uniform_draw[requests] if training_data.is_logged else np.ones(part.requests, bool)
        )
        parts[name] = _build_rows(part, matrix, target, is_uniform)
    progress("features", len(part_requests), len(part_requests))
    assert encoder is not None
    return SignalParts(
        encoder.names,
        encoder.categorical_names,
        **parts,
        about=_describe_parts(training_data, slot, target, parts),
    )


def _build_rows(data: Dataset, matrix: Matrix, target: str, is_uniform_draw: Bools) -> SignalRows:
    label = data.labels[target]
    columns = (matrix, label, data.weight, data.offsets, data.t, data.person, is_uniform_draw)
    return SignalRows(*columns)


def _draw_later(
    data: Dataset, requests: Ints, target: str, settings: TrainSettings
) -> tuple[Ints, Bools]:
    """Draw requests with a positive, for the metrics, and evenly drawn ones, for drift.

    Returns:
        The requests, and for each request of the set whether it was drawn evenly.
    """
    is_positive = np.zeros(data.requests, bool)
    is_positive[data.request[data.labels[target]]] = True
    uniform_requests = thin_evenly(requests, settings.test_requests, settings.seed)
    positive_requests = thin_evenly(
        requests[is_positive[requests]], settings.test_requests, settings.seed
    )
    is_uniform_draw = np.zeros(data.requests, bool)
    is_uniform_draw[uniform_requests] = True
    return np.union1d(uniform_requests, positive_requests), is_uniform_draw


def _describe_parts(
    training_data: TrainingData, slot: Slot, target: str, parts: dict[str, SignalRows]
) -> dict[str, Any]:
    """Return sizes and times of the parts."""
    sizes = {
        name: {
            "from": to_iso(int(rows.t[0])),
            "to": to_iso(int(rows.t[-1])),
            "requests": rows.requests,
            "with_something_to_find": int(rows.has_both_classes.sum()),
            "rows": len(rows.label),
            "people": len(np.unique(rows.person)),
        }
        for name, rows in parts.items()
    }
    return {
        "slot": slot.name,
        "target": target,
        "source": training_data.source_note,
        "parts": sizes,
    }


def _require_requests(data: Dataset, target: str, requests_min: int, where: str) -> None:
    count = len(np.unique(data.request[data.labels[target]])) if target in data.labels else 0
    if count < requests_min:
        raise NotReadyError(
            f"{where}: {target} happened in {count}, and at least {requests_min} are needed to "
            "tell a signal from chance",
            fix="rank on a longer --window, on another --target, or when more answers have an "
            "outcome",
        )
