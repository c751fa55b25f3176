"""The pace: how fast the whole process may ask TMDB, and when it must not.

One `Pace` is made at a door and handed to everything that sends requests. TMDB speaks of "somewhere in the 40 requests
per second range", which may change, and asks clients to respect a 429 (developer.themoviedb.org/docs/rate-limiting).
Promise: at most `ceiling` requests in any second, in order of arrival, and none while held. The rate is learned: at a
429 it sinks, to just below what TMDB has answered in the second before, and climbs back, slowly up to there, then
quickly up to the ceiling.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from math import ceil, floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SLACK = 1.014
"""How much wider than 1/rate the spacing is. 40 requests then take 1.014 s: 14 ms for one that arrives early after one
that arrived late, of which `TIGHT` may take 2.5. That uses 98.6 % of the rate. Measured: at 98.75 % no 429 from
fixed windows, sliding logs or token buckets on a quiet machine; at 99 % one in a thousand on a busy one. Where the way
varies by 20 ms, every spacing below 1.02 s, 98 %, is refused at times. That it varies cannot be seen in answers, whose
own time varies by more, but by the first 429, and then there are 29 ms; see `BELOW`."""

CATCH_UP, CATCH_UP_TURNS = 0.0025, 2
"""Seconds, and turns if they are longer (at 40 a second, 50 ms), by which late wakers' delays are made up for by their
successors: on a busy machine they wake 3 to 15 ms late, which would take 3 % of the rate. After a longer stall turns
are spaced anew, or it would end in a burst."""

TIGHT = 1.0115
"""What is left of `SLACK` at least where delays are made up for: so many seconds take as many requests as the rate
allows in one, whichever of them are late."""

BELOW = 0.985
"""What a refusal leaves of the limit, which is what was answered in the second before; or, if that was as much as the
rate allows, of the rate, which then was right but for the way: 0.985 of it leave 29 ms instead of 14."""

SINK = 0.92
"""What a refusal leaves of the rate where the second before shows no limit: it is not known, or less than half of the
rate was answered in it; or it has shown too much before, and the sunken rate is refused before it came `NEAR`."""

NEAR = 0.99
"""Share of the limit from which on a refusal is what the climb was to find."""

KEPT = 5.0
"""Seconds for which turns are remembered. What is refused is heard of within 4, or shows no limit."""

CAREFUL = 1 / 10_000
"""Share of the ceiling that the rate regains in a second just below the limit: 150 s from 0.985 of a limit as high. To
find out whether it still holds takes a hold, 1.1 s, 0.7 % of that; a limit that has risen is found as much later."""

CLIMB = 1 / 150
"""Share of the ceiling that the rate regains in a second elsewhere: from half of it back to it in 75 s."""

LOWEST = 0.5
"""Requests per second below which the rate never sinks."""


class Pace:
    """The shared pace; see the module. Times are seconds of `clock`.

    Of a ceiling above 1 the fraction is cut off: evenly spaced, 13.3 a second are 14 in some.
    """

    def __init__(
        self,
        ceiling: float,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.ceiling = self.rate = float(floor(ceiling)) if ceiling > 1 else ceiling
        self.holds = 0
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._queue = asyncio.Lock()
        self._next = self._climbed_at = clock()
        self._lowered_at = float("-inf")
        self._limit = 0.0
        self._turns: deque[float] = deque()

    async def turn(self) -> float:
        """When it is the caller's turn to send one request, at once; returns the time, to be given to `hold`.

        The slot is given at the head of the queue, and looked at again after every wait: a hold that came meanwhile
        holds those already queued as well.
        """
        async with self._queue:
            while (wait := self._due() - (now := self._clock())) > 0:
                await self._sleep(wait)
            self._climb(now)
            self._next = max(self._next, now - max(CATCH_UP, CATCH_UP_TURNS / self.rate)) + SLACK / self.rate
            self._turns.append(now)
            while self._turns[0] <= now - KEPT:
                self._turns.popleft()
            return now

    def hold(self, seconds: float, *, turn: float) -> bool:
        """Nobody asks for `seconds`, because the request that had its `turn` then was refused; the rate sinks.

        Requests sent before the rate last sank say nothing about the new one: they prolong the hold and lower
        nothing. Up to a quarter of a second of jitter keeps several processes from coming back as one. Returns
        whether the rate sank.
        """
        now = self._clock()
        self._next = max(self._next, now + seconds + 0.25 * self._jitter())
        if turn < self._lowered_at:
            return False
        self.holds += 1
        answered = self._answered_before(turn, now)
        if self.rate / 2 <= answered < BELOW * self.rate - 2:
            self._limit, left = float(answered), BELOW
        else:
            foreseen = self.rate / 2 <= answered and self.rate >= NEAR * self._limit
            self._limit, left = self.rate, BELOW if foreseen else SINK
        self.rate = max(left * self._limit, min(LOWEST, self.ceiling))
        self._lowered_at = now
        self._climbed_at = self._next
        return True

    def _answered_before(self, turn: float, now: float) -> int:
        """How many requests were answered, or are about to be, of the second before that `turn`.

        0 if it is not known: it is forgotten, or the rate sank in it, because some were refused.
        """
        if now - turn > KEPT - 1.0 or turn - 1.0 < self._lowered_at:
            return 0
        return sum(turn - 1.0 < other < turn for other in self._turns)

    def _due(self) -> float:
        """When the next turn is: in its place, but not before as many as the rate allows have taken their time.

        Of turns from before the rate sank, as many as the ceiling allows: they were had at another rate.
        """
        for rate in (min(self.rate, self.ceiling), self.ceiling):
            many = ceil(rate)
            if len(self._turns) >= many and (rate == self.ceiling or self._turns[-many] > self._lowered_at):
                return max(self._next, self._turns[-many] + many * TIGHT / rate)
        return self._next

    def _climb(self, now: float) -> None:
        seconds, self._climbed_at = max(now - self._climbed_at, 0.0), max(now, self._climbed_at)
        if self.rate < self.ceiling:
            near = BELOW * self._limit <= self.rate < self._limit
            speed = CAREFUL if near else CLIMB
            self.rate = min(self.rate + speed * self.ceiling * seconds, self.ceiling)
