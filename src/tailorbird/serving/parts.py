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

    def of(self, person: str) -> Bundle | None:
        """The one that answers a person: the champion, or the canary for its share of them."""
        ...

    def previous(self) -> Bundle | None:
        """The champion before this one, to answer where this one fails."""
        ...

    def stands_in(self, bundle: Bundle) -> bool:
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
class Reading:
    """What a request reads its features with; `user_columns` are the columns about the person
    alone, with their places.
    """

    features: FeatureSet
    reader: FeatureReader | None
    user_columns: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, features: FeatureSet, reader: FeatureReader | None) -> "Reading":
        of_user = {column.name for column in features.columns if column.entity == "user"}
        return cls(
            features,
            reader,
            tuple((place, name) for place, name in enumerate(features.numeric) if name in of_user),
        )


class Editors(Protocol):
    """Has the editorial lists as they are now; `editorial.LiveLists` does."""

    @property
    def keys(self) -> Lists: ...


class Formulas(Protocol):
    """Says what an item is worth to a slot; `formulas.LiveFormulas` does."""

    def of(self, slot: Slot) -> Formula: ...


class Readings(Protocol):
    """Says what a request reads with, by its bundle; `schemas.Schemas` does."""

    def reading(self, bundle: Bundle | None) -> AbstractContextManager[Reading]: ...
    def ready(self, bundle: Bundle | None) -> bool: ...


class AnswerLog(Protocol):
    def record_answer(self, event_body: bytes, record: AnswerRecord) -> bool: ...


class Watcher(Protocol):
    """Who counts stages and faults; `serving.metrics.Metrics` does."""

    def stage(self, name: str, seconds: float) -> None: ...
    def degraded(self, what: Iterable[str]) -> None: ...
    def fault(self, part: str) -> None: ...


class Unwatched:
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
    before: Bundle | None = None
    beside: Bundle | None = None

    def current(self) -> Bundle | None:
        return self.bundle

    def of(self, person: str) -> Bundle | None:
        return self.bundle

    def previous(self) -> Bundle | None:
        return self.before

    def stands_in(self, bundle: Bundle) -> bool:
        return False

    def shadow(self) -> Bundle | None:
        return self.beside
