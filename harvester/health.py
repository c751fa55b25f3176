"""Health: whether TMDB answers at all, told by the share of requests that had no usable answer.

A circuit breaker without the state: it says when it would open, and whoever asked makes sure first, because two titles
that are never answered look like an outage once everybody else is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harvester.errors import TmdbUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Health:
    """Whether TMDB answers at all: a breaker on the share of requests without a usable answer.

    It would open when nine of ten had none in each of two periods in a row, of 30 s and three requests at least.
    """

    clock: Callable[[], float]
    base_url: str
    good: int = 0
    bad: int = 0
    _period_start: float = field(init=False)
    _before: tuple[int, int] = (0, 0)
    _bad_periods: int = 0

    PERIOD = 30.0
    LEAST = 3

    def __post_init__(self) -> None:
        self._period_start = self.clock()

    def count(self, reason: str | None) -> TmdbUnavailableError | None:
        """Count one request, with what was wrong with its answer; the error to be raised if this has gone on too long.

        Whoever gets the error makes sure of it first; meanwhile another period has begun.
        """
        if reason is None:
            self.good += 1
        else:
            self.bad += 1
        now = self.clock()
        good, bad = self.good - self._before[0], self.bad - self._before[1]
        if now - self._period_start < self.PERIOD or good + bad < self.LEAST:
            return None
        self._bad_periods = self._bad_periods + 1 if bad >= 9 * good else 0
        if self._bad_periods >= 2 and reason is None:
            return None
        seen = (
            f"in the last {now - self._period_start:.0f} s {bad} of {good + bad} requests to {self.base_url} "
            "had no usable answer"
        )
        self._period_start, self._before = now, (self.good, self.bad)
        return TmdbUnavailableError(reason, seen) if self._bad_periods >= 2 and reason else None
