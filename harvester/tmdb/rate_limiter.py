"""The pace: a rate limiter for all requests of the process to TMDB.

TMDB speaks of "somewhere in the 40 requests per second range", which may change, and asks clients to respect a 429
(developer.themoviedb.org/docs/rate-limiting). Promise: at most `ceiling` requests start in any second, first come,
first served, and none during a hold. The rate is learned: a 429 lowers it to just below what TMDB has answered in the
second before; it climbs back slowly up to there, then quickly up to the ceiling.
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
"""How much wider than 1/rate the spacing is. 40 requests take 1.014 s: 14 ms for one that arrives early after one that
arrived late, of which `MIN_SPACING` may take 2.5. That uses 98.6 % of the rate. Measured: at 98.75 % no 429 from fixed
windows, sliding logs or token buckets on a quiet machine; at 99 % one in a thousand on a busy one. Where the latency
varies by 20 ms, every spacing below 1.02 s, 98 %, is refused at times. Only the first 429 shows that it varies (the
time to answer varies by more), and from then on there are 29 ms; see `NEAR_LIMIT_FACTOR`."""

CATCH_UP, CATCH_UP_TURNS = 0.0025, 2
"""Seconds, or turns if they are longer (50 ms at 40 a second), of a delay that the next turns make up for: on a busy
machine tasks wake 3 to 15 ms late, which would cost 3 % of the rate. After a longer stall turns are spaced anew: it
would end in a burst."""

MIN_SPACING = 1.0115
"""Least spacing where delays are made up for: a second's requests take at least so many seconds, whichever are late."""

NEAR_LIMIT_FACTOR = 0.985
"""What a 429 leaves of the limit, which is what was answered in the second before; or, if that was as much as the rate
allows, of the rate, which was right but for the latency: 0.985 of it leave 29 ms instead of 14."""

DECREASE = 0.92
"""What a 429 leaves of the rate where the second before shows no limit: it is not known, or less than half of the rate
was answered in it; or a limit found before was too high, and the lowered rate is refused before it came near
it (`LIMIT_REACHED`)."""

SLOW_INCREASE = 1 / 10_000
"""Share of the ceiling that the rate regains in a second just below the limit: 150 s from 0.985 of a limit as high. To
find out whether it still holds costs a hold, 1.1 s, 0.7 % of that; a limit that has risen is found as much later."""

INCREASE = 1 / 150
"""Share of the ceiling that the rate regains in a second elsewhere: from half of it back to it in 75 s."""

LIMIT_REACHED = 0.99  # share of the limit from which on a 429 is what the climb was to find
HISTORY_SECONDS = (
    5.0  # seconds for which turns are remembered: a 429 that comes later than 4 after its request shows no limit
)
MIN_RATE = 0.5  # requests per second below which the rate never sinks

DEFAULT_BACK_OFF, BACK_OFF_LIMIT = 1.0, 60.0
"""Seconds that everyone waits after a 429 without a `Retry-After` (a modern 429 may carry none at all: travisbell,
go-tmdb#44), and at most, so that an absurd one does not stop the run for hours."""


def effective_rate(per_second: float) -> float:
    """The rate that is really used: of one above 1 the fraction is cut off, because 13.3 would be 14 in some second."""
    return float(floor(per_second)) if per_second > 1 else per_second


def seconds_for(requests: int, per_second: float) -> float:
    """How long so many requests take at this rate, if nothing is refused."""
    return requests * SPACING / effective_rate(per_second)


class RateLimiter:
    """The shared rate limiter; `ceiling` is cut to the `effective_rate`."""

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
        self._next = self._climbed_at = clock()
        self._lowered_at = float("-inf")
        self._limit = 0.0
        self._turns: deque[float] = deque()

    async def acquire(self) -> float:
        """Wait for the caller's turn to send one request, at once; the time of it, to be given to `hold`.

        A hold that comes meanwhile also stops those already queued.
        """
        async with self._queue:
            while (wait := self._due() - (now := self._clock())) > 0:
                await self._sleep(wait)
            self._climb(now)
            self._next = max(self._next, now - max(CATCH_UP, CATCH_UP_TURNS / self.rate)) + SPACING / self.rate
            self._turns.append(now)
            while self._turns[0] <= now - HISTORY_SECONDS:
                self._turns.popleft()
            return now

    def back_off(self, retry_after: float | None, *, ticket: float) -> float | None:
        """Stop everyone for `retry_after` seconds, because the request with this `ticket` got a 429.

        Returns the seconds that everyone waits, where this lowered the rate; else None. Requests sent before the rate
        was last lowered say nothing about the new one: they prolong the wait and lower nothing. Up to a quarter of a
        second of jitter keeps several processes from coming back as one.
        """
        now = self._clock()
        seconds = DEFAULT_BACK_OFF if retry_after is None else min(retry_after, BACK_OFF_LIMIT)
        self._next = max(self._next, now + seconds + 0.25 * self._jitter())
        if ticket < self._lowered_at:
            return None
        self.backoffs += 1
        answered = self._answered_before(ticket, now)
        if self.rate / 2 <= answered < NEAR_LIMIT_FACTOR * self.rate - 2:
            self._limit, left = float(answered), NEAR_LIMIT_FACTOR
        else:
            foreseen = self.rate / 2 <= answered and self.rate >= LIMIT_REACHED * self._limit
            self._limit, left = self.rate, NEAR_LIMIT_FACTOR if foreseen else DECREASE
        self.rate = max(left * self._limit, min(MIN_RATE, self.ceiling))
        self._lowered_at = now
        self._climbed_at = self._next
        return seconds

    def _answered_before(self, ticket: float, now: float) -> int:
        """Requests of the second before `ticket`, answered or about to be; 0 if forgotten, or if the rate sank."""
        if now - ticket > HISTORY_SECONDS - 1.0 or ticket - 1.0 < self._lowered_at:
            return 0
        return sum(ticket - 1.0 < other < ticket for other in self._turns)

    def _due(self) -> float:
        """When the next turn is: in its place, but not before as many as the rate allows have taken their time.

        Turns from before the rate sank, at another rate, are only held against the ceiling.
        """
        for rate in (min(self.rate, self.ceiling), self.ceiling):
            many = ceil(rate)
            if len(self._turns) >= many and (rate == self.ceiling or self._turns[-many] > self._lowered_at):
                return max(self._next, self._turns[-many] + many * MIN_SPACING / rate)
        return self._next

    def _climb(self, now: float) -> None:
        seconds, self._climbed_at = max(now - self._climbed_at, 0.0), max(now, self._climbed_at)
        if self.rate < self.ceiling:
            near = NEAR_LIMIT_FACTOR * self._limit <= self.rate < self._limit
            speed = SLOW_INCREASE if near else INCREASE
            self.rate = min(self.rate + speed * self.ceiling * seconds, self.ceiling)
