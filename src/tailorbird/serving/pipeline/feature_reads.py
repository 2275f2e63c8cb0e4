"""Reading of features from the store, with stale values where it does not answer."""

import time
from collections.abc import Callable, Sequence

from tailorbird.errors import NotReadyError
from tailorbird.events import Clock
from tailorbird.features import Rows
from tailorbird.serving.pipeline.deadlines import Dependency
from tailorbird.serving.pipeline.protocols import FeatureReader
from tailorbird.serving.pipeline.request import Keys, Request
from tailorbird.serving.pipeline.stale_cache import StaleFeatureCache


class FallbackReader:
    """Reads features through a circuit breaker, and recalls the last ones. Thread-safe.

    Args:
        stale_after_us: age of feature copies beyond which an answer names `freshness` as missing.
    """

    def __init__(self, clock: Clock, store_dependency: Dependency, stale_after_us: int) -> None:
        self._clock = clock
        self._store_dependency = store_dependency
        self._stale_after_us = stale_after_us
        self._stale_cache = StaleFeatureCache()

    def read_person(self, request: Request) -> Rows | None:
        """Read the person's features; stale ones where the store does not answer, or None."""
        return self._read_or_recall(
            request, None, lambda reader: reader.person(request.read_request)
        )

    def read_features(self, request: Request, items: Sequence[str], keys: Keys) -> Rows | None:
        """Read the features of candidates; stale ones where the store does not answer, or None."""
        return self._read_or_recall(
            request, keys, lambda reader: reader.read(request.read_request, items, keys)
        )

    def _read_or_recall(
        self, request: Request, keys: Keys | None, read: Callable[[FeatureReader], Rows]
    ) -> Rows | None:
        features = request.feature_access.features
        person_id = request.query.user_id or (
            f"anon:{request.query.anonymous_id}" if request.query.anonymous_id else ""
        )
        reader = request.feature_access.reader
        rows = (
            self._read_store(reader, read)
            if reader is not None and self._store_dependency.allow()
            else None
        )
        if rows is None:
            rows = self._stale_cache.lookup(features, person_id, keys, request.now)
            request.has_stale_features = rows is not None
            request.mark_degraded("features" if rows is None else "last_known")
            return rows
        request.has_stale_features = False
        self._stale_cache.store(features, person_id, rows, keys)
        if rows.published_at and self._clock.now() - rows.published_at > self._stale_after_us:
            request.mark_degraded("freshness")
        return rows

    def _read_store(
        self, reader: FeatureReader, read: Callable[[FeatureReader], Rows]
    ) -> Rows | None:
        start = time.perf_counter()
        try:
            rows = read(reader)
        except (
            NotReadyError
        ):  # an immediate error is cheap to repeat, a late one counts as an outage
            self._store_dependency.record(time.perf_counter() - start)
            return None
        self._store_dependency.record(time.perf_counter() - start)
        return rows
