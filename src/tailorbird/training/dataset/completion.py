"""Requests with their candidates in memory, for tuning, backtests and feature selection."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.training.dataset.clicks import concat_datasets, draw_candidates, sample_negatives
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.replay import Replay
from tailorbird.training.dataset.request_choice import NEGATIVES
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.dataset.slates import Slates, concat_slates

Floats = npt.NDArray[np.float64]


def build_training_rows(training_data: TrainingData, requests: Dataset, replay: Replay) -> Dataset:
    """Return the rows to learn from: logged responses, or drawn requests with some candidates.

    Args:
        replay: gives the candidates and live columns of each request as of its time.
    """
    if training_data.sampling_scheme is None:
        return replace(requests, live_values=replay.read_live_columns(requests)[0])
    return training_data.add_extra_labels(
        sample_negatives(requests, replay, training_data.sampling_scheme, NEGATIVES)
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


def build_evaluation_rows(
    training_data: TrainingData, requests: Dataset, replay: Replay
) -> EvaluationRows:
    """Return the rows to evaluate on.

    Baselines order the shown items of logged responses; for drawn requests they show slates of
    their own.
    """
    if training_data.sampling_scheme is None:
        live_values, baseline_values = replay.read_live_columns(requests)
        return EvaluationRows(replace(requests, live_values=live_values), baseline_values, {})
    drawn_chunks = list(draw_candidates(requests, replay, training_data.sampling_scheme))
    slates = concat_slates([chunk.slates for chunk in drawn_chunks])
    rows, order = concat_datasets([chunk.data for chunk in drawn_chunks])
    return EvaluationRows(
        training_data.add_extra_labels(rows),
        {},
        {name: slate.take(order) for name, slate in slates.items()},
    )
