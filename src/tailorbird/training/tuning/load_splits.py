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
    unfinished: UnfinishedRun,
    settings: TuneSettings,
    train: TrainSettings,
    architectures: Sequence[Architecture],
    progress: Progress,
) -> tuple[dict[str, list[Split]], dict[str, Any]]:
    """Load or build the splits of each column set, and return them with their description."""
    splits: dict[str, list[Split]] = {}
    description: dict[str, Any] = {}
    for column_set in dict.fromkeys(architecture.column_set for architecture in architectures):
        builder = _SplitBuilder(
            features,
            slot,
            lake,
            unfinished.started_at,
            settings,
            train,
            column_set == NET_COLUMNS,
            progress,
        )
        cached = unfinished.arrays(f"about {column_set}", builder.encoded_facts)
        description |= msgspec.json.decode(cached["facts"].tobytes())
        splits[column_set] = [
            Split.from_arrays(
                unfinished.arrays(split_name(column_set, number), partial(builder.arrays, number))
            )
            for number in range(settings.splits)
        ]
    return splits, description


@dataclass
class _SplitBuilder:
    """Builds the splits of one column set, all of them on first use."""

    features: FeatureSet
    slot: Slot
    lake: Lake
    now: int
    settings: TuneSettings
    train: TrainSettings
    for_nets: bool
    progress: Progress
    splits: list[Split] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def arrays(self, number: int) -> Mapping[str, npt.NDArray]:
        if not self.splits:
            segmented = segment_requests(
                self.features,
                self.slot,
                self.lake,
                self.now,
                self.settings.splits,
                self.train,
                self.progress,
            )
            judged = self.settings.judged
            encoded_splits = encode_splits(
                segmented,
                self.features,
                self.slot,
                self.train,
                judged_max=judged,
                progress=self.progress,
                for_nets=self.for_nets,
            )
            self.splits = [split for split, _ in encoded_splits]
            self.facts = describe_splits(segmented, self.splits)
        return self.splits[number].to_arrays()

    def encoded_facts(self) -> Mapping[str, npt.NDArray]:
        self.arrays(0)
        return {"facts": np.frombuffer(msgspec.json.encode(self.facts), np.uint8)}
