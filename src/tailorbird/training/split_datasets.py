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

    live: LiveColumns
    baselines: Sequence[str]
    retrieval: RetrievalChoice
    slot: Slot

    def replay(
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
            training_data.item_codes,
            live_columns,
            baselines=baselines,
            sources=self.sources,
            retriever=self.retrieval.retriever(),
        )

    @property
    def sources(self) -> dict[str, int]:
        return self.retrieval.sources(self.slot)


def build_retrieval(
    training_data: TrainingData,
    features: FeatureSet,
    slot: Slot,
    split: Split,
    settings: TrainSettings,
    timer: StageTimer,
    *,
    kept_share: float | None = None,
) -> RetrievalChoice:
    """Build the indexes over time, with vectors if requested and better.

    Args:
        kept_share: see `choose_retrieval`.
    """
    moments = index_moments(training_data.data, split, settings)
    series = build_series(
        training_data.events, training_data.items, moments, progress=partial(timer.report, "index")
    )
    return choose_retrieval(
        training_data,
        features,
        slot,
        series,
        (split.train_until, split.validation_until),
        settings.retrieval,
        settings.tower,
        validation=training_data.data.take(split.validation),
        seed=settings.seed,
        kept_share=kept_share,
        progress=partial(timer.report, "vectors"),
    )


def split_requests(data: Dataset, training_data: TrainingData, settings: TrainSettings) -> Split:
    """Split the requests at the given borders, or by shares."""
    gap = training_data.label_window
    if settings.test_from:
        return split_at(
            data.t, settings.validation_from or settings.test_from, settings.test_from, gap=gap
        )
    return split_by_time(data.t, gap=gap)


def index_moments(data: Dataset, split: Split, settings: TrainSettings) -> list[int]:
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
    plan: CandidatePlan,
    settings: TrainSettings,
    timer: StageTimer,
) -> tuple[SplitDatasets, int]:
    """Return the rows of the three parts, and the number of training requests left out.

    The test part has no candidates yet.
    """
    limit = settings.requests
    if training_data.is_logged:  # as many rows as drawn requests would have
        limit = limit * (NEGATIVES + 1) // max(round(data.rows / max(data.requests, 1)), 1)
        limit = min(limit, QUICK_LOGGED_REQUESTS) if settings.quick else limit
    train = thin_evenly(split.train, limit, settings.seed)
    validation = thin_evenly(split.validation, settings.test_requests, settings.seed)
    test = thin_evenly(split.test, settings.test_requests, settings.seed)
    replay, report_progress = (
        plan.replay(training_data, features, plan.live),
        partial(timer.report, "candidates"),
    )
    combined = data.take(np.concatenate([train, validation]))
    if training_data.sampling is None:
        rows = replace(
            combined, live=replay.read_live_columns(combined, progress=report_progress)[0]
        )
    else:
        rows = training_data.add_labels(
            sample_negatives(combined, replay, training_data.sampling, NEGATIVES, report_progress)
        )
    train_count = int(np.searchsorted(rows.t, split.train_until))
    train_rows, validation_rows = (
        rows.take(np.arange(train_count)),
        rows.take(np.arange(train_count, rows.requests)),
    )
    if not train_rows.requests or not validation_rows.requests:
        raise UsageError(
            "no request is left to learn from, or to watch", fix="train on a longer window"
        )
    censored_parts = (
        train_rows.censor(split.train_until),
        validation_rows.censor(split.validation_until),
    )
    return SplitDatasets(*censored_parts, data.take(test), plan.live), len(split.train) - len(train)


def sampling_notes(parts: SplitDatasets, dropped: int) -> list[str]:
    """Describe how many requests were sampled to limit time and memory."""
    if not dropped:
        return []
    learned = parts.train.requests
    return [
        f"learned from {learned:,} of {learned + dropped:,} requests, drawn evenly over the "
        "time; --requests says how many"
    ]
