"""What a pipeline is put together from, as it sees each part; and stand-ins for the parts that it
can do without.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.protocol import NO_TABLES, CandidateTables
from tailorbird.events.answer_record import AnswerRecord
from tailorbird.features import FeatureSet, ReadRequest, Rows
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.retrieval import Index
from tailorbird.serving.formulas import Formula

Keys = npt.NDArray[np.uint64]
Lists = Mapping[str, Keys]  # name of an editorial list → items, the first first
Floats = npt.NDArray[np.float64]


class Bundles(Protocol):
    """Which bundle answers whom; `rollout.Rollout` says so."""

    def current(self) -> Bundle | None:
        """The champion."""
        ...

    def for_person(self, person: str) -> Bundle | None:
        """The one that answers a person: the champion, or the canary for its share of them."""
        ...

    def previous(self) -> Bundle | None:
        """The champion before this one, to answer where this one fails."""
        ...

    def is_fallback(self, bundle: Bundle) -> bool:
        """Whether it answers because the champion cannot be loaded."""
        ...

    def shadow(self) -> Bundle | None:
        """One whose scores are logged beside, and shown to nobody."""
        ...


class Overlay(Protocol):
    def over(self, index: Index | None) -> Index | None: ...


class Tables(Protocol):
    """Opens the published candidate tables for a request; `candidates.LiveTables` does."""

    def tables(self) -> AbstractContextManager[CandidateTables]: ...
    def ages(self) -> Mapping[str, int]: ...


class NoLiveTables:
    """No tables at all: for who ranks the caller's own items, and for tests."""

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
    """What a request reads its features with; `user_columns` are the columns about the person
    alone, with their places.
    """

    features: FeatureSet
    reader: FeatureReader | None
    user_columns: tuple[tuple[int, str], ...]

    @classmethod
    def from_features(cls, features: FeatureSet, reader: FeatureReader | None) -> "FeatureAccess":
        user_names = {column.name for column in features.columns if column.entity == "user"}
        return cls(
            features,
            reader,
            tuple((position, name) for position, name in enumerate(features.numeric) if name in user_names),
        )


class EditorialLists(Protocol):
    """Has the editorial lists as they are now; `editorial.LiveLists` does."""

    @property
    def keys(self) -> Lists: ...


class Formulas(Protocol):
    """Says what an item is worth to a slot; `formulas.LiveFormulas` does."""

    def formula_for(self, slot: Slot) -> Formula: ...


class FeatureProvider(Protocol):
    """Says what a request reads with, by its bundle; `schemas.Schemas` does."""

    def access(self, bundle: Bundle | None) -> AbstractContextManager[FeatureAccess]: ...
    def ready(self, bundle: Bundle | None) -> bool: ...


class AnswerLog(Protocol):
    def record_answer(self, event_body: bytes, record: AnswerRecord) -> bool: ...


class Watcher(Protocol):
    """Who counts stages and faults; `serving.metrics.Metrics` does."""

    def stage(self, name: str, seconds: float) -> None: ...
    def degraded(self, what: Iterable[str]) -> None: ...
    def fault(self, part: str) -> None: ...


class NullWatcher:
    """Counts nothing: for bulk traffic and tests."""

    def stage(self, name: str, seconds: float) -> None: ...
    def degraded(self, what: Iterable[str]) -> None: ...
    def fault(self, part: str) -> None: ...


class NoOverlay:
    """The bundle's index as it is."""

    def over(self, index: Index | None) -> Index | None:
        return index


@dataclass(frozen=True)
class Fixed:
    """Always the same bundle, for evaluation and tests."""

    bundle: Bundle | None = None
    previous_bundle: Bundle | None = None
    shadow_bundle: Bundle | None = None

    def current(self) -> Bundle | None:
        return self.bundle

    def for_person(self, person: str) -> Bundle | None:
        return self.bundle

    def previous(self) -> Bundle | None:
        return self.previous_bundle

    def is_fallback(self, bundle: Bundle) -> bool:
        return False

    def shadow(self) -> Bundle | None:
        return self.shadow_bundle
