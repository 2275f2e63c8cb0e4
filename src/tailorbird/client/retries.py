"""Retry budget, client-side throttling and backoff.

A retry helps where one of two servers has died, and makes things worse where all are slow. So
retries are at most a tenth of the requests (a budget, as in Finagle and in "Addressing Cascading
Failures" of the SRE book). Where answers fail to come, a growing share of requests is rejected on
this side: with probability max(0, (requests − 2·accepted) / (requests + 1)), over the last two
minutes ("Handling Overload", same book, eq. 21.1).
"""

import random
from collections import deque

BUDGET_SHARE = 0.1
BUDGET_MAX = 10.0  # retries that may be saved up
WINDOW_S = 120.0
OVERLOAD_RATIO = 2.0
REQUESTS_MIN = 10  # in the window; below that, a single failure would throttle
BACKOFF_S = 0.05
BACKOFF_MAX_S = 30.0


class RetryBudget:
    """A budget in which each request earns a tenth of a retry; ten may be saved up."""

    def __init__(self) -> None:
        self._tokens = BUDGET_MAX

    def earn(self) -> None:
        self._tokens = min(BUDGET_MAX, self._tokens + BUDGET_SHARE)

    def spend(self) -> bool:
        """Spend one retry, and return whether the budget allowed it."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Throttle:
    """Counts requests and accepted ones, second by second, over the window."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._window_counts: deque[list[float]] = deque()  # [second, requests, accepted]
        self._request_count = self._accepted_count = 0.0

    def allow(self, now: float) -> bool:
        """Return whether to send at all; a rejected request counts as not accepted."""
        self._expire(now)
        if self._request_count < REQUESTS_MIN:
            return True
        refusal_probability = max(
            0.0,
            (self._request_count - OVERLOAD_RATIO * self._accepted_count)
            / (self._request_count + 1),
        )
        if self._rng.random() >= refusal_probability:
            return True
        self.record(False, now)
        return False

    def record(self, is_accepted: bool, now: float) -> None:
        """Record the outcome of a request.

        Every answer counts as accepted unless it says "too much" or "out of order".
        """
        second = float(int(now))
        if not self._window_counts or self._window_counts[-1][0] != second:
            self._window_counts.append([second, 0.0, 0.0])
        self._window_counts[-1][1] += 1
        self._window_counts[-1][2] += is_accepted
        self._request_count += 1
        self._accepted_count += is_accepted

    def _expire(self, now: float) -> None:
        while self._window_counts and self._window_counts[0][0] < now - WINDOW_S:
            _, request_count, accepted_count = self._window_counts.popleft()
            self._request_count -= request_count
            self._accepted_count -= accepted_count


def backoff_s(attempt: int, rng: random.Random) -> float:
    """Return the wait before retry `attempt` (from 1): doubling, with jitter so that clients do not
    return together.
    """
    return min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(attempt - 1, 20)) * rng.uniform(0.5, 1.0)
