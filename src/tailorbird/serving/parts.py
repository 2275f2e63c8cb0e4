"""What a pipeline is put together from, as it sees each part; and stand-ins for the parts that it can do without."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tailorbird.events.answer_record import AnswerRecord
from tailorbird.features import ReadRequest, Rows
from tailorbird.ranking.bundle import Bundle
from tailorbird.retrieval import Index
from tailorbird.serving.request import Keys


class Bundles(Protocol):
    def current(self) -> Bundle | None: ...


class Overlay(Protocol):
    def over(self, index: Index | None) -> Index | None: ...


class FeatureReader(Protocol):
    def read(self, request: ReadRequest, items: Sequence[str], item_keys: Keys | None = None) -> Rows: ...


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

    def current(self) -> Bundle | None:
        return self.bundle
