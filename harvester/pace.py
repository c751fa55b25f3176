"""The pace: how fast the whole process may ask TMDB, and when it must not.

One `Pace` is made at a door and handed to everything that sends requests. TMDB speaks of "somewhere in the 40 requests
per second range", which may change, and asks clients to respect a 429 (developer.themoviedb.org/docs/rate-limiting).
Promise: at most `ceiling` requests in any second, in order of arrival, and none while held. The rate is learned: it
sinks when TMDB refuses and climbs back, slowly where it was refused last, then quickly up to the ceiling.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SLACK = 1.014
"""How much wider than 1/rate the spacing is. 40 requests then take 1.014 s: 14 ms for one that arrives early after one
that arrived late, of which `CATCH_UP` may take 2.5. That uses 98.6 % of the rate. Measured: at 98.75 % no 429 from
fixed windows, sliding logs or token buckets on a quiet machine; at 99 % one in a thousand on a busy one."""

CATCH_UP = 0.0025
"""Seconds by which a late waker's delay is made up for by its successor. More would let a stall end in a burst."""

SINK = 0.92
"""What a refusal leaves of the rate."""

CLIMB = 1 / 300
"""Share of the ceiling that the rate regains in a second: from 0.92 of it back to it in 24 s."""

NEAR, CAREFUL = 0.95, 0.1
"""From 0.95 of the rate that was refused last up to it, the climb goes at a tenth of its speed: the limit is there."""

LOWEST = 0.5
"""Requests per second below which the rate never sinks."""


class Pace:
    """The shared pace; see the module. Times are seconds of `clock`."""

    def __init__(
        self,
        ceiling: float,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.ceiling = self.rate = ceiling
        self.holds = 0
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._queue = asyncio.Lock()
        self._next = self._climbed_at = self._lowered_at = clock()
        self._refused_rate = float("inf")

    async def turn(self) -> float:
        """When it is the caller's turn to send one request, at once; returns the time, to be given to `hold`.

        The slot is given at the head of the queue, and looked at again after every wait: a hold that came meanwhile
        holds those already queued as well.
        """
        async with self._queue:
            while (wait := self._next - (now := self._clock())) > 0:
                await self._sleep(wait)
            self._climb(now)
            self._next = max(self._next, now - CATCH_UP) + SLACK / self.rate
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
        self._refused_rate = self.rate
        self.rate = max(self.rate * SINK, min(LOWEST, self.ceiling))
        self._lowered_at = now
        self._climbed_at = self._next
        return True

    def _climb(self, now: float) -> None:
        seconds, self._climbed_at = max(now - self._climbed_at, 0.0), max(now, self._climbed_at)
        if self.rate < self.ceiling:
            near = NEAR * self._refused_rate <= self.rate <= self._refused_rate
            speed = CLIMB * self.ceiling * (CAREFUL if near else 1.0)
            self.rate = min(self.rate + speed * seconds, self.ceiling)
