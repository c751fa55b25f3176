"""Health: a circuit breaker that would open when nine of ten requests had no usable answer in two periods in a row.

It only says so. The caller asks TMDB something else first: the last two titles, never answered, look like an outage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.errors import TmdbUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD, LEAST = 30.0, 3  # seconds, and requests, that a period has at least


class CircuitBreaker:
    """Counts of requests with and without a usable answer; `clock` tells seconds."""

    def __init__(self, clock: Callable[[], float], base_url: str) -> None:
        self.successes = self.failures = 0
        self._clock, self._base_url = clock, base_url
        self._period_start, self._before = clock(), (0, 0)
        self._bad_periods = 0

    def record(self, reason: str | None) -> TmdbUnavailableError | None:
        """Count one request, with what was wrong with its answer; the error to be raised if this has gone on too long.

        Another period begins with every error, so that it is not returned again while the caller makes sure of it.
        """
        self.successes += reason is None
        self.failures += reason is not None
        seconds = self._clock() - self._period_start
        successes, failures = self.successes - self._before[0], self.failures - self._before[1]
        if seconds < PERIOD or successes + failures < LEAST:
            return None
        self._bad_periods = self._bad_periods + 1 if failures >= 9 * successes else 0
        if self._bad_periods >= 2 and reason is None:
            return None
        self._period_start, self._before = self._period_start + seconds, (self.successes, self.failures)
        if self._bad_periods < 2 or reason is None:
            return None
        requests = f"{failures} of {successes + failures} requests to {self._base_url}"
        seen = f"in the last {seconds:.0f} s {requests} had no usable answer"
        return TmdbUnavailableError(reason, seen)
