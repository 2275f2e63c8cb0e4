"""The rows that the champion learned from, for drift against the training."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.events import HOUR, Clock
from tailorbird.features import FeatureSet
from tailorbird.features.declare.declarations import Derived
from tailorbird.monitoring.drift import Signal
from tailorbird.monitoring.drift.detect import Floats
from tailorbird.ranking.bundle import SKETCHES_FILE
from tailorbird.registry import Registry


@dataclass(frozen=True)
class TrainingHistograms:
    """The rows that a version learned from.

    Attributes:
        table: as `training.sketches` writes it.
        is_logged: its rows were shown; else its requests were drawn from what people chose.
        since, until: the time of its rows, microseconds.
    """

    version: str
    table: pa.Table
    slot: str
    is_logged: bool
    since: int
    until: int

    def hour_range(self, start_ts: int) -> slice:
        """Return the hours of its time, counted from the first."""
        start, stop = ((bound - start_ts) // HOUR for bound in (self.since, self.until))
        return slice(max(0, start), max(0, stop))

    def comparable_signals(
        self, signals_with_training: Sequence[tuple[Signal, Floats]], features: FeatureSet
    ) -> list[tuple[Signal, Floats]]:
        """Return the signals whose rows are the same in training and serving.

        Drawn requests have candidates as rows, so that features of items are of another choice.
        """
        person_columns = {
            column.name
            for column, feature in zip(features.columns, features.features, strict=False)
            if "item" not in column.entity and not isinstance(feature, Derived)
        }
        return [
            (signal, training_counts)
            for signal, training_counts in signals_with_training
            if training_counts.sum() > 0
            and (self.is_logged or signal.kind == "score" or signal.name in person_columns)
        ]


def read_training_histograms(project: Project, clock: Clock) -> TrainingHistograms:
    """Return what the champion's training sketched.

    Raises:
        NotReadyError: there is no champion, or it was not trained on rows.
    """
    registry = Registry(project.paths.registry, clock=clock)
    champion = registry.aliases().champion
    bundle_folder = registry.champion_folder()
    if bundle_folder is None or not (bundle_folder / SKETCHES_FILE).is_file():
        raise NotReadyError(
            f"the champion {champion} has learned from no rows"
            if bundle_folder
            else "there is no champion",
            where=str(bundle_folder or project.paths.registry),
            fix="tailorbird train, and promote the model",
        )
    training_details = registry.info(champion).metrics["about"]
    return TrainingHistograms(
        champion,
        pq.read_table(bundle_folder / SKETCHES_FILE),
        training_details["slot"],
        training_details["source"] == "logged answers",
        training_details["window"]["from"],
        training_details["window"]["test_from"],
    )
