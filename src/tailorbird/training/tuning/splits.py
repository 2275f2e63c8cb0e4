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
from tailorbird.training.evaluation.figures import K

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

    def take(self, requests: Bools) -> "SplitPart":
        """Return the part with some requests."""
        rows = requests[self.request]
        offsets = np.concatenate(([0], np.cumsum(np.diff(self.offsets)[requests]))).astype(np.int64)
        labels = {head: label[rows] for head, label in self.labels.items()}
        return SplitPart(
            self.matrix[rows],
            labels,
            self.weight[rows],
            offsets,
            self.t[requests],
            self.person[requests],
        )

    @cached_property
    def request(self) -> Ints:
        """Index of each row's request."""
        return np.repeat(np.arange(len(self.t)), np.diff(self.offsets))

    def gain(self, objective: Mapping[str, float]) -> Floats:
        """Return the gain of each row under the slot's formula."""
        gain = np.zeros(len(self.matrix))
        for head, weight in objective.items():
            gain += weight * self.labels[head]
        return gain


@dataclass(frozen=True)
class Split:
    """One split: training, validation and holdout parts.

    Attributes:
        names, categorical_columns: names of the matrix's columns.
        objective: head → weight, of the slot's heads with enough data here.
        evaluation_weights: head → weight, of all heads; lists are evaluated by it.
        served: rows of `validation` as serving would see them, with all items at the first
            position.
        tail: mask of the holdout rows with long-tail items, as of the split's time.
        layout: column layout of a net, if there are columns for nets.
    """

    names: tuple[str, ...]
    categorical_columns: tuple[str, ...]
    objective: Mapping[str, float]
    evaluation_weights: Mapping[str, float]
    train: SplitPart
    validation: SplitPart
    holdout: SplitPart
    served: Matrix
    tail: Bools
    layout: Layout | None = None

    def select_columns(self, names: Sequence[str]) -> "Split":
        """Return the split with some of the columns."""
        indices = [self.names.index(name) for name in names]

        def select(matrix: Matrix) -> Matrix:
            return np.ascontiguousarray(matrix[:, indices])

        train, validation, holdout = (
            replace(part, matrix=select(part.matrix))
            for part in (self.train, self.validation, self.holdout)
        )
        categorical = tuple(name for name in self.categorical_columns if name in names)
        layout = self.layout.select_columns(names) if self.layout else None
        return Split(
            tuple(names),
            categorical,
            self.objective,
            self.evaluation_weights,
            train,
            validation,
            holdout,
            select(self.served),
            self.tail,
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

    def restrict_training(self, train_requests: Bools, validation_requests: Bools) -> "Split":
        """Return the split with some requests of the training and validation parts."""
        served = self.served[validation_requests[self.validation.request]]
        return replace(
            self,
            train=self.train.take(train_requests),
            validation=self.validation.take(validation_requests),
            served=served,
        )

    def quality(self, value: Floats) -> Floats:
        """Return NDCG@10 of each holdout request for rows ordered by a value, shape (requests,)."""
        return metrics.ndcg(self._rank_rows(value), K)

    def tail_quality(self, value: Floats) -> Floats:
        """Return NDCG@10 with long-tail items alone as relevant."""
        ranked = self._rank_rows(value)
        return metrics.ndcg(ranked.restrict(self.tail[ranked.row], np.zeros_like(ranked.missed)), K)

    def _rank_rows(self, value: Floats) -> metrics.RankedLists:
        return metrics.rank_lists(
            value, self.holdout.gain(self.evaluation_weights), self.holdout.offsets, k=K
        )

    def to_arrays(self) -> dict[str, npt.NDArray]:
        """Return the split as named arrays, for a file."""
        arrays: dict[str, npt.NDArray] = {"served": self.served, "tail": self.tail}
        for part, rows in (
            ("train", self.train),
            ("validation", self.validation),
            ("holdout", self.holdout),
        ):
            arrays |= {f"{part}.{name}": getattr(rows, name) for name in _PART_FIELDS}
            arrays |= {f"{part}.label.{head}": label for head, label in rows.labels.items()}
        head = msgspec.json.encode(
            [
                self.names,
                self.categorical_columns,
                list(self.objective.items()),
                list(self.evaluation_weights.items()),
                self.layout,
            ]
        )
        return {**arrays, "head": np.frombuffer(head, np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray]) -> "Split":
        """Restore a split from named arrays."""
        names, categorical, objective, worth, layout = msgspec.json.decode(arrays["head"].tobytes())

        def part(name: str) -> SplitPart:
            start = f"{name}.label."
            labels = {
                key.removeprefix(start): value
                for key, value in arrays.items()
                if key.startswith(start)
            }
            return SplitPart(
                labels=labels, **{field: arrays[f"{name}.{field}"] for field in _PART_FIELDS}
            )

        columns, formula = (tuple(names), tuple(categorical)), (dict(objective), dict(worth))
        return cls(
            *columns,
            *formula,
            part("train"),
            part("validation"),
            part("holdout"),
            arrays["served"],
            arrays["tail"],
            _decode_layout(layout),
        )


def _decode_layout(encoded: Any) -> Layout | None:
    return None if encoded is None else msgspec.convert(encoded, Layout, strict=False)


_PART_FIELDS = ("matrix", "weight", "offsets", "t", "person")
