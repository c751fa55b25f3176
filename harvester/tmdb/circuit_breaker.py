"""Circuit breaker: opens when nine of ten requests had no usable answer in two periods in a row.

It only returns the error. The caller sends a probe before it raises it, because the last two titles of a run, if never
answered, look like an outage too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.errors import TmdbUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD_SECONDS, MIN_REQUESTS = 30.0, 3  # of one period, at least


class CircuitBreaker:
    """Counts of requests with and without a usable answer; `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float], base_url: str) -> None:
        self.successes = self.failures = 0
        self._clock, self._base_url = clock, base_url
        self._period_start, self._before = clock(), (0, 0)
        self._bad_periods = 0

    def record(self, reason: str | None) -> TmdbUnavailableError | None:
        """Count one request, with the `reason` if its answer is not usable; returns an error if the breaker opens.

        A new period begins with each error, so that it is not returned again while the caller waits for its probe.
        """
        self.successes += reason is None
        self.failures += reason is not None
        seconds = self._clock() - self._period_start
        successes, failures = self.successes - self._before[0], self.failures - self._before[1]
        if seconds < PERIOD_SECONDS or successes + failures < MIN_REQUESTS:
            return None
        self._bad_periods = self._bad_periods + 1 if failures >= 9 * successes else 0
        if self._bad_periods >= 2 and reason is None:
            return None
        self._period_start, self._before = self._period_start + seconds, (self.successes, self.failures)
        if self._bad_periods < 2 or reason is None:
            return None
        requests = f"{failures} of {successes + failures} requests to {self._base_url}"
        observed = f"in the last {seconds:.0f} s {requests} had no usable answer"
        return TmdbUnavailableError(reason, observed)
