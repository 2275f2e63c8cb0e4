"""A shadow bundle scores the shown items for the log: same items, same features, same time.

Its cost is bounded: it scores only shown items, may take `TIME_SHARE_MAX` of the time that answers take, and
skips answers that it has no time for. One that fails three times in a row is skipped for a second.
It never changes an answer. Now and then the champion scores the same items again, so that the log
has the time that each takes for them.
"""

import logging
import threading
import time

from tailorbird.errors import NotReadyError
from tailorbird.features import Rows
from tailorbird.ranking.bundle import Bundle, Scores
from tailorbird.retrieval import Index
from tailorbird.serving.pipeline.protocols import FeatureProvider, PipelineMetrics
from tailorbird.serving.pipeline.request import Candidates, Request
from tailorbird.store.breaker import CircuitBreaker

TIME_SHARE_MAX = 0.1
CREDIT_MAX_S = 0.05  # bound of the time that may be saved up
CHAMPION_TIMED_EVERY = 8  # one in so many scored answers has the champion's time too
log = logging.getLogger(__name__)


class ShadowScorer:
    """Scores shown items by a shadow bundle. Thread-safe."""

    def __init__(self, feature_provider: FeatureProvider, metrics: PipelineMetrics) -> None:
        self._feature_provider = feature_provider
        self._metrics = metrics
        self._breaker = CircuitBreaker()
        self._credit_s = CREDIT_MAX_S
        self._scored_count = 0
        self._lock = threading.Lock()

    def score(
        self,
        shadow: Bundle,
        request: Request,
        shown: Candidates,
        rows: Rows,
        index: Index,
        *,
        champion: Bundle | None = None,
    ) -> None:
        """Record the shadow's values of the shown items in the request, if it has time.

        `rows` are the features that the request read of them. `champion` is the version that
        answered, None if none did.
        """
        started_at = time.perf_counter()
        if (
            not shown.ids
            or not shadow.heads
            or not self._has_credit(started_at - request.started_at)
            or not self._breaker.allow()
        ):
            return
        shares_schema = (
            request.bundle is not None and shadow.schema_hash == request.bundle.schema_hash
        )
        try:
            if not shares_schema:
                with self._feature_provider.open_features(shadow) as access:
                    if access.reader is None:
                        return
                    rows = access.reader.read(request.read_request, shown.ids, shown.keys)
            scores, request.shadow_us = _time_scoring(shadow, index, request, shown, rows)
            request.shadow_version = shadow.version
            request.shadow_scores = scores.value.tolist()
            self._breaker.record_success()
            self._scored_count += 1
            is_champion_timed = self._scored_count % CHAMPION_TIMED_EVERY == 0 and shares_schema
            if is_champion_timed and champion is not None and request.index is not None:
                _, request.champion_us = _time_scoring(
                    champion, request.index, request, shown, rows
                )
        except NotReadyError:
            self._breaker.record_failure()
        except Exception:  # any error, because it does not serve
            log.exception("the shadow %s failed", shadow.version)
            request.shadow_version = (
                shadow.version
            )  # without scores, which is how the log has a failure
            self._metrics.count_fault("shadow")
            self._breaker.record_failure()
        finally:
            with self._lock:
                self._credit_s -= time.perf_counter() - started_at

    def _has_credit(self, response_s: float) -> bool:
        """Return whether there is time left, after this answer has earned its share."""
        with self._lock:
            self._credit_s = min(CREDIT_MAX_S, self._credit_s + TIME_SHARE_MAX * response_s)
            return self._credit_s > 0


def _time_scoring(
    bundle: Bundle, index: Index, request: Request, shown: Candidates, rows: Rows
) -> tuple[Scores, int]:
    """Return a bundle's scores of the shown items, and the microseconds that they took."""
    started_at = time.perf_counter()
    live_columns = bundle.encoder.read_live_columns(request.ranked_lists, rows, shown.keys)
    scores = bundle.with_index(index).score(
        rows, shown.keys, objective=request.formula.weights, live_columns=live_columns
    )
    return scores, round((time.perf_counter() - started_at) * 1e6)
