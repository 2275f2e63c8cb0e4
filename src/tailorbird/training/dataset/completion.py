"""Requests with their candidates in memory, for tuning, backtests and feature selection."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.training.dataset.clicks import concat_datasets, draw_candidates, sample_negatives
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.replay import Replay, Slates, concat_slates
from tailorbird.training.dataset.request_choice import NEGATIVES
from tailorbird.training.dataset.rows import TrainingData

Floats = npt.NDArray[np.float64]


def training_rows(training_data: TrainingData, part: Dataset, replay: Replay) -> Dataset:
    """Return the rows to learn from: logged responses, or drawn requests with some candidates."""
    if training_data.sampling is None:
        return replace(part, live=replay.read_live_columns(part)[0])
    return training_data.add_labels(
        sample_negatives(part, replay, training_data.sampling, NEGATIVES)
    )


@dataclass(frozen=True)
class EvaluationRows:
    """Rows to evaluate on: all candidates of each request.

    Attributes:
        baseline_values: values of the rows by baseline, for logged responses.
        slates: slates by baseline, for drawn requests.
    """

    rows: Dataset
    baseline_values: Mapping[str, Floats]
    slates: Mapping[str, Slates]


def evaluation_rows(training_data: TrainingData, part: Dataset, replay: Replay) -> EvaluationRows:
    """Return the rows to evaluate on.

    Baselines order the shown items of logged responses; for drawn requests they show slates of
    their own.
    """
    if training_data.sampling is None:
        live, values = replay.read_live_columns(part)
        return EvaluationRows(replace(part, live=live), values, {})
    drawn = list(draw_candidates(part, replay, training_data.sampling))
    slates = concat_slates([chunk.slates for chunk in drawn])
    rows, order = concat_datasets([chunk.data for chunk in drawn])
    return EvaluationRows(
        training_data.add_labels(rows),
        {},
        {name: slate.take(order) for name, slate in slates.items()},
    )
