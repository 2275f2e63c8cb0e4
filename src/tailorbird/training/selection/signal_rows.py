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
from tailorbird.training.dataset.completion import build_training_rows
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
VALIDATION_SHARE = 0.1
LATER_SHARE = 0.35
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
        is_uniform_draw: shape (requests,), whether the request was drawn independently of its
            outcome; the others were drawn for a positive.
    """

    matrix: Matrix
    label: Bools
    weight: Floats
    offsets: Ints
    t: Ints
    person: Ints
    is_uniform_draw: Bools

    @property
    def request_count(self) -> int:
        return len(self.t)

    @cached_property
    def request_index(self) -> Ints:
        """Return the request of each row."""
        return np.repeat(np.arange(self.request_count), np.diff(self.offsets))

    @cached_property
    def has_both_classes(self) -> Bools:
        """Return the mask of requests with positives and negatives."""
        positives = np.bincount(self.request_index, self.label, minlength=self.request_count)
        return (positives > 0) & (positives < np.diff(self.offsets))

    def take(self, request_mask: Bools) -> "SignalRows":
        """Select some requests."""
        row_mask = request_mask[self.request_index]
        offsets = np.concatenate(([0], np.cumsum(np.diff(self.offsets)[request_mask]))).astype(
            np.int64
        )
        row_columns = (self.matrix[row_mask], self.label[row_mask], self.weight[row_mask])
        return SignalRows(
            *row_columns,
            offsets,
            self.t[request_mask],
            self.person[request_mask],
            self.is_uniform_draw[request_mask],
        )

    def sample(self, column_indexes: Sequence[int]) -> Sample:
        """Return some columns as a sample to fit on."""
        return Sample(
            np.ascontiguousarray(self.matrix[:, column_indexes]),
            self.label,
            np.diff(self.offsets),
            self.weight,
        )

    def mark_request_level_columns(self) -> Bools:
        """Return the mask of columns that are constant within requests, shape (columns,)."""
        first_rows = self.matrix[self.offsets[:-1]][self.request_index]
        is_same = (self.matrix == first_rows) | (np.isnan(self.matrix) & np.isnan(first_rows))
        return is_same.all(axis=0)


@dataclass(frozen=True)
class SignalParts:
    """The four parts, and the names of their columns.

    Attributes:
        column_names: columns of the matrix.
        categorical_names: columns that hold codes.
        about: caveats of the figures, as JSON.
    """

    column_names: tuple[str, ...]
    categorical_names: tuple[str, ...]
    train: SignalRows
    validation: SignalRows
    selection: SignalRows
    test: SignalRows
    about: dict[str, Any]

    def to_arrays(self) -> dict[str, npt.NDArray]:
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
        """Load one part from `to_arrays`."""
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
    data = training_data.dataset
    label_window = training_data.label_window_us
    _require_requests(
        data, target, 4 * REQUESTS_MIN, f"{data.request_count:,} requests of slot {slot.name}"
    )
    time_split = split_by_time(
        data.t, validation_share=VALIDATION_SHARE, test_share=LATER_SHARE, gap=label_window
    )
    test_from = int(np.quantile(data.t[time_split.test], 0.5))
    later_split = split_at(data.t, time_split.validation_until, test_from, gap=label_window)
    progress("read", 1, 1)

    train_ts = data.t[time_split.train]
    index_starts = np.linspace(0, len(train_ts), settings.index_parts + 1).astype(int)[:-1]
    part_borders = {time_split.train_until, time_split.validation_until, test_from}
    index_series = build_series(
        training_data.events,
        training_data.item_profiles,
        sorted({*train_ts[index_starts].tolist(), *part_borders}),
        progress=partial(progress, "index"),
    )
    live_columns = select_live_columns(features, slot)
    replay = Replay(
        training_data.events_with_profiles,
        features,
        slot,
        training_data.item_vocabulary,
        live_columns,
    )
    train_requests = time_split.train[index_series.index_numbers_at(train_ts) >= 0]
    all_requests = np.ones(data.request_count, bool)
    part_requests = {
        "train": (thin_evenly(train_requests, settings.requests, settings.seed), all_requests),
        "validation": (
            thin_evenly(time_split.validation, settings.requests, settings.seed),
            all_requests,
        ),
        "selection": _draw_requests(data, later_split.validation, target, settings),
        "test": _draw_requests(data, later_split.test, target, settings),
    }
    parts: dict[str, SignalRows] = {}
    encoder = None
    for part_index, (name, (requests, is_uniform_draw)) in enumerate(part_requests.items()):
        progress("features", part_index, len(part_requests))
        part_data = build_training_rows(training_data, data.take(requests), replay)
        _require_requests(
            part_data,
            target,
            REQUESTS_MIN,
            f"the {part_data.request_count:,} requests of the {name} part",
        )
        chunks = list(iterate_features(part_data, features, training_data.events))
        if encoder is None:
            categorical_keys = np.concatenate([chunk.rows.categorical for chunk in chunks])
            encoder = fit_encoder(
                bundle_columns(features),
                categorical_keys,
                similarities=features.similarities,
                candidates=live_columns.candidates,
            )
        matrix = np.concatenate(
            [
                encode_rows(chunk, encoder, index_series, live_columns=live_columns)
                for chunk in chunks
            ]
        )
        is_uniform = (
            is_uniform_draw[requests]
            if training_data.is_logged
            else np.ones(part_data.request_count, bool)
        )
        parts[name] = _build_rows(part_data, matrix, target, is_uniform)
    progress("features", len(part_requests), len(part_requests))
    assert encoder is not None
    return SignalParts(
        encoder.names,
        encoder.categorical_names,
        **parts,
        about=_describe_signal_parts(training_data, slot, target, parts),
    )


def _build_rows(data: Dataset, matrix: Matrix, target: str, is_uniform_draw: Bools) -> SignalRows:
    label = data.labels[target]
    row_columns = (
        matrix,
        label,
        data.weight,
        data.offsets,
        data.t,
        data.person_codes,
        is_uniform_draw,
    )
    return SignalRows(*row_columns)


def _draw_requests(
    data: Dataset, requests: Ints, target: str, settings: TrainSettings
) -> tuple[Ints, Bools]:
    """Draw requests with a positive, for the metrics, and evenly drawn ones, for drift.

    Returns:
        The requests, and for each request of the set whether it was drawn evenly.
    """
    is_positive = np.zeros(data.request_count, bool)
    is_positive[data.request_index[data.labels[target]]] = True
    uniform_requests = thin_evenly(requests, settings.test_requests, settings.seed)
    positive_requests = thin_evenly(
        requests[is_positive[requests]], settings.test_requests, settings.seed
    )
    is_uniform_draw = np.zeros(data.request_count, bool)
    is_uniform_draw[uniform_requests] = True
    return np.union1d(uniform_requests, positive_requests), is_uniform_draw


def _describe_signal_parts(
    training_data: TrainingData, slot: Slot, target: str, parts: dict[str, SignalRows]
) -> dict[str, Any]:
    """Return sizes and times of the parts."""
    sizes_by_part = {
        name: {
            "from": to_iso(int(rows.t[0])),
            "to": to_iso(int(rows.t[-1])),
            "requests": rows.request_count,
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
        "parts": sizes_by_part,
    }


def _require_requests(data: Dataset, target: str, requests_min: int, where: str) -> None:
    count = len(np.unique(data.request_index[data.labels[target]])) if target in data.labels else 0
    if count < requests_min:
        raise NotReadyError(
            f"{where}: {target} happened in {count}, and at least {requests_min} are needed to "
            "tell a signal from chance",
            fix="rank on a longer --window, on another --target, or when more answers have an "
            "outcome",
        )
