"""Split requests and replay their candidates: the train, validation and test parts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tailorbird.errors import UsageError
from tailorbird.features import FeatureSet
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.clicks import sample_negatives
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import build_series
from tailorbird.training.dataset.replay import Replay
from tailorbird.training.dataset.request_choice import NEGATIVES
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.dataset.sampling import thin_evenly
from tailorbird.training.dataset.split import Split, split_at, split_by_time
from tailorbird.training.fit.inputs import SplitDatasets
from tailorbird.training.fit.retrieval import RetrievalChoice, choose_retrieval
from tailorbird.training.settings import QUICK_LOGGED_REQUESTS, TrainSettings
from tailorbird.training.stage_times import StageTimer


@dataclass(frozen=True)
class CandidatePlan:
    """Candidate retrieval, baselines and live columns, the same in all parts."""

    live_columns: LiveColumns
    baselines: Sequence[str]
    retrieval: RetrievalChoice
    slot: Slot

    def build_replay(
        self,
        training_data: TrainingData,
        features: FeatureSet,
        live_columns: LiveColumns,
        *,
        baselines: Sequence[str] = (),
    ) -> Replay:
        return Replay(
            training_data.events_with_profiles,
            features,
            self.slot,
            training_data.item_vocabulary,
            live_columns,
            baselines=baselines,
            source_limits=self.source_limits,
            retriever=self.retrieval.retriever(),
        )

    @property
    def source_limits(self) -> dict[str, int]:
        return self.retrieval.source_limits(self.slot)


def build_retrieval(
    training_data: TrainingData,
    features: FeatureSet,
    slot: Slot,
    split: Split,
    settings: TrainSettings,
    timer: StageTimer,
    *,
    champion_share: float | None = None,
) -> RetrievalChoice:
    """Build the indexes over time, with vectors if requested and better.

    Args:
        champion_share: see `choose_retrieval`.
    """
    as_of_times = index_times(training_data.dataset, split, settings)
    index_series = build_series(
        training_data.events,
        training_data.item_profiles,
        as_of_times,
        progress=partial(timer.report, "index"),
    )
    return choose_retrieval(
        training_data=training_data,
        features=features,
        slot=slot,
        index_series=index_series,
        validation_from=split.train_until,
        choice=settings.retrieval,
        settings=settings.tower,
        validation=training_data.dataset.take(split.validation),
        seed=settings.seed,
        champion_share=champion_share,
        progress=partial(timer.report, "vectors"),
    )


def split_requests(data: Dataset, training_data: TrainingData, settings: TrainSettings) -> Split:
    """Split the requests at the given borders, or by shares."""
    gap = training_data.label_window_us
    if settings.test_from:
        return split_at(
            data.t, settings.validation_from or settings.test_from, settings.test_from, gap=gap
        )
    return split_by_time(data.t, gap=gap)


def index_times(data: Dataset, split: Split, settings: TrainSettings) -> list[int]:
    """Return the times of indexes: over the training part, and both borders."""
    boundaries = np.linspace(0, len(split.train), settings.index_parts + 1).astype(int)[:-1]
    return [
        *(int(data.t[split.train[index]]) for index in boundaries),
        split.train_until,
        split.validation_until,
    ]


def build_split_datasets(
    training_data: TrainingData,
    features: FeatureSet,
    data: Dataset,
    split: Split,
    candidate_plan: CandidatePlan,
    settings: TrainSettings,
    timer: StageTimer,
) -> tuple[SplitDatasets, int]:
    """Return the rows of the three parts, and the number of training requests left out.

    The test part has no candidates yet.
    """
    train_limit = settings.requests
    if training_data.is_logged:  # as many rows as drawn requests would have
        train_limit = (
            train_limit
            * (NEGATIVES + 1)
            // max(round(data.row_count / max(data.request_count, 1)), 1)
        )
        train_limit = min(train_limit, QUICK_LOGGED_REQUESTS) if settings.quick else train_limit
    train_indexes = thin_evenly(split.train, train_limit, settings.seed)
    validation_indexes = thin_evenly(split.validation, settings.test_requests, settings.seed)
    test_indexes = thin_evenly(split.test, settings.test_requests, settings.seed)
    replay = candidate_plan.build_replay(training_data, features, candidate_plan.live_columns)
    report_progress = partial(timer.report, "candidates")
    combined_requests = data.take(np.concatenate([train_indexes, validation_indexes]))
    if training_data.sampling_scheme is None:
        combined_rows = replace(
            combined_requests,
            live_values=replay.read_live_columns(combined_requests, progress=report_progress)[0],
        )
    else:
        combined_rows = training_data.add_extra_labels(
            sample_negatives(
                combined_requests, replay, training_data.sampling_scheme, NEGATIVES, report_progress
            )
        )
    train_request_count = int(np.searchsorted(combined_rows.t, split.train_until))
    train_rows = combined_rows.take(np.arange(train_request_count))
    validation_rows = combined_rows.take(
        np.arange(train_request_count, combined_rows.request_count)
    )
    if not train_rows.request_count or not validation_rows.request_count:
        raise UsageError(
            "no request is left to learn from, or to watch", fix="train on a longer window"
        )
    censored_parts = (
        train_rows.censor(split.train_until),
        validation_rows.censor(split.validation_until),
    )
    return SplitDatasets(
        *censored_parts, data.take(test_indexes), candidate_plan.live_columns
    ), len(split.train) - len(train_indexes)


def sampling_notes(datasets: SplitDatasets, dropped_count: int) -> list[str]:
    """Describe how many requests were sampled to limit time and memory."""
    if not dropped_count:
        return []
    learned_count = datasets.train.request_count
    return [
        f"learned from {learned_count:,} of {learned_count + dropped_count:,} requests, drawn "
        "evenly over the time; --requests says how many"
    ]
