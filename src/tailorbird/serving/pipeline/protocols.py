"""Protocols of a pipeline's parts, and stand-ins for the optional ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.protocol import NO_TABLES, CandidateTables
from tailorbird.events.answer_record import ResponseRecord
from tailorbird.features import FeatureSet, ReadRequest, Rows
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.retrieval import Index
from tailorbird.serving.experiments import Assignment, EligibilityCheck
from tailorbird.serving.pipeline.formulas import Formula

Keys = npt.NDArray[np.uint64]
KeysByList = Mapping[str, Keys]  # name of an editorial list → item keys in order
Floats = npt.NDArray[np.float64]


class BundleSelector(Protocol):
    """Selects the bundle that answers a person, as `rollout.Rollout` does."""

    def current(self) -> Bundle | None:
        """Return the champion."""
        ...

    def for_person(self, person: str) -> Bundle | None:
        """Return the bundle that answers a person: the champion, or the canary for its share of
        them.
        """
        ...

    def for_version(self, version: str) -> Bundle | None:
        """Return the bundle of a version that an arm names, or None where it is not loaded."""
        ...

    def previous(self) -> Bundle | None:
        """Return the previous champion, to answer where this one fails."""
        ...

    def is_fallback(self, bundle: Bundle) -> bool:
        """Return whether a bundle answers because the champion cannot be loaded."""
        ...

    def shadow(self) -> Bundle | None:
        """Return the bundle whose scores are logged and not shown."""
        ...


class IndexOverlay(Protocol):
    """Lays later changes of items over a bundle's index, as `catalogue.Catalogue` does."""

    def overlay_for(self, index: Index | None) -> Index | None: ...


class TableProvider(Protocol):
    """Opens the published candidate tables for a request, as `serving.models.candidates.LiveTables`
    does. `ages` says for how long each group of tables has not been known to be current.
    """

    def tables(self) -> AbstractContextManager[CandidateTables]: ...
    def ages(self) -> Mapping[str, int]: ...


class NullTableProvider:
    """No tables at all: for ranking the caller's own items, and for tests."""

    @contextmanager
    def tables(self) -> Iterator[CandidateTables]:
        yield NO_TABLES

    def ages(self) -> Mapping[str, int]:
        return {}


class FeatureReader(Protocol):
    def read(
        self, request: ReadRequest, items: Sequence[str], item_keys: Keys | None = None
    ) -> Rows: ...
    def person(self, request: ReadRequest) -> Rows: ...


@dataclass(frozen=True)
class FeatureAccess:
    """The feature set and reader of a request; `user_columns` are the columns about the person
    alone, with their positions.
    """

    features: FeatureSet
    reader: FeatureReader | None
    user_columns: tuple[tuple[int, str], ...]

    @classmethod
    def from_features(cls, features: FeatureSet, reader: FeatureReader | None) -> "FeatureAccess":
        user_column_names = {column.name for column in features.columns if column.entity == "user"}
        return cls(
            features,
            reader,
            tuple(
                (position, name)
                for position, name in enumerate(features.numeric)
                if name in user_column_names
            ),
        )


class EditorialLists(Protocol):
    """The current editorial lists, as `editorial.LiveEditorialLists` has them."""

    @property
    def keys_by_list(self) -> KeysByList: ...


class FormulaProvider(Protocol):
    """The value of an item to a slot, as `formulas.LiveFormulas` has it."""

    def formula_for(self, slot: Slot) -> Formula: ...


class ArmAssigner(Protocol):
    """The arm of a request, as `experiments.LiveExperiments` has it."""

    def assign(
        self,
        slot: Slot,
        person: str,
        session: str,
        forced_arm: str = "",
        is_eligible: EligibilityCheck = ...,
    ) -> Assignment: ...


class FeatureProvider(Protocol):
    """Opens the features of a bundle for a request, as `schemas.LiveFeatureProvider` does."""

    def open_features(self, bundle: Bundle | None) -> AbstractContextManager[FeatureAccess]: ...
    def is_ready(self, bundle: Bundle | None) -> bool: ...


class ResponseLog(Protocol):
    def record_response(self, event_body: bytes, record: ResponseRecord) -> bool: ...


class PipelineMetrics(Protocol):
    """Counts stages and faults, as `serving.metrics.Metrics` does."""

    def record_stage(self, name: str, seconds: float) -> None: ...
    def count_degraded(self, codes: Iterable[str]) -> None: ...
    def count_fault(self, part: str) -> None: ...


class NullMetrics:
    """Counts nothing: for bulk traffic and tests."""

    def record_stage(self, name: str, seconds: float) -> None: ...
    def count_degraded(self, codes: Iterable[str]) -> None: ...
    def count_fault(self, part: str) -> None: ...


class NullOverlay:
    """The bundle's index without later changes."""

    def overlay_for(self, index: Index | None) -> Index | None:
        return index


@dataclass(frozen=True)
class FixedBundle:
    """Always the same bundle, for evaluation and tests."""

    bundle: Bundle | None = None
    previous_bundle: Bundle | None = None
    shadow_bundle: Bundle | None = None

    def current(self) -> Bundle | None:
        return self.bundle

    def for_person(self, person: str) -> Bundle | None:
        return self.bundle

    def for_version(self, version: str) -> Bundle | None:
        return None

    def previous(self) -> Bundle | None:
        return self.previous_bundle

    def is_fallback(self, bundle: Bundle) -> bool:
        return False

    def shadow(self) -> Bundle | None:
        return self.shadow_bundle
