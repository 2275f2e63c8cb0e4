"""Splits of a study: built once for each set of columns, and read from its folder afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.ranking.slot import Slot
from tailorbird.training.fit.resume import UnfinishedRun
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.tuning.architectures import NET_COLUMNS, Architecture
from tailorbird.training.tuning.fits import split_name
from tailorbird.training.tuning.rows import describe_splits, encode_splits, segment_requests
from tailorbird.training.tuning.settings import TuneSettings
from tailorbird.training.tuning.splits import Split


def load_splits(
    features: FeatureSet,
    slot: Slot,
    lake: Lake,
    unfinished_run: UnfinishedRun,
    settings: TuneSettings,
    train_settings: TrainSettings,
    architectures: Sequence[Architecture],
    progress: Progress,
) -> tuple[dict[str, list[Split]], dict[str, Any]]:
    """Load or build the splits of each column set, and return them with their description."""
    splits_by_column_set: dict[str, list[Split]] = {}
    description: dict[str, Any] = {}
    for column_set in dict.fromkeys(architecture.column_set for architecture in architectures):
        builder = _SplitBuilder(
            features=features,
            slot=slot,
            lake=lake,
            now=unfinished_run.started_at,
            settings=settings,
            train_settings=train_settings,
            for_nets=column_set == NET_COLUMNS,
            progress=progress,
        )
        cached_description = unfinished_run.load_or_compute_arrays(
            f"about {column_set}", builder.encode_description
        )
        description |= msgspec.json.decode(cached_description["facts"].tobytes())
        splits_by_column_set[column_set] = [
            Split.from_arrays(
                unfinished_run.load_or_compute_arrays(
                    split_name(column_set, split_index), partial(builder.build_arrays, split_index)
                )
            )
            for split_index in range(settings.splits)
        ]
    return splits_by_column_set, description


@dataclass
class _SplitBuilder:
    """Builds the splits of one column set, all of them on first use."""

    features: FeatureSet
    slot: Slot
    lake: Lake
    now: int
    settings: TuneSettings
    train_settings: TrainSettings
    for_nets: bool
    progress: Progress
    splits: list[Split] = field(default_factory=list)
    description: dict[str, Any] = field(default_factory=dict)

    def build_arrays(self, split_index: int) -> Mapping[str, npt.NDArray]:
        if not self.splits:
            segmented_requests = segment_requests(
                self.features,
                self.slot,
                self.lake,
                self.now,
                self.settings.splits,
                self.train_settings,
                self.progress,
            )
            encoded_splits = encode_splits(
                segmented_requests,
                self.features,
                self.slot,
                self.train_settings,
                judged_max=self.settings.judged,
                progress=self.progress,
                for_nets=self.for_nets,
            )
            self.splits = [split for split, _ in encoded_splits]
            self.description = describe_splits(segmented_requests, self.splits)
        return self.splits[split_index].to_arrays()

    def encode_description(self) -> Mapping[str, npt.NDArray]:
        self.build_arrays(0)
        return {"facts": np.frombuffer(msgspec.json.encode(self.description), np.uint8)}
