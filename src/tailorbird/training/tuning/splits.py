"""The parts of a time split as a model sees them, in memory and in a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.models.deep.layout import Layout
from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.figures import TOP_K

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SplitPart:
    """Requests in order of time and their rows, as a model sees them.

    Attributes:
        matrix: shape (rows, columns).
        labels: head → shape (rows,).
        weight: shape (rows,), number of rows of the full set that a row represents.
        offsets: shape (requests + 1,).
        t, person: shape (requests,); −1 for an unknown person.
    """

    matrix: Matrix
    labels: Mapping[str, Bools]
    weight: Floats
    offsets: Ints
    t: Ints
    person: Ints

    def take(self, request_mask: Bools) -> "SplitPart":
        """Return the part with some requests."""
        row_mask = request_mask[self.request_index]
        offsets = np.concatenate(([0], np.cumsum(np.diff(self.offsets)[request_mask]))).astype(
            np.int64
        )
        labels = {head: label[row_mask] for head, label in self.labels.items()}
        return SplitPart(
            self.matrix[row_mask],
            labels,
            self.weight[row_mask],
            offsets,
            self.t[request_mask],
            self.person[request_mask],
        )

    @cached_property
    def request_index(self) -> Ints:
        """Index of each row's request."""
        return np.repeat(np.arange(len(self.t)), np.diff(self.offsets))

    def row_gains(self, objective: Mapping[str, float]) -> Floats:
        """Return the gain of each row under the slot's formula."""
        gains = np.zeros(len(self.matrix))
        for head, weight in objective.items():
            gains += weight * self.labels[head]
        return gains


@dataclass(frozen=True)
class Split:
    """One split: training, validation and holdout parts.

    Attributes:
        names, categorical_columns: names of the matrix's columns.
        objective: head → weight, of the slot's heads with enough data here.
        evaluation_weights: head → weight, of all heads; lists are evaluated by it.
        served_matrix: rows of `validation` as serving would see them, with all items at the first
            position.
        is_long_tail: mask of the holdout rows with long-tail items, as of the split's time.
        layout: column layout of a net, if there are columns for nets.
    """

    names: tuple[str, ...]
    categorical_columns: tuple[str, ...]
    objective: Mapping[str, float]
    evaluation_weights: Mapping[str, float]
    train: SplitPart
    validation: SplitPart
    holdout: SplitPart
    served_matrix: Matrix
    is_long_tail: Bools
    layout: Layout | None = None

    def select_columns(self, names: Sequence[str]) -> "Split":
        """Return the split with some of the columns."""
        indices = [self.names.index(name) for name in names]

        def select_matrix(matrix: Matrix) -> Matrix:
            return np.ascontiguousarray(matrix[:, indices])

        train, validation, holdout = (
            replace(part, matrix=select_matrix(part.matrix))
            for part in (self.train, self.validation, self.holdout)
        )
        categorical_columns = tuple(name for name in self.categorical_columns if name in names)
        layout = self.layout.select_columns(names) if self.layout else None
        return Split(
            tuple(names),
            categorical_columns,
            self.objective,
            self.evaluation_weights,
            train,
            validation,
            holdout,
            select_matrix(self.served_matrix),
            self.is_long_tail,
            layout,
        )

    @property
    def tree_columns(self) -> tuple[str, ...]:
        """Names of the columns that trees use: all but those that only a net can use."""
        return (
            tuple(name for name in self.names if name not in self.layout.net_only_columns)
            if self.layout
            else self.names
        )

    def restrict_training(
        self, train_request_mask: Bools, validation_request_mask: Bools
    ) -> "Split":
        """Return the split with some requests of the training and validation parts."""
        served_matrix = self.served_matrix[validation_request_mask[self.validation.request_index]]
        return replace(
            self,
            train=self.train.take(train_request_mask),
            validation=self.validation.take(validation_request_mask),
            served_matrix=served_matrix,
        )

    def measure_ndcg(self, scores: Floats) -> Floats:
        """Return NDCG@10 of each holdout request, rows ordered by score; shape (requests,)."""
        return metrics.ndcg(self._rank_rows(scores), TOP_K)

    def measure_long_tail_ndcg(self, scores: Floats) -> Floats:
        """Return NDCG@10 with long-tail items alone as relevant."""
        ranked = self._rank_rows(scores)
        return metrics.ndcg(
            ranked.restrict(self.is_long_tail[ranked.row], np.zeros_like(ranked.missed_counts)),
            TOP_K,
        )

    def _rank_rows(self, scores: Floats) -> metrics.RankedLists:
        return metrics.rank_lists(
            scores, self.holdout.row_gains(self.evaluation_weights), self.holdout.offsets, k=TOP_K
        )

    def to_arrays(self) -> dict[str, npt.NDArray]:
        """Return the split as named arrays, for a file."""
        arrays: dict[str, npt.NDArray] = {"served": self.served_matrix, "tail": self.is_long_tail}
        for part_name, part in (
            ("train", self.train),
            ("validation", self.validation),
            ("holdout", self.holdout),
        ):
            arrays |= {f"{part_name}.{name}": getattr(part, name) for name in _PART_FIELDS}
            arrays |= {f"{part_name}.label.{head}": label for head, label in part.labels.items()}
        header = msgspec.json.encode(
            [
                self.names,
                self.categorical_columns,
                list(self.objective.items()),
                list(self.evaluation_weights.items()),
                self.layout,
            ]
        )
        return {**arrays, "head": np.frombuffer(header, np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray]) -> "Split":
        """Restore a split from named arrays."""
        names, categorical_columns, objective, evaluation_weights, layout = msgspec.json.decode(
            arrays["head"].tobytes()
        )

        def load_part(name: str) -> SplitPart:
            label_prefix = f"{name}.label."
            labels = {
                key.removeprefix(label_prefix): label
                for key, label in arrays.items()
                if key.startswith(label_prefix)
            }
            return SplitPart(
                labels=labels, **{field: arrays[f"{name}.{field}"] for field in _PART_FIELDS}
            )

        return cls(
            tuple(names),
            tuple(categorical_columns),
            dict(objective),
            dict(evaluation_weights),
            load_part("train"),
            load_part("validation"),
            load_part("holdout"),
            arrays["served"],
            arrays["tail"],
            _decode_layout(layout),
        )


def _decode_layout(encoded: Any) -> Layout | None:
    return None if encoded is None else msgspec.convert(encoded, Layout, strict=False)


_PART_FIELDS = ("matrix", "weight", "offsets", "t", "person")
