"""Rate limiter: a turn for each request to TMDB, shared by the whole process.

TMDB speaks of "somewhere in the 40 requests per second range", which may change, and asks clients to respect a 429
(developer.themoviedb.org/docs/rate-limiting). Promise: at most `ceiling` requests start in any second, first come,
first served, and none during a back-off. The rate adapts: a 429 lowers it to just below what TMDB answered in the
second before; it rises slowly up to that limit, then quickly up to the ceiling.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from math import ceil, floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SPACING = 1.014
"""Spacing of requests, as a multiple of 1/rate. 40 requests take 1.014 s: this leaves 14 ms for a request that arrives
early after one that arrived late, of which `MIN_SPACING` may take 2.5, and uses 98.6 % of the rate. Measured: at
98.75 % no 429 from fixed windows, sliding logs or token buckets on a quiet machine; at 99 % one in a thousand on a busy
one. Where the latency varies by 20 ms, every spacing below 1.02 s, 98 %, is refused at times. Only the first 429 shows
that it varies (the time to answer varies by more); from then on 29 ms are left, see `NEAR_LIMIT_FACTOR`."""

CATCH_UP, CATCH_UP_TURNS = 0.0025, 2
"""Seconds, or turns if these are longer (50 ms at 40 a second), of a delay that the next turns make up for. On a busy
machine tasks wake 3 to 15 ms late, which would cost 3 % of the rate. The rest of a longer stall is not made up for,
because that would be a burst."""

MIN_SPACING = 1.0115
"""Least spacing where delays are made up for: the requests of one second take at least this many seconds."""

NEAR_LIMIT_FACTOR = 0.985
"""After a 429, the new rate as a share of the limit, which is what was answered in the second before. If that was as
much as the rate allows, it is a share of the rate, because only the latency varied: 0.985 leaves 29 ms, not 14."""

DECREASE = 0.92
"""After a 429, the new rate as a share of the rate, where the second before shows no limit: it is not known, or less
than half of the rate was answered in it; or the limit found before was too high, and the lowered rate is refused before
it came near that limit (`LIMIT_REACHED`)."""

SLOW_INCREASE = 1 / 10_000
"""Share of the ceiling that the rate regains in a second just below the limit: 150 s from 0.985 of a limit as high. To
test whether it is still the limit costs one back-off, 1.1 s or 0.7 % of that time; a limit that has risen is found that
much later."""

INCREASE = 1 / 150
"""Share of the ceiling that the rate regains in a second elsewhere: from half of it back to it in 75 s."""

LIMIT_REACHED = 0.99  # share of the limit, from which on a 429 is expected
HISTORY_SECONDS = 5.0  # turns are remembered so long: a 429 more than 4 s after its request shows no limit
MIN_RATE = 0.5  # requests per second; a 429 never lowers the rate below it

DEFAULT_BACK_OFF, BACK_OFF_LIMIT = 1.0, 60.0
"""Seconds of a back-off after a 429 without a `Retry-After` (a modern 429 may have none: travisbell, go-tmdb#44), and
at most, so that an absurd `Retry-After` does not stop the run for hours."""


def effective_rate(per_second: float) -> float:
    """The rate that is used: above 1, `per_second` rounded down, because 13.3 would mean 14 requests in some second."""
    return float(floor(per_second)) if per_second > 1 else per_second


def seconds_for(requests: int, per_second: float) -> float:
    """Seconds that the `requests` take at this rate, if none is refused."""
    return requests * SPACING / effective_rate(per_second)


def requests_in(seconds: float, per_second: float) -> float:
    """Requests that can be sent in `seconds` at this rate, if none is refused."""
    return seconds * effective_rate(per_second) / SPACING


class RateLimiter:
    """The shared rate limiter; `ceiling` is rounded down to the `effective_rate`."""

    def __init__(
        self,
        ceiling: float,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.ceiling = self.rate = effective_rate(ceiling)
        self.backoffs = 0
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._queue = asyncio.Lock()
        self._next = self._increased_at = clock()
        self._lowered_at = float("-inf")
        self._limit = 0.0
        self._turns: deque[float] = deque()

    async def acquire(self) -> float:
        """Wait for a turn to send one request now; returns its time, the `ticket` for `back_off`.

        A back-off that begins meanwhile also delays callers already queued.
        """
        async with self._queue:
            while (wait := self._due() - (now := self._clock())) > 0:
                await self._sleep(wait)
            self._increase(now)
            self._next = max(self._next, now - max(CATCH_UP, CATCH_UP_TURNS / self.rate)) + SPACING / self.rate
            self._turns.append(now)
            while self._turns[0] <= now - HISTORY_SECONDS:
                self._turns.popleft()
            return now

    def back_off(self, retry_after: float | None, *, ticket: float) -> float | None:
        """Delay all requests for `retry_after` seconds, because the one with this `ticket` got a 429.

        Returns the seconds of the back-off if this lowered the rate, else None: a request sent before the rate was
        last lowered says nothing about the new rate, so its 429 only prolongs the back-off. Up to a quarter of a second
        of jitter keeps several processes from going on at the same moment.
        """
        now = self._clock()
        seconds = DEFAULT_BACK_OFF if retry_after is None else min(retry_after, BACK_OFF_LIMIT)
        self._next = max(self._next, now + seconds + 0.25 * self._jitter())
        if ticket < self._lowered_at:
            return None
        self.backoffs += 1
        answered = self._answered_before(ticket, now)
        if self.rate / 2 <= answered < NEAR_LIMIT_FACTOR * self.rate - 2:
            self._limit, factor = float(answered), NEAR_LIMIT_FACTOR
        else:
            is_expected = self.rate / 2 <= answered and self.rate >= LIMIT_REACHED * self._limit
            self._limit, factor = self.rate, NEAR_LIMIT_FACTOR if is_expected else DECREASE
        self.rate = max(factor * self._limit, min(MIN_RATE, self.ceiling))
        self._lowered_at = now
        self._increased_at = self._next
        return seconds

    def _answered_before(self, ticket: float, now: float) -> int:
        """Requests of the second before `ticket`, answered or about to be; 0 if not remembered, or if the rate fell."""
        if now - ticket > HISTORY_SECONDS - 1.0 or ticket - 1.0 < self._lowered_at:
            return 0
        return sum(ticket - 1.0 < other < ticket for other in self._turns)

    def _due(self) -> float:
        """The time of the next turn: after the spacing, and at least `MIN_SPACING` for each second's requests.

        Turns from before the rate was lowered are compared with the ceiling alone.
        """
        for rate in (min(self.rate, self.ceiling), self.ceiling):
            count = ceil(rate)
            if len(self._turns) >= count and (rate == self.ceiling or self._turns[-count] > self._lowered_at):
                return max(self._next, self._turns[-count] + count * MIN_SPACING / rate)
        return self._next

    def _increase(self, now: float) -> None:
        seconds, self._increased_at = max(now - self._increased_at, 0.0), max(now, self._increased_at)
        if self.rate < self.ceiling:
            near = NEAR_LIMIT_FACTOR * self._limit <= self.rate < self._limit
            speed = SLOW_INCREASE if near else INCREASE
            self.rate = min(self.rate + speed * self.ceiling * seconds, self.ceiling)
