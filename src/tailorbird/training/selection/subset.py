"""Subset of columns to keep: remove columns step by step, and undo steps that lose quality.

    leaks → not distinguishable from chance → redundant members of clusters → unstable and without
    significant importance on later data

Each step is tried on the selection part. If the model gets significantly worse without columns
that looked like chance, they are tried in halves. If it gets worse without other columns by more
than the tolerance, they are tried one by one. Columns that it needs stay. The loss of the final
subset is measured on the test part, which had no influence on any step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.models.gbdt import Gbdt, GbdtSettings, fit_gbdt
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.selection.importance import measure_request_ndcg
from tailorbird.training.selection.signal_rows import SignalParts, SignalRows
from tailorbird.training.selection.verdicts import (
    DRIFTING,
    LEAK,
    NULL,
    REDUNDANT,
    Signal,
    interval_to_dict,
)

Floats = npt.NDArray[np.float64]

# Models whose figures are averaged, as even two fits on the same columns differ.
SEED_COUNT = 3


@dataclass(frozen=True)
class RemovalStep:
    """Columns whose removal was tried.

    Attributes:
        loss: loss of all columns removed so far, full − without, on the selection part.
    """

    reason: str
    columns: tuple[str, ...]
    loss: Interval
    is_removed: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "reason": self.reason,
            "columns": list(self.columns),
            "taken_back": not self.is_removed,
        } | interval_to_dict("loss", self.loss)


@dataclass(frozen=True)
class Subset:
    """The proposed subset.

    Attributes:
        kept_columns, removed_columns: their names.
        steps: removals that were tried.
        full_metric, subset_metric: metric of both on the test part.
        loss: full_metric − subset_metric, paired.
    """

    kept_columns: tuple[str, ...]
    removed_columns: tuple[str, ...]
    steps: tuple[RemovalStep, ...]
    full_metric: Interval
    subset_metric: Interval
    loss: Interval
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the subset as JSON."""
        figures = (
            interval_to_dict("full", self.full_metric)
            | interval_to_dict("subset", self.subset_metric)
            | interval_to_dict("loss", self.loss)
        )
        selection = {
            "keep": list(self.kept_columns),
            "remove": list(self.removed_columns),
            "steps": [step.to_dict() for step in self.steps],
        }
        return selection | figures | dict(self.about)


@dataclass(frozen=True)
class ModelComparer:
    """Models of different columns on the same requests.

    Attributes:
        load_or_compute: returns the saved figures of a name or computes them, so that an
            interrupted run need not repeat fits.
    """

    parts: SignalParts
    settings: GbdtSettings
    seed: int
    load_or_compute: Callable[[str, Callable[[], Floats]], Floats]

    def fit_model(self, columns: Sequence[str], seed: int) -> Gbdt:
        """Fit a model on some columns."""
        column_indices = self.column_indices(columns)
        train, validation = (
            rows.sample(column_indices) for rows in (self.parts.train, self.parts.validation)
        )
        categorical = [name for name in self.parts.categorical_names if name in columns]
        return fit_gbdt(
            train,
            validation,
            list(columns),
            replace(self.settings, seed=seed),
            categorical=categorical,
        )

    def column_indices(self, columns: Sequence[str]) -> list[int]:
        return [self.parts.column_names.index(name) for name in columns]

    def measure_requests(self, columns: Sequence[str]) -> tuple[Floats, Floats]:
        """Return the metric of each request of selection and test, as a mean over seeds."""
        parts = self.parts
        sizes = (parts.selection.request_count, parts.test.request_count)
        total = np.zeros(sum(sizes))
        for seed in range(self.seed, self.seed + SEED_COUNT):
            total += self.load_or_compute(
                f"fit {seed} {' '.join(columns)}",
                lambda seed=seed: self._fit_and_measure(columns, seed),
            )
        total /= SEED_COUNT
        return total[: sizes[0]], total[sizes[0] :]

    def _fit_and_measure(self, columns: Sequence[str], seed: int) -> Floats:
        model = self.fit_model(columns, seed)
        indices = self.column_indices(columns)
        parts = (self.parts.selection, self.parts.test)
        return np.concatenate(
            [
                measure_request_ndcg(model, np.ascontiguousarray(rows.matrix[:, indices]), rows)
                for rows in parts
            ]
        )


def bootstrap_people(rows: SignalRows, seed: int) -> Bootstrap:
    """Return replicates over the users of some requests; unknown users count separately."""
    person = np.where(rows.person < 0, -1 - np.arange(rows.request_count), rows.person)
    return Bootstrap(np.unique(person, return_inverse=True)[1], seed=seed)


def propose_subset(
    model_comparer: ModelComparer,
    signals: Sequence[Signal],
    tolerance: float,
    *,
    progress: Callable[[int, int], None] = lambda step_index, total: None,
) -> tuple[Subset, list[Signal]]:
    """Remove columns step by step as the verdicts say, and evaluate the rest.

    Args:
        tolerance: loss that a redundant or unstable column may cost on the selection part.

    Returns:
        The subset, and the signals with `kept` set.
    """
    parts = model_comparer.parts
    trusted_columns = [signal.name for signal in signals if signal.verdict != LEAK]
    selection_bootstrap = bootstrap_people(parts.selection, model_comparer.seed)
    test_bootstrap = bootstrap_people(parts.test, model_comparer.seed)
    progress(0, 4)
    full_metrics = model_comparer.measure_requests(trusted_columns)
    kept_columns = trusted_columns
    current_metrics = full_metrics
    steps = []
    importance_by_name = {signal.name: signal.importance.value for signal in signals}
    for step_index, reason in enumerate((NULL, REDUNDANT, DRIFTING), 1):
        progress(step_index, 4)
        removal_candidates = sorted(
            (signal.name for signal in signals if signal.verdict == reason),
            key=lambda name: importance_by_name[name],
        )
        batches = [removal_candidates] if len(removal_candidates) < len(kept_columns) else []
        while batches:
            batch = batches.pop(0)
            if not batch:
                continue
            trial_metrics = model_comparer.measure_requests(
                [name for name in kept_columns if name not in batch]
            )
            loss = selection_bootstrap.difference(full_metrics[0], trial_metrics[0])
            step_loss = selection_bootstrap.difference(current_metrics[0], trial_metrics[0])
            if loss.low <= 0 and (reason == NULL or step_loss.value <= tolerance):
                kept_columns = [name for name in kept_columns if name not in batch]
                current_metrics = trial_metrics
                steps.append(RemovalStep(reason, tuple(batch), loss, True))
            elif len(batch) == 1:
                steps.append(RemovalStep(reason, tuple(batch), loss, False))
            elif reason == NULL:  # many columns, few of which matter
                batches = [batch[: len(batch) // 2], batch[len(batch) // 2 :], *batches]
            else:
                batches = [[name] for name in batch]
    marked_signals = [replace(signal, kept=signal.name in kept_columns) for signal in signals]
    removed_columns = tuple(signal.name for signal in signals if signal.name not in kept_columns)
    full_interval, subset_interval = test_bootstrap.means([full_metrics[1], current_metrics[1]])
    loss = test_bootstrap.difference(full_metrics[1], current_metrics[1])
    progress(4, 4)
    return Subset(
        tuple(kept_columns), removed_columns, tuple(steps), full_interval, subset_interval, loss
    ), marked_signals
